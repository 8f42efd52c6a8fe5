"""What is said to a reader who made a mistake: one sentence, with the nearest valid choice."""
from __future__ import annotations

import difflib
from typing import Iterable


class CourseError(ValueError):
    """A mistake the reader can mend; the message says how in one sentence."""


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
