"""Train the shipped question-answering model: `python -m utils.training.qa_bert [--seed 1] [--steps N] [--out DIR]`.

A 4-layer, 160-wide BERT on generated contexts (`utils.tasks.passages`), thirteen minutes of one CPU core. Started again with
the same folder it goes on from the last checkpoint. It ends by measuring the model and writing the model card.

Which sort of value is asked for is learned within two hundred steps; to find out whose value it must be was not learned
within 1,800, until training was changed. Growing (Gong et al. 2019): two layers first learn plain contexts, the same
single fact of two subjects, so that nothing but the name helps, and an exercise, to find the name in the question; then
two more layers join, and full contexts. The first weights: positions are random waves (Rahimi & Recht 2007), alike
where they are near, and keys begin as a copy of the queries, so that a token looks at its like and at its neighbours.
They are trained like all other weights.
"""
from __future__ import annotations

import random
import shutil
from functools import partial
from pathlib import Path
from typing import Sequence

import torch
from transformers import BertForQuestionAnswering, BertTokenizerFast

from ..models import CHECKPOINTS, load_bert
from ..tasks import passage_patterns as P, passages
from . import encoders, qa_card as card, report

VOCAB, CONTEXT, LAYERS, WIDTH, HEADS = 1600, 128, 4, 160, 5
# Each batch is of one sort: its share of all batches, how many subjects its contexts have, its rows.
FIRST = {"find": (0.15, (2,), 96), "plain": (0.85, (2,), 96)}
THEN = {"find": (0.1, (2,), 96), "plain": (0.3, (2, 3, 4), 96), "full": (0.6, (2, 3), 56)}
FIRST_LAYERS, FIRST_STEPS, FIRST_RATE, RATE, WARM_UP = 2, 1000, 6e-3, 3e-3, 50
PER_CONTEXT, MADE_UP = 4, 0.1            # questions on each context; names with a word of random syllables
SPREAD, NEAR = 0.2, 4                    # of the embeddings at first; tokens apart at which positions stop being alike
NAMES = [P.ADJECTIVES, P.VIRTUES, P.BUILDINGS, P.OBJECTS, P.FEMALE, P.MALE, P.SURNAMES, P.CITIES, P.MATERIALS, P.JOBS,
         P.YEARS]
SHIPPED = CHECKPOINTS / "qa-bert"


def texts(number: int = 8000, made_up: float = 0.0) -> list[str]:
    """Contexts and questions as in training."""
    rng, found = random.Random(0), []
    for _ in range(number):
        passage = passages.passage(rng, made_up=made_up)
        found += [passage.text, *(record.question for record in passages.questions(passage, rng, 2))]
    return found


def new_tokenizer(folder: Path) -> BertTokenizerFast:
    """Every word of the lists is one token; other names come in pieces."""
    words = [word for names in NAMES for word in names]
    return encoders.train_tokenizer(folder, texts(made_up=MADE_UP) + words * 150, VOCAB, lower=True, context=CONTEXT)


def tensors(tokenizer: BertTokenizerFast, records: Sequence[passages.Record]) -> encoders.Batch:
    """What the model takes, [record, position], and `first` and `last` token of each answer, [record]."""
    rows = tokenizer([r.question for r in records], [r.context for r in records], padding=True, return_tensors="pt")

    def token(i, character):
        return rows.char_to_token(i, character, sequence_index=1)

    return {**rows, "first": torch.tensor([token(i, r.span[0]) for i, r in enumerate(records)]),
            "last": torch.tensor([token(i, r.span[1] - 1) for i, r in enumerate(records)])}


def make_batch(tokenizer: BertTokenizerFast, sorts: dict, made_up: float, rng: random.Random) -> encoders.Batch:
    """Records of one sort, and contexts of one number of subjects, so that little is padding."""
    sort = rng.choices(list(sorts), [share for share, _, _ in sorts.values()])[0]
    _, numbers, rows = sorts[sort]
    blocks, found = rng.choice(numbers), []
    while len(found) < rows:
        passage = passages.passage(rng, blocks=blocks, made_up=made_up, plain=sort != "full")
        found += [passages.find(passage, rng)] if sort == "find" else passages.questions(passage, rng, PER_CONTEXT)
    return tensors(tokenizer, found[:rows])


def loss(model: BertForQuestionAnswering, batch: encoders.Batch) -> torch.Tensor:
    """Mean cross-entropy of the right first and of the right last token, among all that are not padding."""
    inputs = {name: value for name, value in batch.items() if name not in ("first", "last")}
    output, padding = model(**inputs), batch["attention_mask"] == 0
    scores = [part.float().masked_fill(padding, -torch.inf) for part in (output.start_logits, output.end_logits)]
    return sum(torch.nn.functional.cross_entropy(s, batch[end]) for s, end in zip(scores, ("first", "last"))) / 2


def new_model(tokenizer: BertTokenizerFast, layers: int) -> BertForQuestionAnswering:
    """Random weights with which a token at first looks at its like and at its neighbours (see above)."""
    model = BertForQuestionAnswering(encoders.configuration(
        tokenizer, layers=layers, heads=HEADS, width=WIDTH, context=CONTEXT, attn_implementation="eager"))
    words, positions = model.bert.embeddings.word_embeddings.weight, model.bert.embeddings.position_embeddings.weight
    with torch.no_grad():
        words.normal_(std=SPREAD)
        angles = torch.arange(CONTEXT)[:, None] * torch.randn(WIDTH // 2) / NEAR
        positions.copy_(SPREAD * torch.cat([angles.sin(), angles.cos()], 1))
        for layer in model.bert.encoder.layer:
            layer.attention.self.query.weight.normal_(std=0.07)
            layer.attention.self.key.weight.copy_(layer.attention.self.query.weight)
    return model


def grown(small: BertForQuestionAnswering, tokenizer: BertTokenizerFast) -> BertForQuestionAnswering:
    """The same model with more layers on top, which at first add nothing to the stream."""
    model = new_model(tokenizer, LAYERS)
    for layer in model.bert.encoder.layer[small.config.num_hidden_layers:]:
        torch.nn.init.zeros_(layer.attention.output.dense.weight)
        torch.nn.init.zeros_(layer.output.dense.weight)
    model.load_state_dict(small.state_dict(), strict=False)
    return model


def train(folder: Path, seed: int, steps: int) -> None:
    """Train from the last checkpoint in `folder` (or from scratch) and save a float16 Hugging Face model there.

    The first stage keeps its own checkpoint in `folder / "first"` until all is done.
    """
    tokenizer = new_tokenizer(folder)
    small = encoders.train(folder / "first", partial(new_model, tokenizer, FIRST_LAYERS),
                           partial(make_batch, tokenizer, FIRST, 0.0), loss, seed=seed, steps=FIRST_STEPS,
                           rate=FIRST_RATE, warm_up=WARM_UP)
    model = encoders.train(folder, partial(grown, small, tokenizer), partial(make_batch, tokenizer, THEN, MADE_UP),
                           loss, seed=seed, steps=steps, rate=RATE, warm_up=WARM_UP)
    shutil.rmtree(folder / "first")
    encoders.export(model, folder)
    report.write_known_words(folder, (text.lower() for text in texts()))


def main() -> None:
    options = report.options(__doc__, steps=2500, out=SHIPPED)
    train(options.out, options.seed, options.steps)
    numbers, how = card.measure(load_bert(str(options.out))), {"seed": options.seed, "steps": options.steps}
    report.write(options.out, how, numbers, card.text(numbers, how, (LAYERS, HEADS, WIDTH)))
    print(report.missed(numbers, card.THRESHOLDS))


if __name__ == "__main__":
    main()
