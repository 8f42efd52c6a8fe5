"""Grouped masking: ablate sets of neurons or heads, and measure what each group and each pair of groups is worth.

A `MaskingGame` gives the outcome of a model on every prompt when some groups are kept and all others ablated. The
estimators below take any such game: something with `labels` that is called with masks, [mask, group], True for a
group that is kept, and answers with outcomes, [mask, prompt].

Each `Estimate` has two sources of error, added as variances: `se_prompts` (other prompts would have given other
numbers) and `se_sampling` (so would other random masks or orders; 0 where nothing is drawn). Its `passes` are the
forward passes that were needed, distinct masks x prompts.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int

from .groups import Groups, Mask
from .interventions import Do, Site, prompts_at_once, read, sweep
from .metrics import OfPart, Outcome
from .models import CourseError, Prompts
from .sites import HEAD_KINDS, heads_at

ABLATIONS = ("zero", "mean", "resample")
Masks = Bool[torch.Tensor, "mask group"]


class Game(Protocol):
    labels: Sequence[str]

    def __call__(self, kept: Masks) -> Float[torch.Tensor, "mask prompt"]: ...


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
    tokens, mask = (F.pad(t, (0, width - t.shape[1])) for t in (data.tokens, data.mask))  # a negative pad cuts off
    for i, (row, end) in enumerate(zip(prompts.tokens, prompts.ends)):
        others = (data.ends == end) & (tokens[:, :end + 1] != row[:end + 1]).any(1)
        others = others.nonzero().flatten().cpu()
        if not len(others):
            raise CourseError(f"prompt {i} has {int(end) + 1} tokens and no other input has as many: resampling needs "
                              "inputs of the same length, or use ablation='mean'")
        chosen.append(int(others[torch.randint(len(others), (1,), generator=generator)]))
    return Prompts(tokens[chosen], mask[chosen], data.ends[chosen], tuple(data.labels[i] for i in chosen))


class MaskingGame:
    """The outcome of a model on `prompts` under any mask over `groups`, at all positions.

    ablation: "zero"; "mean" over the real positions of `data`; or "resample" from other inputs of `data` of the same
    length, position by position, one partner for each prompt (drawn with `seed`). `data` None means the prompts
    themselves. What was measured is kept, so that no mask is run twice; `passes` counts the forward passes so far,
    masks x prompts.
    `batch_size` bounds the memory, as in `interventions.sweep`; `progress` names a progress bar.
    Raises CourseError for an unknown ablation, groups that the model does not have, or data that do not suffice.
    """

    def __init__(self, model, prompts: Prompts, outcome: Outcome, groups: Groups, *, ablation: str = "zero",
                 data: Prompts | None = None, seed: int = 0, batch_size: int = 128, progress: str | None = None):
        if ablation not in ABLATIONS:
            raise CourseError(f"ablation must be one of {', '.join(ABLATIONS)}, not {ablation!r}")
        groups.validate(model)
        data = prompts if data is None else data
        self.model, self.prompts, self.outcome, self.groups = model, prompts, outcome, groups
        self.ablation, self.batch_size, self.progress = ablation, batch_size, progress
        self.labels, self.passes, self._known = groups.labels, 0, {}
        self._sites = [Site(groups.kind, layer) for layer in groups.layers]
        self._means = means(model, data, self._sites) if ablation == "mean" else {}
        self._partners = partners(prompts, data, seed) if ablation == "resample" else None
        self._columns = self._find_columns()

    def _find_columns(self) -> list[dict[Site, tuple[int, ...]]]:
        """For each group, the columns of each activation that it masks: one for a neuron, several for a head."""
        first = self._sites[0]
        width = read(self.model, self.prompts.part(0, 1), [first], end_only=True)[1][first].shape[-1]
        size, found = width // heads_at(self.model, self.groups.kind) if self.groups.kind in HEAD_KINDS else 1, []
        for group in self.groups.members:
            columns = {}
            for layer, unit in group:
                columns.setdefault(Site(self.groups.kind, layer), []).extend(range(unit * size, (unit + 1) * size))
            found.append({site: tuple(sorted(units)) for site, units in columns.items()})
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
                             "standard_error": _error(values).tolist(), "prompts": len(self.prompts)})


class _Writer:
    """The interventions of masks on the prompts from `start` to `stop`.

    Masks that drop the same units of a layer share one `Do`, which the engine recognises. Resampled values are kept
    apart by group: one tensor for each set of groups would grow with the number of masks.
    """

    def __init__(self, game: MaskingGame, start: int, stop: int):
        self.game, self.made, self.values = game, {}, game._means
        if game._partners is not None:
            self.values = read(game.model, game._partners.part(start, stop), game._sites, end_only=True)[1]

    def row(self, kept: Sequence[bool]) -> list[Do]:
        dropped = [columns for columns, keep in zip(self.game._columns, kept) if not keep]
        if self.game._partners is not None:
            return [self._do(site, group[site]) for site in self.game._sites for group in dropped if site in group]
        joined = {site: sorted(c for group in dropped for c in group.get(site, ())) for site in self.game._sites}
        return [self._do(site, tuple(columns)) for site, columns in joined.items() if columns]

    def _do(self, site: Site, columns: tuple[int, ...]) -> Do:
        if (site, columns) not in self.made:
            value = self.values[site][..., list(columns)] if self.values else 0.0
            self.made[site, columns] = Do(Site(site.kind, site.layer, units=columns), value)
        return self.made[site, columns]


# ---------------------------------------------------------------- estimates

@dataclass(frozen=True, eq=False)
class Estimate:
    """What groups, or pairs of them, are worth.

    table: one row for each (method, group, label, estimate, standard_error, se_prompts, se_sampling, prompts, draws,
    seed); a pair has `other` and `other_label` too. With a single prompt the errors are NaN.
    per_prompt: the same estimates on each prompt. passes: forward passes needed, distinct masks x prompts.
    """
    method: str
    table: pd.DataFrame
    per_prompt: Float[torch.Tensor, "cell prompt"]
    passes: int

    def converged(self, tolerance: float = 0.1) -> bool:
        """True if the largest sampling error is at most `tolerance` times the largest estimate: else draw more."""
        return bool(self.table.se_sampling.max() <= tolerance * self.table.estimate.abs().max())


def _error(samples: Float[torch.Tensor, "cell sample"]) -> Float[torch.Tensor, "cell"]:
    """Standard error of the mean over the last axis; NaN for a single sample."""
    return samples.std(-1) / samples.shape[-1] ** 0.5 if samples.shape[-1] > 1 else samples[..., 0] * float("nan")


def _estimate(method: str, game: Game, kept: Masks, per_prompt: Float[torch.Tensor, "cell prompt"],
              se_sampling: Float[torch.Tensor, "cell"] | None = None, draws: int = 1, seed: int | None = None,
              pairs: Int[torch.Tensor, "pair two"] | None = None) -> Estimate:
    cells = torch.arange(len(game.labels))[:, None] if pairs is None else pairs
    names = [["group", "label"], ["other", "other_label"]][:cells.shape[1]]
    table, per_prompt = {"method": method}, per_prompt.double()
    for (number, label), column in zip(names, cells.T.tolist()):
        table |= {number: column, label: [game.labels[g] for g in column]}
    se_prompts = _error(per_prompt)
    se_sampling = torch.zeros(len(cells)) if se_sampling is None else se_sampling.double()
    error = (se_prompts ** 2 + se_sampling ** 2).sqrt()
    table |= {"estimate": per_prompt.mean(1).tolist(), "standard_error": error.tolist(),
              "se_prompts": se_prompts.tolist(), "se_sampling": se_sampling.tolist(), "prompts": per_prompt.shape[1],
              "draws": draws, "seed": pd.array([seed] * len(cells), dtype="Int64")}
    passes = len(kept.unique(dim=0)) * per_prompt.shape[1]
    return Estimate(method, pd.DataFrame(table), per_prompt, passes)


def leave_one_out(game: Game) -> Estimate:
    """How far the outcome falls when one group is dropped and all others are kept. A group with a backup shows 0."""
    everyone = torch.ones(1, len(game.labels), dtype=torch.bool)
    kept = torch.cat([everyone, ~torch.eye(len(game.labels), dtype=torch.bool)])
    values = game(kept)
    return _estimate("leave-one-out", game, kept, values[0] - values[1:])


def keep_one(game: Game) -> Estimate:
    """How far the outcome rises when one group is kept and all others are dropped. One that needs another shows 0."""
    nobody = torch.zeros(1, len(game.labels), dtype=torch.bool)
    kept = torch.cat([nobody, torch.eye(len(game.labels), dtype=torch.bool)])
    values = game(kept)
    return _estimate("keep-one", game, kept, values[1:] - values[0])


def random_masks(groups: int, number: int, *, size: int | None = None, seed: int = 0) -> Masks:
    """Random masks that keep `size` groups; None: each group with probability 1/2, independently of the others."""
    draws = torch.rand(number, groups, generator=torch.Generator().manual_seed(seed))
    return draws < 0.5 if size is None else draws.argsort(1).argsort(1) < size


def difference_of_means(game: Game, masks: int = 200, *, size: int | None = None, seed: int = 0) -> Estimate:
    """Mean outcome of the random masks that keep a group minus that of those that drop it.

    With `size` None it estimates the Banzhaf value. Where all masks keep `size` groups, one group is kept at the cost of
    others and compared with them: the order stays, but a group that does nothing comes out below 0.
    Raises CourseError if there are too few masks to compare.
    """
    kept = random_masks(len(game.labels), masks, size=size, seed=seed)
    counts = torch.stack([kept.sum(0), (~kept).sum(0)])
    if counts.min() < 2:
        raise CourseError(f"{masks} random masks are too few for {len(game.labels)} groups: each group must be kept "
                          "at least twice and dropped at least twice, so draw more")
    values = game(kept)
    effects, errors = [], []
    for g in range(len(game.labels)):
        with_it, without = values[kept[:, g]], values[~kept[:, g]]
        effects.append(with_it.mean(0) - without.mean(0))
        errors.append((_error(with_it.mean(1)) ** 2 + _error(without.mean(1)) ** 2).sqrt())
    return _estimate("difference of means", game, kept, torch.stack(effects), torch.stack(errors), masks, seed)


def _places(groups: int, orders: int, seed: int) -> Int[torch.Tensor, "order group"]:
    """The place of each group in random orders. Raises CourseError for fewer than two orders."""
    if orders < 2:
        raise CourseError(f"at least two random orders are needed to see how far they disagree, not {orders}")
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(groups, generator=generator) for _ in range(orders)])


def shapley(game: Game, orders: int = 50, *, seed: int = 0) -> Estimate:
    """Shapley values: what a group adds to those before it, averaged over random orders in which groups join.

    In every order they add up to the outcome of the whole model minus that with everything masked. `converged` says
    whether the orders sufficed. Castro, Gomez & Tejada 2009, doi 10.1016/j.cor.2008.04.004.
    """
    groups = len(game.labels)
    place = _places(groups, orders, seed)
    kept = place[:, None, :] < torch.arange(groups + 1)[:, None]         # [order, how many have joined, group]
    gains = game(kept.flatten(0, 1)).unflatten(0, (orders, -1)).diff(dim=1)
    added = gains[torch.arange(orders)[:, None], place]                   # [order, group, prompt]
    return _estimate("Shapley", game, kept.flatten(0, 1), added.mean(0), _error(added.mean(2).T), orders, seed)


# ---------------------------------------------------------------- pairs

def _pairs(game: Game) -> Int[torch.Tensor, "pair two"]:
    if len(game.labels) < 2:
        raise CourseError("an interaction needs two groups, and there is only one")
    return torch.combinations(torch.arange(len(game.labels)))


def _differences(game: Game, base: Bool[torch.Tensor, "draw pair group"],
                 pairs: Int[torch.Tensor, "pair two"]) -> tuple[Float[torch.Tensor, "draw pair prompt"], Masks]:
    """Outcome with both of a pair - with one - with the other + with neither, next to the groups in `base`."""
    a, b = F.one_hot(pairs, base.shape[2]).bool().unbind(1)
    kept = torch.stack([base | a | b, base | a, base | b, base], 2)
    both, first, second, neither = game(kept.flatten(0, 2)).unflatten(0, kept.shape[:3]).unbind(2)
    return both - first - second + neither, kept.flatten(0, 2)


def second_differences(game: Game) -> Estimate:
    """Interaction of each pair while all other groups are kept.

    Below 0 the two back each other up: dropping both costs more than the two costs added. Above 0 they need each other.
    """
    pairs = _pairs(game)
    others = ~F.one_hot(pairs, len(game.labels)).bool().any(1)
    found, kept = _differences(game, others[None], pairs)
    return _estimate("second difference", game, kept, found[0], pairs=pairs)


def shapley_taylor(game: Game, orders: int = 10, *, seed: int = 0) -> Estimate:
    """Shapley-Taylor interaction of each pair: its second difference next to those before both, over random orders.

    With what `keep_one` gives each group, the pairs add up to the outcome of the whole model minus that with everything
    masked. Sundararajan, Dhamdhere & Agarwal 2020, arXiv 1902.05622.
    """
    pairs, place = _pairs(game), _places(len(game.labels), orders, seed)
    base = place[:, None, :] < place[:, pairs].amin(2)[..., None]
    found, kept = _differences(game, base, pairs)
    return _estimate("Shapley-Taylor", game, kept, found.mean(0), _error(found.mean(2).T), orders, seed, pairs)
