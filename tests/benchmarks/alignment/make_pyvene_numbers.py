"""The numbers of pyvene that our search is held to, tests/data/pyvene_equality.json.

`python -m tests.benchmarks.alignment.make_pyvene_numbers [FOLDER]`, from the root of the repository; FOLDER is where the
peers' environment is, or is made. The network is trained here, pyvene searches it there, on the same swaps; the best of
three learning rates is kept. The course's tests read the file.
"""
from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from torch import nn

from utils.alignment import mlp, train_mlp
from utils.tasks.causal_models import hierarchical_equality

from ..environment import ROOT, default_folder, peers_python
from ..harness import Worker, largest_difference
from .equality import RANKS, SWAPPED, Search, search

STORED = ROOT / "tests" / "data" / "pyvene_equality.json"
RATES = (1e-3, 1e-2, 3e-2)
SETTINGS = dict(steps=3000, batch_size=256, rank=RANKS["P"])


def layers(network: nn.Sequential) -> list[nn.Linear]:
    return [part for part in network if isinstance(part, nn.Linear)]


def write_arrays(path: Path, network: nn.Sequential, data: Search) -> None:
    """Weights, and for each part of the data and kind of swap the features of base and sources, and the labels."""
    arrays = {}
    for i, linear in enumerate(layers(network)):
        arrays |= {f"weight {i}": linear.weight.numpy(), f"bias {i}": linear.bias.numpy()}
    for part, kinds in (("train", data.train), ("held_out", data.held_out)):
        for kind, swaps in kinds.items():
            named = {"base": data.features[swaps.base], "labels": swaps.labels,
                     **{variable: data.features[source] for variable, source in swaps.sources.items()}}
            arrays |= {f"{part}/{kind}/{name}": tensor.numpy() for name, tensor in named.items()}
    np.savez(path, **arrays)


def main(folder: Path) -> None:
    network = train_mlp(mlp(), hierarchical_equality())
    data, found = search(network), {}
    with tempfile.TemporaryDirectory() as scratch:
        write_arrays(Path(scratch) / "search.npz", network, data)
        with Worker(peers_python(folder), "alignment.peer_pyvene_mlp", Path(scratch), 1) as peer:
            for rate in RATES:
                found[rate] = peer("search", SETTINGS | dict(rate=rate)).arrays
                print(rate, {name: array.round(5).tolist() for name, array in found[rate].items() if array.ndim == 0})
            versions = peer.versions
    rate = max(RATES, key=lambda rate: sum(found[rate][kind] for kind in SWAPPED))
    logits = network(data.features[data.held_out["P"].base]).numpy()
    difference = largest_difference({"logits": logits}, {"logits": found[rate].pop("logits")})
    if difference > 1e-5:
        raise SystemExit(f"pyvene's network and ours differ by {difference:.1e} of the range of their logits")
    stored = {"versions": versions, "settings": SETTINGS | dict(rate=rate), "data": data.fingerprint,
              "iia": {kind: round(float(found[rate][kind]), 6) for kind in SWAPPED},
              "error": float(found[rate]["error"]), "logits": difference,
              "weights": [[linear.weight.tolist(), linear.bias.tolist()] for linear in layers(network)]}
    lines = ",\n ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in stored.items())
    STORED.write_text(f"{{{lines}}}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default_folder())
