"""The two sets of jobs that are measured and reported together."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from . import report
from .alignment import jobs as alignment
from .alignment.notes import NOTES
from .environment import ADDER
from .jobs import JOBS, SHIPPED, TARGETED, Job


@dataclass(frozen=True)
class Suite:
    """What is measured, on which models, and where it is written down.

    ours: our side; small: what a job becomes in a quick look, on the model `tiny`; grows: is growth measured too?
    """
    title: str
    jobs: tuple[Job, ...]
    models: tuple[str, ...]
    ours: str
    notes: str
    results: str
    unfinished: str
    tiny: str
    small: Callable[[Job], Job]
    repetitions: int
    grows: bool

    @property
    def names(self) -> list[str]:
        return [*(job.name for job in self.jobs), *(["growth"] if self.grows else [])]


SUITES = {
    "engine": Suite("Benchmarks", JOBS, (TARGETED, SHIPPED), "ours", report.NOTES, "RESULTS.md", "unfinished.jsonl",
                    "tiny-shape", lambda job: job, 5, True),
    "alignment": Suite("Benchmarks of alignment search", alignment.JOBS, (alignment.SHAPE, ADDER), "alignment.ours",
                       NOTES, "RESULTS-alignment.md", "unfinished-alignment.jsonl", "tiny-classifier", alignment.small, 3,
                       False),
}
