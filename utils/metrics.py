"""What is read off the logits, and how sure we may be of it.

An *outcome* turns the logits at the end of each prompt into one number per prompt; every sweep of the engine takes one.
Its `index` says which prompt each row of logits belongs to, because the engine mixes prompts in a batch.
"""
from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, is_dataclass
from typing import Callable, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from .errors import CourseError, check_arguments

Logits = Float[torch.Tensor, "row vocab"]
Index = Int[torch.Tensor, "row"]
NUMBERS_AT_ONCE = 2**18      # that a bootstrap holds of each array: 2 MiB


@runtime_checkable
class Outcome(Protocol):
    def __call__(self, logits: Logits, index: Index) -> Float[torch.Tensor, "row"]: ...


def logit_difference(logits: Float[torch.Tensor, "*batch vocab"], correct: Int[torch.Tensor, "*batch"],
                     wrong: Int[torch.Tensor, "*batch"]) -> Float[torch.Tensor, "*batch"]:
    """Logit of the correct token minus logit of the wrong one; above 0 the model prefers the correct one."""
    def pick(ids):
        return logits.gather(-1, ids[..., None]).squeeze(-1)

    return pick(correct) - pick(wrong)


def reciprocal_rank(logits: Float[torch.Tensor, "*batch vocab"],
                    answer: Int[torch.Tensor, "*batch"]) -> Float[torch.Tensor, "*batch"]:
    """1 / rank of the answer, rank counted from 1; tokens with exactly the same logit do not push it down.

    NaN where a logit is NaN: nothing can be ranked there.
    """
    own = logits.gather(-1, answer[..., None])
    return torch.where(logits.isnan().any(-1), torch.nan, 1.0 / ((logits > own).sum(-1) + 1))


def require_outcome_for(outcome: Outcome, prompts: int) -> None:
    """Raise CourseError for an outcome whose answers, one for each prompt, are of another number of prompts, or no ids."""
    start, of_part = 0, isinstance(outcome, OfPart)     # an outcome of many prompts may serve some of them
    while isinstance(outcome, OfPart):
        start, outcome = start + outcome.start, outcome.outcome
    values = vars(outcome).values() if is_dataclass(outcome) else ()
    for ids in (value for value in values if isinstance(value, torch.Tensor)):
        if ids.dim() != 1 or (len(ids) < start + prompts if of_part else len(ids) != prompts):
            made_for = len(ids) if ids.dim() else "no"
            raise CourseError(f"the outcome {type(outcome).__name__} is made for {made_for} prompts, and there are "
                              f"{start + prompts}: give one answer for each prompt")
        if (ids < 0).any():
            raise CourseError(f"an answer of the outcome is {int(ids.min())}, but ids count from 0")


@dataclass(frozen=True)
class LogitDifference:
    """Outcome: logit of `correct` minus logit of `wrong`, each one token id per prompt, [prompt]."""
    correct: Int[torch.Tensor, "prompt"]
    wrong: Int[torch.Tensor, "prompt"]

    def __call__(self, logits: Logits, index: Index) -> Float[torch.Tensor, "row"]:
        return logit_difference(logits, self.correct[index], self.wrong[index])

    def narrow(self) -> tuple[Int[torch.Tensor, "token"], LogitDifference]:
        """The tokens it looks at, and the same outcome for logits of only these tokens."""
        tokens, places = torch.stack([self.correct, self.wrong]).unique(return_inverse=True)
        return tokens, LogitDifference(*places)


@dataclass(frozen=True)
class OfPart:
    """An outcome for some prompts out of many: prompt 0 of the part is prompt `start` of all."""
    outcome: Outcome
    start: int

    def __call__(self, logits: Logits, index: Index) -> Float[torch.Tensor, "row"]:
        return self.outcome(logits, index + self.start)

    @property
    def of_log_probabilities(self) -> bool:
        return getattr(self.outcome, "of_log_probabilities", False)

    def narrow(self) -> tuple[Int[torch.Tensor, "token"] | None, OfPart]:
        tokens, outcome = narrowed(self.outcome)
        return tokens, OfPart(outcome, self.start)


def narrowed(outcome: Outcome) -> tuple[Int[torch.Tensor, "token"] | None, Outcome]:
    """The tokens an outcome looks at, and the same outcome for logits of only these; (None, itself) if it needs all.

    An outcome with `of_log_probabilities` wants the log-probabilities of these tokens instead of their logits.
    """
    return outcome.narrow() if hasattr(outcome, "narrow") else (None, outcome)


@dataclass(frozen=True)
class Probability:
    """Outcome: probability of the answer token, one id per prompt, [prompt]."""
    answer: Int[torch.Tensor, "prompt"]

    def __call__(self, logits: Logits, index: Index) -> Float[torch.Tensor, "row"]:
        return logits.softmax(-1).gather(-1, self.answer[index, None]).squeeze(-1)

    def narrow(self) -> tuple[Int[torch.Tensor, "token"], _Picked]:
        return _Picked.from_answers(self.answer, exponential=True)


@dataclass(frozen=True)
class LogProbability:
    """Outcome: natural logarithm of the probability of the answer token (nats)."""
    answer: Int[torch.Tensor, "prompt"]

    def __call__(self, logits: Logits, index: Index) -> Float[torch.Tensor, "row"]:
        return logits.log_softmax(-1).gather(-1, self.answer[index, None]).squeeze(-1)

    def narrow(self) -> tuple[Int[torch.Tensor, "token"], _Picked]:
        return _Picked.from_answers(self.answer, exponential=False)


@dataclass(frozen=True)
class _Picked:
    """Outcome on the log-probabilities (not the logits) of a few tokens: that of the answer, or its exponential."""
    places: Int[torch.Tensor, "prompt"]
    exponential: bool
    of_log_probabilities = True

    @staticmethod
    def from_answers(answer: Int[torch.Tensor, "prompt"], exponential: bool) -> tuple[Int[torch.Tensor, "token"], _Picked]:
        tokens, places = answer.unique(return_inverse=True)
        return tokens, _Picked(places, exponential)

    def __call__(self, values: Logits, index: Index) -> Float[torch.Tensor, "row"]:
        chosen = values.gather(-1, self.places[index, None]).squeeze(-1)
        return chosen.exp() if self.exponential else chosen


@dataclass(frozen=True)
class ReciprocalRank:
    """Outcome: 1 / rank of the answer token among the whole vocabulary."""
    answer: Int[torch.Tensor, "prompt"]

    def __call__(self, logits: Logits, index: Index) -> Float[torch.Tensor, "row"]:
        return reciprocal_rank(logits, self.answer[index])


def recovery(patched: Float[torch.Tensor, "*cell prompt"], corrupted: Float[torch.Tensor, "prompt"],
             clean: Float[torch.Tensor, "prompt"]) -> Float[torch.Tensor, "*cell"]:
    """Share of the total effect that a patch brings back: 0 = as corrupted, 1 = as clean.

    The mean effect of the patch over prompts divided by the mean total effect (a ratio of means: dividing prompt by
    prompt would let a prompt with a tiny total effect dominate). Raises ValueError if the total effect is zero.
    """
    total = (clean - corrupted).mean()
    if total.abs() <= 1e-6 * torch.maximum(clean.abs(), corrupted.abs()).mean():  # nothing but rounding
        raise ValueError("clean and corrupted prompts give the same outcome, so there is no effect to recover")
    return (patched - corrupted).mean(-1) / total


# ---------------------------------------------------------------- intervals

@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its bootstrap interval; arrays of one shape, or numbers."""
    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float = 0.95

    def __str__(self) -> str:
        if np.ndim(self.estimate):
            return f"Interval of shape {np.shape(self.estimate)}, level {self.level:.0%}"
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(samples, statistic: Callable | None = None, *, together: bool = True, level: float = 0.95,
              resamples: int = 1000, seed: int = 0) -> Interval:
    """Percentile bootstrap over the **last** axis, the prompts.

    samples: [*cell, prompt], or a tuple of such arrays. together: their prompts belong together and are resampled
    jointly; False: each array draws its own. `statistic` takes the resampled array(s) and reduces the last axis; None
    means the mean. One with a parameter `axis` gets many resamples at once, [*cell, resample, prompt].
    Resamples for which it is undefined (NaN) do not count. Raises ValueError for fewer than two prompts, or arrays
    that belong together with different numbers of them.
    """
    arrays = samples if isinstance(samples, tuple) else (samples,)
    arrays = [torch.as_tensor(a).cpu().double().numpy() for a in arrays]
    prompts = [a.shape[-1] for a in arrays]
    if min(prompts) < 2:
        raise ValueError(f"a bootstrap needs at least two prompts, got {min(prompts)}")
    if together and len(set(prompts)) > 1:
        raise ValueError(f"arrays that belong together need the same prompts, got {prompts} of them")
    statistic = statistic or np.mean
    at_once = "axis" in inspect.signature(statistic).parameters
    estimate = statistic(*arrays, axis=-1) if at_once else statistic(*arrays)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)         # a resample may leave nothing to divide by, or no order
        found = _resampled(arrays, statistic, at_once, together, level, resamples, seed)
        low, high = found.confidence_interval
        if np.isnan(found.bootstrap_distribution).any():
            ends = [(1 - level) / 2, (1 + level) / 2]
            low, high = np.nanquantile(found.bootstrap_distribution, ends, axis=-1) + 0 * estimate  # NaN stays NaN
    return Interval(estimate, low, high, level)


def _resampled(arrays: list[np.ndarray], statistic: Callable, at_once: bool, together: bool, level: float,
               resamples: int, seed: int):
    """scipy's bootstrap of the numbers of the prompts, so that no array is copied for more resamples than a batch."""
    from scipy import stats     # takes a moment: only when it is wanted

    def of_rows(*rows, axis):   # rows: [resample, prompt], once for all arrays or for each
        rows = rows * len(arrays) if together else rows
        if at_once:
            return statistic(*(a[..., chosen] for a, chosen in zip(arrays, rows)), axis=-1)
        return np.asarray(statistic(*(a[..., chosen[0]] for a, chosen in zip(arrays, rows))))[..., None]

    prompts = tuple(np.arange(a.shape[-1]) for a in (arrays[:1] if together else arrays))
    batch = min(resamples, max(1, NUMBERS_AT_ONCE // max(a.size for a in arrays))) if at_once else 1
    return stats.bootstrap(prompts, of_rows, n_resamples=resamples, batch=batch, vectorized=True, method="percentile",
                           confidence_level=level, rng=np.random.default_rng(seed))


def recovery_interval(patched, corrupted, clean, *, level: float = 0.95, resamples: int = 1000,
                      seed: int = 0) -> Interval:
    """`recovery` with a bootstrap interval over prompts. patched: [*cell, prompt]; corrupted, clean: [prompt]."""
    return bootstrap((patched, corrupted, clean), _ratio, level=level, resamples=resamples, seed=seed)


def _ratio(patched, corrupted, clean, axis: int):
    return (patched - corrupted).mean(axis) / (clean - corrupted).mean(axis)


def share(right: Bool[np.ndarray, "input"]) -> Interval:
    """Share that is right with its 95 % Wilson interval. (A bootstrap of 60 of 60 would say: 100 % for certain.)

    Raises CourseError if there is nothing to be right about.
    """
    from scipy import stats     # takes a moment: only when it is wanted

    if not len(right):
        raise CourseError("a share needs at least one answer that is right or wrong, got none")
    low, high = stats.binomtest(int(np.sum(right)), len(right)).proportion_ci(method="wilson")
    return Interval(float(np.mean(right)), low, high)


check_arguments(globals())
