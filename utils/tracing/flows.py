"""What a causal trace found, for one prompt (`HiddenFlow`) and on average over facts (`AverageEffect`)."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from ..errors import CourseError
from ..metrics import Interval, bootstrap

ROLES = ("first subject token", "middle subject tokens", "last subject token", "first token after", "further tokens",
         "last token")


@dataclass(frozen=True)
class HiddenFlow:
    """What a trace found. A cell is one token and one layer; cells that were not computed are NaN.

    outcomes: probability of the answer with that cell restored, [token, layer, sample]; low_samples: with nothing
    restored, [sample]; high_score: in the clean run. subject_range: (first, end) positions, end not included.
    noise: standard deviation of what was added, None for the rule "swap". input_ids: the tokens of `input_tokens`;
    layer_outputs: what was restored, from the clean run, by the name of each layer's module.
    """
    outcomes: Float[torch.Tensor, "token layer sample"]
    low_samples: Float[torch.Tensor, "sample"]
    high_score: float
    input_tokens: tuple[str, ...]
    subject_range: tuple[int, int]
    answer: str
    kind: str
    window: int
    noise: float | None
    rule: str
    severed: str | None
    layers: range
    input_ids: Int[torch.Tensor, "token"] | None = None
    layer_outputs: dict[str, Float[torch.Tensor, "token width"]] = field(default_factory=dict, repr=False)

    @property
    def scores(self) -> Float[torch.Tensor, "token layer"]:
        """Probability of the answer, mean over noise samples."""
        return self.outcomes.mean(-1)

    @property
    def stderr(self) -> Float[torch.Tensor, "token layer"]:
        """Standard error of `scores` over noise samples; NaN for a single sample."""
        samples = self.outcomes.shape[-1]
        return self.outcomes.std(-1, correction=min(1, samples - 1)) / (samples**0.5 if samples > 1 else float("nan"))

    @property
    def low_score(self) -> float:
        """Probability of the answer in the corrupted run, mean over noise samples."""
        return self.low_samples.mean().item()

    @property
    def indirect_effect(self) -> Float[torch.Tensor, "token layer"]:
        """What restoring the cell brings back: scores - low_score."""
        return self.scores - self.low_score

    @property
    def total_effect(self) -> float:
        return self.high_score - self.low_score


# ---------------------------------------------------------------- averages

@dataclass(frozen=True)
class AverageEffect:
    """Mean indirect effect of each token role over facts, [layer] each, with a bootstrap interval over facts.

    facts: how many facts have a token of that role. total: total effect (clean minus corrupted).
    """
    curves: dict[str, Interval]
    facts: dict[str, int]
    total: Interval
    kind: str
    window: int
    severed: str | None


def token_roles(tokens: int, subject_range: tuple[int, int]) -> dict[str, range]:
    """Positions of each of ROLES that this prompt has. Every token from the subject on has exactly one.

    A subject of one token is its last; the last token of the prompt is that even if the subject ends just before it.
    """
    first, last = subject_range[0], subject_range[1] - 1
    bounds = [(first, min(first + 1, last)), (first + 1, last), (last, last + 1), (last + 1, min(last + 2, tokens - 1)),
              (last + 2, tokens - 1), (max(last + 1, tokens - 1), tokens)]
    return {role: range(*b) for role, b in zip(ROLES, bounds) if len(range(*b))}


def average_indirect_effect(flows: Sequence[HiddenFlow], *, level: float = 0.95, seed: int = 0) -> AverageEffect:
    """Average indirect effect of each token role in each layer over facts: the figure of ROME.

    A fact counts once for each role it has, as the mean over its tokens of that role. A role that a single fact has
    comes without an interval (NaN). The intervals cover the noise only if each fact drew its own. Raises CourseError for
    fewer than two flows, or flows of different kinds or sizes.
    """
    if len(flows) < 2:
        raise CourseError(f"an average with an interval needs at least two flows, got {len(flows)}")
    for what in ("kind", "window", "severed"):
        if len(found := {getattr(flow, what) for flow in flows}) > 1:
            raise CourseError(f"these flows differ in {what}: {', '.join(sorted(map(str, found)))}")
    if len(found := {flow.outcomes.shape[1] for flow in flows}) > 1:
        raise CourseError(f"these flows come from models of different depth: {sorted(found)} layers")
    of_role: dict[str, list[torch.Tensor]] = {role: [] for role in ROLES}
    for flow in flows:
        for role, positions in token_roles(len(flow.input_tokens), flow.subject_range).items():
            effect = flow.indirect_effect[positions.start:positions.stop].mean(0)
            if not effect.isnan().all():
                of_role[role].append(effect)

    def interval(values):
        if values.shape[-1] > 1:
            return bootstrap(values, level=level, seed=seed)
        return Interval(values.mean(-1).numpy(), *[np.full(len(values), np.nan)] * 2, level)

    curves = {role: interval(torch.stack(effects, -1).double()) for role, effects in of_role.items() if effects}
    total = bootstrap(torch.tensor([flow.total_effect for flow in flows]), level=level, seed=seed)
    return AverageEffect(curves, {role: len(of_role[role]) for role in curves}, total, flows[0].kind, flows[0].window,
                         flows[0].severed)
