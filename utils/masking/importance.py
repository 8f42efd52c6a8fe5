"""What each group and each pair of groups is worth: estimators with standard errors.

They take any game: something with `labels`, one for each group, that is called with masks, [mask, group], True for a
group that is kept, and answers with outcomes, [mask, prompt]. `utils.masking.game` plays it with the groups of a model.

Each `Estimate` has two sources of error, added as variances: `se_prompts` (other prompts would have given other
numbers) and `se_sampling` (so would other random masks or orders; 0 where nothing is drawn). Its `passes` are the
forward passes that were needed, distinct masks x prompts.
"""
from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Protocol, Sequence, runtime_checkable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int

from ..errors import CourseError, check_arguments
from ..metrics import Interval, bootstrap
from .sampling import block_of_masks, block_of_orders, kernel_masks, random_masks, random_orders

Masks = Bool[torch.Tensor, "mask group"]


@runtime_checkable
class Game(Protocol):
    labels: Sequence[str]

    def __call__(self, kept: Masks) -> Float[torch.Tensor, "mask prompt"]: ...


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


def standard_error(samples: Float[torch.Tensor, "cell sample"]) -> Float[torch.Tensor, "cell"]:
    """Standard error of the mean over the last axis; NaN for a single sample."""
    if samples.shape[-1] < 2 or not samples.numel():
        return samples[..., 0] * float("nan")
    return samples.std(-1) / samples.shape[-1] ** 0.5


def tidy(method: str, game: Game, per_prompt: Float[torch.Tensor, "cell prompt"],
         se_sampling: Float[torch.Tensor, "cell"] | None = None, draws: int = 1, seed: int | None = None,
         cells: Int[torch.Tensor, "cell groups"] | None = None) -> pd.DataFrame:
    """The table of an `Estimate`. cells: a group or a pair for each row; None: all groups."""
    cells = torch.arange(len(game.labels))[:, None] if cells is None else cells
    names = [["group", "label"], ["other", "other_label"]][:cells.shape[1]]
    table, per_prompt = {"method": method}, per_prompt.double()
    for (number, label), column in zip(names, cells.T.tolist()):
        table |= {number: column, label: [game.labels[g] for g in column]}
    se_prompts = standard_error(per_prompt)
    se_sampling = torch.zeros(len(cells)) if se_sampling is None else se_sampling.double()
    error = (se_prompts ** 2 + se_sampling ** 2).sqrt()
    table |= {"estimate": per_prompt.mean(1).tolist(), "standard_error": error.tolist(),
              "se_prompts": se_prompts.tolist(), "se_sampling": se_sampling.tolist(), "prompts": per_prompt.shape[1],
              "draws": draws, "seed": pd.array([seed] * len(cells), dtype="Int64")}
    return pd.DataFrame(table)


def _estimate(method: str, game: Game, kept: Masks, per_prompt: Float[torch.Tensor, "cell prompt"], *rest,
              **options) -> Estimate:
    passes, per_prompt = len(kept.unique(dim=0)) * per_prompt.shape[1], per_prompt.double()
    return Estimate(method, tidy(method, game, per_prompt, *rest, **options), per_prompt, passes)


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


def difference_of_means(game: Game, masks: int = 200, *, size: int | None = None, seed: int = 0) -> Estimate:
    """Mean outcome of the random masks that keep a group minus that of those that drop it.

    With `size` None it estimates the Banzhaf value. Where all masks keep `size` groups, one group is kept at the cost
    of others and compared with them: the order stays, but a group that does nothing comes out below 0.
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
        errors.append((standard_error(with_it.mean(1)) ** 2 + standard_error(without.mean(1)) ** 2).sqrt())
    return _estimate("difference of means", game, kept, torch.stack(effects), torch.stack(errors), masks, seed)


def kernel_shap(game: Game, masks: int = 200, *, strategy: str = "antithetic", seed: int = 0) -> Estimate:
    """Shapley values by least squares: what must each group add so that the sums come closest to the outcomes of masks?

    The masks are drawn by `sampling.kernel_masks`; the values add up to the outcome of the whole model minus that with
    everything masked. Exact where groups only add up, with antithetic masks also where they interact in pairs.
    Lundberg & Lee 2017, arXiv 1705.07874; the errors are those of least squares whose residuals may differ in size and
    go together in a block (a stratified mask counts as a block of its own, which is rather too cautious).
    Raises CourseError for fewer masks than tell the groups apart.
    """
    groups, block = len(game.labels), block_of_masks(strategy)
    kept = kernel_masks(groups, masks, strategy=strategy, seed=seed)
    kept = torch.cat([torch.tensor([[False], [True]]).expand(2, groups), kept])
    inside = kept[2:].double()
    design = inside - inside.mean(1, keepdim=True)             # the sum of the values is known: n - 1 are free
    if masks // block <= groups or torch.linalg.matrix_rank(design) < groups - 1:
        raise CourseError(f"{masks} random masks do not tell {groups} groups apart: draw more, such as "
                          f"{max(masks, 10 * groups) * 2}")
    values = game(kept).double()
    total, solve = values[1] - values[0], torch.linalg.pinv(design)                         # [group, mask]
    target = values[2:] - values[0] - inside.mean(1, keepdim=True) * total
    free = solve @ target                                                                   # [group, prompt]
    off = solve * (target - design @ free).mean(1)
    blocks = off.unflatten(1, (-1, block)).sum(2)
    error = ((blocks ** 2).sum(1) * blocks.shape[1] / (blocks.shape[1] - groups + 1)).sqrt()
    return _estimate("KernelSHAP", game, kept, free + total / groups, error, masks, seed)


def shapley(game: Game, orders: int = 50, *, strategy: str = "uniform", seed: int = 0) -> Estimate:
    """Shapley values: what a group adds to those before it, averaged over random orders in which groups join.

    In every order they add up to the outcome of the whole model minus that with everything masked. `converged` says
    whether the orders sufficed. Castro, Gomez & Tejada 2009, doi 10.1016/j.cor.2008.04.004.
    strategy: see `sampling.random_orders`. Antithetic orders are exact where groups interact in pairs only.
    """
    groups = len(game.labels)
    place = random_orders(groups, orders, strategy=strategy, seed=seed)
    kept = place[:, None, :] < torch.arange(groups + 1)[:, None]         # [order, how many have joined, group]
    gains = game(kept.flatten(0, 1)).unflatten(0, (orders, -1)).diff(dim=1)
    added = gains[torch.arange(orders)[:, None], place]                   # [order, group, prompt]
    blocks = added.mean(2).unflatten(0, (-1, block_of_orders(groups, strategy))).mean(1)         # [block, group]
    return _estimate("Shapley", game, kept.flatten(0, 1), added.mean(0), standard_error(blocks.T), orders, seed)


def exact_shapley(game: Game) -> Estimate:
    """Shapley values from all masks there are. Raises CourseError for more than 12 groups (4,096 masks)."""
    groups = len(game.labels)
    if groups > 12:
        raise CourseError(f"{groups} groups have {2 ** groups:,} masks, too many to run them all: use shapley, or at "
                          "most 12 groups")
    number = torch.arange(2 ** groups)
    kept = (number[:, None] >> torch.arange(groups)) % 2 == 1
    values, worth = game(kept).double(), []
    for g in range(groups):
        without = number[~kept[:, g]]
        others = kept[without].sum(1)
        weight = torch.tensor([1 / (groups * comb(groups - 1, n)) for n in others.tolist()], dtype=torch.double)
        worth.append(weight @ (values[without + 2 ** g] - values[without]))
    return _estimate("exact Shapley", game, kept, torch.stack(worth))


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
    return _estimate("second difference", game, kept, found[0], cells=pairs)


def shapley_taylor(game: Game, orders: int = 10, *, seed: int = 0) -> Estimate:
    """Shapley-Taylor interaction of each pair: its second difference next to those before both, over random orders.

    With what `keep_one` gives each group, the pairs add up to the outcome of the whole model minus that with everything
    masked. Sundararajan, Dhamdhere & Agarwal 2020, arXiv 1902.05622.
    """
    pairs, place = _pairs(game), random_orders(len(game.labels), orders, seed=seed)
    base = place[:, None, :] < place[:, pairs].amin(2)[..., None]
    found, kept = _differences(game, base, pairs)
    return _estimate("Shapley-Taylor", game, kept, found.mean(0), standard_error(found.mean(2).T), orders, seed,
                     cells=pairs)


# ---------------------------------------------------------------- do two estimates agree?

def rank_agreement(one: Estimate, other: Estimate, *, same_prompts: bool = True, level: float = 0.95,
                   resamples: int = 1000, seed: int = 0) -> Interval:
    """Spearman's rank correlation of what groups are worth by two estimates, with a bootstrap interval over prompts.

    same_prompts: both were measured on the same prompts, which are drawn together (two estimators); False: each draws
    its own (two tasks). The interval knows of other prompts, not of other random masks.
    Raises CourseError for different groups, fewer than two prompts, or an estimate by which all are worth the same.
    """
    if list(one.table.label) != list(other.table.label):
        raise CourseError(f"ranks can be compared over the same groups, not {len(one.table)} and {len(other.table)} "
                          "of which some differ: make both games with the same groups")
    a, b = one.per_prompt.numpy(), other.per_prompt.numpy()
    if min(a.shape[1], b.shape[1]) < 2 or same_prompts and a.shape[1] != b.shape[1]:
        raise CourseError(f"{a.shape[1]} and {b.shape[1]} prompts give no interval: each estimate needs two or more, "
                          "and as many as the other where same_prompts is True")
    if np.ptp(a.mean(1)) == 0 or np.ptp(b.mean(1)) == 0:
        raise CourseError("all groups are worth the same by one of the estimates, so there is no order to compare")
    return bootstrap((a, b), _spearman_of_means, together=same_prompts, level=level, resamples=resamples, seed=seed)


def _spearman_of_means(a: Float[np.ndarray, "group prompt"], b: Float[np.ndarray, "group prompt"]) -> float:
    from scipy.stats import rankdata  # takes a moment: only when it is wanted

    return float(np.corrcoef(rankdata(a.mean(1)), rankdata(b.mean(1)))[0, 1])     # NaN without an order


check_arguments(globals())
