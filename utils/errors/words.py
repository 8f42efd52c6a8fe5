"""Annotations and values in words: "a list of whole numbers", "the text '3'", "1.5"."""
from __future__ import annotations

import re
import reprlib
from collections import abc
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

PLAIN = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", NoneType: "None", Any: "anything",
         object: "anything", dict: "a dictionary", abc.Mapping: "a dictionary", "Model": "a model", "Path": "a path",
         "ndarray": "an array", "Tensor": "a tensor", abc.Sequence: "a list", abc.Iterable: "a list"}
NUMBERS = {"Int": "whole numbers", "Float": "decimal numbers", "Bool": "True and False"}
MAKERS = {"Prompts": "utils.models.encode makes them", "Outcome": "for example a utils.metrics.LogitDifference",
          "Groups": "utils.masking.Groups makes them", "Game": "a utils.masking.MaskingGame",
          "Estimate": "utils.masking.kernel_shap gives one", "Frozen": "utils.engine.freeze gives one",
          "Swaps": "utils.alignment.locate gives them", "Asked": "utils.tasks.ask gives one",
          "Counterfactuals": "utils.tasks.sample_counterfactuals gives them",
          "HeadWeights": "utils.induction.head_weights gives them",
          "CausalModel": "for example utils.tasks.addition", "Fitted": "utils.alignment.fit gives one"}


def expected(hint) -> str:
    """What an annotation asks for."""
    origin, inner = get_origin(hint), get_args(hint)
    name = getattr(hint, "__name__", str(hint))
    if origin is Annotated:
        return expected(inner[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(expected, inner)))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if (simple := PLAIN.get(hint) or PLAIN.get(name)) is not None:
        return simple
    if hasattr(hint, "dim_str"):
        return _array(hint)
    if origin is tuple and ... not in inner:
        return f"a tuple ({', '.join(map(expected, inner))})"
    if hint is abc.Callable:
        return "a function"
    if isinstance(origin, type) and issubclass(origin, abc.Mapping):
        return f"a dictionary from {_plural(inner[0])} to {_plural(inner[1])}"
    if isinstance(origin, type) and issubclass(origin, abc.Iterable):
        return "a list" if inner[0] is object else f"a list of {_plural(inner[0])}"
    return f"{name} ({MAKERS[name]})" if name in MAKERS else f"{_article(name)} {name}"


def found(value) -> str:
    """What was given instead."""
    kind = type(value).__name__
    if value is None or isinstance(value, bool):
        return str(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        what = "an array" if kind == "ndarray" else f"{_article(kind)} {kind}"
        return f"{what} of {str(value.dtype).removeprefix('torch.')} with the shape {list(value.shape)}"
    if isinstance(value, (str, int, float, list, tuple, dict, set)):
        return ("the text " if kind == "str" else "") + " ".join(reprlib.repr(value).split())
    return f"{_article(kind)} {kind}" if not isinstance(value, type) else f"the class {value.__name__} itself"


def _plural(hint) -> str:
    """"whole numbers" for int, "tuples (a text, a text)", "Sites"."""
    return " or ".join(re.sub(r"^an? (whole number|\w+)", r"\1s", one) for one in expected(hint).split(" or "))


def _array(hint) -> str:
    numbers = NUMBERS.get(hint.__name__.split("[")[0], "numbers")
    array = "an array" if hint.array_type.__name__ == "ndarray" else "a tensor"
    return f"{array} of {numbers} with the axes [{hint.dim_str}]"


def _article(name: str) -> str:
    return "an" if name[:1].lower() in "aeio" else "a"
