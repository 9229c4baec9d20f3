def f(event):
    return "called"
