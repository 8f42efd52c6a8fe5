"""Each argument of each public function, given an object of a wrong type, is refused in one sentence that names both.

The table is made from the signatures, so a new function is in it without another line here.
"""
import dataclasses
import importlib
import inspect
import types
from collections import abc
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import Float, Int
from sentences import sentence

from utils.errors import arguments, checked
from utils.errors.arguments import strict
from utils.errors.words import MAKERS

ROOMS = ["engine", "models", "decoding", "patching", "induction", "tracing", "masking", "masking.importance",
         "masking.search", "alignment", "disentangling", "tasks", "metrics", "show", "show.plots", "show.widgets"]
# Parameters that may be anything, or of which only the function itself can say what they may be.
ARRAYS = "numbers, lists, arrays or tensors, on any device"
PASSED_ON = "options of another function, which checks them"
MATPLOTLIB = "what matplotlib takes"
FREE = {
    ("models.inner", "module"): "any module, or what wraps one", ("models.like", "plain"): "any model",
    ("tracing.token_range", "tokenizer"): "any tokenizer", ("tracing.noise_from_subjects", "tokenizer"): "any tokenizer",
    ("CausalTracer.__init__", "tokenizer"): "any tokenizer", ("ConfiguredModel.__call__", "inputs"): "what the model takes",
    ("CausalTracer.calculate_hidden_flows", "options"): PASSED_ON, ("models.token_ids", "tokenizer"): "any tokenizer", ("models.continuation_ids", "tokenizer"): "any tokenizer",
    ("engine.part_of", "position"): "what the position of a site may be",
    ("patching.residual_map", "options"): PASSED_ON, ("masking.by_position", "options"): PASSED_ON,
    ("masking.compare_finetuning", "options"): PASSED_ON, ("alignment.control_table", "options"): PASSED_ON,
    ("alignment.fit", "options"): PASSED_ON,
    ("induction.top1", "circuit"): "a matrix, or factors of one", ("tasks.held_out", "key"): "whatever has a hash",
    ("tasks.require_rows", "base"): "whatever has a length", ("tasks.require_rows", "labels"): "whatever has a length",
    ("tasks.require_rows", "base_labels"): "whatever has a length",
    ("metrics.bootstrap", "samples"): ARRAYS, ("metrics.recovery_interval", "patched"): ARRAYS,
    ("metrics.recovery_interval", "corrupted"): ARRAYS, ("metrics.recovery_interval", "clean"): ARRAYS,
    ("show.plots.heat_map", "values"): ARRAYS, ("show.plots.attention_map", "pattern"): ARRAYS,
    ("show.show", "figure"): MATPLOTLIB, ("show.plots.show", "figure"): MATPLOTLIB, ("show.plots.rendered", "figure"): MATPLOTLIB,
    ("tasks.draw", "ax"): MATPLOTLIB, ("show.plots.heat_map", "ax"): MATPLOTLIB, ("show.plots.patch_map", "ax"): MATPLOTLIB,
    ("show.plots.attention_map", "ax"): MATPLOTLIB, ("show.plots.lines", "ylim"): MATPLOTLIB,
    ("show.plots.patch_map", "result"): "a map of patching, or of attribution",
    ("show.plots.plot_hidden_flow_heatmap", "flow"): "a name that only type checkers import",
}


def functions():
    for room in ROOMS:
        module = importlib.import_module(f"utils.{room}")
        for name, thing in vars(module).items():
            own = f"{getattr(thing, '__module__', '')}.".startswith(f"{module.__name__}.") and not name.startswith("_")
            if own and inspect.isfunction(thing):
                yield f"{room}.{name}", thing
            elif own and inspect.isclass(thing) and not (dataclasses.is_dataclass(thing) or hasattr(thing, "_is_protocol")):
                yield from methods(thing)


def methods(kind):
    for name, method in vars(kind).items():
        function = getattr(method, "__func__", method)
        if inspect.isfunction(function) and (name[0] != "_" or name in ("__call__", "__init__")):
            yield f"{kind.__name__}.{name}", function


FUNCTIONS = dict(functions())
PARAMETERS = [(where, name) for where, function in FUNCTIONS.items() for name in inspect.signature(function).parameters]


MADE = {np.ndarray: np.zeros(2), torch.Tensor: torch.zeros(2), torch.device: torch.device("cpu"), bytes: b"1"}


class Wrong:
    """An object of a type that nothing expects."""


def sample(hint):
    """Something that has the type a parameter asks for; what else it is does not matter, for nothing gets to run."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is arguments.Model:
        return torch.nn.Linear(1, 1)
    if origin is Annotated:
        return sample(inner[0])
    if origin in (Union, types.UnionType, Literal):
        return sample(inner[0]) if origin is not Literal else inner[0]
    if hasattr(hint, "dim_str"):
        sizes = [int(axis) if axis.isdigit() else 2 for axis in hint.dim_str.split()]
        kind = {"F": torch.float, "I": torch.long, "B": torch.bool}[hint.__name__[0]]
        array = torch.zeros(sizes, dtype=kind)
        return array.numpy() if hint.array_type is np.ndarray else array
    if origin is tuple:
        return tuple(sample(part) for part in inner if part is not ...)
    if isinstance(origin or hint, type) and issubclass(origin or hint, abc.Mapping):
        return dict([tuple(map(sample, inner))]) if inner else {}
    if isinstance(origin, type) and issubclass(origin, abc.Iterable):
        return [sample(inner[0])]
    if hint in MADE:
        return MADE[hint]
    if abc.Callable in (origin, hint):
        return len
    if getattr(hint, "_is_protocol", False):
        return MagicMock()
    return hint("1") if hint in (int, float, str, bool, Path) else object.__new__(hint)


def expectations(function):
    """{parameter: (hint, collects many)} of a checked function."""
    if function.checks is None:
        function.checks = arguments._checks(function.__wrapped__, inspect.signature(function))
    return function.checks


def test_every_public_function_is_checked():
    assert len(FUNCTIONS) > 100
    assert not [where for where, function in FUNCTIONS.items() if not hasattr(function, "checks")]


@pytest.mark.parametrize("where, name", PARAMETERS, ids=lambda part: part)
def test_an_object_of_a_wrong_type(where, name):
    function = FUNCTIONS[where]
    checks, parameters = expectations(function), inspect.signature(function).parameters
    if name not in checks:
        assert name == "self" or (where, name) in FREE, "annotate it, or say in FREE why it may be anything"
        return
    assert (where, name) not in FREE
    given = {other: sample(checks[other][0]) if other in checks else None for other, parameter in parameters.items()
             if parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)}
    if parameters[name].kind == inspect.Parameter.VAR_POSITIONAL:
        call = lambda: function(*given.values(), Wrong())
    else:
        keyword = "anything" if parameters[name].kind == inspect.Parameter.VAR_KEYWORD else name
        call = lambda: function(**given | {keyword: Wrong()})
    called = where.removesuffix(".__init__").removesuffix(".__call__") if where[0].isupper() else function.__name__
    sentence(call, f"{called}: `{name}` must be ", "not a Wrong")


# ---------------------------------------------------------------- which values pass, on functions of every kind of parameter

def number(whole: int, decimal: float = 0.0):
    return whole, decimal


def listed(names: "abc.Sequence[str]" = (), either: "str | abc.Sequence[str]" = (), numbers: "abc.Iterable[int]" = (),
           rows: "abc.Sequence[abc.Sequence[int]]" = ()):
    return names, either, list(numbers), rows


def pair(head: tuple[int, int], kind: Literal["q", "k"] = "q"):
    return head


def tensors(ids: Int[torch.Tensor, "prompt"] = None, tokens: "Int[torch.Tensor, 'prompt position'] | None" = None,
            share: Float[np.ndarray, "cell"] = None):
    return ids, tokens, share


def runs(model, *parts: int, **names: str):
    return model


RIGHT = [
    (number, dict(whole=3), 3), (number, dict(whole=np.int64(3)), 3), (number, dict(whole=torch.tensor(3)), 3),
    (number, dict(whole=np.int32(3), decimal=2), 3), (number, dict(whole=3, decimal=np.float32(2)), 3),
    (number, dict(whole=3, decimal=torch.tensor(2.0)), 3),
    (listed, dict(names=["a"]), ["a"]), (listed, dict(names=("a",)), ("a",)), (listed, dict(names=np.array(["a"])), ["a"]),
    (listed, dict(names=[], either="abc", numbers=(i for i in (1, 2)), rows=[[], (1,), range(3)]), []),
    (listed, dict(names=pd.Series(["a"])), ["a"]), (listed, dict(names=pd.Index(["a"])), ["a"]),
    (listed, dict(names=[], numbers=torch.arange(3), rows=[np.arange(3)]), []),
    (pair, dict(head=(1, 2)), (1, 2)), (pair, dict(head=[1, 2]), (1, 2)), (pair, dict(head=(np.int64(1), torch.tensor(2))), (1, 2)),
    (pair, dict(head=torch.tensor([1, 2])), (1, 2)),
]
WRONG = [
    (number, dict(whole="3"), "a whole number, not the text '3'"), (number, dict(whole=1.5), "a whole number, not 1.5"),
    (number, dict(whole=np.float64(2.0)), "a whole number"), (number, dict(whole=None), "a whole number, not None"),
    (number, dict(whole=torch.tensor([3])), "not a Tensor of int64 with the shape [1]"),
    (number, dict(whole=3, decimal="2"), "`decimal` must be a number, not the text '2'"),
    (listed, dict(names="abc"), "`names` must be a list of texts, not the text 'abc'"),
    (listed, dict(names=3), "a list of texts, not 3"),
    (listed, dict(names=["a", "b", "c", "d", 5, "e"]), "a list of texts, not ['a', 'b', 'c', 'd', 5, 'e']"),
    (listed, dict(either=3), "a text or a list of texts"), (listed, dict(numbers=3), "a list of whole numbers, not 3"),
    (listed, dict(numbers=["1"]), "a list of whole numbers, not ['1']"),
    (listed, dict(rows=[1, 2]), "a list of lists of whole numbers, not [1, 2]"),
    (pair, dict(head=3), "a tuple (a whole number, a whole number), not 3"), (pair, dict(head=(1, 2, 3)), "a tuple"),
    (pair, dict(head=(1, 2), kind="z"), "`kind` must be 'q' or 'k', not the text 'z'"),
    (tensors, dict(ids=torch.zeros(2)), "a tensor of whole numbers with the axes [prompt], not a Tensor of float32 with the shape [2]"),
    (tensors, dict(ids=[1, 2]), "a tensor of whole numbers with the axes [prompt], not [1, 2]"),
    (tensors, dict(ids=torch.arange(2), tokens=torch.arange(2)), "[prompt position] or None, not a Tensor of int64 with the shape [2]"),
    (tensors, dict(ids=torch.arange(2), tokens=torch.zeros(3, 4).long()), "the sizes that the other arguments give them"),
    (tensors, dict(ids=torch.arange(2), share=torch.zeros(2)), "an array of decimal numbers with the axes [cell]"),
    (runs, dict(model="gpt2"), "`model` must be a model, not the text 'gpt2'"),
    (runs, dict(model=torch.nn.Linear), "a model, not the class Linear itself"),
    (runs, dict(model=torch.nn.Linear(1, 1), other=3), "`names` must be a text, not 3"),
]


@pytest.mark.parametrize("case", range(len(RIGHT)))
def test_what_passes_is_in_numbers_and_lists_of_python(case):
    function, given, first = RIGHT[case]
    result = checked(function)(**given)
    result = result[0] if function is not pair else result
    assert result == first and type(result) is type(first)
    for value in result if isinstance(result, tuple) else [result]:
        assert type(value) is type(first[0] if isinstance(first, tuple) else first)


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_what_does_not_pass(case):
    function, given, part = WRONG[case]
    sentence(lambda: checked(function)(**given), f"{function.__name__}: `", part)


def test_the_names_in_sentences_are_there():
    """Each maker that is named stands where it is said to be."""
    for text in MAKERS.values():
        for name in (word for word in text.split() if word.startswith("utils.")):
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute)


def test_python_itself_says_what_is_missing():
    with pytest.raises(TypeError, match=r"number\(\) missing 1 required positional argument: 'whole'"):
        checked(number)()


def test_functions_that_our_functions_call_are_not_checked_again():
    """Also after an error: the next call from outside is checked."""
    inner = checked(number)

    def outer(fail: bool):
        if fail:
            raise KeyError
        return inner("3")

    assert checked(outer)(False) == ("3", 0.0)
    with pytest.raises(KeyError):
        checked(outer)(True)
    sentence(lambda: inner("3"), "number: `whole` must be")


def test_a_name_that_only_type_checkers_import_is_no_obstacle():
    def load(model: "TransformerBridge", other: "TransformerBridge | None" = None):  # noqa: F821
        return model

    network = torch.nn.Linear(1, 1)
    assert checked(load)(network, 3) is network
    sentence(lambda: checked(load)("gpt2"), "load: `model` must be a model")
    assert strict(int) is int
