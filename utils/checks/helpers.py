"""What the authors of checks build with. Every failure is an ExerciseError with one sentence for the student."""
from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..engine import is_of_a_library


class ExerciseError(AssertionError):
    """A wrong answer. Jupyter shows its one line and no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"✘ {self}"]


def require(condition: object, message: str) -> None:
    """Raise ExerciseError(message) unless `condition` holds."""
    if not bool(condition):
        raise ExerciseError(message)


class student_code:
    """`with student_code(): ...` marks what is raised inside as the student's: `check` shows it without our frames."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind, error, traceback) -> None:
        if error is not None and not isinstance(error, ExerciseError):
            error.students_traceback = traceback.tb_next or traceback


def call(attempt: Callable, *args: Any, **kwargs: Any) -> Any:
    """The result of `attempt` on copies of the arguments.

    Tensors, arrays, lists, dicts and activation caches are copied and compared afterwards; other objects (models,
    tokenizers, generators) are passed as they are. Raises ExerciseError if `attempt` is no function or does not take
    these arguments, changed one, left a hook on a model, or returned None. What it raises itself passes through.
    """
    require(callable(attempt), f"expected a function, got {_kind(attempt)}.")
    try:
        names = _arguments(attempt, args, kwargs)
    except TypeError as error:
        shown = ", ".join([_kind(value) for value in args] + [f"{name}=..." for name in kwargs])
        raise ExerciseError(f"it cannot be called with ({shown}): {error}.") from None
    given_args, given_kwargs = _copied(args), _copied(kwargs)
    models = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.nn.Module)]
    before = [_hooks(model) for model in models]
    try:
        with student_code():
            result = attempt(*given_args, **given_kwargs)
    finally:
        left = sum(_remove_new_hooks(model, old) for model, old in zip(models, before))
    require(not left, f"it left {left} hook{'s' * (left != 1)} on the model: remove each one when you are done.")
    given = _arguments(attempt, given_args, given_kwargs)
    for name in names:
        require(_same(names[name], given[name]), f"it changed its argument `{name}`: work on a copy.")
    require(result is not None, "it returned None: is `return` missing?")
    return result


def _arguments(attempt: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Arguments by name; by number for builtins such as `max`, which tell no signature."""
    try:
        signature = inspect.signature(attempt)
    except ValueError:
        return {**{f"number {i}": value for i, value in enumerate(args, 1)}, **kwargs}
    return signature.bind(*args, **kwargs).arguments


def tensor_like(result: Any, shape: Mapping[str, int] | Sequence[int] | None = None,
                device: str | torch.device | None = "cpu", dtype: type | torch.dtype | None = float) -> torch.Tensor:
    """`result` as a detached tensor, once shape, device, dtype and freedom from NaN are as expected.

    `shape` is {axis: size} in order (the message then names the axes) or plain sizes; () also accepts a number. `dtype`
    is float, int, bool (any tensor type of that kind) or one exact torch.dtype; None skips a test.
    """
    if isinstance(result, (bool, int, float)) and shape is not None and len(shape) == 0:
        result = torch.tensor(result)
    require(isinstance(result, torch.Tensor), f"expected a tensor, got {_kind(result)}.")
    if shape is not None:
        _require_shape(result, shape)
    if device is not None:
        same_device(result, device)
    if dtype is not None:
        exact = isinstance(dtype, torch.dtype)
        kind = bool if result.dtype == torch.bool else float if result.is_floating_point() else int
        wanted = str(dtype) if exact else dtype.__name__
        require(dtype == (result.dtype if exact else kind), f"expected numbers of type {wanted}, got {result.dtype}.")
    require(not result.is_floating_point() or result.is_meta or not result.isnan().any(), "the result contains NaN.")
    return result.detach()


def same_device(result: torch.Tensor, device: str | torch.device) -> None:
    """Raise ExerciseError unless `result` lies on `device`."""
    wanted = torch.device(device)
    require(result.device.type == wanted.type and wanted.index in (None, result.device.index),
            f"the result is on device {result.device}, expected {wanted}: make new tensors on the device of the input.")


def close(result: Any, expected: Any, atol: float = 1e-4, message: str | None = None,
          wrong: Mapping[str, Any] | None = None) -> None:
    """Raise ExerciseError unless `result` equals `expected` to `atol` (absolute).

    `wrong` maps a message to the value its mistake gives; these are compared first, so that the mistake is named.
    Raises ValueError if such a value cannot be told from `expected`: the inputs of that check would prove nothing.
    """
    got, right = _numbers(result), _numbers(expected)
    for text, value in (wrong or {}).items():
        value = _numbers(value)
        if _near(value, right, atol):
            raise ValueError(f'This check cannot fail: "{text}" gives the expected value too; choose other inputs.')
        require(not _near(got, value, atol), text)
    _require_shape(got, list(right.shape))
    require(not got.isnan().any() or right.isnan().any(), "the result contains NaN.")
    if not _near(got, right, atol):
        gap = (got - right).abs().nan_to_num(nan=math.inf)
        index = tuple(int(i) for i in np.unravel_index(int(gap.argmax()), gap.shape)) if gap.ndim else ()
        where = f" at {list(index)}" if index else ""
        raise ExerciseError(message or f"expected {right[index].item():.4g}{where}, got {got[index].item():.4g}.")


def _require_shape(result: torch.Tensor, shape: Mapping[str, int] | Sequence[int]) -> None:
    names = list(shape) if isinstance(shape, Mapping) else None
    sizes = list(shape.values()) if isinstance(shape, Mapping) else list(shape)
    got = list(result.shape)
    if got == sizes:
        return
    wanted = ", ".join(f"{name} {size}" for name, size in shape.items()) if names else ", ".join(map(str, sizes))
    hint = "."
    missing = [i for i in range(len(sizes)) if sizes[:i] + sizes[i + 1:] == got]
    if sorted(got) == sorted(sizes):
        hint = ": are the axes in another order?"
    elif missing:
        hint = f": the axis {names[missing[0]] if names else missing[0]} is missing."
    elif len(got) == len(sizes) + 1:
        hint = ": there is one axis too many."
    raise ExerciseError(f"the result has shape {got}, expected [{wanted}]{hint}")


def _numbers(value: Any) -> torch.Tensor:
    """`value` as a double tensor on the CPU; ExerciseError if it holds no numbers."""
    try:
        return torch.as_tensor(value).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ExerciseError(f"expected numbers, got {_kind(value)}.") from None


def _near(a: torch.Tensor, b: torch.Tensor, atol: float) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=atol, equal_nan=True)


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _copied(value: Any) -> Any:
    """A copy of everything that holds numbers; models, tokenizers and generators are shared."""
    if isinstance(value, torch.nn.Module):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (list, set):
        return type(value)(_copied(item) for item in value)
    if type(value) is tuple:
        return tuple(_copied(item) for item in value)
    if isinstance(value, dict):
        twin = copy.copy(value)
        twin.update({key: _copied(item) for key, item in value.items()})
        return twin
    if hasattr(value, "cache_dict"):          # ActivationCache of TransformerLens
        twin = copy.copy(value)
        twin.cache_dict = _copied(value.cache_dict)
        return twin
    return value


def _same(a: Any, b: Any) -> bool:
    """Whether a copy still equals its original; NaN equals NaN."""
    if a is b:
        return True
    if isinstance(a, torch.Tensor):
        alike = a.shape == b.shape and a.dtype == b.dtype
        return alike and (a.is_meta or bool(((a == b) | ((a != a) & (b != b))).all()))
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and bool(np.all((a == b) | ((a != a) & (b != b))))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if hasattr(a, "cache_dict"):
        return _same(a.cache_dict, b.cache_dict)
    return a == b


def _hook_tables(model: torch.nn.Module) -> list[dict[int, Callable]]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return [getattr(module, kind) for module in model.modules() for kind in kinds]


def _hooks(model: torch.nn.Module) -> set[tuple[int, int]]:
    return {(id(table), key) for table in _hook_tables(model) for key in table}


def _remove_new_hooks(model: torch.nn.Module, before: set[tuple[int, int]]) -> int:
    """Take off the hooks added since `before`, but for those of a library itself, and count them."""
    new = [(table, key) for table in _hook_tables(model) for key in table
           if (id(table), key) not in before and not is_of_a_library(table[key])]
    for table, key in new:
        del table[key]
    return len(new)
