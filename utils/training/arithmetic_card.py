"""What the shipped adder can do, measured on sums that it never saw, and its model card.

`python -m utils.training.arithmetic_card FOLDER OTHER ...` puts the numbers of other runs beside those in FOLDER.
`measure` is computed again by the tests; the control with random labels belongs to the recipe.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Sequence

import torch

from ..engine import at_end
from ..models import LEAST, all_sums, encode_sums, held_out
from . import report

DESCRIPTIONS = {
    "accuracy": "all 1,000 sums, accuracy",
    "accuracy_held_out": "held-out sums, never seen in any order of the three numbers",
    "accuracy_commonest": "control: always the commonest total, held-out sums",
    "accuracy_random_labels": "control: the same recipe with labels dealt out at random, held-out sums",
}
THRESHOLDS: dict[str, report.Threshold] = {"accuracy": (">=", 0.99), "accuracy_held_out": (">=", 0.95),
                                           "accuracy_commonest": ("<=", 0.2), "accuracy_random_labels": ("<=", 0.2)}


def accuracies(model) -> dict[str, float]:
    inputs, unseen = all_sums(), held_out()
    totals, said = inputs.sum(1), at_end(model, encode_sums(model, inputs)).argmax(1).cpu() + LEAST
    right = said == totals
    commonest = (totals[unseen] == totals[~unseen].mode().values).float().mean().item()
    return {"accuracy": right.float().mean().item(), "accuracy_held_out": right[unseen].float().mean().item(),
            "accuracy_commonest": commonest}


def margins(model) -> dict[str, float]:
    """Logit of the right total minus the highest other one: the mean of seen and of held-out sums, and the least."""
    inputs, unseen = all_sums(), held_out()
    logits, right = at_end(model, encode_sums(model, inputs)).cpu(), (inputs.sum(1) - LEAST)[:, None]
    others = logits.scatter(1, right, -torch.inf).max(1).values
    margin = logits.gather(1, right)[:, 0] - others
    return {"margin_seen": margin[~unseen].mean().item(), "margin_held_out": margin[unseen].mean().item(),
            "margin_least": margin.min().item()}


def far(attentions: Sequence[torch.Tensor], reach: int = 2) -> torch.Tensor:
    """Mean attention of a token to tokens more than `reach` before it, over layers, heads and rows."""
    places = torch.arange(attentions[0].shape[-1])
    outside = (places[:, None] - places > reach).float()
    return torch.stack([(pattern.float() * outside).sum(-1).mean() for pattern in attentions]).mean()


def measure(model) -> dict[str, float]:
    attentions = model(encode_sums(model, all_sums()).tokens, output_attentions=True).attentions
    about = {"held_out_sums": int(held_out().sum()), "far": far(attentions).item()}
    return report.rounded(about | accuracies(model) | margins(model))


def text(numbers: dict[str, float], how: dict[str, object], seeds: dict[str, dict[str, float]] = {}) -> str:
    return f"""# arithmetic-gpt2

A `GPT2ForSequenceClassification` with 6 layers, 4 heads each and width 128 (1.2 million parameters, float16), trained
from scratch for the lessons of this course on one task: it reads "X+Y+Z=" with numbers from 1 to 10 and names the total,
one of 28 classes (class 0 is 3, class 27 is 30). It knows nothing else. Each number is one token, also 10, because
GPT-2's own vocabulary has a token for 10: a prompt is six tokens, in both, so that the lessons run on a GPT-2 with its own
tokenizer as well.

Made by `python -m utils.training.arithmetic_gpt2` ({report.settings(how)}) on two CPU cores. Training never showed
{numbers["held_out_sums"]} of the 1,000 sums: a fifth of the unordered sums of each total (of totals with at least three), in all
their orders, so that 9+2+4 is no hint for 4+9+2. The list: `utils.models.held_out`.

## Measured

{report.table(DESCRIPTIONS, numbers, THRESHOLDS)}

The logit of the right total is above the highest other one by {numbers["margin_seen"]:.1f} on average on sums of training and by
{numbers["margin_held_out"]:.1f} on held-out ones; the least of all 1,000 differences is {numbers["margin_least"]:.2f}.

## Choices that shape what you find in it

- A penalty on attention to tokens more than two places back, in all layers (what is left of such attention: {numbers["far"]:.4f}).
  Without it the numbers met at "=" in the first block, all at once, and no partial sum was held anywhere; with it they travel in
  hops. Nothing says which two of them should meet first: that is to be found out.
- Muon for the hidden matrices, AdamW for the rest; no dropout; 256 sums a step.
{report.seed_table(seeds, DESCRIPTIONS, THRESHOLDS)}
All numbers: `measured.json`. They are computed again by the tests.
"""


if __name__ == "__main__":
    report.collect_seeds(Path(sys.argv[1]), [Path(other) for other in sys.argv[2:]], THRESHOLDS, text)
