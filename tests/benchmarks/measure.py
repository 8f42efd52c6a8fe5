"""What was measured: each job on both sides in turns, and how our side grows with the number of prompts."""
from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Callable, Iterator, Sequence

from .harness import COMPARISONS, Answer, Worker, in_turns
from .jobs import GROWTH, GROWTH_BATCH, RATE_ROWS, Job

NEGLIGIBLE = 0.01               # shapes with less of the arithmetic are left out of the machine's rate
SLACK = 1.1                     # "no more than" allows a tenth for the noise of the clock


@dataclass(frozen=True)
class Pair:
    """One job on one model: seconds of every repetition of both sides, largest difference of their results.

    counted: floating-point operations that our side carried out; rates: the machine's own, a second, one for each
    repetition, taken right after it. scores: ours and the peer's, where scores are compared.
    """
    job: Job
    model: str
    threads: int
    ours: tuple[float, ...]
    peer: tuple[float, ...]
    difference: float
    counted: float = 0
    rates: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()

    @property
    def ratio(self) -> float:
        return median(self.peer) / median(self.ours)

    @property
    def share(self) -> float:
        """Median over repetitions of our rate as a part of the machine's own."""
        return median(self.counted / seconds / rate for seconds, rate in zip(self.ours, self.rates))

    @property
    def verdicts(self) -> dict[str, bool]:
        """What had to be reached, and whether it was."""
        same, targeted = COMPARISONS[self.job.compare][0], self.model == self.job.on
        judged = self.job.compare != "scores" or (targeted and self.job.target is not None)
        found = {same: self.difference <= self.job.tolerance} if judged else {}
        if targeted and self.job.target is not None:
            found[f"{self.job.target:g}x"] = self.ratio >= self.job.target
            if self.job.share is not None:
                found[f"{self.job.share:.0%} of the matrix rate"] = self.share >= self.job.share
        if targeted and self.job.within is not None:
            found[f"within {self.job.within:g} s"] = median(self.ours) <= self.job.within
        return found


@dataclass(frozen=True)
class Growth:
    """Our residual map of `prompts` prompts: seconds of every repetition; bytes held before and at most during it."""
    prompts: int
    model: str
    threads: int
    seconds: tuple[float, ...]
    before: int
    peak: int


def seconds_of(answers: Sequence[Answer]) -> tuple[float, ...]:
    return tuple(answer.seconds for answer in answers)


def measure(job: Job, ours: Worker, peer: Worker, *, model: str, layers: int, threads: int, repetitions: int) -> Pair:
    """One warm-up of each side (ours counts its arithmetic there), then both in turns."""
    settings = job.settings_for(layers)
    warm_up = ours(job.work, settings | job.warm_up, count=True)
    peer(job.work, settings | job.warm_up)
    sides: list[Callable[[], Answer]] = [partial(ours, job.work, settings), partial(peer, job.work, settings)]
    if job.share is not None:
        largest = [product for product in warm_up.products if product[2] >= NEGLIGIBLE * warm_up.counted]
        sides.insert(1, partial(ours, "matrix_rate", dict(rows=RATE_ROWS, products=largest)))
        sides[1]()
    answers = in_turns(sides, min(repetitions, job.repetitions or repetitions))
    compare = COMPARISONS[job.compare][1]
    difference = max(compare(a.arrays, b.arrays) for a, b in zip(answers[0], answers[-1]))
    scores = tuple(float(own[0].arrays["iia"]) for own in (answers[0], answers[-1])) if job.compare == "scores" else ()
    rates = tuple(float(answer.arrays["rate"]) for answer in answers[1]) if job.share is not None else ()
    return Pair(job, model, threads, seconds_of(answers[0]), seconds_of(answers[-1]), difference, warm_up.counted or 0,
                rates, scores)


def pairs(jobs: Sequence[Job], pythons: dict[str, Path], folder: Path, *, threads: int, repetitions: int,
          versions: dict[str, dict], ours: str = "ours") -> Iterator[Pair]:
    """All jobs on one model with one number of threads. pythons: the interpreter of each side; fills `versions`."""
    jobs = [job for job in jobs if not job.only or job.on == folder.name]
    if not jobs:
        return
    layers = json.loads((folder / "config.json").read_text(encoding="utf-8"))["n_layer"]
    with ExitStack() as stack:
        workers = {side: stack.enter_context(Worker(pythons[side], side, folder, threads))
                   for side in dict.fromkeys([ours, *(job.peer for job in jobs)])}
        versions |= {side: worker.versions for side, worker in workers.items()}
        for job in jobs:
            yield measure(job, workers[ours], workers[job.peer], model=folder.name, layers=layers, threads=threads,
                          repetitions=repetitions)


def growth(python: Path, folder: Path, *, threads: int, repetitions: int, versions: dict[str, dict]) -> list[Growth]:
    """Every number of prompts in a process of its own, in turns; the highest of the peaks counts."""
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(python, "ours", folder, threads)) for _ in GROWTH]
        versions["ours"] = workers[0].versions
        sides = [partial(worker, "growth", dict(prompts=prompts, batch_size=GROWTH_BATCH))
                 for worker, prompts in zip(workers, GROWTH)]
        first = [side() for side in sides]          # the warm-up; memory before it is that of the loaded model
        answers = in_turns(sides, repetitions)
    return [Growth(prompts, folder.name, threads, seconds_of(own), int(warm.arrays["before"]),
                   max(int(answer.arrays["peak"]) for answer in [warm, *own]))
            for prompts, warm, own in zip(GROWTH, first, answers)]


def growth_verdicts(rows: Sequence[Growth]) -> dict[str, bool]:
    """Time for each prompt and peak memory, against those of the smallest number of prompts."""
    per_prompt = [median(row.seconds) / row.prompts for row in rows]
    return {"time linear or better": max(per_prompt) <= SLACK * per_prompt[0],
            "peak memory flat": max(row.peak for row in rows) <= SLACK * rows[0].peak}
