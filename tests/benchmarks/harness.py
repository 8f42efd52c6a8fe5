"""Two processes that take turns: one works while the other waits, and their results are compared number by number."""
from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Sequence

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
Arrays = dict[str, np.ndarray]
TOLERANCE = 1e-4                # largest difference allowed, as a share of the range of the peer's numbers


class BenchmarkError(RuntimeError):
    """A side stopped, or two sides gave results that cannot be compared."""


@dataclass(frozen=True)
class Answer:
    """What one piece of work took and gave. counted: its floating-point operations, if the side counts them; products:
    (inputs, outputs, operations) for each shape of matrix."""
    seconds: float
    arrays: Arrays = field(repr=False)
    counted: float | None = None
    products: list[list[int]] = field(default_factory=list)


class Worker:
    """One side, loaded once, in its own process. Use it as a context manager."""

    def __init__(self, python: str | Path, side: str, model: Path, threads: int):
        self.side, self._scratch = side, tempfile.TemporaryDirectory()
        self._log = open(Path(self._scratch.name) / "log", "w+", encoding="utf-8")
        limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self._process = subprocess.Popen(
            [str(python), "-m", "benchmarks.worker", side, str(model), str(threads)], text=True, cwd=TESTS.parent,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            env={**os.environ, **limits, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
                 "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"})
        try:
            self.versions = self._hear()["versions"]
        except BenchmarkError:
            self.__exit__()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._log.close()
        self._scratch.cleanup()

    def _hear(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise BenchmarkError(f"{self.side} stopped:\n{self._log.read()[-2000:]}")
        return json.loads(line)

    def __call__(self, work: str, settings: dict, *, count: bool = False) -> Answer:
        out = Path(self._scratch.name) / "out.npz"
        request = dict(work=work, settings=settings, out=str(out), count=count)
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass                                    # the log, read below, says why
        heard = self._hear()
        with np.load(out) as arrays:
            return Answer(heard["seconds"], dict(arrays), heard["counted"], heard["products"])


def in_turns(sides: Sequence[Callable[[], Answer]], repetitions: int) -> list[list[Answer]]:
    """The answers of every side: A B A B ..., `repetitions` of each."""
    answers: list[list[Answer]] = [[] for _ in sides]
    for _ in range(repetitions):
        for side, own in zip(sides, answers):
            own.append(side())
    return answers


# ---------------------------------------------------------------- the comparison of results

def _require_comparable(ours: Arrays, peer: Arrays) -> None:
    if ours.keys() != peer.keys() or any(ours[name].shape != peer[name].shape for name in peer):
        shapes = [{name: array.shape for name, array in side.items()} for side in (ours, peer)]
        raise BenchmarkError(f"the results cannot be compared: {shapes[0]} against {shapes[1]}")
    if not all(np.isfinite(array).all() for side in (ours, peer) for array in side.values()):
        raise BenchmarkError("a result is not finite")


def _require_variety(numbers: np.ndarray) -> None:
    if np.ptp(numbers) == 0:
        raise BenchmarkError("all numbers of the peer are the same: the prompts or the model were chosen badly")


def largest_difference(ours: Arrays, peer: Arrays) -> float:
    """Largest absolute difference as a share of the range of the peer's numbers.

    Raises BenchmarkError if names or shapes differ, a number is not finite, or the peer's numbers are all the same
    (then equal results would mean nothing).
    """
    _require_comparable(ours, peer)
    a, b = (np.concatenate([side[name].astype(np.float64).ravel() for name in peer]) for side in (ours, peer))
    _require_variety(b)
    return float(np.abs(a - b).max() / np.ptp(b))


def largest_lead(ours: Arrays, peer: Arrays) -> float:
    """How far from a tie the peer was, at most, where the two sides give different "classes"; 0 if none differs.

    The peer's "lead" is the distance from its best logit to the second, as a share of the range of all its logits:
    rounding can change a class only where it is tiny. Raises BenchmarkError as `largest_difference` does.
    """
    _require_comparable(ours, {"classes": peer["classes"]})
    _require_variety(peer["classes"])
    return float(peer["lead"][ours["classes"] != peer["classes"]].max(initial=0.0))


def largest_shortfall(ours: Arrays, peer: Arrays) -> float:
    """By how much a score of ours is below the peer's, at most; negative if all are above.

    Raises BenchmarkError if names or shapes differ or a score is not finite.
    """
    _require_comparable(ours, peer)
    return float(max((peer[name] - ours[name]).max() for name in peer))


COMPARISONS = {"numbers": ("same numbers", largest_difference), "classes": ("same classes", largest_lead),
               "scores": ("IIA not lower", largest_shortfall)}
