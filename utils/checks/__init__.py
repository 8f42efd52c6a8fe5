"""The four outcomes of an exercise: `name = check("3.2 patch_residual", name)`.

Not attempted: a notice, and the reference is handed back. Passed: the student's own object is handed back. Wrong: one
line that names the likely mistake. Raised: the student's own traceback. With COURSE_STRICT=1 in the environment, "not
attempted" is an error too.

The exercises of notebook NN register themselves in `utils/checks/nbNN.py`, which is imported when first needed:

    @exercise("3.2 patch_residual", difficulty=2, minutes=10)
    def _(attempt):
        result = call(attempt, model, tokens, cache, layer=2, position=10)
        tensor_like(result, shape={"batch": 1, "position": 17, "vocab": 4096})
        close(result, expected, wrong={"Every position was replaced: index one of them.": all_replaced})

The reference is what the solution notebook defines: the builder writes it to `references/nbNN.py`.
May import: everything but authoring and training.
"""
from __future__ import annotations

import importlib
import os
import pkgutil
import re
from dataclasses import dataclass
from typing import Any, Callable

from ..errors import nearest
from .helpers import ExerciseError, call, close, require, same_device, student_code, tensor_like

__all__ = ["ExerciseError", "Exercise", "call", "check", "close", "exercise", "registry", "require", "same_device",
           "student_code", "tensor_like"]


@dataclass(frozen=True)
class Exercise:
    """One registered exercise; `test(attempt)` raises ExerciseError on a wrong attempt."""
    name: str
    difficulty: int
    minutes: int
    test: Callable[[Any], None]
    own_reference: Any = None

    @property
    def reference(self) -> Any:
        """What a student goes on with who has not attempted it; its module is imported when it is first asked for."""
        if self.own_reference is not None:
            return self.own_reference
        return getattr(importlib.import_module(f"{__name__}.references.{_module(self.name)}"), self.name.split()[1])


_EXERCISES: dict[str, Exercise] = {}


def exercise(name: str, *, difficulty: int, minutes: int, reference: Any = None) -> Callable[[Callable], Callable]:
    """Register the decorated function as the test of exercise `name`, "<notebook>.<number> <what is written>".

    `reference` is only for an exercise behind which there is no solution notebook. Raises ValueError if the name is
    taken or malformed, or the difficulty is not 1 to 5.
    """
    if not re.fullmatch(r"\d+\.\d+ \w+", name):
        raise ValueError(f'An exercise is called like "3.2 patch_residual", not "{name}".')
    if difficulty not in range(1, 6) or minutes < 1:
        raise ValueError(f"{name}: difficulty goes from 1 to 5 and minutes from 1, not {difficulty} and {minutes}.")

    def register(test: Callable[[Any], None]) -> Callable[[Any], None]:
        known = _EXERCISES.get(name)
        if known and known.test.__code__.co_filename != test.__code__.co_filename:
            raise ValueError(f'Exercise "{name}" is registered twice.')
        _EXERCISES[name] = Exercise(name, difficulty, minutes, test, reference)
        return test
    return register


def check(name: str, attempt: Any) -> Any:
    """Test `attempt` (a function or a value) and return what the notebook should go on with.

    Returns `attempt` if it passed, and the reference if it was not attempted: the stub raises NotImplementedError, or
    the value is `...` or None. Raises ExerciseError if it is wrong (or not attempted under COURSE_STRICT=1), and
    whatever the student's code raises.
    """
    __tracebackhide__ = True      # IPython leaves this frame out of the student's traceback
    found = _find(name)
    attempted = not (attempt is None or attempt is ... or (callable(attempt) and attempt is found.reference))
    problem = None
    try:
        if attempted:
            found.test(attempt)
    except ExerciseError as error:
        problem = f"{name}: {error}"
    except Exception as error:
        attempted = not _is_stub(error)
        if attempted:
            raise error.with_traceback(getattr(error, "students_traceback", error.__traceback__))
    if not attempted and os.environ.get("COURSE_STRICT") == "1":
        problem = f"{name}: not attempted, and COURSE_STRICT=1 asks for an answer."
    if problem:
        raise ExerciseError(problem)      # outside the except block, so that nothing is chained to it
    print(f"✔ {name}: passed" if attempted else f"○ {name}: not attempted yet, going on with the course's own version")
    return attempt if attempted else found.reference


def registry() -> dict[str, Exercise]:
    """All exercises of all notebooks, by name, in course order."""
    for module in pkgutil.iter_modules(__path__):
        if re.fullmatch(r"nb\d\d", module.name):
            importlib.import_module(f"{__name__}.{module.name}")
    return {name: _EXERCISES[name] for name in sorted(_EXERCISES, key=_number)}


def _find(name: str) -> Exercise:
    """The exercise called `name`; imports only the module of its notebook."""
    if name not in _EXERCISES and re.match(r"\d+\.", name):
        module = f"{__name__}.{_module(name)}"
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
    if name in _EXERCISES:
        return _EXERCISES[name]
    raise ExerciseError(f'There is no exercise "{name}"' + nearest(name, registry()))


def _number(name: str) -> list[int]:
    """[3, 2] for exercise "3.2 patch_residual"."""
    return [int(part) for part in name.split()[0].split(".")]


def _module(name: str) -> str:
    """nb03 for exercise "3.2 patch_residual": the name of its module here, and of that in `references`."""
    return f"nb{int(name.split('.')[0]):02d}"


def _is_stub(error: Exception) -> bool:
    """The stub's bare `raise NotImplementedError`; PyTorch and others always add a message to theirs."""
    return type(error) is NotImplementedError and not error.args
