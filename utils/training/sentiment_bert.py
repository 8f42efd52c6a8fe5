"""Train the shipped sentiment classifier: `python -m utils.training.sentiment_bert [--seed 1] [--steps N] [--out DIR]`.

A 4-layer, 128-wide BERT on generated reviews (`utils.tasks.reviews`), a few minutes on two CPU cores. Started again with the
same folder it goes on from the last checkpoint. It ends by measuring the model and writing the model card.
"""
from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import BertForSequenceClassification, BertTokenizerFast

from ..models import CHECKPOINTS, load_bert
from ..tasks import reviews
from . import encoders, report, sentiment_card as card

VOCAB, CONTEXT, LAYERS, WIDTH, HEADS = 800, 64, 4, 128, 4
BATCH, LEARNING_RATE, CONTROL_STEPS = 64, 2e-3, 300
SHIPPED = CHECKPOINTS / "sentiment-bert"


def texts(number: int = 20_000) -> list[str]:
    """Training text for the tokenizer and the list of known words."""
    rng = random.Random(0)
    return [reviews.training_review(rng).text for _ in range(number)]


def make_batch(tokenizer: BertTokenizerFast, coin: bool, rng: random.Random) -> encoders.Batch:
    """`BATCH` reviews: input_ids, attention_mask [review, position] and labels [review], by `coin` without meaning."""
    drawn = [reviews.training_review(rng) for _ in range(BATCH)]
    rows = tokenizer([review.text for review in drawn], padding=True, return_tensors="pt")
    labels = [rng.choice(reviews.LABELS) if coin else review.label for review in drawn]
    return dict(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"],
                labels=torch.tensor([reviews.LABELS.index(label) for label in labels]))


def loss(model: BertForSequenceClassification, batch: encoders.Batch) -> torch.Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return torch.nn.functional.cross_entropy(logits.float(), batch["labels"])


def new_model(tokenizer: BertTokenizerFast) -> BertForSequenceClassification:
    names = dict(enumerate(reviews.LABELS))
    config = encoders.configuration(tokenizer, layers=LAYERS, heads=HEADS, width=WIDTH, context=CONTEXT, id2label=names,
                                    label2id={label: i for i, label in names.items()}, attn_implementation="eager")
    return BertForSequenceClassification(config)


def train(folder: Path, seed: int, steps: int, *, coin: bool = False) -> None:
    """Train from the last checkpoint in `folder` (or from scratch) and save a float16 Hugging Face model there."""
    said = texts()
    tokenizer = encoders.train_tokenizer(folder, said, VOCAB, lower=True, context=CONTEXT)
    model = encoders.train(folder, partial(new_model, tokenizer), partial(make_batch, tokenizer, coin), loss, seed=seed,
                           steps=steps, rate=LEARNING_RATE)
    encoders.export(model, folder)
    report.write_known_words(folder, (text.lower() for text in said))


def controls(folder: Path, seed: int) -> dict[str, float]:
    """Held-out accuracy without word order, and of the same recipe where labels mean nothing."""
    with TemporaryDirectory() as other:
        train(Path(other), seed, CONTROL_STEPS, coin=True)
        by_coin = card.accuracies(load_bert(other))["accuracy"]
    by_words = card.bag_of_words(load_bert(folder))
    return report.rounded({"accuracy_bag_of_words": by_words, "accuracy_random_labels": by_coin})


def main() -> None:
    options = report.options(__doc__, steps=3000, out=SHIPPED)
    train(options.out, options.seed, options.steps)
    numbers = card.measure(load_bert(options.out)) | controls(options.out, options.seed)
    how = {"seed": options.seed, "steps": options.steps}
    report.write(options.out, how, numbers, card.text(numbers, how, report.read_seeds(options.out)))
    print(report.missed(numbers, card.THRESHOLDS))


if __name__ == "__main__":
    main()
