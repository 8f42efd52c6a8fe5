"""Hierarchical equality in an MLP: the swaps on which pyvene's search and ours are compared."""
from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from torch import nn

from utils.alignment import Swaps, embed, freeze_layer, locate, object_vectors
from utils.alignment.networks import Features, FrozenLayer
from utils.tasks import sample_counterfactuals, split
from utils.tasks.causal_models import hierarchical_equality

LAYER, RANKS = 0, {"P": 8, "Q": 8}
SWAPPED = {"P": ("P",), "Q": ("Q",), "PQ": ("P", "Q")}       # alone and together
TRAIN, HELD_OUT = 4000, 2000                                # rows of each


@dataclass(frozen=True)
class Search:
    """The hidden layer, the features of every input, and swaps by what is swapped."""
    frozen: FrozenLayer
    features: Features
    train: dict[str, Swaps]
    held_out: dict[str, Swaps]

    @property
    def fingerprint(self) -> str:
        """Of the inputs named by all swaps, and of their labels."""
        parts = [part for swaps in (*self.train.values(), *self.held_out.values())
                 for part in (swaps.base, *swaps.sources.values(), swaps.labels)]
        return sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()[:16]


def search(network: nn.Sequential) -> Search:
    """No input of a held-out swap occurs in those for the search."""
    model = hierarchical_equality()
    inputs = model.all_inputs()
    seen, unseen = split(inputs, 0.2, 0)
    features = embed(inputs, object_vectors())
    frozen = freeze_layer(network, features, LAYER)
    train, held_out = ({name: locate(frozen, inputs, sample_counterfactuals(
        model, variables, rows, balance=("P", "Q"), among=among, seed=first + i))
        for i, (name, variables) in enumerate(SWAPPED.items())}
        for among, rows, first in ((seen, TRAIN, 0), (unseen, HELD_OUT, 9)))
    return Search(frozen, features, train, held_out)
