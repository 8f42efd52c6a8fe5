"""What is traced: a prompt with its subject and answer, in this course's words and in those of causal-tracer."""
from __future__ import annotations

from dataclasses import dataclass

from ..errors import CourseError


@dataclass(frozen=True)
class Query:
    """One prompt to trace. subject: text, (first, end) token positions, or None to guess; answer: see the tracer."""
    prompt: str
    subject: str | tuple[int, int] | None = None
    answer: str | int | None = None


@dataclass(frozen=True)
class HiddenFlowQuery:
    """A `Query` as causal-tracer spells it."""
    text: str
    subject: str | tuple[int, int] | None = None
    override_answer_id: int | None = None

    @property
    def prompt(self) -> str:
        return self.text

    @property
    def answer(self) -> int | None:
        return self.override_answer_id


def either(names: str, own, theirs, default=None):
    """The value of an option that has two names. Raises CourseError if both are given and differ."""
    if theirs is not None and own not in (default, theirs):
        raise CourseError(f"{names} are two names of one option, and they say {own!r} and {theirs!r}: give one of them")
    return own if theirs is None else theirs
