import pandas


def f(event):
    frame = pandas.DataFrame(event["rows"], columns=["who", "what"])
    return frame.groupby("who")["what"].sum().to_dict()
