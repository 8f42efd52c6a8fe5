"""Activation patching: copy an activation from one run into another and see how much of the outcome moves.

`denoise` writes clean activations into the corrupted run: what is *sufficient* to restore the answer. `noise` writes
corrupted activations into the clean run: what is *necessary* for it. Both are scaled so that 0 is the run that was
patched and 1 the run the activation came from. (Heimersheim & Nanda 2024, arXiv 2404.15255; Wang et al. 2022, 2211.00593.)
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Iterable, Sequence

import torch
from jaxtyping import Float
from tqdm import tqdm

from .engine import (HEAD_KINDS, Do, Places, Site, at_end, for_each_query_head, gradients, heads_at, is_causal, part_of,
                     pick, places, prompts_at_once, read, sweep, validate)
from .errors import CourseError, check_arguments
from .metrics import Interval, OfPart, Outcome, recovery, recovery_interval, require_outcome_for
from .models import Prompts, differing_positions, shape_of

DIRECTIONS = ("denoise", "noise")


@dataclass(frozen=True)
class PatchMap:
    """Outcomes of a patching sweep.

    patched: [row, column, prompt], columns being positions or heads; base: outcome of the run that was patched, source:
    of the run the activations came from, both [prompt].
    """
    patched: Float[torch.Tensor, "row column prompt"]
    base: Float[torch.Tensor, "prompt"]
    source: Float[torch.Tensor, "prompt"]
    kind: str
    direction: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def effect(self) -> Float[torch.Tensor, "row column"]:
        """0 = as the run that was patched, 1 = as the run the activation came from."""
        return recovery(self.patched, self.base, self.source)

    def interval(self, *, seed: int = 0) -> Interval:
        """`effect` with a 95 % bootstrap interval over prompts."""
        return recovery_interval(self.patched, self.base, self.source, seed=seed)

    def for_each_query_head(self, heads: int) -> PatchMap:
        """A map of keys or values with the column of a shared head repeated for each of the `heads` that read it."""
        return replace(self, patched=for_each_query_head(self.patched, heads, 1), columns=tuple(map(str, range(heads))))


def _base_and_source(clean: Prompts, corrupted: Prompts, direction: str) -> tuple[Prompts, Prompts]:
    if direction not in DIRECTIONS:
        raise CourseError(f"direction must be 'denoise' or 'noise', not {direction!r}")
    differing_positions(clean, corrupted)  # refuses pairs of different length
    return (corrupted, clean) if direction == "denoise" else (clean, corrupted)


def _read_source(model, source: Prompts, outcome: Outcome, sites: Sequence[Site]) -> tuple[torch.Tensor, dict]:
    """Outcome at the end of each prompt, [prompt], and the activations that will be written elsewhere."""
    logits, values = read(model, source, sites, end_only=True)
    return outcome(logits, torch.arange(len(source), device=logits.device)).float().cpu(), values


def _cells(model, kind: str, differ: torch.Tensor, width: int) -> list[tuple[int, int]]:
    """(layer, position) at which the two runs may differ. differ: positions of the tokens that do.

    Where attention looks only back, nothing differs before the first of them; entering block 0, only their own positions do.
    """
    differ, layers = differ.tolist(), range(shape_of(model)[0])
    causal = is_causal(model)
    first = min(differ, default=width) if causal else 0
    at_once = kind == "resid_pre" and causal
    return [(layer, p) for layer in layers for p in (differ if at_once and layer == 0 else range(first, width))]


def _patched(model, base: Prompts, source: Prompts, outcome: Outcome, cells: Sequence[Site], batch_size: int,
             progress: str | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Outcomes with each of the `cells` copied from `source`, [cell, prompt], and of both runs as they are, [prompt] each.

    Prompts are taken in parts that go with `batch_size`, so that memory does not grow with their number.
    """
    require_outcome_for(outcome, len(base))
    parts = []
    for start in range(0, len(base), prompts_at_once(batch_size)):
        stop, own = start + prompts_at_once(batch_size), OfPart(outcome, start)
        sites = [replace(site, position=part_of(site.position, start, stop)) for site in cells]
        there, values = _read_source(model, source.part(start, stop), own, sites)
        rows = [[], *([Do(site, values[site])] for site in sites)]
        found = sweep(model, base.part(start, stop), rows, own, batch_size=batch_size, progress=progress)
        parts.append((found[1:], found[0], there))
    return tuple(torch.cat(part, -1) for part in zip(*parts))


def position_map(model, clean: Prompts, corrupted: Prompts, outcome: Outcome, *, kind: str = "resid_pre",
                 direction: str = "denoise", batch_size: int = 128, progress: bool = False) -> PatchMap:
    """Patch one activation `kind` at every layer and position; all prompts of one length.

    Cells at which both runs are the same are not computed. `batch_size` bounds the memory. Raises CourseError if clean and
    corrupted prompts differ in length, among themselves or pairwise.
    """
    base, source = _base_and_source(clean, corrupted, direction)
    if not clean.equal_length:
        raise CourseError("a map over positions needs prompts of one length; use one template, or a map over heads")
    layers, width = shape_of(model)[0], clean.tokens.shape[1]
    cells = _cells(model, kind, differing_positions(clean, corrupted), width)
    found, before, there = _patched(model, base, source, outcome, [Site(kind, layer, p) for layer, p in cells], batch_size,
                                    f"patching {kind}" if progress else None)
    patched = before.expand(layers, width, -1).clone()
    for (layer, p), value in zip(cells, found):
        patched[layer, p] = value
    columns = tuple(f"{label} {i}" for i, label in enumerate(clean.labels[0]))
    return PatchMap(patched, before, there, kind, direction, tuple(map(str, range(layers))), columns)


def residual_map(model, clean: Prompts, corrupted: Prompts, outcome: Outcome, **options) -> PatchMap:
    """`position_map` of the residual stream entering each block: where the answer sits, and when."""
    return position_map(model, clean, corrupted, outcome, kind="resid_pre", **options)


def head_map(model, clean: Prompts, corrupted: Prompts, outcome: Outcome, *, positions: Places = "all",
             kind: str = "z", direction: str = "denoise", batch_size: int = 128) -> PatchMap:
    """Patch each head by itself at `positions` (see `engine.places`); `kind` is z, q, k or v."""
    base, source = _base_and_source(clean, corrupted, direction)
    layers, heads, where = shape_of(model)[0], heads_at(model, kind), places(clean, positions)
    cells = [Site(kind, layer, where, head) for layer in range(layers) for head in range(heads)]
    patched, before, there = _patched(model, base, source, outcome, cells, batch_size, None)
    return PatchMap(patched.view(layers, heads, -1), before, there, kind, direction, tuple(map(str, range(layers))),
                    tuple(map(str, range(heads))))


# ---------------------------------------------------------------- an approximation

def attribution_map(model, clean: Prompts, corrupted: Prompts, outcome: Outcome, *, kind: str = "resid_pre",
                    direction: str = "denoise", positions: Places = "all", batch_size: int = 128) -> PatchMap:
    """`position_map`, or for z, q, k, v and patterns `head_map`, to first order: by three passes instead of one for each cell.

    What a cell does is approximated by the difference of its activation between both runs times the gradient of the outcome
    in the run that is patched (attribution patching, Nanda 2023). It is exact where the outcome is linear in the activation;
    norms, attention and MLPs are not, so compare a few cells: `exact.effect - approximation.effect`.
    `positions` is for maps of heads. Raises CourseError as the exact maps do, and for an outcome without a gradient.
    """
    base, source = _base_and_source(clean, corrupted, direction)
    layers, by_head = range(shape_of(model)[0]), kind in HEAD_KINDS
    if not by_head and not clean.equal_length:
        raise CourseError("a map over positions needs prompts of one length; use one template, or a map over heads")
    if not by_head and positions != "all":
        raise CourseError(f"a map of {kind!r} has all positions as its columns: leave positions out")
    where, sites, parts = places(clean, positions), [Site(kind, layer) for layer in layers], []
    for start in range(0, len(base), prompts_at_once(batch_size)):
        stop, own = start + prompts_at_once(batch_size), OfPart(outcome, start)
        there, values = _read_source(model, source.part(start, stop), own, sites)
        before, slopes = gradients(model, base.part(start, stop), sites, own)
        moved = [(values[site] - here) * slope for site, (here, slope) in slopes.items()]      # [prompt, position, width]
        if by_head:
            cell, heads = Site(kind, 0, part_of(where, start, stop)), heads_at(model, kind)
            chosen = [pick(each, model, cell).reshape(len(each), -1, heads, each.shape[-1] // heads) for each in moved]
            columns = [each.sum((1, 3)) for each in chosen]                                      # [prompt, head]
        else:
            columns = [each.sum(-1) for each in moved]                                           # [prompt, position]
        parts.append((before.cpu() + torch.stack(columns).movedim(1, -1).float().cpu(), before.cpu(), there))
    patched, before, there = (torch.cat(part, -1) for part in zip(*parts))
    names = map(str, range(patched.shape[1])) if by_head else (f"{label} {i}" for i, label in enumerate(clean.labels[0]))
    return PatchMap(patched, before, there, kind, direction, tuple(map(str, layers)), tuple(names))


# ---------------------------------------------------------------- path patching

@dataclass(frozen=True)
class Receiver:
    """Where a path ends: the q, k or v input side of a head, or ("logits") the end of the stream."""
    kind: str = "logits"
    layer: int | None = None
    head: int | None = None

    def site(self, layers: int) -> Site:
        return Site("resid_post", layers - 1) if self.kind == "logits" else Site(self.kind, self.layer, None, self.head)


@dataclass(frozen=True)
class _Paths:
    """What every path between two runs needs: what is held at its clean value, and what each head says when corrupted."""
    clean: Prompts
    hold: list[Do]
    corrupted: dict[Site, torch.Tensor]


def _paths(model, clean: Prompts, corrupted: Prompts, freeze_mlps: bool) -> _Paths:
    layers = range(shape_of(model)[0])
    heads = [Site("z", layer) for layer in layers]
    frozen = heads + ([Site("mlp_out", layer) for layer in layers] if freeze_mlps else [])
    _, kept = read(model, clean, frozen, end_only=True)
    return _Paths(clean, [Do(site, kept[site]) for site in frozen], read(model, corrupted, heads, end_only=True)[1])


def _along(model, paths: _Paths, outcome: Outcome, sender: Site, receivers: Sequence[Site]) -> Float[torch.Tensor, "prompt"]:
    """Outcome of the clean run when the receivers get what arrives there from the corrupted sender."""
    sending = Do(sender, pick(paths.corrupted[sender.whole], model, sender))
    _, received = read(model, paths.clean, receivers, [*paths.hold, sending], end_only=True)
    logits = at_end(model, paths.clean, [Do(site, received[site]) for site in receivers])
    return outcome(logits, torch.arange(len(logits), device=logits.device)).float().cpu()


def _require_receivers(receivers: Sequence[Receiver]) -> None:
    if not receivers:
        raise CourseError("a path needs an end: give at least one Receiver")


def path_patch(model, clean: Prompts, corrupted: Prompts, outcome: Outcome, sender: tuple[int, int],
               receivers: Sequence[Receiver] = (Receiver(),), *, freeze_mlps: bool = False, positions: Places = "all",
               batch_size: int = 128) -> Float[torch.Tensor, "prompt"]:
    """Outcome of the clean run when only the path sender head -> receivers carries the corrupted signal.

    First a clean run in which the sender writes its corrupted output and every other head is held at its clean
    one (MLPs too, if `freeze_mlps`): what arrives at the receivers is recorded. Then a clean run in which the receivers get
    just that. `positions` limits the sender (see `engine.places`); `batch_size` bounds the memory.
    Wang et al. 2022, appendix B.
    """
    return path_map(model, clean, corrupted, outcome, receivers, senders=[sender], freeze_mlps=freeze_mlps,
                    positions=positions, batch_size=batch_size).patched[sender[0], sender[1]]


def path_map(model, clean: Prompts, corrupted: Prompts, outcome: Outcome, receivers: Sequence[Receiver] = (Receiver(),),
             *, senders: Iterable[tuple[int, int]] | None = None, freeze_mlps: bool = False, positions: Places = "all",
             batch_size: int = 128, progress: bool = False) -> PatchMap:
    """`path_patch` from every head (or only `senders`; the others are NaN) to the receivers, as a noising map.

    Raises CourseError for no receiver, heads that the model does not have, and prompts that do not come in pairs.
    """
    _base_and_source(clean, corrupted, "noise")
    require_outcome_for(outcome, len(clean))
    _require_receivers(receivers)
    (layers, heads), where = shape_of(model), places(clean, positions)
    last = max(layers if r.layer is None else r.layer for r in receivers)
    chosen = set(senders) if senders is not None else {(l, h) for l in range(last) for h in range(heads)}
    sites = [Site("z", layer, where, head) for layer, head in sorted(chosen)]
    for site in sites:
        validate(model, site, clean.tokens)
    arriving = [receiver.site(layers) for receiver in receivers]
    patched, step, ends = torch.full((layers, heads, len(clean)), float("nan")), prompts_at_once(batch_size), []
    bar = tqdm(total=len(sites) * -(-len(clean) // step), desc="path patching", disable=not progress, leave=False)
    for start in range(0, len(clean), step):
        own, (base, source) = OfPart(outcome, start), (p.part(start, start + step) for p in (clean, corrupted))
        paths = _paths(model, base, source, freeze_mlps)
        for site in sites:
            sender = replace(site, position=part_of(where, start, start + step))
            patched[site.layer, site.head, start:start + step] = _along(model, paths, own, sender, arriving)
            bar.update()
        ends.append([_read_source(model, p, own, ())[0] for p in (base, source)])
    bar.close()
    return PatchMap(patched, *map(torch.cat, zip(*ends)), "path", "noise", tuple(map(str, range(layers))),
                    tuple(map(str, range(heads))))


check_arguments(globals())
