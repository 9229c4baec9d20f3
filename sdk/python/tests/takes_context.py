"""Whether a handler takes a context, compared with what `inspect.signature` says of it, for every kind of callable.

The library answers for plain functions without asking `inspect`, which takes ten times as long in a cold start. Both
must always say the same, and what they say must be how the handler can be called.
"""

import asyncio
import functools
import inspect
import operator
import sys
import unittest

sys.path.insert(0, sys.argv.pop(1))

from warmpath import _handler  # noqa: E402


def logged(function):
    """A decorator as people write them: it takes anything, and says what it wraps."""

    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


def hidden(function):
    """One that does not say what it wraps."""

    def inner(*args):
        return function(*args)

    return inner


class Class:
    """Its instances, its methods and itself are handlers of their own kinds."""

    def __init__(self, event=None, context=None):
        pass

    def __call__(self, event, context):
        return context

    def method(self, event, context):
        return context

    def short(self, event):
        return event

    @staticmethod
    def static(event, context):
        return context

    @classmethod
    def of_class(cls, event, context):
        return context


class Wants(Class):
    def __init__(self, event, context):
        pass


class OneArgument:
    def __call__(self, event):
        return event


def plain(event):
    return event


def both(event, context):
    return context


def with_signature(function, told):
    """A function that says of itself what is not so, as `decorator` and `pydantic` make them."""

    def inner(*args):
        return function(*args)

    inner.__signature__ = inspect.signature(told)
    return inner


def with_attribute(event, context):
    return context


with_attribute.route = "/"


def only_positional(event, context, /):
    return context


def default(event, context=None):
    return event


def three_with_default(event, context, more=None):
    return context


def stars(*args):
    return args


def event_and_stars(event, *args):
    return event


def both_and_stars(event, context, *args, **kwargs):
    return context


def keyword_only(event, *, context=None):
    return event


def everything_by_name(event, **kwargs):
    return event


def no_argument():
    return None


async def asynchronous(event, context):
    return context


async def asynchronous_plain(event):
    return event


def generator(event, context):
    yield context


async def asynchronous_generator(event, context):
    yield context


def later_defaults(event, context):
    return event


later_defaults.__defaults__ = (None,)


def closure():
    seen = []

    def inner(event, context):
        seen.append(event)
        return context

    return inner


def unwrapped():
    inner = logged(both)
    del inner.__wrapped__
    return inner


# What it is, and whether it is to be called with a context.
CALLABLES = {
    "def, one argument": (plain, False),
    "def, two": (both, True),
    "def, none": (no_argument, False),
    "def, positional only": (only_positional, True),
    "def, a default": (default, False),
    "def, two and a default": (three_with_default, True),
    "def, defaults given later": (later_defaults, False),
    "def, an attribute": (with_attribute, True),
    "def, *args": (stars, False),
    "def, one and *args": (event_and_stars, False),
    "def, two, *args and **kwargs": (both_and_stars, True),
    "def, keyword only": (keyword_only, False),
    "def, **kwargs": (everything_by_name, False),
    "closure": (closure(), True),
    "lambda, one": (lambda event: event, False),
    "lambda, two": (lambda event, context: context, True),
    "lambda, a default": (lambda event, context=None: event, False),
    "async def, two": (asynchronous, True),
    "async def, one": (asynchronous_plain, False),
    "generator": (generator, True),
    "async generator": (asynchronous_generator, True),
    "decorated with wraps, two": (logged(both), True),
    "decorated with wraps, one": (logged(plain), False),
    "decorated twice with wraps": (logged(logged(both)), True),
    "decorated with wraps, around what is hidden": (logged(hidden(both)), False),
    "decorated without wraps": (hidden(both), False),
    "decorated with wraps, told no more": (unwrapped(), False),
    "__signature__ of two": (with_signature(both, both), True),
    "__signature__ of one": (with_signature(plain, plain), False),
    "partial of two": (functools.partial(both), True),
    "partial of two, one given": (functools.partial(lambda a, event, context: context, 1), True),
    "partial of two, the context given": (functools.partial(both, context=1), False),
    "bound method, two": (Class().method, True),
    "bound method, one": (Class().short, False),
    "staticmethod": (Class.static, True),
    "staticmethod itself": (staticmethod(both), True),
    "classmethod": (Class.of_class, True),
    "instance with __call__, two": (Class(), True),
    "instance with __call__, one": (OneArgument(), False),
    "class, defaults": (Class, False),
    "class, two": (Wants, True),
    "cached": (functools.lru_cache(both), True),
    "singledispatch": (functools.singledispatch(both), True),
    "builtin, one": (len, False),
    "builtin, two": (operator.add, True),
    "builtin without a signature": (dict, False),
    "method of a builtin": ([].append, False),
}


def by_signature(function):
    """What the library asked before it had a short way."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters) >= 2


class TakesContext(unittest.TestCase):
    def test_it_is_what_inspect_says(self):
        for kind, (function, expected) in CALLABLES.items():
            with self.subTest(kind):
                self.assertEqual(by_signature(function), expected, "the table is wrong")
                self.assertEqual(_handler._takes_context(function), expected)

    def test_it_is_how_a_handler_can_be_called(self):
        # What takes nothing cannot be called with an event either; what adds, counts or appends takes other things.
        others = {"def, none", "builtin, one", "builtin, two", "builtin without a signature"}
        for kind, (function, expected) in CALLABLES.items():
            if kind in others:
                continue
            with self.subTest(kind):
                # What hides its arguments is called with one, and fails there as it would under `inspect`.
                is_hidden = kind in HIDDEN
                arguments = ("event", "context") if expected or is_hidden else ("event",)
                self.drain(function(*arguments))

    def drain(self, returned):
        if inspect.iscoroutine(returned):
            asyncio.run(returned)
        elif inspect.isgenerator(returned):
            list(returned)


# Those of two arguments that nothing can see from outside.
HIDDEN = {
    "decorated with wraps, around what is hidden",
    "decorated without wraps",
    "decorated with wraps, told no more",
}

if __name__ == "__main__":
    unittest.main()
