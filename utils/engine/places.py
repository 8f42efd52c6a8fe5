"""Where in each prompt: the one meaning of `positions=`, in every function that has it.

| positions | means |
|---|---|
| "all" (or None, as in a `Site`) | every position; the default everywhere, as in TransformerLens |
| "end" | the last token of each prompt |
| an integer | this position of every prompt; negative ones count from the end of each prompt, however it is padded |
| several integers | these positions together |
| `Each` | one position for each prompt |
| a boolean mask | the positions that are True |
"""
from __future__ import annotations

from operator import index
from typing import Iterable

import torch

from ..errors import CourseError, is_mask, whole_numbers
from ..models import Prompts
from .sites import Each

Places = str | int | Each | Iterable[int] | torch.Tensor | None


def places(prompts: Prompts, positions: Places) -> int | tuple[int, ...] | Each | None:
    """`positions` as a `Site` takes them.

    Raises CourseError for another word, no position at all, and positions that one of the prompts does not have.
    """
    if positions is None or isinstance(positions, str) and positions == "all":
        return None
    if isinstance(positions, str) and positions == "end":
        return Each.of(prompts.ends)
    if isinstance(positions, Each):
        if len(positions.positions) != len(prompts):
            raise CourseError(f"Each names {len(positions.positions)} positions for {len(prompts)} prompts: give one for "
                              "each")
        return Each.of(_found(prompts, p, i) for i, p in enumerate(positions.positions))
    if hasattr(positions, "__index__") and not getattr(positions, "ndim", 0) and not isinstance(positions, bool):
        return _in_every_prompt(prompts, index(positions))
    found = [_in_every_prompt(prompts, p) for p in _integers(prompts, positions)]
    if not found:
        raise CourseError('the set of positions is empty: name at least one, or "all"')
    if any(isinstance(place, Each) for place in found):
        raise CourseError("in prompts of different length several positions cannot be counted from the end: "
                          "use Each for one position in each prompt")
    return tuple(found)


def part_of(position, start: int, stop: int):
    """What a site says about the prompts from `start` up to `stop`, when `position` is what it says about all."""
    return Each(position.positions[start:stop]) if isinstance(position, Each) else position


def _integers(prompts: Prompts, positions: Iterable) -> list[int]:
    """Several positions as integers; a mask gives those that are True."""
    if isinstance(positions, str) or not isinstance(positions, Iterable):
        raise CourseError(f'positions must be "all", "end", one or several integers, or Each, not {positions!r}')
    listed, width = list(positions), prompts.tokens.shape[1]
    if is_mask(listed) and len(listed) != width:
        raise CourseError(f"a mask of {len(listed)} positions does not fit prompts of {width} tokens")
    return whole_numbers(listed, "positions")


def _in_every_prompt(prompts: Prompts, position: int) -> int | Each:
    """The position counted from the front if it is the same in all prompts, else `Each`."""
    found = [_found(prompts, position, i) for i in range(len(prompts))]
    return found[0] if len(set(found)) == 1 else Each.of(found)


def _found(prompts: Prompts, position: int, i: int) -> int:
    """The position counted from the front of prompt `i`. Raises CourseError if no token of the prompt stands there."""
    length = int(prompts.ends[i]) + 1
    if not -length <= position < length:
        longest = prompts.tokens.shape[1]
        which = f"prompt {i} has" if -longest <= position < longest else "the prompts have"
        last = length - 1 if which.startswith("prompt") else longest - 1
        raise CourseError(f"position {position} is out of range: {which} positions 0 to {last}")
    return position % length
