"""What rows of interventions share: up to where each is the base run, and from which other row it parts.

In a causal model an intervention at layer l and position p leaves all layers below l and all positions before p as they
were. Rows that write the same on the same prompt, up to some layer, are one row up to there.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Sequence

import torch
from jaxtyping import Bool, Int

from ..models import Prompts
from .sites import Site, positions_of
from .writing import Do

Tensor = torch.Tensor
BASE_RUN = -1  # the parent of a row that parts from the base run


@dataclass(frozen=True)
class Tails:
    """Where rows of interventions part from the base run.

    stage: -1 is the embedding, l the stream entering block l, the number of blocks the stream leaving the last; [row].
    first: the first position that may differ, [row, prompt]. visible: whether the end of the prompt can tell, [row, prompt].
    """
    stage: Int[Tensor, "row"]
    first: Int[Tensor, "row prompt"]
    visible: Bool[Tensor, "row prompt"]


def stage_of(do: Do) -> int:
    return -1 if do.site.kind == "embed" else do.site.layer + (do.site.kind == "resid_post")


def _only_read_there(site: Site, layers: int) -> bool:
    """True in the last layer, where no later position reads what is written: it counts at the end itself or not at all."""
    return site.layer == layers - 1 and site.kind not in ("resid_pre", "k", "v")


def tails_of(layers: int, prompts: Prompts, rows: Sequence[Sequence[Do]], always: Sequence[Do],
           members: Int[Tensor, "prompt"]) -> Tails:
    width, ends = prompts.tokens.shape[1], prompts.ends[members]
    stage = torch.tensor([min(map(stage_of, row), default=layers) for row in rows])
    first = torch.full((len(rows), len(members)), width)
    visible = torch.zeros(first.shape, dtype=torch.bool)
    functions = [do for do in always if callable(do.value)]  # a function must see all its positions again

    @lru_cache(maxsize=None)
    def begins_and_shows(position, only_there: bool) -> tuple[Int[Tensor, "prompt"], Bool[Tensor, "prompt"]]:
        positions = positions_of(Site("embed", position=position), width, members) % width
        shows = (positions == ends[:, None]).any(1) if only_there else positions.amin(1) <= ends
        return positions.amin(1).cpu(), shows.cpu()

    for r, row in enumerate(rows):
        for place in {(do.site.position, _only_read_there(do.site, layers)) for do in row}:
            begins, shows = begins_and_shows(*place)
            first[r] = torch.minimum(first[r], begins)
            visible[r] |= shows
        for do in functions if row else ():
            if stage_of(do) >= stage[r]:
                first[r] = torch.minimum(first[r], begins_and_shows(do.site.position, False)[0])
    return Tails(stage, first, visible)


def _key(do: Do):
    """Equal for interventions that write the same; tensors are the same if they are the same piece of memory."""
    if isinstance(do.value, Tensor):
        return do.site, do.value.data_ptr(), tuple(do.value.shape), do.value.stride(), do.value.dtype
    return do.site, id(do.value) if callable(do.value) else do.value


def _writes_by_stage(layers: int, row: Sequence[Do]) -> list[tuple]:
    """What a row writes at the stages -1 (the embedding) to `layers`, as keys."""
    steps: list[tuple] = [()] * (layers + 2)
    for do in row:
        steps[stage_of(do) + 1] += (_key(do),)
    return steps


def forks_of(layers: int, rows: Sequence[Sequence[Do]], r: list[int], j: list[int],
             stage: list[int]) -> tuple[Int[Tensor, "row"], Int[Tensor, "row"]]:
    """The stage at which each row of a strand joins, and the row it is copied from then (or BASE_RUN).

    r, j: which row of `rows` and which prompt each of them is. The rows form a tree: a branch for every sequence of
    writes on a prompt, stage by stage. A branch belongs to the row that opened it, which joins before those that part
    from it later.
    """
    steps = {row: _writes_by_stage(layers, rows[row]) for row in set(r)}
    opened: dict[tuple, tuple[int, int]] = {}  # (branch, what is written next): (the branch that follows, who opened it)
    joins, parents = [], []
    for own, (row, prompt) in enumerate(zip(r, j)):
        branch, join, parent = -1 - prompt, stage[row], BASE_RUN  # the root of a prompt has a number of its own
        for s, step in zip(range(-1, layers), steps[row]):
            branch, opener = opened.setdefault((branch, step), (len(opened), own))
            if opener != own and s >= stage[row]:
                join, parent = s + 1, opener
        joins.append(join)
        parents.append(parent)
    return torch.tensor(joins), torch.tensor(parents)


def writes_of(rows: Sequence[Sequence[Do]], r: list[int]) -> list[tuple[Do, list[int]]]:
    """Every `Do` once, with the places in `r` of the rows that share it; a row's writes at one site keep their order."""
    found: dict[tuple, tuple[Do, list[int]]] = {}
    for place, row in enumerate(r):
        before: dict[tuple, int] = {}
        for do in rows[row]:
            at = do.site.kind, do.site.layer
            before[at] = before.get(at, -1) + 1
            found.setdefault((before[at], id(do)), (do, []))[1].append(place)
    return [found[key] for key in sorted(found, key=lambda key: key[0])]
