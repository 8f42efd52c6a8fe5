"""The GPT-2 that adds three numbers: loading it, the prompts "X+Y+Z=", and the sums that it never saw in training.

The task is that of Pislar et al. 2025, arXiv 2503.11429: a `GPT2ForSequenceClassification` with 28 classes, one for each
total of 3 to 30; nothing is generated.
"""
from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int

from ..errors import CourseError
from .shelf import Shelf
from .tokens import Prompts, padded

if TYPE_CHECKING:
    from transformers import GPT2ForSequenceClassification

SHELF = Shelf("load_adder", {"arithmetic-gpt2": "GPT-2 trained for this course to add three numbers"},
              ("mara589/arithmetic-gpt2",))
LOW, HIGH = 1, 10           # of each number
LEAST = 3 * LOW             # the total of class 0
CLASSES = 3 * HIGH - LEAST + 1
HELD_OUT = 0.2              # of the unordered sums


def all_sums() -> Int[torch.Tensor, "input 3"]:
    """The 1,000 inputs X, Y, Z, the last one counting fastest: the rows of `addition(...).all_inputs()`."""
    numbers = torch.arange(LOW, HIGH + 1)
    return torch.cartesian_prod(numbers, numbers, numbers)


@lru_cache(maxsize=1)
def _unseen() -> frozenset[tuple[int, ...]]:
    """A fifth of the unordered sums of each total, so that training sees every class."""
    generator, found = torch.Generator().manual_seed(0), set()
    unordered = all_sums().sort(dim=1).values.unique(dim=0)
    for total in unordered.sum(1).unique():
        same = unordered[unordered.sum(1) == total]
        chosen = torch.randperm(len(same), generator=generator)[:round(HELD_OUT * len(same))]
        found |= {tuple(row) for row in same[chosen].tolist()}
    return frozenset(found)


def held_out() -> Bool[torch.Tensor, "input"]:
    """Which of `all_sums` the shipped model never saw in training, in any order of the three numbers."""
    return torch.tensor([tuple(sorted(row)) in _unseen() for row in all_sums().tolist()])


def encode_sums(model, inputs: Int[torch.Tensor, "input 3"]) -> Prompts:
    """The prompts "X+Y+Z=" of some inputs. Raises CourseError unless each is three whole numbers from 1 to 10."""
    inputs = torch.as_tensor(inputs)
    if inputs.dim() != 2 or inputs.shape[1] != 3 or not len(inputs):
        raise CourseError(f"sums are a table of three numbers each, [input, 3], not of shape {tuple(inputs.shape)}")
    wrong = [number for number in inputs.flatten().tolist() if number not in range(LOW, HIGH + 1)]
    if wrong:
        raise CourseError(f"the sums are of whole numbers from {LOW} to {HIGH}, not {wrong[0]}")
    return padded(model, [model.tokenizer.encode(f"{x}+{y}+{z}=", add_special_tokens=False)
                          for x, y, z in inputs.long().tolist()])


def load_adder(name: str | Path = "arithmetic-gpt2",
               device: str | torch.device | None = None) -> GPT2ForSequenceClassification:
    """Load a `GPT2ForSequenceClassification` (shipped model, local folder or hub id), its tokenizer attached.

    On `device` (None: GPU if there is one, else CPU), frozen. Raises CourseError as `Shelf.load_plain` does.
    """
    return SHELF.load_plain(name, ("GPT2ForSequenceClassification",), device)
