"""What is said to a reader who made a mistake: one sentence, with the nearest valid choice."""
from __future__ import annotations

import difflib
from typing import Iterable


class CourseError(ValueError):
    """A mistake the reader can mend; the message says how in one sentence."""


def require_known(name: str, known: Iterable[str], opening: str) -> None:
    """Raise CourseError if `name` is not among the known ones: `opening`, and the nearest of them or all."""
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        raise CourseError(f"{opening}: " + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"))
