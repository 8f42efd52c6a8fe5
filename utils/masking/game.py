"""Grouped masking: ablate sets of neurons or heads, and see what is left of the outcome.

A `MaskingGame` gives the outcome of a model on every prompt when some groups are kept and all others ablated. The
estimators of `utils.masking.importance` play it to find out what each group is worth.
"""
from __future__ import annotations

from dataclasses import fields, replace
from typing import Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float

from ..engine import HEAD_KINDS, Do, Places, Site, heads_at, part_of, places, prompts_at_once, read, sweep
from ..errors import CourseError
from ..metrics import OfPart, Outcome, require_outcome_for
from ..models import Prompts
from .groups import Groups, Mask
from .importance import Masks, standard_error

ABLATIONS = ("zero", "mean", "resample")


# ---------------------------------------------------------------- what is written in place of a masked unit

@torch.no_grad()
def means(model, data: Prompts, sites: Sequence[Site],
          batch_size: int = 32) -> dict[Site, Float[torch.Tensor, "width"]]:
    """The mean of each activation over all real positions of a data set. Raises CourseError for a single example."""
    if len(data) < 2:
        raise CourseError(f"mean ablation needs a data set of at least two examples, not {len(data)}: the mean over "
                          "one example is that example")
    total = dict.fromkeys(sites, 0.0)
    for start in range(0, len(data), batch_size):
        part = data.part(start, start + batch_size)
        found = read(model, part, sites, end_only=True)[1]
        for site in sites:
            total[site] = total[site] + (found[site] * part.mask[..., None]).double().sum((0, 1))
    return {site: (total[site] / data.mask.sum()).float() for site in sites}


def partners(prompts: Prompts, data: Prompts, seed: int = 0) -> Prompts:
    """For each prompt another one of the data set, drawn among those of as many tokens that are not the same.

    Raises CourseError for a prompt that has none.
    """
    generator, width, chosen = torch.Generator().manual_seed(seed), prompts.tokens.shape[1], []
    tokens = _taken(data, range(len(data)), width).tokens
    for i, (row, end) in enumerate(zip(prompts.tokens, prompts.ends)):
        others = (data.ends == end) & (tokens[:, :end + 1] != row[:end + 1]).any(1)
        others = others.nonzero().flatten().cpu()
        if not len(others):
            raise CourseError(f"prompt {i} has {int(end) + 1} tokens and no other input has as many: resampling needs "
                              "inputs of the same length, or use ablation='mean'")
        chosen.append(int(others[torch.randint(len(others), (1,), generator=generator)]))
    return _taken(data, chosen, width)


def _taken(data: Prompts, chosen: Sequence[int], width: int) -> Prompts:
    """The chosen prompts of a data set, padded or cut off (a negative pad) to `width` positions."""
    def column(value):
        if not isinstance(value, torch.Tensor):
            return value and tuple(value[i] for i in chosen)
        return F.pad(value, (0, width - value.shape[1]))[list(chosen)] if value.dim() == 2 else value[list(chosen)]
    return Prompts(*(column(getattr(data, field.name)) for field in fields(data)))


class MaskingGame:
    """The outcome of a model on `prompts` under any mask over `groups`.

    ablation: "zero"; "mean" over the real positions of `data`; or "resample" from other inputs of `data` of the same
    length, position by position, one partner for each prompt (drawn with `seed`). `data` None means the prompts
    themselves.
    positions: where the groups are masked, see `engine.places`.
    What was measured is kept, so that no mask is run twice; `passes` counts the forward passes so far, masks x prompts.
    `batch_size` bounds the memory, as in `interventions.sweep`; `progress` names a progress bar.
    Raises CourseError for an unknown ablation, groups or positions that are not there, or data that do not suffice.
    """

    def __init__(self, model, prompts: Prompts, outcome: Outcome, groups: Groups, *, ablation: str = "zero",
                 data: Prompts | None = None, positions: Places = "all", seed: int = 0,
                 batch_size: int = 128, progress: str | None = None):
        if ablation not in ABLATIONS:
            raise CourseError(f"ablation must be one of {', '.join(ABLATIONS)}, not {ablation!r}")
        if groups.kind == "pattern" and ablation == "mean":
            raise CourseError("a pattern has no mean over positions, as its keys are not the same ones: choose zero or "
                              "resample")
        groups.validate(model)
        require_outcome_for(outcome, len(prompts))
        data = prompts if data is None else data
        self.model, self.prompts, self.outcome, self.groups = model, prompts, outcome, groups
        self.ablation, self.batch_size, self.progress = ablation, batch_size, progress
        self.labels, self.passes, self._known = groups.labels, 0, {}
        self.positions = places(prompts, positions)
        self._sites = [Site(groups.kind, layer) for layer in groups.layers]
        self._means = means(model, data, self._sites) if ablation == "mean" else {}
        self._partners = partners(prompts, data, seed) if ablation == "resample" else None
        self._columns = self._find_columns()

    def _find_columns(self) -> dict[Site, dict[int, list[int]]]:
        """The columns of each activation that each group masks: one for a neuron, several for a head."""
        first = self._sites[0]
        width = read(self.model, self.prompts.part(0, 1), [first], end_only=True)[1][first].shape[-1]
        size = width // heads_at(self.model, self.groups.kind) if self.groups.kind in HEAD_KINDS else 1
        found = {site: {} for site in self._sites}
        for g, group in enumerate(self.groups.members):
            for layer, unit in group:
                found[Site(self.groups.kind, layer)].setdefault(g, []).extend(range(unit * size, (unit + 1) * size))
        return found

    def _own(self, mask: Mask) -> Mask:
        if mask.groups != self.groups:
            raise CourseError("this mask is over other groups than the game: make it with game.groups.keep or drop")
        return mask

    def interventions(self, mask: Mask) -> list[Do]:
        """What the mask writes, for the engine: `run(model, prompts, game.interventions(groups.drop([2])))`."""
        return _Writer(self, 0, len(self.prompts)).row(self._own(mask).row.tolist())

    def __call__(self, kept: Masks) -> Float[torch.Tensor, "mask prompt"]:
        """The outcome on every prompt under each mask. Raises CourseError for masks over another number of groups."""
        if kept.dtype != torch.bool or kept.dim() != 2 or kept.shape[1] != len(self.groups):
            raise CourseError(f"masks must be a bool tensor [mask, {len(self.groups)} groups], not {kept.dtype} of "
                              f"shape {tuple(kept.shape)}")
        rows = [tuple(row) for row in kept.tolist()]
        new = [row for row in dict.fromkeys(rows) if row not in self._known]
        if new:
            self._known |= zip(new, self._measure(new))
            self.passes += len(new) * len(self.prompts)
        return torch.stack([self._known[row] for row in rows])

    def _measure(self, kept: Sequence[tuple[bool, ...]]) -> Float[torch.Tensor, "mask prompt"]:
        """Resampled values are as large as activations, so prompts come in parts; a number or a mean serves all."""
        n = len(self.prompts)
        step, parts = prompts_at_once(self.batch_size) if self._partners is not None else n, []
        for start in range(0, n, step):
            writer = _Writer(self, start, min(start + step, n))
            parts.append(sweep(self.model, self.prompts.part(start, start + step), [writer.row(row) for row in kept],
                               OfPart(self.outcome, start), batch_size=self.batch_size, progress=self.progress))
        return torch.cat(parts, 1)

    def table(self, masks: Sequence[Mask]) -> pd.DataFrame:
        """One row for each mask: the groups kept, the units active, the mean outcome and its standard error.

        Raises CourseError for no mask, or one over other groups.
        """
        if not masks:
            raise CourseError("there is no mask to measure: give at least one, made by keep or drop of the groups")
        values = self(torch.stack([self._own(mask).row for mask in masks]))
        return pd.DataFrame({"kept": [tuple(sorted(mask.kept)) for mask in masks],
                             "active": [mask.active for mask in masks], "outcome": values.mean(1).tolist(),
                             "standard_error": standard_error(values).tolist(), "prompts": len(self.prompts)})


class _Writer:
    """The interventions of masks on the prompts from `start` to `stop`.

    Masks that drop the same units of a layer share one `Do`, which the engine recognises. Resampled values are kept
    apart by group: one tensor for each set of groups would grow with the number of masks.
    """

    def __init__(self, game: MaskingGame, start: int, stop: int):
        self.game, self.made, self.values = game, {}, game._means
        self.positions = part_of(game.positions, start, stop)
        if game._partners is not None:
            sites = [replace(site, position=self.positions) for site in game._sites]
            found = read(game.model, game._partners.part(start, stop), sites, end_only=True)[1]
            self.values = {site.whole: value for site, value in found.items()}

    def row(self, kept: Sequence[bool]) -> list[Do]:
        dropped = [(site, tuple(g for g in groups if not kept[g])) for site, groups in self.game._columns.items()]
        if self.game._partners is not None:
            return [self._do(site, (g,)) for site, groups in dropped for g in groups]
        return [self._do(site, groups) for site, groups in dropped if groups]

    def _do(self, site: Site, groups: tuple[int, ...]) -> Do:
        if (site, groups) not in self.made:
            columns = tuple(sorted(column for g in groups for column in self.game._columns[site][g]))
            value = self.values[site][..., list(columns)] if self.values else 0.0
            self.made[site, groups] = Do(replace(site, position=self.positions, units=columns), value)
        return self.made[site, groups]
