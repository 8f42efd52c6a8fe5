"""What one writes by hand: full forward passes in batches, and a PyTorch hook that swaps. The model as Transformers
loads it by default."""
from __future__ import annotations

from typing import Callable

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from utils.models import all_sums, encode_sums

from .draws import orthonormal
from .rows import spread

PACKAGES = ("torch", "transformers", "numpy")


def load(folder: str):
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    model.tokenizer = AutoTokenizer.from_pretrained(folder)
    return model.requires_grad_(False)


def _hooked(model, layer: int, tokens: torch.Tensor, change: Callable) -> torch.Tensor:
    """Logits of a full pass, [row, class]; `change` gets what leaves the block, and may give something else."""
    def swap(module, args, output):
        new = change(output[0] if isinstance(output, tuple) else output)
        return None if new is None else (new, *output[1:]) if isinstance(output, tuple) else new

    handle = model.transformer.h[layer].register_forward_hook(swap)
    try:
        return model(input_ids=tokens).logits
    finally:
        handle.remove()


@torch.no_grad()
def pairs(model, layer, rank, inputs, batch_size) -> Callable[[], dict[str, np.ndarray]]:
    """The class after a swap between every ordered pair of `inputs` of the sums, all positions jointly.

    Source activations are collected once; every pair is one full pass of the base.
    """
    tokens, kept = encode_sums(model, spread(all_sums(), inputs)).tokens, []
    for part in tokens.split(batch_size):
        _hooked(model, layer, part, lambda stream: kept.append(stream))
    values, logits = torch.cat(kept), []
    columns = orthonormal(values[0].numel(), rank)
    for pair in torch.arange(inputs ** 2).split(batch_size):
        base, source = pair // inputs, pair % inputs

        def change(stream):
            moved = (values[source] - stream).flatten(1) @ columns
            return stream + (moved @ columns.T).view_as(stream)
        logits.append(_hooked(model, layer, tokens[base], change))
    return lambda: _classes(torch.cat(logits), inputs)


def _classes(logits: torch.Tensor, inputs: int) -> dict[str, np.ndarray]:
    best = logits.topk(2).values
    lead = (best[:, 0] - best[:, 1]) / (logits.max() - logits.min())
    return {"classes": logits.argmax(-1).view(inputs, inputs).numpy(), "lead": lead.view(inputs, inputs).numpy()}
