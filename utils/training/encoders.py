"""Training a small model from scratch: BERT's tokenizer and configuration, a loop that goes on where it stopped, export.

A recipe gives a new model, a function that makes a batch from a `random.Random`, and a loss; see `sentiment_bert`,
`qa_bert` and `arithmetic_gpt2`. What it shares with the recipe of the language model is in `loop`.
"""
from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Callable, Iterable

import torch
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertTokenizerFast, PreTrainedModel

from . import loop

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
Batch = dict[str, torch.Tensor]


def train_tokenizer(folder: Path, texts: Iterable[str], size: int, *, lower: bool, context: int) -> BertTokenizerFast:
    """WordPiece with BERT's conventions, at most `size` tokens; saved in `folder` and returned."""
    texts, pieces = list(texts), BertWordPieceTokenizer(lowercase=lower)
    letters = sorted(set("".join(texts).lower() if lower else "".join(texts)) - set(" \n"))
    first = SPECIAL + ["##" + letter for letter in letters]  # else the trainer numbers these as its hash table has them
    pieces.train_from_iterator(texts, vocab_size=size, min_frequency=1, special_tokens=first, show_progress=False)
    tokenizer = BertTokenizerFast(vocab=pieces.get_vocab(), do_lower_case=lower, model_max_length=context)
    tokenizer.save_pretrained(folder)
    return tokenizer


def configuration(tokenizer: BertTokenizerFast, *, layers: int, heads: int, width: int, context: int,
                  dropout: float = 0.0, **more: object) -> BertConfig:
    """BERT's architecture at a smaller size: the MLP is four times as wide as the stream."""
    return BertConfig(vocab_size=len(tokenizer), num_hidden_layers=layers, num_attention_heads=heads, hidden_size=width,
                      intermediate_size=4 * width, max_position_embeddings=context, hidden_dropout_prob=dropout,
                      attention_probs_dropout_prob=dropout, pad_token_id=tokenizer.pad_token_id, **more)


def train(folder: Path, new_model: Callable[[], PreTrainedModel], batch: Callable[[random.Random], Batch],
          loss: Callable[[PreTrainedModel, Batch], torch.Tensor], *, seed: int, steps: int, rate: float = 2e-3,
          warm_up: int = 100, save_every: int = 250, blocks: str = ".layer.") -> PreTrainedModel:
    """Train from the last checkpoint in `folder`, or from scratch; returns the float32 model.

    new_model: called after seeding. batch: everything drawn comes from the generator it is given, or an interrupted run
    would end otherwise. loss: a scalar, from the bfloat16 copy of the model and a batch. blocks: see `make_optimizers`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    trainer, rng, start = loop.Trainer(new_model().train(), rate, blocks), random.Random(seed), 0
    state = loop.read_state(folder)
    if state:
        start = loop.restore(trainer, rng, state)
    began = time.time()
    for step in range(start, steps):
        value = loss(trainer.fast, batch(rng))
        value.backward()
        trainer.update(loop.learning_rate(step, steps, rate, warm_up))
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} loss {value.item():.3f} {time.time() - began:.0f}s", flush=True)
        if (step + 1) % save_every == 0:
            loop.save_state(folder, trainer, rng, step + 1)
    return trainer.model


def export(model: PreTrainedModel, folder: Path) -> None:
    """Save as float16 safetensors beside the tokenizer, and remove the checkpoint. The model given is changed."""
    model.half().save_pretrained(folder)
    if (folder / loop.STATE_FILE).exists():
        os.remove(folder / loop.STATE_FILE)
