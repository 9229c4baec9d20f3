import simplejson


def f(event):
    return simplejson.loads(simplejson.dumps({"version": simplejson.__version__, "event": event}))
