"""pyvene's search on an MLP, as in its tutorial on hierarchical equality. Runs in the peers' own environment."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pyvene
import torch
from pyvene.models.mlp.modelings_mlp import MLPConfig, MLPForClassification
from torch.nn.functional import cross_entropy

PACKAGES = ("pyvene", "torch", "transformers", "numpy")


def load(folder: str):
    """pyvene's own MLP with the weights of ours (its initialisation is of no use), and the arrays of the search."""
    with np.load(Path(folder) / "search.npz") as file:
        arrays = {name: torch.from_numpy(array) for name, array in file.items()}
    weights = [arrays[f"weight {i}"] for i in range(sum(name.startswith("weight") for name in arrays))]
    biases = [arrays[f"bias {i}"] for i in range(len(weights))]
    mlp = MLPForClassification(MLPConfig(h_dim=weights[0].shape[0], activation_function="relu", n_layer=len(weights) - 1,
                                         num_classes=len(weights[-1]), pdrop=0.0)).eval()
    with torch.no_grad():
        for linear, weight, bias in zip([*(block.ff1 for block in mlp.mlp.h), mlp.score], weights, biases):
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
    return mlp, arrays


def _intervenable(mlp, rank: int):
    """One rotation for both variables: the first `rank` directions are P's, the others Q's."""
    site = pyvene.RepresentationConfig(0, "block_output", "pos", 1, subspace_partition=None, intervention_link_key=0)
    config = pyvene.IntervenableConfig(model_type=type(mlp), representations=[site, site],
                                       intervention_types=pyvene.RotatedSpaceIntervention)
    intervenable = pyvene.IntervenableModel(config, mlp, use_fast=True)
    intervenable.disable_model_gradients()
    return intervenable, next(iter(intervenable.interventions.values())).rotate_layer


def _logits(intervenable, rank: int, kind: str, rows: dict[str, torch.Tensor], index: torch.Tensor) -> torch.Tensor:
    """Logits after the swap of `kind`, "P", "Q" or both, in these rows: [row, class]."""
    size, feed = len(index), lambda name: {"inputs_embeds": rows[name][index][:, None]}
    width = rows["base"].shape[-1]
    at = [[[0]] * size if variable in kind else None for variable in "PQ"]
    parts = {"P": range(rank), "Q": range(rank, width)}
    subspaces = [[[*part]] * size if variable in kind else None for variable, part in parts.items()]
    sources = [feed(variable) if variable in kind else None for variable in "PQ"]
    _, found = intervenable(feed("base"), sources, {"sources->base": (at, at)}, subspaces=subspaces)
    return found[0].view(size, -1)


def search(loaded, rate, steps, batch_size, rank) -> dict[str, np.ndarray]:
    """Held-out IIA of each kind of swap, the network's logits on the bases, and how far the rotation is from orthogonal."""
    mlp, arrays = loaded
    rows = {(part, kind): {name.split("/")[2]: array for name, array in arrays.items() if name.startswith(f"{part}/{kind}/")}
            for part in ("train", "held_out") for kind in ("P", "Q", "PQ")}
    torch.manual_seed(0)
    intervenable, rotation = _intervenable(mlp, rank)
    optimiser = torch.optim.Adam(rotation.parameters(), lr=rate)
    for step in range(steps):
        kind = ("P", "Q", "PQ")[step % 3]
        own = rows["train", kind]
        index = torch.randint(len(own["labels"]), (batch_size,))
        loss = cross_entropy(_logits(intervenable, rank, kind, own, index), own["labels"][index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = {}
    with torch.no_grad():
        for kind in ("P", "Q", "PQ"):
            own = rows["held_out", kind]
            logits = _logits(intervenable, rank, kind, own, torch.arange(len(own["labels"])))
            found[kind] = (logits.argmax(-1) == own["labels"]).double().mean().numpy()
        turned = rotation.weight
        found["error"] = (turned.T @ turned - torch.eye(len(turned))).abs().max().numpy()
        found["logits"] = mlp(inputs_embeds=rows["held_out", "P"]["base"][:, None])[0].view(-1, 2).numpy()
    return found
