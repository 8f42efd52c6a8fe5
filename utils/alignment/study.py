"""The study of sums: alignment search for layers x ranks x causal models of a GPT-2 that adds three numbers.

Sources: Pislar et al. 2025, arXiv 2503.11429, and the thesis before it (12 layers, ranks 64 to 4,608, all positions).
"""
from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import torch

from ..engine import Frozen, Site, freeze, validate
from ..errors import CourseError
from ..models import all_sums, encode_sums, load_adder
from ..tasks import SUMS, addition, sample_counterfactuals, split
from .controls import MEANING, control_table, cross_scores
from .fitting import Options, fit
from .results import Cell, Layout, run_cells
from .subspaces import require_ranks
from .swaps import Swaps, locate

FIELDS = ("layer", "rank", "graph", "name", "scored_on", "iia", "low", "high", "rows", "steps", "seconds")


@dataclass(frozen=True)
class Study:
    """What is searched, and on how many swaps.

    model: see `adders.load_adder`. graphs: names of `causal_models.SUMS`, whose P is searched. position: one index for all
    prompts, None for all positions jointly. held_out: share of the 1,000 inputs.
    """
    model: str
    layers: tuple[int, ...]
    ranks: tuple[int, ...]
    graphs: tuple[str, ...] = tuple(SUMS)
    position: int | None = None
    rows: int = 20_000
    held_out_rows: int = 2_000
    held_out: float = 0.2
    steps: int = Options.steps
    batch_size: int = Options.batch_size
    rate: float = Options.rate
    every: int = Options.every
    patience: int = Options.patience
    seed: int = Options.seed

    @property
    def options(self) -> dict:
        return {name: getattr(self, name) for name in Options.__dataclass_fields__}

    @property
    def cells(self) -> list[Cell]:
        """(layer, rank, graph), layer by layer."""
        return [(layer, rank, graph) for layer in self.layers for rank in self.ranks for graph in self.graphs]

    @property
    def layout(self) -> Layout:
        return Layout(FIELDS[:3], FIELDS, len(MEANING) + len(self.graphs) - 1)


def sweep(study: Study, path: str | Path, *, workers: int = 1, command: str = "", keep: str | Path | None = None,
          progress: str | None = None) -> int:
    """Do the study, or what an earlier call left of it; results go to `path`, see `results`. Returns the cells done.

    keep: a folder for the subspaces, one file for each cell. A cell that was interrupted goes on where it was, from a
    folder beside the results. Raises CourseError for layers, ranks, graphs or positions that do not exist, and for a
    results file that is damaged or comes from another study.
    """
    path = Path(path)
    require_possible(study)
    states = path.with_name(path.name + ".states")
    for folder in [states, *([Path(keep)] if keep else [])]:
        folder.mkdir(parents=True, exist_ok=True)
    done = run_cells(path, provenance_of(study, command), study.layout, study.cells,
                     _Work(study, str(states), str(keep) if keep else None), workers=workers, progress=progress)
    if not any(states.iterdir()):
        states.rmdir()
    return done


def require_possible(study: Study) -> None:
    """Raise CourseError for options, layers, ranks, graphs or positions that do not exist."""
    Options(**study.options)
    for graph in study.graphs:
        addition(graph)
    for name in ("layers", "ranks", "graphs"):
        if not getattr(study, name) or len(set(getattr(study, name))) < len(getattr(study, name)):
            raise CourseError(f"{name} must be named once each, at least one, not {getattr(study, name)}")
    model, prompts, _ = _loaded(study.model)
    for layer in study.layers:
        validate(model, Site("resid_post", layer, study.position), prompts.tokens)
    positions = prompts.tokens.shape[1] if study.position is None else 1
    for rank in study.ranks:
        require_ranks((positions, model.config.n_embd), {"P": rank})


def provenance_of(study: Study, command: str) -> dict:
    import transformers

    model, _, _ = _loaded(study.model)
    settings = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(study).items() if name != "model"}
    return {"command": command, "model": Path(study.model).name, "checkpoint": checkpoint_hash(model), **settings,
            "torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()}


def checkpoint_hash(model: torch.nn.Module) -> str:
    """SHA-256 of names and numbers of all weights."""
    digest = sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------- one cell

@dataclass(frozen=True)
class _Work:
    """The work for one cell, as something that can be sent to a worker."""
    study: Study
    states: str
    keep: str | None

    def __call__(self, cell: Cell) -> list[dict]:
        layer, rank, graph = cell
        study, options = self.study, self.study.options
        frozen, untrained = frozen_at(study.model, layer, study.position)
        train, _ = swaps_for(study, graph, layer)
        held_out = {name: swaps_for(study, name, layer)[1] for name in study.graphs}
        name = f"layer{layer}-rank{rank}-{graph}"
        state = Path(self.states) / f"{name}.pt"
        found = fit(frozen, train, rank, state=state, **options)
        table = control_table(frozen, train, held_out[graph], found, untrained=untrained, **options)
        others = {other: swaps for other, swaps in held_out.items() if other != graph}
        crossed = cross_scores(frozen, {graph: found.subspace}, others)
        rows = [(row.name, graph, row.iia, row.low, row.high) for row in table.itertuples()]
        rows += [("found", row.scored_on, row.iia, row.low, row.high) for row in crossed.itertuples()]
        if self.keep:
            found.subspace.save(Path(self.keep) / f"{name}.safetensors", fingerprint=found.provenance["fingerprint"])
        state.unlink(missing_ok=True)
        steps = int(found.history.step.max()) if len(found.history) else 0
        cost = (study.held_out_rows, steps, found.provenance["seconds"])
        return [dict(zip(FIELDS, (*cell, *row, *cost))) for row in rows]


@lru_cache(maxsize=1)
def _loaded(name: str):
    """The model, the prompts of all 1,000 inputs, and a model of the same shape with random weights."""
    model = load_adder(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = type(model)(model.config).eval().requires_grad_(False)
    return model, encode_sums(model, all_sums()), untrained.to(model.device)


@lru_cache(maxsize=1)
def frozen_at(name: str, layer: int, position: int | None) -> tuple[Frozen, Frozen]:
    """The model and its untrained twin, frozen on all 1,000 inputs at the stream that leaves `layer`."""
    model, prompts, untrained = _loaded(name)
    site = Site("resid_post", layer, position)
    return freeze(model, prompts, site), freeze(untrained, prompts, site)


@lru_cache(maxsize=2 * len(SUMS))
def swaps_for(study: Study, graph: str, layer: int) -> tuple[Swaps, Swaps]:
    """Swaps for the search, and those for the score, between inputs that the search never saw."""
    model = addition(graph)
    inputs = model.all_inputs()
    parts = zip(split(inputs, study.held_out, study.seed), (study.rows, study.held_out_rows), (1, 2))
    return tuple(locate(frozen_at(study.model, layer, study.position)[0], inputs, sample_counterfactuals(
        model, "P", rows, changed=None, among=among, seed=study.seed * 100 + shift)) for among, rows, shift in parts)
