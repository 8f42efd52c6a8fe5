"""The error of the course and its warnings, the nearest valid name, and numbers and lists as they were meant."""
from __future__ import annotations

import difflib
import sys
import warnings
from operator import index
from typing import Iterable


class CourseError(ValueError):
    """A mistake the reader can mend; the message says how in one sentence."""


def warn(message: str) -> None:
    """A warning that points at the reader's own line, the nearest one that is not in this package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("utils."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def closest(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Up to `most` of the known names that are spelled like `name`, the nearest first; capitals do not matter."""
    spelled = {other.lower(): other for other in known}
    return [spelled[near] for near in difflib.get_close_matches(str(name).lower(), spelled, n=most, cutoff=0.5)]


def nearest(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """The end of a sentence about an unknown name: the known one nearest to it; else `otherwise`, or all there are."""
    known = list(known)
    if near := closest(name, known):
        return f": did you mean {near[0]!r}?"
    return f": {otherwise or 'there are ' + (', '.join(known) or 'none')}"


def require_known(name: str, known: Iterable[str], opening: str) -> None:
    """Raise CourseError if `name` is not among the known ones: `opening`, and the nearest of them or all."""
    known = list(known)
    if name not in known:
        raise CourseError(opening + nearest(name, known))


def whole_number(value, what: str) -> int:
    """`value` as an int, also one of numpy or torch. Raises CourseError for text, 1.9, True or anything else."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise CourseError(f"{what} must be a whole number, not {value!r}")
    return index(value)


def whole_numbers(values: Iterable, what: str) -> list[int]:
    """Several numbers as ints, or the places at which a mask of True and False is True.

    Raises CourseError for text, for numbers with a fraction, and for a mask of more than one axis.
    """
    listed = several(values, what)
    listed = [value.tolist() if hasattr(value, "tolist") else value for value in listed]
    if is_mask(listed):
        return [place for place, chosen in enumerate(listed) if chosen]
    return [whole_number(value, f"each of {what}") for value in listed]


def is_mask(values: list) -> bool:
    """True if all of them are True or False, also of numpy or torch."""
    return bool(values) and all(isinstance(v.tolist() if hasattr(v, "tolist") else v, bool) for v in values)


def several(values: Iterable, what: str) -> list:
    """`values` as a list. Raises CourseError for a text, which would be read letter by letter."""
    if isinstance(values, str):
        raise CourseError(f"{what} must be a list, not the text {values!r}, which would be read letter by letter")
    return list(values)
