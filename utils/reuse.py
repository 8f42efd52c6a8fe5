"""Exact passes that do less: what an intervention cannot change is taken from the base run instead of computed again.

In a causal model an intervention at layer l and position p leaves all layers below l and all positions before p as they
were. So the base run keeps its stream, keys and values, and every row of interventions recomputes only the layers above
and the positions after. Rows that start at the same position share one batch, which grows from layer to layer; in the
last layer only the end of each prompt is computed, and of the unembedding only the tokens that the outcome looks at.
"""
from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from .anatomy import Anatomy
from .metrics import Outcome
from .models import Prompts
from .sites import Site, columns_of, positions_of
from .writing import Do, Frame, write

Tensor = torch.Tensor
VOCABULARY_AT_ONCE = 2 ** 22  # logits held at a time
PASTS_OF_A_ROW = 4            # the base run kept for a prompt is about as large as so many rows of a batch at work


@dataclass
class Arithmetic:
    """Floating-point operations of the matrix products that were carried out."""
    flops: int = 0


_COUNTERS: list[Arithmetic] = []


@contextmanager
def count_arithmetic():
    """Count the matrix arithmetic of everything inside: `with count_arithmetic() as done: ...; done.flops`."""
    counter = Arithmetic()
    _COUNTERS.append(counter)
    try:
        yield counter
    finally:
        _COUNTERS.remove(counter)


def _count(flops: int) -> None:
    for counter in _COUNTERS:
        counter.flops += flops


# ---------------------------------------------------------------- what happens on the way through a pass

class Plan:
    """The writes and reads of one pass, by (kind, layer). `prompts`: which prompt each row of the pass is."""

    def __init__(self, model, prompts: Int[Tensor, "row"], always: Sequence[Do] = (), keep: Sequence[Site] = (),
                 owned: bool = False):
        self.model, self.prompts, self.owned, self.found = model, prompts, owned, {}
        self.writes: dict[tuple, list] = {}
        self.reads: dict[tuple, list] = {}
        for do in always:
            self.add(do, None)
        for site in keep:
            self.reads.setdefault((site.kind, site.layer), []).append(site)

    def add(self, do: Do, rows: Int[Tensor, "entry"] | None) -> None:
        """Write in these rows (None: in all). Rows of one entry enter the pass at the same layer."""
        self.writes.setdefault((do.site.kind, do.site.layer), []).append((do, rows))

    def touch(self, kind: str, layer: int | None, tensor: Tensor, frame: Frame) -> Tensor:
        """Write what is planned here, into a copy unless the tensor is `owned`, and keep what is wanted."""
        writes, reads = self.writes.get((kind, layer), ()), self.reads.get((kind, layer), ())
        if not writes and not reads:
            return tensor
        everyone = torch.arange(len(tensor), device=tensor.device)
        if writes and not self.owned:
            tensor = tensor.clone()
        for do, rows in writes:
            rows = everyone if rows is None else rows
            if rows[0] < len(tensor):
                write(tensor, self.model, do, rows, self.prompts[rows], frame)
        for site in reads:
            where = everyone[:, None], positions_of(site, frame.width, everyone)
            chosen = tensor[where][..., columns_of(self.model, site, tensor.shape[-1])].clone()
            self.found[site] = chosen[:, 0] if site.single else chosen
        return tensor

    def calls(self, layer: int) -> bool:
        """True if a function is written in this layer: it must see all the positions it asked for."""
        return any(callable(do.value) for (_, at), writes in self.writes.items() if at == layer for do, _ in writes)


# ---------------------------------------------------------------- one block

def _rotate(x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
    """Rotary positions on the first part of each head. x: [row, position, head, size]."""
    if angles is None:
        return x
    cosine, sine = (a[..., None, :] for a in angles)
    turned, rest = x.split([cosine.shape[-1], x.shape[-1] - cosine.shape[-1]], -1)
    first, second = turned.chunk(2, -1)
    return torch.cat([turned * cosine + torch.cat([-second, first], -1) * sine, rest], -1)


def _attend(anatomy: Anatomy, q: Tensor, k: Tensor, v: Tensor, frame: Frame) -> Tensor:
    """Causal attention of queries at the positions of `frame` to keys from position 0; [row, position, head x size]."""
    queries = frame.only[:, None] if frame.only is not None else torch.arange(frame.first, frame.width, device=q.device)
    mask = torch.arange(k.shape[1], device=q.device) <= queries[..., None]
    mask = mask[:, None] if frame.only is not None else mask
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    _count(4 * q.numel() * k.shape[2])
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=anatomy.heads != anatomy.key_heads)
    return z.transpose(1, 2).flatten(2)


@dataclass
class _Past:
    """Keys and values of the base run, each [prompt, position, head, size], and the prompt of each row."""
    keys: Tensor
    values: Tensor
    of_row: Int[Tensor, "row"]

    def before(self, first: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The rows' own keys and values from `first` on, with those of the base run in front."""
        if first == 0:
            return keys, values
        return tuple(torch.cat([past[self.of_row, :first], own], 1)
                     for past, own in ((self.keys, keys), (self.values, values)))


def _block(anatomy: Anatomy, layer: int, x: Tensor, plan: Plan, frame: Frame, past: _Past | None,
           ends: Int[Tensor, "row"] | None) -> tuple[Tensor, Frame, tuple[Tensor, Tensor]]:
    """One layer: stream in, stream out, and its keys and values. With `ends`, only these positions leave it."""
    block = anatomy.blocks[layer]
    touch = lambda kind, tensor: plan.touch(kind, layer, tensor, frame)
    x = touch("resid_pre", x)
    q, k, v = (touch(kind, part) for kind, part in zip("qkv", block.qkv(block.norm1(x))))
    q, k, v = (part.unflatten(-1, (heads, -1)) for part, heads in
               ((q, anatomy.heads), (k, anatomy.key_heads), (v, anatomy.key_heads)))
    if anatomy.angles is not None:
        angles = anatomy.angles(x, torch.arange(frame.first, frame.width, device=x.device))
        q, k = _rotate(q, angles), _rotate(k, angles)
    _count(2 * x.shape[0] * x.shape[1] * x.shape[2] * sum(part[0, 0].numel() for part in (q, k, v)))
    keys, values = (k, v) if past is None else past.before(frame.first, k, v)
    if ends is not None:
        here = torch.arange(len(x), device=x.device), ends - frame.first
        x, q, frame = x[here][:, None], q[here][:, None], Frame(frame.width, only=ends)
    z = touch("z", _attend(anatomy, q, keys, values, frame))
    attention = touch("attn_out", block.out(z))
    middle = x + attention
    if not block.parallel:
        middle = touch("resid_mid", middle)
    neurons = touch("mlp_post", block.up(block.norm2(x if block.parallel else middle)))
    _count(2 * x.shape[0] * x.shape[1] * x.shape[2] * (z.shape[2] + 2 * neurons.shape[2]))
    return middle + touch("mlp_out", block.down(neurons)), frame, (k, v)


# ---------------------------------------------------------------- the base run

@dataclass
class Base:
    """What a run leaves for others: embeddings, stream entering each block and leaving the last (all before writes
    between blocks), keys and values."""
    embedded: Tensor
    stream: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]
    final: Tensor


def full_pass(anatomy: Anatomy, prompts: Prompts, plan: Plan, members: Int[Tensor, "prompt"]) -> Base:
    """All layers and positions of these prompts."""
    frame = Frame(prompts.tokens.shape[1])
    embedded = anatomy.embed(prompts.tokens[members])
    x = anatomy.place(plan.touch("embed", None, embedded, frame), torch.arange(frame.width, device=embedded.device))
    base = Base(embedded, [x], [], [], x)
    for layer in range(len(anatomy.blocks)):
        x, _, (k, v) = _block(anatomy, layer, x, plan, frame, None, None)
        base.stream.append(x)
        base.keys.append(k)
        base.values.append(v)
        x = plan.touch("resid_post", layer, x, frame)
    base.final = x
    return base


def read(anatomy: Anatomy, prompts: Prompts, sites: Sequence[Site], interventions: Sequence[Do],
         end_only: bool) -> tuple[Tensor, dict[Site, Tensor]]:
    """See `interventions.read`."""
    plan = Plan(anatomy.model, torch.arange(len(prompts), device=prompts.tokens.device), interventions, sites)
    final = full_pass(anatomy, prompts, plan, plan.prompts).final
    end_only = end_only or anatomy.classifies
    return anatomy.logits(final[plan.prompts, prompts.ends] if end_only else final), plan.found


# ---------------------------------------------------------------- many rows

@dataclass(frozen=True)
class Tails:
    """Where rows of interventions part from the base run.

    stage: -1 is the embedding, l the stream entering block l, the number of blocks the stream leaving the last; [row].
    first: the first position that may differ, [row, prompt]. visible: whether the end of the prompt can tell, [row, prompt].
    """
    stage: Int[Tensor, "row"]
    first: Int[Tensor, "row prompt"]
    visible: Bool[Tensor, "row prompt"]


def _stage(do: Do) -> int:
    return -1 if do.site.kind == "embed" else do.site.layer + (do.site.kind == "resid_post")


def _tails(layers: int, prompts: Prompts, rows: Sequence[Sequence[Do]], always: Sequence[Do],
           members: Int[Tensor, "prompt"]) -> Tails:
    width, ends = prompts.tokens.shape[1], prompts.ends[members]
    stage = torch.tensor([min(map(_stage, row), default=layers) for row in rows])
    first = torch.full((len(rows), len(members)), width)
    visible = torch.zeros(first.shape, dtype=torch.bool)
    functions = [do for do in always if callable(do.value)]  # a function must see all its positions again
    for r, row in enumerate(rows):
        for do in row:
            positions = positions_of(do.site, width, members) % width
            first[r] = torch.minimum(first[r], positions.amin(1).cpu())
            if do.site.layer == layers - 1 and do.site.kind not in ("resid_pre", "k", "v"):
                visible[r] |= (positions == ends[:, None]).any(1).cpu()  # nothing else reads it any more
            else:
                visible[r] |= (positions.amin(1) <= ends).cpu()
        for do in functions if row else ():
            if _stage(do) >= stage[r]:
                first[r] = torch.minimum(first[r], (positions_of(do.site, width, members) % width).amin(1).cpu())
    return Tails(stage, first, visible)


def _grow(anatomy: Anatomy, base: Base, plan: Plan, stage: Int[Tensor, "row"], local: Int[Tensor, "row"], first: int,
          ends: Int[Tensor, "row"]) -> Float[Tensor, "row width"]:
    """Final stream at the end of each row's prompt. Rows, sorted by stage, join the batch at the layer they part from the
    base run. local: the prompt of each row within the base run."""
    layers, x = len(anatomy.blocks), None
    frame = Frame(base.embedded.shape[1], first)
    arrived = lambda s: (stage <= s).sum().item()
    if arrived(-1):
        x = plan.touch("embed", None, base.embedded[local[:arrived(-1)], first:], frame)
        x = anatomy.place(x, torch.arange(first, frame.width, device=x.device))
    whole = plan.calls(layers - 1)
    for s in range(layers + 1):
        new = local[0 if x is None else len(x):arrived(s)]
        if s == layers and not whole:
            joined = base.stream[s][new, ends[len(local) - len(new):]][:, None]
            frame = Frame(frame.width, only=ends)
        else:
            joined = base.stream[s][new, first:]
        x = joined if x is None else torch.cat([x, joined]) if len(new) else x
        if not len(x):
            x = None
            continue
        if s:
            x = plan.touch("resid_post", s - 1, x, frame)
        if s < layers:
            count = len(x)
            past = _Past(base.keys[s], base.values[s], local[:count])
            cut = ends[:count] if s == layers - 1 and not whole else None
            x, frame, _ = _block(anatomy, s, x, plan, frame, past, cut)
    return x[:, 0] if not whole else x[torch.arange(len(x), device=x.device), ends - first]


def _outcomes(anatomy: Anatomy, final: Float[Tensor, "row width"], index: Int[Tensor, "row"],
              outcome: Outcome) -> Float[Tensor, "row"]:
    """The outcome of each row, from the logits of all tokens or only of those it looks at."""
    tokens, outcome = outcome.narrow() if hasattr(outcome, "narrow") and not anatomy.classifies else (None, outcome)
    vocabulary = anatomy.unembed.weight.shape[0] if tokens is None else len(tokens)
    parts = []
    for f, i in zip(*(t.split(max(1, VOCABULARY_AT_ONCE // vocabulary)) for t in (final, index))):
        _count(2 * f.numel() * vocabulary)
        parts.append(outcome(anatomy.logits(f, tokens), i).float())
    return torch.cat(parts).cpu()


def sweep(anatomy: Anatomy, prompts: Prompts, rows: Sequence[Sequence[Do]], outcome: Outcome, always: Sequence[Do],
          batch_size: int, progress: str | None) -> Float[Tensor, "row prompt"]:
    """See `interventions.sweep`. Prompts come in parts too, so that the base runs kept stay as small as a batch."""
    result = torch.zeros(len(rows), len(prompts))
    everyone = torch.arange(len(prompts), device=prompts.tokens.device)
    parts = torch.tensor_split(everyone, -(-len(prompts) * PASTS_OF_A_ROW // max(batch_size, PASTS_OF_A_ROW)))
    bar = tqdm(total=result.numel(), desc=progress, disable=progress is None, leave=False)
    for members in parts:
        base = full_pass(anatomy, prompts, Plan(anatomy.model, members, always), members)
        result[:, members.cpu()] = _outcomes(anatomy, base.final[members - members[0], prompts.ends[members]], members, outcome)
        tails = _tails(len(anatomy.blocks), prompts, rows, always, members)
        bar.update(result.shape[0] * len(members) - int(tails.visible.sum()))
        for first in tails.first[tails.visible].unique().tolist():
            r, j = ((tails.first == first) & tails.visible).nonzero(as_tuple=True)
            order = tails.stage[r].argsort(stable=True)
            for r, j in zip(r[order].split(batch_size), j[order].to(members.device).split(batch_size)):
                plan = Plan(anatomy.model, members[j], always, owned=True)
                for row in r.unique().tolist():
                    mine = (r == row).nonzero().flatten().to(members.device)
                    for do in rows[row]:
                        plan.add(do, mine)
                final = _grow(anatomy, base, plan, tails.stage[r].to(members.device), j, first, prompts.ends[members[j]])
                result[r, members[j].cpu()] = _outcomes(anatomy, final, members[j], outcome)
                bar.update(len(r))
    bar.close()
    return result
