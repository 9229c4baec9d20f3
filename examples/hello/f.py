"""The smallest function: greets whoever is named in the event."""


def f(event):
    name = (event or {}).get("name", "world")
    return {"greeting": f"Hello, {name}!"}
