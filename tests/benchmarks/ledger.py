"""What an interrupted run leaves for the next: every measurement is written down as soon as it is made."""
from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from hashlib import sha256
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Sequence

from .environment import HERE
from .jobs import JOBS, Job
from .measure import Growth, Pair


def code(side: str = "ours") -> str:
    """Changes with any file of the course that our side loads, any file of the benchmark, and the versions of libraries."""
    ours = import_module(f".{side}", __package__)
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "utils" and module.__file__]
    files = {*HERE.glob("*.py"), *Path(ours.__file__).parent.glob("*.py"), *(Path(module.__file__) for module in modules)}
    versions = [version(name) for name in ours.PACKAGES]
    return sha256(b"".join([*(file.read_bytes() for file in sorted(files)), repr(versions).encode()])).hexdigest()


class Ledger:
    """One line of JSON for each measurement; those of other code or another number of repetitions do not count."""

    def __init__(self, path: Path, key: str, jobs: Sequence[Job] = JOBS):
        self.path, self.key, self.versions, self.jobs = path, key, {}, jobs
        self.pairs: list[Pair] = []
        self.growth: list[Growth] = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            entry = json.loads(line)
            if entry.pop("key") == key:
                self._take(**entry)

    def _take(self, versions: dict, pair: dict | None = None, growth: Sequence[dict] = ()) -> None:
        self.versions |= versions
        self.growth += [Growth(**row | {"seconds": tuple(row["seconds"])}) for row in growth]
        if pair:
            numbers = {name: tuple(value) if isinstance(value, list) else value for name, value in pair.items()}
            self.pairs.append(Pair(**numbers | {"job": next(job for job in self.jobs if job.name == pair["job"])}))

    def add(self, versions: dict, pair: Pair | None = None, growth: Sequence[Growth] = ()) -> None:
        numbers = asdict(replace(pair, job=pair.job.name)) if pair else None
        entry = dict(versions=versions, pair=numbers, growth=[asdict(row) for row in growth])
        self._take(**json.loads(json.dumps(entry)))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry | {"key": self.key}) + "\n")

    def has(self, name: str, model: str, threads: int) -> bool:
        return any((pair.job.name, pair.model, pair.threads) == (name, model, threads) for pair in self.pairs)

    def has_growth(self, threads: int) -> bool:
        return any(row.threads == threads for row in self.growth)

    def close(self) -> None:
        """Everything was measured and reported: the next run begins anew."""
        self.path.unlink(missing_ok=True)
