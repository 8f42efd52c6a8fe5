"""Exact passes that do less: what an intervention cannot change is taken from the base run instead of computed again.

In a causal model an intervention at layer l and position p leaves all layers below l and all positions before p as they
were. So the base run keeps its stream, keys and values, and every row of interventions recomputes only the layers above
and the positions after. Rows that start at the same position share one batch, which grows from layer to layer; in the
last layer only the end of each prompt is computed, and of the unembedding only the tokens that the outcome looks at.
"""
from __future__ import annotations

from typing import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from tqdm import tqdm

from ..metrics import Outcome, narrowed
from ..models import Prompts
from .anatomy import Anatomy
from .forks import BASE_RUN, Tails, forks_of, tails_of, writes_of
from .passes import Base, Plan, Strand, block, count, full_pass, touch, views
from .writing import Do, Frame

Tensor = torch.Tensor
VOCABULARY_AT_ONCE = 3 * 2 ** 22  # logits held at a time
ENDS_AT_ONCE = 512                # rows whose outcomes are computed together: the unembedding likes many


def prompts_at_once(batch_size: int) -> int:
    """So many that their base runs take about as much memory as a batch: what is kept of one weighs about four rows."""
    return max(1, batch_size // 4)


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


def _placed(anatomy: Anatomy, embedded: Float[Tensor, "token width"], strands: Sequence[Strand]) -> Tensor:
    """The stream that enters block 0 at each strand's positions."""
    pieces = [anatomy.place(view, torch.arange(strand.frame.first, strand.frame.width, device=view.device)).flatten(0, 1)
              for strand, view in zip(strands, views(embedded, strands)) if strand.rows]
    return torch.cat(pieces) if pieces else embedded


def grow(anatomy: Anatomy, base: Base, strands: Sequence[Strand]) -> Float[Tensor, "row width"]:
    """Final stream at the end of each row's prompt. Rows join the batch at the layer at which they part from others."""
    layers = len(anatomy.blocks)
    whole = any(strand.plan.calls(layers - 1) for strand in strands)
    x = _placed(anatomy, touch("embed", None, _join(-1, None, strands, base, False), strands), strands)
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
    at_once, parts = max(1, VOCABULARY_AT_ONCE // vocabulary), []
    for start in range(0, len(final), at_once):
        ends, which = final[start:start + at_once], index[start:start + at_once]
        values = anatomy.readout.logits(ends, tokens)
        count(ends, vocabulary)
        if normalise:
            values = values - anatomy.readout.log_normaliser(ends)[:, None]
            count(ends, anatomy.readout.unembed.weight.shape[0])
        parts.append(outcome(values, which).float())
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


def _strand(anatomy: Anatomy, prompts: Prompts, rows: Sequence[Sequence[Do]], always: Sequence[Do], members: Tensor,
            tails: Tails, first: int, r: Int[Tensor, "row"], j: Int[Tensor, "row"]) -> tuple[Strand, Tensor, Tensor]:
    """One strand of a batch, with the row and the prompt of each of its rows in the order in which they join."""
    joins, parents = forks_of(len(anatomy.blocks), rows, r.tolist(), j.tolist(), tails.stage.tolist())
    order = joins.argsort(stable=True)
    place = torch.cat([order.argsort(), torch.tensor([BASE_RUN])])  # where each row went; the base run stays
    r, j, local = r[order], j[order], j[order].to(members.device)
    plan = Plan(anatomy.model, members[local], always)
    for do, which in writes_of(rows, r.tolist()):
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
        tails = tails_of(len(anatomy.blocks), prompts, rows, always, members)
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
