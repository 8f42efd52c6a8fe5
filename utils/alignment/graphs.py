"""The IIA graphs of one cell of a sweep: every ordered pair of inputs, for several causal models, in one small file.

A graph takes a million forward passes and holds a million bits, so lesson 10 reads it instead of computing it. The file
also keeps one subspace, so that any part of its graph can be computed again.
"""
from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool

from ..errors import CourseError
from ..tasks import addition, pair_labels
from .fitting import fit
from .scores import iia, predict_pairs
from .study import Study, frozen_at, provenance_of, require_possible, swaps_for
from .subspaces import Subspace, random_subspace

Success = Bool[torch.Tensor, "base source"]
ABOUT, COLUMNS, CONTROL = "about", "columns", "random subspace"     # names in the file; all others are causal models
FREE = ("command", "scores", "shape")                               # entries of `about` that do not tell studies apart


@dataclass(frozen=True, eq=False)
class Graphs:
    """success: {causal model: [base, source]}; control: the same after swaps in one random subspace of the same rank.

    about: provenance of the study; under "scores" for each causal model its IIA on held-out swaps (iia, low, high) and
    the seconds that its search and its pairs took. subspace: what was found for the first causal model.
    """
    success: dict[str, Success]
    control: dict[str, Success]
    subspace: Subspace
    about: dict


def make_graphs(study: Study, path: str | Path, *, command: str = "", progress: bool | None = None) -> Graphs:
    """Search at the one layer and rank of `study` for each of its causal models, and swap between all pairs of inputs.

    What `path` holds already is kept, so an interrupted run goes on with its next causal model. Raises CourseError for
    a study of several cells, one that is not possible, and a file that is damaged or comes from another study.
    """
    path = Path(path)
    if len(study.layers) != 1 or len(study.ranks) != 1:
        raise CourseError("graphs are made at one cell: name one layer and one rank")
    require_possible(study)
    layer, rank = study.layers[0], study.ranks[0]
    frozen, _ = frozen_at(study.model, layer, study.position)
    shape = tuple(frozen.values.shape[1:])
    about = {**provenance_of(study, command), "shape": shape, "scores": {}}
    kept = _going_on(path, about) if path.exists() else {}
    if CONTROL not in kept:
        pairs = predict_pairs(frozen, random_subspace(shape, {"P": rank}, study.seed), progress=progress and CONTROL)
        kept[CONTROL] = pairs.predicted.to(torch.uint8).numpy()
        _write(path, kept, about)
    for graph in study.graphs:
        if graph in kept:
            continue
        train, held_out = swaps_for(study, graph, layer)
        found = fit(frozen, train, rank, progress=progress and graph, **study.options)
        pairs = predict_pairs(frozen, found.subspace, progress=progress and graph)
        score = iia(frozen, held_out, found.subspace)
        about["scores"][graph] = dict(iia=score.estimate, low=score.low, high=score.high, pairs_seconds=pairs.seconds,
                                      search_seconds=found.provenance["seconds"])
        kept[graph] = np.packbits(pairs.success(pair_labels(addition(graph), "P")).numpy())
        if graph == study.graphs[0]:
            kept[COLUMNS] = found.subspace.columns.cpu().numpy()
        _write(path, kept, about)       # after each: the next takes minutes
    return read_graphs(path)


def read_graphs(path: str | Path) -> Graphs:
    """Raises CourseError for a file that is missing, damaged, or lacks a causal model."""
    path = Path(path)
    if not path.exists():
        raise CourseError(f"there are no graphs in {path.name!r}: make them, python -m utils.alignment graphs")
    kept, about = _read(path)
    missing = [graph for graph in about["graphs"] if graph not in kept]
    if missing:
        raise CourseError(f"{path.name} lacks {', '.join(missing)}: the command that made it goes on with them")
    control = torch.from_numpy(kept[CONTROL]).long()
    n = len(control)
    bits = {graph: torch.from_numpy(np.unpackbits(kept[graph], count=n * n).view(bool)).view(n, n)
            for graph in about["graphs"]}
    labels = {graph: pair_labels(addition(graph), "P") for graph in bits}
    subspace = Subspace(torch.from_numpy(kept[COLUMNS]), {"P": about["ranks"][0]}, tuple(about["shape"]))
    return Graphs(bits, {graph: control == labels[graph] for graph in bits}, subspace, about)


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    try:
        with np.load(path) as file:
            kept = dict(file)
        about = json.loads(str(kept.pop(ABOUT)))
        if CONTROL not in kept or not {"graphs", "scores", "shape"} <= about.keys():
            raise ValueError("parts are missing")
        return kept, about
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise CourseError(f"{path.name} holds no graphs that can be read: name another file, or delete it") from None


def _going_on(path: Path, about: dict) -> dict[str, np.ndarray]:
    """What the file holds; `about` takes its scores. Raises CourseError if it comes from another study."""
    kept, old = _read(path)
    other = [name for name in about if name not in FREE and old.get(name) != json.loads(json.dumps(about[name]))]
    if other:
        raise CourseError(f"{path.name} comes from another study ({other[0]} differs); nothing was written: name another "
                          "file")
    about["scores"] = old["scores"]
    return kept


def _write(path: Path, kept: dict[str, np.ndarray], about: dict) -> None:
    """Beside, then renamed: an interruption leaves the old file or the new one."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        np.savez_compressed(file, **kept, **{ABOUT: np.array(json.dumps(about))})
    beside.replace(path)
