"""What is timed of alignment search, and what must be reached."""
from __future__ import annotations

from dataclasses import replace

from ..environment import ADDER
from ..jobs import Job

SHAPE = "gpt2-classifier"
LAYERS = 6                      # of the shipped adder
STEP = dict(rank=64, rows=32)
SEARCH = dict(graph="X+(Y)+Z", layer=0, position=3, rank=32, rows=6400, epochs=10, batch_size=64)    # 1,000 steps
COSTLIEST = SEARCH | dict(position=0)       # where nothing is found, but every other position must be computed again
PAIRS = dict(rank=64, batch_size=512)
FEW = 150                       # inputs for the comparison of layers
HELD_OUT = 2000                 # swaps that a search is scored on


def _step(name: str, title: str, target: float | None, **settings) -> Job:
    return Job(name, title, "step", "alignment.peer_pyvene", target, STEP | settings, on=SHAPE, only=True,
               tolerance=1e-5, repetitions=None if target else 1)


def _search(name: str, peer: str, target: float | None, settings: dict) -> Job:
    title = "whole search for P of {graph}, after layer {layer} at position {position}, rank {rank}".format(**settings)
    return Job(name, title, "search", peer, target, settings, on=ADDER, only=True, compare="scores", tolerance=0,
               warm_up=dict(epochs=1), repetitions=2 if target else 1)


def _pairs(name: str, layer: int, inputs: int, target: float | None = None, **more) -> Job:
    return Job(name, f"IIA graph of {inputs:,} x {inputs:,} pairs, after layer {layer}", "pairs", "alignment.peer_loop",
               target, PAIRS | dict(layer=layer, inputs=inputs), on=ADDER, only=True, compare="classes",
               warm_up=dict(inputs=30), **more)


JOBS = (
    _step("step", "one step, swap after layer 5, 6 positions jointly, rank 64, 32 rows", 60, layer=5),
    _step("step-fresh", "the same, our frozen part computed anew", None, layer=5, fresh=True),
    _step("step-low", "the same after layer 0", None, layer=0),
    _search("search-bridge", "alignment.peer_bridge", 1.5, SEARCH),
    _search("search-hooked", "alignment.peer_hooked", 1.5, SEARCH),
    _search("search-costliest", "alignment.peer_hooked", None, COSTLIEST),
    *(_pairs(f"pairs-{layer}", layer, FEW, 4 if layer >= 3 else None) for layer in range(LAYERS)),
    _pairs("pairs", 3, 1000, 4, within=180, repetitions=1),
)


def small(job: Job) -> Job:
    """What a job becomes for a quick look on a tiny model."""
    less = dict(layer=1, rank=4, rows=40, epochs=2, batch_size=16, inputs=12)
    return replace(job, only=False, settings={**job.settings, **{k: v for k, v in less.items() if k in job.settings}},
                   warm_up={})
