"""Activation patching: copy an activation from one run into another and see how much of the outcome moves.

`denoise` writes clean activations into the corrupted run: what is *sufficient* to restore the answer. `noise` writes
corrupted activations into the clean run: what is *necessary* for it. Both are scaled so that 0 is the run that was
patched and 1 the run the activation came from. (Heimersheim & Nanda 2024, arXiv 2404.15255; Wang et al. 2022, 2211.00593.)
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Sequence

import torch
from jaxtyping import Float
from tqdm import tqdm

from .engine import Do, Each, Site, at_end, heads_at, is_causal, pick, prompts_at_once, read, sweep, validate
from .errors import CourseError
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
    first = min(differ, default=width) if is_causal(model) else 0
    at_once = kind == "resid_pre" and is_causal(model)
    return [(layer, p) for layer in layers for p in (differ if at_once and layer == 0 else range(first, width))]


def position_map(model, clean: Prompts, corrupted: Prompts, outcome: Outcome, *, kind: str = "resid_pre",
                 direction: str = "denoise", batch_size: int = 128, progress: bool = False) -> PatchMap:
    """Patch one activation `kind` at every layer and position; all prompts of one length.

    Cells at which both runs are the same are not computed. Prompts are taken in parts that go with `batch_size`, so that
    memory does not grow with their number. Raises CourseError if clean and corrupted prompts differ in length, among
    themselves or pairwise.
    """
    base, source = _base_and_source(clean, corrupted, direction)
    require_outcome_for(outcome, len(clean))
    if not clean.equal_length:
        raise CourseError("a map over positions needs prompts of one length; use one template, or a map over heads")
    layers, width = shape_of(model)[0], clean.tokens.shape[1]
    cells = _cells(model, kind, differing_positions(clean, corrupted), width)
    patched, ends = torch.empty(layers, width, len(base)), []
    for start in range(0, len(base), prompts_at_once(batch_size)):
        stop, own = start + prompts_at_once(batch_size), OfPart(outcome, start)
        there, values = _read_source(model, source.part(start, stop), own, [Site(kind, layer) for layer in range(layers)])
        rows = [[], *([Do(Site(kind, layer, p), values[Site(kind, layer)][:, p])] for layer, p in cells)]
        bar = f"patching {kind}" if progress else None
        before, *after = sweep(model, base.part(start, stop), rows, own, batch_size=batch_size, progress=bar)
        patched[..., start:stop] = before
        for (layer, p), value in zip(cells, after):
            patched[layer, p, start:stop] = value
        ends.append((before, there))
    columns = tuple(f"{label} {i}" for i, label in enumerate(clean.labels[0]))
    return PatchMap(patched, *map(torch.cat, zip(*ends)), kind, direction, tuple(map(str, range(layers))), columns)


def residual_map(model, clean: Prompts, corrupted: Prompts, outcome: Outcome, **options) -> PatchMap:
    """`position_map` of the residual stream entering each block: where the answer sits, and when."""
    return position_map(model, clean, corrupted, outcome, kind="resid_pre", **options)


def head_map(model, clean: Prompts, corrupted: Prompts, outcome: Outcome, *, positions: int | Each | None = None,
             kind: str = "z", direction: str = "denoise", batch_size: int = 128) -> PatchMap:
    """Patch each head by itself at one position of each prompt (None: at the end); `kind` is z, q, k or v."""
    base, source = _base_and_source(clean, corrupted, direction)
    layers, heads = shape_of(model)[0], heads_at(model, kind)
    where = Each.of(clean.ends) if positions is None else positions
    sites = [Site(kind, layer, where, head) for layer in range(layers) for head in range(heads)]
    there, values = _read_source(model, source, outcome, sites)
    before, *patched = sweep(model, base, [[], *([Do(site, values[site])] for site in sites)], outcome, batch_size=batch_size)
    return PatchMap(torch.stack(patched).view(layers, heads, -1), before, there, kind, direction,
                    tuple(map(str, range(layers))), tuple(map(str, range(heads))))


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
class _Ends:
    """What every path between two runs needs: what to hold at its clean value, and what each head says when corrupted."""
    hold: list[Do]
    corrupted: dict[Site, torch.Tensor]


def _ends(model, clean: Prompts, corrupted: Prompts, freeze_mlps: bool) -> _Ends:
    _base_and_source(clean, corrupted, "noise")
    layers = range(shape_of(model)[0])
    heads = [Site("z", layer) for layer in layers]
    frozen = heads + ([Site("mlp_out", layer) for layer in layers] if freeze_mlps else [])
    _, kept = read(model, clean, frozen)
    return _Ends([Do(site, kept[site]) for site in frozen], read(model, corrupted, heads)[1])


def _require_receivers(receivers: Sequence[Receiver]) -> None:
    if not receivers:
        raise CourseError("the path has no receiver: name at least one, such as Receiver() for the logits")


def path_patch(model, clean: Prompts, corrupted: Prompts, outcome: Outcome, sender: tuple[int, int],
               receivers: Sequence[Receiver] = (Receiver(),), *, freeze_mlps: bool = False,
               positions: int | Each | None = None, ends: _Ends | None = None) -> Float[torch.Tensor, "prompt"]:
    """Outcome of the clean run when only the path sender head -> receivers carries the corrupted signal.

    First a clean run in which the sender writes its corrupted output and every other head is held at its clean
    one (MLPs too, if `freeze_mlps`): what arrives at the receivers is recorded. Then a clean run in which the receivers get
    just that. `positions` limits the sender (None: all); `ends` saves `path_map` reading the same for every sender.
    Wang et al. 2022, appendix B.
    """
    require_outcome_for(outcome, len(clean))
    _require_receivers(receivers)
    ends, layers = ends or _ends(model, clean, corrupted, freeze_mlps), shape_of(model)[0]
    site, everyone = Site("z", sender[0], positions, sender[1]), torch.arange(len(clean), device=clean.tokens.device)
    validate(model, site, clean.tokens)
    sending = Do(site, pick(ends.corrupted[site.whole], model, site))
    arriving = [receiver.site(layers) for receiver in receivers]
    _, received = read(model, clean, arriving, [*ends.hold, sending])
    logits = at_end(model, clean, [Do(site, received[site]) for site in arriving])
    return outcome(logits, everyone).float().cpu()


def path_map(model, clean: Prompts, corrupted: Prompts, outcome: Outcome, receivers: Sequence[Receiver] = (Receiver(),),
             *, senders: Iterable[tuple[int, int]] | None = None, freeze_mlps: bool = False,
             progress: bool = False) -> PatchMap:
    """`path_patch` from every head (or only `senders`; the others are NaN) to the receivers, as a noising map."""
    (layers, heads) = shape_of(model)
    _require_receivers(receivers)
    last = max(layers if r.layer is None else r.layer for r in receivers)
    chosen = set(senders) if senders is not None else {(l, h) for l in range(last) for h in range(heads)}
    patched, ends = torch.full((layers, heads, len(clean)), float("nan")), _ends(model, clean, corrupted, freeze_mlps)
    for layer, head in tqdm(sorted(chosen), desc="path patching", disable=not progress, leave=False):
        patched[layer, head] = path_patch(model, clean, corrupted, outcome, (layer, head), receivers, ends=ends)
    return PatchMap(patched, *(_read_source(model, p, outcome, ())[0] for p in (clean, corrupted)), "path",
                    "noise", tuple(map(str, range(layers))), tuple(map(str, range(heads))))
