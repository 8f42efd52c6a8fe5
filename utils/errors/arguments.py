"""Arguments of public functions are held to their annotations; what does not fit is said in one sentence.

A room that ends with `check_arguments(globals())` has its own public functions checked when others call them. beartype
looks at the values, jaxtyping at the axes of tensors; both are loaded, and annotations read, at the first call.
"""
from __future__ import annotations

import builtins
import inspect
import threading
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache, partial, wraps
from typing import Any

from .names import CourseError


class _Judge(type):
    def __instancecheck__(cls, value) -> bool:
        return not isinstance(value, type) and (hasattr(value, "parameters") or hasattr(value, "tokenizer"))


class Model(metaclass=_Judge):
    """What a parameter `model` without another annotation must be: a network, or what wraps one."""


_at_work = threading.local()      # .here: one of our functions runs in this thread


def check_arguments(room: dict[str, Any]) -> None:
    """Check the arguments of the public functions of a room (its `globals()`) from now on, and of its classes' methods."""
    for public, thing in list(room.items()):
        if public.startswith("_") or not f"{getattr(thing, '__module__', '')}.".startswith(f"{room['__name__']}."):
            continue
        if inspect.isfunction(thing) and not hasattr(thing, "checks"):
            room[public] = checked(thing)
        elif inspect.isclass(thing) and not (is_dataclass(thing) or getattr(thing, "_is_protocol", False)):
            _check_methods(thing)


def _check_methods(kind: type) -> None:
    """What is called of a class from outside. Dataclasses are left alone: thousands are made, and they check themselves."""
    special = {"__call__", "__init__"}
    for name, method in list(vars(kind).items()):
        function = getattr(method, "__func__", method)      # that of a static method
        if inspect.isfunction(function) and not hasattr(function, "checks") and (name in special or name[0] != "_"):
            replaced = checked(function, kind.__name__ if name in special else f"{kind.__name__}.{name}")
            setattr(kind, name, replaced if function is method else type(method)(replaced))


def checked(function: Callable, called: str = "") -> Callable:
    """The same function, but CourseError names the first argument that its annotations exclude, and what was expected.

    called: what the sentence calls the function, if not by its name.
    Whole numbers and lists of numpy and PyTorch pass where Python's own are meant. A text does not pass for a list of
    texts. What is not annotated is not checked, except `model`. What our functions ask of one another, while one of
    them runs, is not checked again: it costs nothing.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args, **kwargs):
        __tracebackhide__ = True      # IPython leaves this frame out of a reader's traceback
        if getattr(_at_work, "here", False):
            return function(*args, **kwargs)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)    # Python itself says which argument is missing, or too many
        if call.checks is None:
            call.checks = _checks(function, signature)
        _hold(bound, call.checks, called or function.__name__)
        _at_work.here = True
        try:
            return function(*bound.args, **bound.kwargs)
        finally:
            _at_work.here = False

    call.checks = None
    return call


def _hold(bound: inspect.BoundArguments, checks: dict[str, Any], function: str) -> None:
    """Refuse what does not fit, and put numbers of Python in the place of those of numpy and PyTorch."""
    from jaxtyping import jaxtyped

    with jaxtyped("context"):         # an axis has one size in all arguments
        for name, value in bound.arguments.items():
            if name not in checks:
                continue
            hint, many = checks[name]
            if not many:
                bound.arguments[name] = _fitting(value, hint, function, name)
                continue
            for item in value.values() if isinstance(value, dict) else value:
                _fitting(item, hint, function, name)


def _fitting(value, hint, function: str, name: str):
    """The value, or what it stands for, if that fits the hint."""
    fits = _fits()
    if fits(value, hint):
        return value
    native = _native(value)
    for other in (native, tuple(native)) if isinstance(native, list) else (native,):
        if fits(other, hint):
            return other
    from jaxtyping import jaxtyped

    from .words import expected, found
    with jaxtyped("context"):         # by itself
        known = " and the sizes that the other arguments give them" if fits(value, hint) else ""
    raise CourseError(f"{function}: `{name}` must be {expected(hint)}{known}, not {found(value)}")


@cache
def _fits() -> Callable[[Any, Any], bool]:
    from beartype import BeartypeConf
    from beartype.door import is_bearable

    return partial(is_bearable, conf=BeartypeConf(is_pep484_tower=True))    # a whole number passes for a decimal one


def _native(value):
    """Numbers and lists of Python in the place of those of numpy, pandas and PyTorch."""
    if type(value).__module__.split(".")[0] in ("numpy", "pandas", "torch") and hasattr(value, "tolist"):
        return value.tolist()
    if type(value) is dict:
        return {key: _native(part) for key, part in value.items()}
    return type(value)(map(_native, value)) if type(value) in (list, tuple) else value


# ---------------------------------------------------------------- annotations

def _checks(function: Callable, signature: inspect.Signature) -> dict[str, tuple[Any, bool]]:
    """{parameter: (what it must be, whether it collects many arguments)} for all parameters that can be checked."""
    names, found = _Names(inspect.unwrap(function).__globals__), {}
    for name, parameter in signature.parameters.items():
        hint = parameter.annotation
        hint = eval(hint, {}, names) if isinstance(hint, str) else hint
        if hint in (inspect.Parameter.empty, object) and name == "model":
            hint = Model
        if hint not in (inspect.Parameter.empty, object, Any):
            found[name] = strict(hint), parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return found


class _Names(dict):
    """What names in annotations mean. Those that only type checkers import mean any object."""

    def __missing__(self, name: str):
        return getattr(builtins, name, object)


def strict(hint):
    """The annotation, at all depths, with each item of a list looked at, and without a text where a list is meant."""
    from collections import abc
    from types import GenericAlias, UnionType
    from typing import Annotated, Union, get_args, get_origin

    from beartype.vale import Is

    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return Union[tuple(map(strict, inner))]
    if origin is abc.Callable:
        return origin
    if not (isinstance(origin, type) and issubclass(origin, abc.Iterable)):
        return hint
    inner = tuple(part if part is ... else strict(part) for part in inner)
    if origin not in (abc.Sequence, abc.Iterable, abc.Collection):
        return GenericAlias(origin, inner) if inner else origin
    item = inner[0] if inner else object

    def of_such(values) -> bool:    # beartype by itself looks at one item, drawn at random
        return not isinstance(values, str) and (not isinstance(values, (list, tuple))
                                                or all(_fits()(value, item) for value in values))
    return Annotated[GenericAlias(origin, (item,)), Is[of_such]]
