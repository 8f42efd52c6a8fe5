"""Distributed alignment search: find the subspace in which a swap does what the causal model says.

Only the columns of the subspace are trained. The model below the site was run once for each input, by `freeze`; the
rotation is made once for each step, by thin QR of free weights, so the columns stay orthonormal without a constraint.
Source: Geiger et al. 2024, arXiv 2303.02536.
"""
from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Iterator, Mapping

import pandas as pd
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from ..engine import Frozen
from ..errors import CourseError
from .subspaces import Subspace, everything, orthonormal, random_weights, require_ranks
from .swaps import Swaps, require_fitting

VALIDATION = 1024       # rows that are held back for early stopping, at most a tenth


@dataclass(frozen=True)
class Options:
    """How to search. steps: at most; every: steps between two looks at the validation rows; patience: looks without a
    lower validation loss before it stops; rate: of Adam, falling to zero over all steps."""
    steps: int = 1000
    batch_size: int = 256
    rate: float = 3e-2
    every: int = 50
    patience: int = 5
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "batch_size", "every", "patience"):
            if getattr(self, name) < 1:
                raise CourseError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Fitted:
    """The subspace with the lowest validation loss, and how it was found.

    history: one row for each look (step, loss: of the batches since the last look, validation_loss, validation_iia).
    provenance: options, ranks, number of rows, versions, seconds, a fingerprint of the data, and why the search ended.
    """
    subspace: Subspace
    history: pd.DataFrame
    provenance: dict


def fit(frozen: Frozen, swaps: Swaps, ranks: int | Mapping[str, int], *, validation: Swaps | None = None,
        state: str | Path | None = None, progress: str | None = None, **options) -> Fitted:
    """Train a subspace so that the swaps give their labels (cross-entropy), with Adam.

    ranks: for each variable, or one number for all of them. validation: rows for early stopping; None holds back a
    tenth of `swaps`, 1,024 at most. options: see `Options`. state: a file in which the search is kept at every look; if
    it exists, the search goes on from there and ends with the same result as without the interruption.
    A subspace as wide as the whole activation, of a single variable, needs no search: nothing is left outside it.
    Raises CourseError for ranks, inputs or labels that do not fit, and a state file that is damaged or of another
    search.
    """
    options, shape = Options(**options), tuple(frozen.values.shape[1:])
    ranks = dict.fromkeys(swaps.sources, ranks) if isinstance(ranks, int) else dict(ranks)
    require_ranks(shape, ranks)
    if set(ranks) != set(swaps.sources):
        raise CourseError(f"ranks are given for {', '.join(ranks)}, but the swaps have sources for "
                          f"{', '.join(swaps.sources)}: name the same variables")
    if validation is None:
        if len(swaps) < 10:
            raise CourseError(f"{len(swaps)} rows are too few to hold some back for early stopping: give 10 or more, "
                              "or a validation set of its own")
        swaps = swaps.shuffled(options.seed)
        held_back = min(VALIDATION, len(swaps) // 10)
        swaps, validation = swaps[held_back:], swaps[:held_back]
    for part in (swaps, validation):
        require_fitting(frozen, part)
    if not frozen.values.isfinite().all():
        raise CourseError("the activations that are to be swapped are NaN or infinite somewhere: nothing can be found "
                          "in them")
    swaps, validation = (part.to(frozen.values.device) for part in (swaps, validation))
    started, search = time.perf_counter(), _Search(frozen, swaps, validation, ranks, options)
    if list(ranks.values()) == [shape[0] * shape[1]]:
        search.best = everything(shape, *ranks).columns.to(swaps.base.device)
        search.ended = "everything is swapped: nothing to search"
    else:
        search.run(Path(state) if state else None, progress)
    provenance = {**asdict(options), "ranks": ranks, "rows": len(swaps), "fingerprint": search.fingerprint,
                  "torch": torch.__version__, "python": platform.python_version(), "ended": search.ended,
                  "seconds": round(time.perf_counter() - started, 3)}
    columns = ["step", "loss", "validation_loss", "validation_iia"]
    return Fitted(Subspace(search.best, ranks, shape), pd.DataFrame(search.history, columns=columns), provenance)


@dataclass
class _Search:
    """Everything that changes during a search, and the file in which it is kept."""
    frozen: Frozen
    swaps: Swaps
    validation: Swaps
    ranks: dict[str, int]
    options: Options
    step: int = 0
    best: torch.Tensor | None = None
    best_loss: float = float("inf")
    waited: int = 0
    ended: str = ""
    history: list[tuple] = field(default_factory=list)

    def __post_init__(self):
        self.shape, device = tuple(self.frozen.values.shape[1:]), self.frozen.values.device
        self.weights = random_weights(self.shape, self.ranks, self.options.seed).to(device).requires_grad_()
        self.optimiser = torch.optim.Adam([self.weights], lr=self.options.rate)
        self.fingerprint = self._fingerprint()

    def run(self, state: Path | None, progress: str | None) -> None:
        if state and state.exists():
            self._load(state)
        bar = tqdm(total=self.options.steps, initial=self.step, desc=progress, disable=progress is None, leave=False)
        batches, losses = self._batches(), []
        while not self.ended:
            losses.append(self._train(next(batches)))
            self.step += 1
            bar.update()
            if self.step % self.options.every == 0 or self.step == self.options.steps:
                self._look(float(torch.stack(losses).mean()))
                losses.clear()
                bar.set_postfix_str(f"IIA {self.history[-1][3]:.3f}")
                if state:
                    self._save(state)
        bar.close()

    def _batches(self) -> Iterator[Swaps]:
        """From the present step on; each epoch has an order of its own, which depends on nothing but the seed."""
        n, size = len(self.swaps), min(self.options.batch_size, len(self.swaps))
        epoch, place = divmod(self.step, n // size)
        while True:
            order = self.swaps.shuffled(self.options.seed * 100_003 + epoch)
            for start in range(place * size, n - size + 1, size):
                yield order[start:start + size]
            epoch, place = epoch + 1, 0

    def _loss(self, swaps: Swaps, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy and number of right predictions."""
        new = Subspace(columns, self.ranks, self.shape).swap(*swaps.values(self.frozen))
        logits, labels = self.frozen.logits(swaps.base, new), swaps.labels
        return cross_entropy(logits, labels), (logits.argmax(-1) == labels).sum()

    def _train(self, batch: Swaps) -> torch.Tensor:
        loss, _ = self._loss(batch, orthonormal(self.weights))
        self.optimiser.param_groups[0]["lr"] = self.options.rate * (1 - self.step / self.options.steps)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    @torch.no_grad()
    def _look(self, loss: float) -> None:
        columns, total, right = orthonormal(self.weights), 0.0, 0
        for start in range(0, len(self.validation), 512):
            part = self.validation[start:start + 512]
            own, hits = self._loss(part, columns)
            total, right = total + float(own) * len(part), right + int(hits)
        validation_loss = total / len(self.validation)
        self.history.append((self.step, loss, validation_loss, right / len(self.validation)))
        self.waited += 1
        if validation_loss < self.best_loss:
            self.best, self.best_loss, self.waited = columns, validation_loss, 0
        if self.waited >= self.options.patience:
            self.ended = f"no lower validation loss in {self.waited} looks"
        elif self.step >= self.options.steps:
            self.ended = "all steps done"

    # ------------------------------------------------------------ the state file

    KEPT = ("step", "best", "best_loss", "waited", "ended", "history")

    def _fingerprint(self) -> str:
        """Of all that the result depends on."""
        digest = sha256(repr((self.options, self.ranks, self.shape, torch.__version__)).encode())
        tensors = [self.frozen.values]
        for part in (self.swaps, self.validation):
            tensors += [part.base, part.labels, *part.sources.values()]
        for tensor in tensors:
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _save(self, state: Path) -> None:
        """Written beside and renamed, so that an interruption leaves the old file or the new one."""
        beside = state.with_name(state.name + ".new")
        kept = {name: getattr(self, name) for name in self.KEPT}
        torch.save({"fingerprint": self.fingerprint, "weights": self.weights.detach(),
                    "optimiser": self.optimiser.state_dict(), **kept}, beside)
        os.replace(beside, state)

    def _load(self, state: Path) -> None:
        again = "delete it to begin again"
        try:
            kept = torch.load(state, weights_only=True, map_location=self.weights.device)
            same = kept["fingerprint"] == self.fingerprint
        except Exception:  # torch, pickle and zipfile each have their own
            raise CourseError(f"the state file {state.name!r} is damaged: {again}") from None
        if not same:
            raise CourseError(f"the state file {state.name!r} belongs to a search with other data or options: name "
                              f"another file, or {again}")
        with torch.no_grad():
            self.weights.copy_(kept["weights"])
        self.optimiser.load_state_dict(kept["optimiser"])
        for name in self.KEPT:
            setattr(self, name, kept[name])
