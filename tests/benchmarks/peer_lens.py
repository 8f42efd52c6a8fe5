"""TransformerLens: its own patching functions, on the same bridge, loaded by the same function."""
from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import torch
from transformer_lens import patching

from utils.models import load_model

PACKAGES = ("transformer_lens", "torch", "transformers", "numpy")


def load(folder: str):
    return load_model(folder, device="cpu", bos=True)  # as TransformerLens itself does on a GPT-2


def _runs(model, clean, corrupted, answer, wrong, activation):
    """Corrupted tokens, activations of the clean run, and the metric: 0 as corrupted, 1 as clean."""
    a, b = model.to_single_token(answer), model.to_single_token(wrong)
    difference = lambda logits: logits[0, -1, a] - logits[0, -1, b]
    tokens = model.to_tokens(corrupted)
    logits, cache = model.run_with_cache(model.to_tokens(clean), names_filter=lambda name: name.endswith(activation))
    high, low = difference(logits), difference(model(tokens))
    return tokens, cache, lambda logits: (difference(logits) - low) / (high - low)


@torch.no_grad()
def residual_map(model, clean, corrupted, answer, wrong) -> dict[str, np.ndarray]:
    runs = _runs(model, clean, corrupted, answer, wrong, "hook_resid_pre")
    return {"effect": patching.get_act_patch_resid_pre(model, *runs).numpy()}


@torch.no_grad()
def head_maps(model, clean, corrupted, answer, wrong, positions) -> dict[str, np.ndarray]:
    """What get_act_patch_attn_head_out_by_pos does, at the chosen positions only."""
    runs = _runs(model, clean, corrupted, answer, wrong, "hook_z")
    size = (model.cfg.n_layers, len(positions), model.cfg.n_heads)
    cells = product(range(size[0]), positions, range(size[2]))
    effect = patching.generic_activation_patch(
        model, *runs, patching.layer_pos_head_vector_patch_setter, "z",
        index_df=pd.DataFrame(cells, columns=["layer", "pos", "head_index"])).view(size)
    return {f"at {position}": effect[:, i].numpy() for i, position in enumerate(positions)}
