"""Small multi-layer perceptrons, and one of their layers frozen: the first networks in which variables are looked for.

The networks are plain `nn.Sequential`. `freeze_layer` answers as `utils.engine.freeze` does for language models, so
everything that searches or scores subspaces takes both.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from ..errors import CourseError
from ..tasks import CausalModel, Inputs, sample_inputs, validate_outputs

Features = Float[torch.Tensor, "input feature"]


def object_vectors(objects: int = 20, width: int = 4, seed: int = 0) -> Float[torch.Tensor, "object width"]:
    """A random vector for each object, numbers from -1 to 1. Nothing about them says which object is like which."""
    return torch.rand(objects, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def embed(inputs: Inputs, vectors: Float[torch.Tensor, "object width"]) -> Features:
    """The vectors of the objects of each input, one after the other: [input, variables x width].

    Raises CourseError for an object without a vector.
    """
    if inputs.min() < 0 or inputs.max() >= len(vectors):
        raise CourseError(f"the inputs name objects {inputs.min()} to {inputs.max()}, but there are vectors for 0 to "
                          f"{len(vectors) - 1}")
    return vectors[inputs].flatten(1)


def mlp(sizes: Sequence[int] = (16, 16, 16, 16, 2), seed: int = 0) -> nn.Sequential:
    """Linear layers with a ReLU between them, random as torch makes them. sizes: features, hidden layers, classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = [part for ins, outs in zip(sizes, sizes[1:]) for part in (nn.Linear(ins, outs), nn.ReLU())]
    return nn.Sequential(*parts[:-1])


def train_mlp(network: nn.Sequential, model: CausalModel, *, width: int = 4, steps: int = 4000, batch_size: int = 1024,
              rate: float = 3e-3, weight_decay: float = 0.3, balance: Sequence[str] = ("P", "Q"),
              among: Inputs | None = None, places: Mapping[str, Sequence[int]] | None = None, seed: int = 0,
              progress: str | None = None) -> nn.Sequential:
    """Train the network, in place, to give the class that the causal model gives; returns it frozen.

    The objects of every input get new random vectors each time, as in Geiger et al. 2024, so the network cannot learn
    them by heart. Inputs are drawn as in `causal_models.sample_inputs` (`balance`, `among`), 100 batches of them, again
    and again in another order. AdamW, the rate falling to zero. On hierarchical equality the network is as often right
    without weight decay, but mixes the two pairs of objects in its first layer.

    places: {variable: units of the first hidden layer}. The network then also learns what must come out after swaps of
    these units between inputs, so that it keeps the variables there: interchange intervention training, Geiger et al.
    2022, arXiv 2112.00826. Trained plainly on "P and Q" it has no reason to keep the two apart, and does not.
    Raises CourseError for another number of outputs than classes, or of features than variables x width.
    """
    validate_outputs(model, network[-1].out_features)
    if network[0].in_features != len(model.inputs) * width:
        raise CourseError(f"the network takes {network[0].in_features} features, but {len(model.inputs)} objects of "
                          f"{width} numbers are {len(model.inputs) * width}: choose sizes or width to fit")
    inputs = sample_inputs(model, 100 * batch_size, balance=balance, among=among, seed=seed)
    objects, labels = int(inputs.max()) + 1, model.labels(model.run_batch(inputs))
    generator, everyone = torch.Generator().manual_seed(seed), torch.arange(batch_size)[:, None]
    optimiser = torch.optim.AdamW(network.requires_grad_().parameters(), lr=rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    for step in tqdm(range(steps), desc=progress, disable=progress is None, leave=False):
        if step % 100 == 0:
            batches = torch.randperm(len(labels), generator=generator).split(batch_size)
        rows = batches[step % 100]
        vectors = torch.rand(batch_size, objects, width, generator=generator) * 2 - 1
        hidden = network[:2](vectors[everyone, inputs[rows]].flatten(1))
        loss = cross_entropy(network[2:](hidden), labels[rows])
        if places:
            swapped, after = _swapped(model, inputs[rows], hidden, places, generator)
            loss = loss + cross_entropy(network[2:](swapped), after)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.requires_grad_(False)


def _swapped(model: CausalModel, inputs: Inputs, hidden: Float[torch.Tensor, "row unit"],
             places: Mapping[str, Sequence[int]], generator: torch.Generator):
    """Hidden units after swaps between rows of a batch, and the labels then. Each variable keeps its own value in half
    of the rows."""
    values, do, swapped = model.run_batch(inputs), {}, hidden.clone()
    for variable, units in places.items():
        sources = torch.randperm(len(inputs), generator=generator)
        keep = torch.rand(len(inputs), generator=generator) < 0.5
        sources[keep] = torch.arange(len(inputs))[keep]
        swapped[:, list(units)] = hidden[sources][:, list(units)]
        do[variable] = values[variable][sources]
    return swapped, model.labels(model.run_batch(inputs, do))


def accuracy(network: nn.Sequential, model: CausalModel, inputs: Inputs,
             vectors: Float[torch.Tensor, "object width"]) -> float:
    """Share of the inputs on which the network gives the causal model's class."""
    with torch.no_grad():
        predicted = network(embed(inputs, vectors)).argmax(-1)
    return float((predicted == model.labels(model.run_batch(inputs))).float().mean())


def freeze_layer(network: nn.Sequential, features: Features, layer: int) -> FrozenLayer:
    """Hidden layer `layer` (0 is the first) of a network of linear layers, run once on all features.

    Raises CourseError for a layer that is not there.
    """
    places = [i for i, part in enumerate(network) if isinstance(part, nn.Linear)][1:]
    if not 0 <= layer < len(places):
        raise CourseError(f"layer {layer} is out of range: this network has hidden layers 0 to {len(places) - 1}")
    with torch.no_grad():
        return FrozenLayer(network[places[layer]:], network[:places[layer]](features)[:, None])


@dataclass(frozen=True, eq=False)
class FrozenLayer:
    """What enters a linear layer on each input (after the ReLU, if there is one), and the layers from there on.

    values: [input, 1, width]. `logits(index, values)`: [row, class]; the index does not matter, as nothing goes round
    the layer.
    """
    above: nn.Sequential
    values: Float[torch.Tensor, "input 1 width"]

    def __len__(self) -> int:
        return len(self.values)

    def logits(self, index: Int[torch.Tensor, "row"],
               values: Float[torch.Tensor, "row 1 width"]) -> Float[torch.Tensor, "row class"]:
        return self.above(values[:, 0])
