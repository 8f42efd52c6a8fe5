"""One exact pass through the pieces of a model: what is written and read on the way, and what is kept for other passes.

A pass can begin at any position: the keys and values of earlier ones come from a *base run*. Its rows need not begin at the
same position (they are grouped in *strands*) nor at the same layer (`sweeps` lets them join).
"""
from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int

from ..models import Prompts
from .anatomy import Anatomy
from .sites import Site
from .writing import Do, Frame, is_flat, pick, write, write_flat

Tensor = torch.Tensor
TOKENS_AT_ONCE = 512  # whose neurons are held at a time


@dataclass
class Arithmetic:
    """Floating-point operations that were carried out: in products with the matrices of the model, by the shape
    (inputs, outputs) of the matrix, and in attention."""
    products: Counter = field(default_factory=Counter)
    attention: int = 0

    @property
    def flops(self) -> int:
        return self.products.total() + self.attention


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


def count(x: Tensor, outputs: int) -> None:
    """A product of x, [..., inputs], with a matrix [inputs, outputs] was carried out."""
    for counter in _COUNTERS:
        counter.products[x.shape[-1], outputs] += 2 * x.numel() * outputs


# ---------------------------------------------------------------- what happens on the way through a pass

class Plan:
    """The writes and reads of some rows, by (kind, layer). `prompts`: which prompt each row is."""

    def __init__(self, model, prompts: Int[Tensor, "row"], always: Sequence[Do] = (), keep: Sequence[Site] = ()):
        self.model, self.prompts, self.found = model, prompts, {}
        self.writes: dict[tuple, list] = {}
        self.reads: dict[tuple, list] = {}
        for do in always:
            self.add(do, None)
        for site in keep:
            self.reads.setdefault((site.kind, site.layer), []).append(site)

    def add(self, do: Do, rows: Int[Tensor, "entry"] | None) -> None:
        """Write in these rows (None: in all), as soon as they are there."""
        self.writes.setdefault((do.site.kind, do.site.layer), []).append((do, rows))

    def touch(self, kind: str, layer: int | None, tensor: Float[Tensor, "row position width"], frame: Frame) -> None:
        """Write, in place, what is planned here, and keep what is wanted."""
        everyone = torch.arange(len(tensor), device=tensor.device)
        entries = [(do, everyone if rows is None else rows[rows < len(tensor)])
                   for do, rows in self.writes.get((kind, layer), ())]
        if len(entries) > 1 and frame.only is None and all(is_flat(do) for do, _ in entries):
            write_flat(tensor, self.model, entries)
        else:
            for do, rows in entries:
                if len(rows):
                    write(tensor, self.model, do, rows, self.prompts[rows], frame)
        for site in self.reads.get((kind, layer), ()):
            self.found[site] = pick(tensor, self.model, site)

    def touches(self, kind: str, layer: int | None) -> bool:
        return (kind, layer) in self.writes or (kind, layer) in self.reads

    def calls(self, layer: int) -> bool:
        """True if a function is written in this layer: it must see all the positions it asked for."""
        return any(callable(do.value) for (_, at), writes in self.writes.items() if at == layer for do, _ in writes)


@dataclass
class Strand:
    """Rows of a batch that begin at the same position. Strands of all lengths share the matrix products of a pass: their
    stream is one tensor [token, width], and only attention takes them one by one."""
    plan: Plan
    frame: Frame
    ends: Int[Tensor, "row"]          # end of the prompt of each row
    local: Int[Tensor, "row"]         # its place in the base run
    stage: Int[Tensor, "row"] | None = None   # at which it joins: see `sweeps`; None in a base run
    parent: Int[Tensor, "row"] | None = None  # the row it is a copy of when it joins; -1: of the base run
    rows: int = 0                     # those that have joined so far

    @property
    def tokens(self) -> int:
        return self.rows * (1 if self.frame.only is not None else self.frame.width - self.frame.first)

    def at_end(self, stream: Float[Tensor, "row position width"]) -> Float[Tensor, "row width"]:
        first = self.ends[:self.rows] if self.frame.only is not None else self.frame.first
        return stream[torch.arange(self.rows, device=stream.device), self.ends[:self.rows] - first]


def views(flat: Float[Tensor, "token width"], strands: Sequence[Strand]) -> list[Float[Tensor, "row position width"]]:
    if len(strands) == 1 and strands[0].rows:  # without a split, whose parts may not be written where gradients flow
        return [flat.unflatten(0, (strands[0].rows, -1))]
    return [part.unflatten(0, (strand.rows, -1)) if strand.rows else part[None, :0]
            for part, strand in zip(flat.split([strand.tokens for strand in strands]), strands)]


def touch(kind: str, layer: int | None, flat: Tensor, strands: Sequence[Strand]) -> Tensor:
    if any(strand.plan.touches(kind, layer) for strand in strands):
        for strand, view in zip(strands, views(flat, strands)):
            if strand.rows:
                strand.plan.touch(kind, layer, view, strand.frame)
    return flat


# ---------------------------------------------------------------- one block

def _rotate(x: Tensor, angles: tuple[Tensor, Tensor] | None, first: int) -> Tensor:
    """Rotary positions on the leading part of each head. x: [row, position, head, size]."""
    if angles is None:
        return x
    cosine, sine = (a[:, first:, None] for a in angles)
    turned, rest = x.split([cosine.shape[-1], x.shape[-1] - cosine.shape[-1]], -1)
    front, back = turned.chunk(2, -1)
    return torch.cat([turned * cosine + torch.cat([-back, front], -1) * sine, rest], -1)


def _attend(q: Tensor, k: Tensor, v: Tensor, frame: Frame, scaling: float) -> Float[Tensor, "row position width"]:
    """Causal attention of queries at the positions of `frame` to keys from position 0 on, all [row, position, head, size]."""
    if frame.only is not None:
        queries = frame.only[:, None, None, None]
    else:
        queries = torch.arange(frame.first, frame.width, device=q.device)[:, None]
    mask = torch.arange(k.shape[1], device=q.device) <= queries
    shared = q.shape[2] // k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    for counter in _COUNTERS:
        counter.attention += 4 * q.numel() * k.shape[2]
    if k.shape[2] > k.shape[3]:  # the pattern would be larger than the queries: do not hold it
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=shared > 1, scale=scaling)
    else:                        # on short prompts this is faster on several threads
        k, v = (x.repeat_interleave(shared, 1) if shared > 1 else x for x in (k, v))
        scores = (q @ k.mT).mul_(scaling).masked_fill_(~mask, -torch.inf)
        z = scores.softmax(-1) @ v
    return z.transpose(1, 2).flatten(2)


def _normed(norm: Callable[[Tensor], Tensor] | None, x: Float[Tensor, "row position head size"]) -> Tensor:
    """The norm of queries or keys: of each head by itself (Qwen-3), or of all heads together (OLMo-2)."""
    if norm is None:
        return x
    return norm(x) if norm.weight.numel() == x.shape[-1] else norm(x.flatten(-2)).view_as(x)


def _attention(anatomy: Anatomy, layer: int, qkv: list[Tensor], strand: Strand, base: Base,
               last: bool) -> Float[Tensor, "token width"]:
    """Attention of one strand, behind the keys and values of the base run; with `last`, only of the ends."""
    parts, first = anatomy.blocks[layer], strand.frame.first
    q, k, v = (x.unflatten(-1, (heads, -1)) for x, heads in
               zip(qkv, (anatomy.heads, anatomy.key_heads, anatomy.key_heads)))
    query_norm, key_norm = parts.head_norms or (None, None)
    q = _rotate(_normed(query_norm, q), base.angles, first)
    k = _rotate(_normed(key_norm, k), base.angles, first)
    if strand.stage is None:      # this is the base run
        base.keys.append(k)
        base.values.append(v)
    elif first:
        local = strand.local[:strand.rows]
        k = torch.cat([base.keys[layer][local, :first], k], 1)
        v = torch.cat([base.values[layer][local, :first], v], 1)
    if last:
        q = strand.at_end(q)[:, None]
        strand.frame = Frame(strand.frame.width, only=strand.ends[:strand.rows])
    return _attend(q, k, v, strand.frame, parts.scaling).flatten(0, 1)


def _heads(anatomy: Anatomy, layer: int, qkv: Sequence[Float[Tensor, "token width"]], strands: Sequence[Strand],
           base: Base, last: bool) -> Float[Tensor, "token width"]:
    """What the heads give, strand by strand, before the output projection."""
    queries, keys, values = (views(part, strands) for part in qkv)
    return torch.cat([_attention(anatomy, layer, [queries[i], keys[i], values[i]], strand, base, last)
                      for i, strand in enumerate(strands) if strand.rows])


def _mlp(anatomy: Anatomy, layer: int, x: Float[Tensor, "token width"], strands: Sequence[Strand]) -> Tensor:
    """What the MLP adds, [token, width]. Neurons that nobody writes or reads are not held all at once."""
    parts, touched, pieces = anatomy.blocks[layer], any(s.plan.touches("mlp_post", layer) for s in strands), []
    for some in [x] if touched else x.split(TOKENS_AT_ONCE):
        neurons = parts.up(some)
        pieces.append(parts.down(touch("mlp_post", layer, neurons, strands) if touched else neurons))
        for _ in range(anatomy.up_matrices):
            count(some, neurons.shape[-1])
        count(neurons, x.shape[-1])
    return torch.cat(pieces)


def block(anatomy: Anatomy, layer: int, x: Float[Tensor, "token width"], strands: Sequence[Strand], base: Base,
          last: bool = False) -> Float[Tensor, "token width"]:
    """One layer, stream in, stream out. With `last`, only the end of each row's prompt leaves it."""
    def here(kind: str, flat: Tensor) -> Tensor:
        return touch(kind, layer, flat, strands)

    parts = anatomy.blocks[layer]
    x = here("resid_pre", x)
    qkv = [here(kind, part) for kind, part in zip("qkv", parts.qkv(parts.norm1(x)))]
    count(x, sum(part.shape[-1] for part in qkv))
    if last:  # while the strands still hold all positions
        ends = [strand.at_end(view) for strand, view in zip(strands, views(x, strands)) if strand.rows]
    z = here("z", _heads(anatomy, layer, qkv, strands, base, last))
    if last:
        x = torch.cat(ends)
    count(z, x.shape[-1])
    middle = x + here("attn_out", parts.out(z))
    if parts.parallel:
        return middle + here("mlp_out", _mlp(anatomy, layer, parts.norm2(x), strands))
    here("resid_mid", middle)
    return middle + here("mlp_out", _mlp(anatomy, layer, parts.norm2(middle), strands))


# ---------------------------------------------------------------- the base run

@dataclass
class Base:
    """What a run leaves for others, by prompt: token embeddings, the stream entering each block and leaving the last (before
    anything is written there), keys and values, and the final stream."""
    embedded: Float[Tensor, "prompt position width"]
    angles: tuple[Tensor, Tensor] | None
    stream: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]
    final: Tensor | None = None


def full_pass(anatomy: Anatomy, prompts: Prompts, plan: Plan, remember: bool = True) -> Base:
    """All layers and positions of the prompts of a plan. Unless it is to `remember`, only the final stream is kept."""
    members, width = plan.prompts, prompts.tokens.shape[1]
    everywhere = torch.arange(width, device=members.device)
    strand = Strand(plan, Frame(width), prompts.ends[members], members, rows=len(members))
    embedded = anatomy.embed(prompts.tokens[members])
    x = touch("embed", None, embedded.flatten(0, 1).clone(), [strand])
    x = anatomy.place(x.view_as(embedded), everywhere).flatten(0, 1)
    base = Base(embedded, anatomy.angles(x, everywhere) if anatomy.angles else None, [], [], [])
    for layer in range(len(anatomy.blocks)):
        base.stream.append(x.view_as(embedded))
        if layer:
            x = touch("resid_post", layer - 1, x.clone(), [strand])
        x = block(anatomy, layer, x if layer else x.clone(), [strand], base)
        if not remember:
            base.stream.clear(), base.keys.clear(), base.values.clear()
    base.stream.append(x.view_as(embedded))
    base.final = touch("resid_post", len(anatomy.blocks) - 1, x.clone(), [strand]).view_as(embedded)
    return base


def read(anatomy: Anatomy, prompts: Prompts, sites: Sequence[Site], interventions: Sequence[Do],
         end_only: bool) -> tuple[Tensor, dict[Site, Tensor]]:
    """See `interventions.read`."""
    everyone = torch.arange(len(prompts), device=prompts.tokens.device)
    plan = Plan(anatomy.model, everyone, interventions, sites)
    final = full_pass(anatomy, prompts, plan, remember=False).final
    return anatomy.readout.logits(final[everyone, prompts.ends] if end_only or anatomy.classifies else final), plan.found
