"""No tool masks groups, so the peer is what one writes by hand: one forward pass for each mask, with PyTorch hooks.

The model is the bridge that `load_model` gives; `peer_loop_plain` runs the same loop on the Hugging Face model alone.
"""
from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import torch

from utils.masking import random_masks
from utils.models import load_model

PACKAGES = ("transformer_lens", "torch", "transformers", "numpy")


def load(folder: str):
    model = load_model(folder, device="cpu", bos=True)
    model.blocks_inside = [getattr(block, "original_component", block) for block in model.original_model.transformer.h]
    return model


@torch.no_grad()
def masks(model, prompt, answer, wrong, kind, layers, groups, number) -> dict[str, np.ndarray]:
    """Logit difference under each random mask over groups of the units of each layer, [mask]."""
    inside = lambda module: getattr(module, "original_component", module)
    into = [inside(inside(block.attn).c_proj if kind == "z" else inside(block.mlp).c_proj)
            for block in model.blocks_inside]
    ids = lambda text: model.tokenizer.encode(text, add_special_tokens=False)
    tokens, (a,), (b,) = torch.tensor([[model.tokenizer.bos_token_id, *ids(prompt)]]), ids(answer), ids(wrong)
    kept = random_masks(groups * len(layers), number, seed=0).unflatten(1, (len(layers), groups))
    found = []
    for mask in kept:
        with ExitStack() as hooks:
            for layer, own in zip(layers, mask):
                keep = own.repeat_interleave(into[layer].weight.shape[0] // groups).float()
                drop = lambda module, args, keep=keep: (args[0] * keep, *args[1:])
                hooks.callback(into[layer].register_forward_pre_hook(drop).remove)
            logits = _logits(model, tokens)[0, -1]
        found.append(logits[a] - logits[b])
    return {"difference": torch.stack(found).numpy()}


def _logits(model, tokens):
    if hasattr(model, "original_model"):
        return model(tokens, return_type="logits", prepend_bos=False)
    return model(input_ids=tokens).logits
