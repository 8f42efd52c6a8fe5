"""What the shipped sentiment classifier can do, measured on held-out reviews, and its model card.

`python -m utils.training.sentiment_card FOLDER OTHER ...` puts the numbers of other runs beside those in FOLDER.
`measure` is computed again by the tests; `controls` belongs to the recipe, because it trains other models. Which heads
matter is measured by ablating each one to its mean (`utils.masking`) and looking at the margin, the logit of the right
label minus that of the wrong one.
"""
from __future__ import annotations

import sys
from pathlib import Path

import torch

from ..engine import at_end
from ..masking import Groups, MaskingGame, leave_one_out
from ..metrics import LogitDifference
from ..models import class_ids, encode_texts
from ..tasks import LABELS, NOVELTIES, PAIRS, REVIEW_KINDS, Review, reviews
from . import report

EACH = 400      # reviews of each kind
DESCRIPTIONS = {
    "accuracy": "held-out reviews of all kinds, accuracy",
    **{f"accuracy_{kind}": f"held-out reviews, {kind}" for kind in REVIEW_KINDS},
    **{f"accuracy_{novelty}": f"held-out {novelty}, all kinds" for novelty in NOVELTIES},
    **{f"pairs_{kind}": f"minimal pairs, {kind}: both right" for kind in PAIRS},
    "accuracy_bag_of_words": "control: the best weights for single words, without order",
    "accuracy_random_labels": "control: the same recipe with labels drawn by a coin",
}
THRESHOLDS: dict[str, report.Threshold] = {
    "accuracy": (">=", 0.95), "accuracy_plain": (">=", 0.95), "accuracy_negated": (">=", 0.9),
    "accuracy_contrast": (">=", 0.9), "accuracy_intensified": (">=", 0.9),
    **{f"accuracy_{novelty}": (">=", 0.9) for novelty in NOVELTIES}, **{f"pairs_{kind}": (">=", 0.9) for kind in PAIRS},
    "accuracy_bag_of_words": ("<=", 0.75), "accuracy_random_labels": ("<=", 0.56),
}


def margins(model, items: list[Review]) -> torch.Tensor:
    """Logit of the right label minus that of the wrong one, [review]."""
    right, texts = class_ids(model, [item.label for item in items]), [item.text for item in items]
    logits = torch.cat([at_end(model, encode_texts(model, texts[i:i + 100])) for i in range(0, len(texts), 100)])
    return LogitDifference(right, 1 - right)(logits, torch.arange(len(items)))


def accuracy(model, items: list[Review]) -> float:
    return (margins(model, items) > 0).float().mean().item()


def accuracies(model) -> dict[str, float]:
    by_kind = {kind: margins(model, reviews.reviews(EACH, 1, kind=kind)) > 0 for kind in REVIEW_KINDS}
    numbers = {"accuracy": torch.cat(list(by_kind.values())).float().mean().item()}
    numbers |= {f"accuracy_{kind}": right.float().mean().item() for kind, right in by_kind.items()}
    for novelty in NOVELTIES:
        numbers[f"accuracy_{novelty}"] = accuracy(model, reviews.reviews(EACH, 2, novelty=novelty))
    for kind in PAIRS:
        pairs = reviews.minimal_pairs(EACH // 2, 3, kind=kind)
        both = (margins(model, [pair[0] for pair in pairs]) > 0) & (margins(model, [pair[1] for pair in pairs]) > 0)
        numbers[f"pairs_{kind}"] = both.float().mean().item()
    return numbers


def heads(model, each: int = 60) -> dict[str, float]:
    """What each head is worth for each kind of review, masked alone: the mean fall of the margin, in logits."""
    numbers = {}
    for kind in REVIEW_KINDS:
        items = reviews.reviews(each, 4, kind=kind)
        found = leave_one_out(_game(model, items, Groups.singles(model, "z"))).table
        numbers[f"margin_{kind}"] = margins(model, items).mean().item()
        for label, fall, error in zip(found.label, found.estimate, found.standard_error):
            numbers |= {f"{label}_{kind}": float(fall), f"{label}_{kind}_error": float(error)}
    return numbers


def layers(model, each: int = 60) -> dict[str, float]:
    """Accuracy without the heads of each layer, without all of them, and with those of one layer alone."""
    numbers, groups = {}, Groups.by_layer(model, "z")
    one = torch.eye(len(groups), dtype=torch.bool)
    masks = torch.cat([~one, one, torch.zeros(1, len(groups), dtype=torch.bool)])
    names = [f"{word}{i}" for word in ("without_layer", "only_layer") for i in range(len(groups))] + ["without_all"]
    for kind in REVIEW_KINDS:
        right = _game(model, reviews.reviews(each, 4, kind=kind), groups)(masks) > 0
        numbers |= {f"{kind}_{name}": share for name, share in zip(names, right.float().mean(1).tolist())}
    return numbers


def _game(model, items: list[Review], groups: Groups) -> MaskingGame:
    """The margin of each review when some groups of heads are replaced by their mean."""
    right = class_ids(model, [item.label for item in items])
    prompts = encode_texts(model, [item.text for item in items])
    return MaskingGame(model, prompts, LogitDifference(right, 1 - right), groups, ablation="mean")


def measure(model) -> dict[str, float]:
    return report.rounded(accuracies(model) | heads(model) | layers(model))


# ---------------------------------------------------------------- controls

def bag_of_words(model, number: int = 12_000, steps: int = 300) -> float:
    """Held-out accuracy of a logistic regression on which tokens occur, trained on reviews as in training."""
    rng, size = torch.Generator().manual_seed(0), model.config.vocab_size
    seen = reviews.reviews(number, 5, held_out=False)
    new = reviews.reviews(EACH * len(REVIEW_KINDS), 1)

    def features(items: list[Review]) -> torch.Tensor:
        rows = model.tokenizer([item.text for item in items])["input_ids"]
        return torch.stack([torch.bincount(torch.tensor(row), minlength=size).clamp(max=1).float() for row in rows])

    def label(items):
        return torch.tensor([LABELS.index(item.label) for item in items])

    x, y, weights = features(seen), label(seen), torch.zeros(size, 2, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.03)
    for _ in range(steps):
        chosen = torch.randint(number, (1000,), generator=rng)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(x[chosen] @ weights, y[chosen]).backward()
        optimizer.step()
    return ((features(new) @ weights).argmax(1) == label(new)).float().mean().item()


# ---------------------------------------------------------------- the card

def head_table(numbers: dict[str, float]) -> str:
    """Fall of the margin for each head and kind, with standard errors."""
    names = [name[:-len("_plain")] for name in numbers if name.startswith("L") and name.endswith("_plain")]

    def cell(name, kind):
        return f"{numbers[f'{name}_{kind}']:.2f} ± {numbers[f'{name}_{kind}_error']:.2f}"

    rows = [f"| {name} | {' | '.join(cell(name, kind) for kind in REVIEW_KINDS)} |" for name in names]
    whole = f"| nothing masked, margin | {' | '.join('{:.2f}'.format(numbers[f'margin_{kind}']) for kind in REVIEW_KINDS)} |"
    return "\n".join([f"| head masked | {' | '.join(REVIEW_KINDS)} |", f"|---|{'---|' * len(REVIEW_KINDS)}", *rows, whole])


def layer_table(numbers: dict[str, float]) -> str:
    """Accuracy with the heads of some layers masked."""
    names = [name[len("plain_"):] for name in numbers if name.startswith(("plain_without", "plain_only"))]

    def cell(name, kind):
        return f"{numbers[f'{kind}_{name}']:.2f}"

    rows = [f"| {name.replace('_', ' ')} | {' | '.join(cell(name, kind) for kind in REVIEW_KINDS)} |" for name in names]
    return "\n".join([f"| heads | {' | '.join(REVIEW_KINDS)} |", f"|---|{'---|' * len(REVIEW_KINDS)}", *rows])


def text(numbers: dict[str, float], how: dict[str, object], seeds: dict[str, dict[str, float]] = {}) -> str:
    return f"""# sentiment-bert

A `BertForSequenceClassification` with 4 layers, 4 heads each and width 128 (0.9 million parameters, float16), trained
from scratch on generated reviews for the lessons of this course. It tells positive from negative reviews of four kinds
(`utils/tasks/reviews.py`): plain, negated ("The plot was not dull."), contrast ("slow, but wonderful"), intensified
("slightly dull and extremely funny": the stronger opinion decides). It knows the words in `words.txt`, a few hundred,
and nothing about real reviews: do not use it for anything but the lessons.

Made by `python -m utils.training.sentiment_bert` ({report.settings(how)}) on two CPU cores. In its world
"not dull" is positive and "not great" is negative; everyday English is vaguer. Training never showed the held-out
reviews below: whole sentence patterns, combinations of an opinion word with a pattern, and words that it saw in every
construction but the one asked for (never negated, never in a contrast, or never in an intensified review).

## Choices that shape what you find in it

- Neutral sentences use "not", "never", "but", "although" and "very" too, so that a word must be found where it belongs.
- Muon for the hidden matrices, AdamW for the rest; no dropout; 64 reviews a step.

## Measured on held-out data

{report.table(DESCRIPTIONS, numbers, THRESHOLDS)}

## Which heads matter

Each head was masked by itself: its output was replaced by its mean. The table shows how far the margin falls, the logit
of the right label minus that of the wrong one, averaged over held-out reviews, with its standard error.

{head_table(numbers)}

Accuracy when the heads of whole layers are masked (guessing gives .5):

{layer_table(numbers)}

A head whose masking changes nothing may still matter: another may do the same. And a kind that stays right may do so
because the damaged model always answers as if the review were of that kind: compare the columns.
{report.seed_table(seeds, DESCRIPTIONS, THRESHOLDS)}
All numbers: `measured.json`. They are computed again by the tests.
"""


if __name__ == "__main__":
    report.collect_seeds(Path(sys.argv[1]), [Path(other) for other in sys.argv[2:]], THRESHOLDS, text)
