import numpy


def f(event):
    return {"sum": int(numpy.array(event["numbers"]).sum()), "version": numpy.__version__}
