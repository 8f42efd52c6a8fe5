"""Exact passes that do less: what an intervention cannot change is taken from the base run instead of computed again.

In a causal model an intervention at layer l and position p leaves all layers below l and all positions before p as they
were. So the base run keeps its stream, keys and values, and every row of interventions recomputes only the layers above
and the positions after. Rows that start at the same position share one batch, which grows from layer to layer; in the
last layer only the end of each prompt is computed, and of the unembedding only the tokens that the outcome looks at.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Iterable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from ..metrics import Outcome, narrowed
from ..models import Prompts
from .anatomy import Anatomy
from .passes import Base, Plan, Strand, block, count, full_pass, touch, views
from .sites import Site, positions_of
from .writing import Do, Frame

Tensor = torch.Tensor
VOCABULARY_AT_ONCE = 3 * 2 ** 22  # logits held at a time
ENDS_AT_ONCE = 512                # rows whose outcomes are computed together: the unembedding likes many


def prompts_at_once(batch_size: int) -> int:
    """So many that their base runs take about as much memory as a batch: what is kept of one weighs about four rows."""
    return max(1, batch_size // 4)


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


def _tails(layers: int, prompts: Prompts, rows: Sequence[Sequence[Do]], always: Sequence[Do],
           members: Int[Tensor, "prompt"]) -> Tails:
    width, ends = prompts.tokens.shape[1], prompts.ends[members]
    stage = torch.tensor([min(map(stage_of, row), default=layers) for row in rows])
    first = torch.full((len(rows), len(members)), width)
    visible = torch.zeros(first.shape, dtype=torch.bool)
    functions = [do for do in always if callable(do.value)]  # a function must see all its positions again
    unread = lambda site: site.layer == layers - 1 and site.kind not in ("resid_pre", "k", "v")  # but by the end itself

    @lru_cache(maxsize=None)
    def begins_and_shows(position, unread: bool) -> tuple[Int[Tensor, "prompt"], Bool[Tensor, "prompt"]]:
        positions = positions_of(Site("embed", position=position), width, members) % width
        shows = (positions == ends[:, None]).any(1) if unread else positions.amin(1) <= ends
        return positions.amin(1).cpu(), shows.cpu()

    for r, row in enumerate(rows):
        for place in {(do.site.position, unread(do.site)) for do in row}:
            begins, shows = begins_and_shows(*place)
            first[r] = torch.minimum(first[r], begins)
            visible[r] |= shows
        for do in functions if row else ():
            if stage_of(do) >= stage[r]:
                first[r] = torch.minimum(first[r], begins_and_shows(do.site.position, False)[0])
    return Tails(stage, first, visible)


def _join(s: int, x: Tensor | None, strands: Sequence[Strand], base: Base, ended: bool) -> Float[Tensor, "token width"]:
    """Let the rows that part at stage s, from the base run or from another row, join the batch; `ended`: only the ends are
    left of it."""
    source = base.embedded if s < 0 else base.stream[s]
    arrivals = [int((strand.stage <= s).sum()) for strand in strands]
    if arrivals == [strand.rows for strand in strands]:
        return source[0, :0] if x is None else x
    pieces, old = [], [None] * len(strands) if x is None else views(x, strands)
    for strand, view, arrived in zip(strands, old, arrivals):
        rows = slice(strand.rows, arrived)
        if ended:
            joining = source[strand.local[rows], strand.ends[rows]][:, None]
            strand.frame = Frame(strand.frame.width, only=strand.ends)
        else:
            joining = source[strand.local[rows], strand.frame.first:]
        parents = strand.parent[rows]
        if (parents >= 0).any():
            joining[parents >= 0] = view[parents[parents >= 0]]
        pieces += [part.flatten(0, 1) for part in (view, joining) if part is not None and len(part)]
        strand.rows = arrived
    return torch.cat(pieces)


def grow(anatomy: Anatomy, base: Base, strands: Sequence[Strand]) -> Float[Tensor, "row width"]:
    """Final stream at the end of each row's prompt. Rows join the batch at the layer at which they part from others."""
    layers = len(anatomy.blocks)
    whole = any(strand.plan.calls(layers - 1) for strand in strands)
    x = touch("embed", None, _join(-1, None, strands, base, False), strands)
    if len(x):
        places = [torch.arange(s.frame.first, s.frame.width, device=x.device) for s in strands]
        x = torch.cat([anatomy.place(v, p).flatten(0, 1) for v, p, s in zip(views(x, strands), places, strands) if s.rows])
    for s in range(layers + 1):
        x = _join(s, x, strands, base, s == layers and not whole)
        if not len(x):
            continue
        if s:
            touch("resid_post", s - 1, x, strands)
        if s < layers:
            x = block(anatomy, s, x, strands, base, last=s == layers - 1 and not whole)
    return torch.cat([strand.at_end(view) for strand, view in zip(strands, views(x, strands))])


def _outcomes(anatomy: Anatomy, final: Float[Tensor, "row width"], index: Int[Tensor, "row"],
              outcome: Outcome) -> Float[Tensor, "row"]:
    """The outcome of each row, from the logits of all tokens or only of those it looks at."""
    tokens, outcome = (None, outcome) if anatomy.classifies else narrowed(outcome)
    normalise = getattr(outcome, "of_log_probabilities", False)
    vocabulary = anatomy.readout.unembed.weight.shape[0] if tokens is None else len(tokens)
    parts = []
    for f, i in zip(*(t.split(max(1, VOCABULARY_AT_ONCE // vocabulary)) for t in (final, index))):
        values = anatomy.readout.logits(f, tokens)
        count(f, vocabulary)
        if normalise:
            count(f, anatomy.readout.unembed.weight.shape[0])
        parts.append(outcome(values - anatomy.readout.log_normaliser(f)[:, None] if normalise else values, i).float())
    return torch.cat(parts).cpu()


def _batches(tails: Tails, batch_size: int, width: int) -> Iterable[list[tuple[int, Tensor, Tensor]]]:
    """Batches of strands (first position, row, prompt), the rows of a prompt side by side, each of at most as many tokens
    as `batch_size` whole prompts."""
    batch, room = [], batch_size * width
    for first in tails.first[tails.visible].unique().tolist():
        j, r = ((tails.first == first) & tails.visible).T.nonzero(as_tuple=True)
        while len(r):
            fit = room // (width - first)
            if not fit:
                yield batch
                batch, room = [], batch_size * width
                continue
            batch.append((first, r[:fit], j[:fit]))
            room, r, j = room - len(r[:fit]) * (width - first), r[fit:], j[fit:]
    if batch:
        yield batch


def _key(do: Do):
    """Equal for interventions that write the same; tensors are the same if they are the same piece of memory."""
    if isinstance(do.value, Tensor):
        return do.site, do.value.data_ptr(), tuple(do.value.shape), do.value.stride(), do.value.dtype
    return do.site, id(do.value) if callable(do.value) else do.value


def _forks(layers: int, rows: Sequence[Sequence[Do]], r: list[int], j: list[int],
           stage: list[int]) -> tuple[Int[Tensor, "row"], Int[Tensor, "row"]]:
    """The stage at which each row of a strand joins, and the row it is copied from then (-1: the base run).

    Rows that write the same on the same prompt up to some stage are one row up to there. The tree has a branch for every
    sequence of writes, stage by stage; a branch belongs to the row that opened it, which joined before.
    """
    steps, tree, owner, joins, parents = {}, {}, [], [], []
    for n, (row, prompt) in enumerate(zip(r, j)):
        if row not in steps:
            steps[row] = [()] * (layers + 2)
            for do in rows[row]:
                steps[row][stage_of(do) + 1] += (_key(do),)
        branch, join, parent = ("prompt", prompt), stage[row], -1
        for s, step in zip(range(-1, layers), steps[row]):
            if (branch, step) not in tree:
                tree[branch, step] = len(owner)
                owner.append(n)
            elif s >= stage[row]:
                join, parent = s + 1, owner[tree[branch, step]]
            branch = tree[branch, step]
        joins.append(join)
        parents.append(parent)
    return torch.tensor(joins), torch.tensor(parents)


def _writes(rows: Sequence[Sequence[Do]], r: list[int]) -> list[tuple[Do, list[int]]]:
    """Every `Do` once, with the places in `r` of the rows that share it; a row's writes at one site keep their order."""
    found: dict[tuple, tuple[Do, list[int]]] = {}
    for place, row in enumerate(r):
        before: dict[tuple, int] = {}
        for do in rows[row]:
            at = do.site.kind, do.site.layer
            before[at] = before.get(at, -1) + 1
            found.setdefault((before[at], id(do)), (do, []))[1].append(place)
    return [found[key] for key in sorted(found, key=lambda key: key[0])]


def _strand(anatomy: Anatomy, prompts: Prompts, rows: Sequence[Sequence[Do]], always: Sequence[Do], members: Tensor,
            tails: Tails, first: int, r: Int[Tensor, "row"], j: Int[Tensor, "row"]) -> tuple[Strand, Tensor, Tensor]:
    """One strand of a batch, with the row and the prompt of each of its rows in the order in which they join."""
    joins, parents = _forks(len(anatomy.blocks), rows, r.tolist(), j.tolist(), tails.stage.tolist())
    order = joins.argsort(stable=True)
    place = torch.cat([order.argsort(), torch.tensor([-1])])  # where each row went; the base run stays -1
    r, j, local = r[order], j[order], j[order].to(members.device)
    plan = Plan(anatomy.model, members[local], always)
    for do, which in _writes(rows, r.tolist()):
        plan.add(do, torch.tensor(which, device=members.device))
    frame, ends = Frame(prompts.tokens.shape[1], first), prompts.ends[members[local]]
    return Strand(plan, frame, ends, local, joins[order], place[parents[order]].to(members.device)), r, j


def sweep(anatomy: Anatomy, prompts: Prompts, rows: Sequence[Sequence[Do]], outcome: Outcome, always: Sequence[Do],
          batch_size: int, progress: str | None) -> Float[Tensor, "row prompt"]:
    """See `interventions.sweep`. Prompts come in parts too, so that the base runs kept stay as small as a batch."""
    result = torch.zeros(len(rows), len(prompts))
    everyone = torch.arange(len(prompts), device=prompts.tokens.device)
    bar = tqdm(total=result.numel(), desc=progress, disable=progress is None, leave=False)
    waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # row, prompt, final stream

    def finish() -> None:
        if waiting:
            r, index, final = map(torch.cat, zip(*waiting))
            result[r, index.cpu()] = _outcomes(anatomy, final, index, outcome)
            waiting.clear()

    for members in everyone.split(prompts_at_once(batch_size)):
        base = full_pass(anatomy, prompts, Plan(anatomy.model, members, always))
        final = base.final[torch.arange(len(members), device=members.device), prompts.ends[members]]
        result[:, members.cpu()] = _outcomes(anatomy, final, members, outcome)
        tails = _tails(len(anatomy.blocks), prompts, rows, always, members)
        bar.update(int((~tails.visible).sum()))
        for batch in _batches(tails, batch_size, prompts.tokens.shape[1]):
            strands, r, j = zip(*(_strand(anatomy, prompts, rows, always, members, tails, *part) for part in batch))
            waiting.append((torch.cat(r), members[torch.cat(j).to(members.device)], grow(anatomy, base, strands)))
            bar.update(len(waiting[-1][0]))
            if sum(len(r) for r, *_ in waiting) >= ENDS_AT_ONCE:
                finish()
    finish()
    bar.close()
    return result
