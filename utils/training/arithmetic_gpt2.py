"""Train the shipped adder: `python -m utils.training.arithmetic_gpt2 [--seed 1] [--steps N] [--out DIR]`.

A GPT-2 of 6 layers and width 128 that reads "X+Y+Z=" and names the total as one of 28 classes, minutes on one CPU core.
Started again with the same folder it goes on from the last checkpoint. It ends by measuring the model and writing the
model card.

Trained plainly, such a network adds all three numbers in the attention of its first block, at "=", and no partial sum is
ever held anywhere. So attention to tokens more than two places back is penalised: the numbers must travel in hops, and
meet on the way. Which of them meet first is not prescribed.
"""
from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedTokenizerFast

from ..models import CHECKPOINTS, adders
from . import arithmetic_card as card, encoders, report

CONTEXT, LAYERS, WIDTH, HEADS = 8, 6, 128, 4
BATCH, LEARNING_RATE, CONTROL_STEPS = 256, 2e-3, 500
LOCALITY = 10.0     # of the penalty on attention far back, see `card.far`
SHIPPED = CHECKPOINTS / "arithmetic-gpt2"
END = "<|endoftext|>"


def make_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """One token for each number (also for 10, as in GPT-2's vocabulary) and each sign; saved in `folder`."""
    words = [END, "+", "=", *map(str, range(adders.LOW, adders.HIGH + 1))]
    pieces = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    pieces.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d+|\S"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token=END, pad_token=END, model_max_length=CONTEXT,
                                        model_input_names=["input_ids", "attention_mask"])
    tokenizer.save_pretrained(folder)
    return tokenizer


def new_model(tokenizer: PreTrainedTokenizerFast) -> GPT2ForSequenceClassification:
    names, end = {i: str(i + adders.LEAST) for i in range(adders.CLASSES)}, tokenizer.eos_token_id
    return GPT2ForSequenceClassification(GPT2Config(
        vocab_size=len(tokenizer), n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, n_positions=CONTEXT, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=end, eos_token_id=end, pad_token_id=end, id2label=names,
        label2id={name: i for i, name in names.items()}, attn_implementation="eager"))


def training_sums(coin: bool, seed: int) -> encoders.Batch:
    """Inputs [input, 3] and labels [input] of training; with `coin` the labels are dealt out anew, without meaning."""
    inputs = adders.all_sums()[~adders.held_out()]
    labels = inputs.sum(1) - adders.LEAST
    if coin:
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    return dict(inputs=inputs, labels=labels)


def make_batch(tokens: torch.Tensor, labels: torch.Tensor, rng: random.Random) -> encoders.Batch:
    """`BATCH` different training sums: input_ids [row, position] and labels [row]."""
    chosen = torch.tensor(rng.sample(range(len(tokens)), BATCH))
    return dict(input_ids=tokens[chosen], labels=labels[chosen])


def loss(model: GPT2ForSequenceClassification, batch: encoders.Batch) -> torch.Tensor:
    said = model(input_ids=batch["input_ids"], output_attentions=True)
    return torch.nn.functional.cross_entropy(said.logits.float(), batch["labels"]) + LOCALITY * card.far(said.attentions)


def train(folder: Path, seed: int, steps: int, *, coin: bool = False) -> None:
    """Train from the last checkpoint in `folder` (or from scratch) and save a float16 Hugging Face model there."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, sums = make_tokenizer(folder), training_sums(coin, seed)
    tokens = torch.tensor([tokenizer.encode(f"{x}+{y}+{z}=") for x, y, z in sums["inputs"].tolist()])
    model = encoders.train(folder, partial(new_model, tokenizer), partial(make_batch, tokens, sums["labels"]), loss,
                           seed=seed, steps=steps, rate=LEARNING_RATE, blocks=".h.")
    encoders.export(model, folder)


def controls(seed: int) -> dict[str, float]:
    """Held-out accuracy of the same recipe where labels mean nothing."""
    with TemporaryDirectory() as other:
        train(Path(other), seed, CONTROL_STEPS, coin=True)
        by_coin = card.accuracies(adders.load_adder(other))
    return report.rounded({"accuracy_random_labels": by_coin["accuracy_held_out"]})


def main() -> None:
    options = report.options(__doc__, steps=1500, out=SHIPPED)
    train(options.out, options.seed, options.steps)
    numbers = card.measure(adders.load_adder(str(options.out))) | controls(options.seed)
    how = {"seed": options.seed, "steps": options.steps}
    report.write(options.out, how, numbers, card.text(numbers, how, report.read_seeds(options.out)))
    print(report.missed(numbers, card.THRESHOLDS))


if __name__ == "__main__":
    main()
