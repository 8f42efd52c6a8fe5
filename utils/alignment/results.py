"""One results file for a sweep that may be interrupted: JSON lines, the first of which says where all others come from.

Each cell of the sweep writes all its lines at once, as soon as it is done. What an interruption cut short is dropped
and computed again; a file that is damaged in any other way is refused and left as it is.
"""
from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, Sequence

import pandas as pd
from tqdm import tqdm

from ..errors import CourseError

Cell = tuple
UNIMPORTANT = ("command", "started")    # entries of the provenance that may differ when a sweep goes on


@dataclass(frozen=True)
class Layout:
    """What a line holds. cell: the fields that name a cell; fields: all of them; lines: how many each cell writes."""
    cell: tuple[str, ...]
    fields: tuple[str, ...]
    lines: int

    def check(self, line: bytes) -> dict:
        """The record of a line. Raises ValueError, in a few words, for one that cannot be right."""
        record = json.loads(line)
        if not isinstance(record, dict) or set(record) != set(self.fields):
            raise ValueError(f"it does not hold the fields {', '.join(self.fields)}")
        if not 0 <= record["low"] <= record["iia"] <= record["high"] <= 1:
            raise ValueError("its IIA is no share, or lies outside its interval")
        return record

    def cell_of(self, record: dict) -> Cell:
        return tuple(record[name] for name in self.cell)


@dataclass(frozen=True)
class Found:
    """What a file holds: provenance, complete cells' records, and the number of bytes up to where it is complete."""
    provenance: dict | None
    records: list[dict]
    size: int


def read(path: Path, layout: Layout | None = None) -> Found:
    """Parse a results file; `layout` None takes the one in its first line. Raises CourseError, naming the line."""
    whole = path.read_bytes() if path.exists() else b""
    lines = whole.splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()                         # cut short
    if not lines:
        return Found(None, [], 0)
    number, records, done = 1, [], set()
    try:
        header = json.loads(lines[0])
        provenance = header["provenance"]
        layout = layout or Layout(tuple(header["cell"]), tuple(header["fields"]), header["lines"])
        for number, line in enumerate(lines[1:], 2):
            records.append(layout.check(line))
            cell, place = layout.cell_of(records[-1]), (number - 2) % layout.lines
            if place and cell != layout.cell_of(records[-2]):
                raise ValueError("it belongs to another cell than the line before, which lacks lines")
            if not place and cell in done:
                raise ValueError("its cell is there already")
            done.add(cell)
    except (ValueError, KeyError, TypeError) as error:
        unreadable = isinstance(error, (json.JSONDecodeError, UnicodeDecodeError))
        what = "is no JSON" if unreadable else f"is damaged ({error})"
        raise CourseError(f"line {number} of {path.name} {what}; nothing was written: mend or remove the lines of its "
                          "cell, or name another file") from None
    complete = len(records) - len(records) % layout.lines
    return Found(provenance, records[:complete], sum(map(len, lines[:1 + complete])))


def read_results(path: str | Path) -> tuple[dict, pd.DataFrame]:
    """Provenance and records of a results file, sorted by cell. Raises CourseError if it is missing or damaged."""
    path = Path(path)
    found = read(path)
    if found.provenance is None:
        raise CourseError(f"there are no results in {path.name!r}: run the sweep first")
    table = pd.DataFrame(found.records)
    if len(table):
        table = table.sort_values(list(table.columns[:3]), kind="stable", ignore_index=True)
    return found.provenance, table


def run_cells(path: str | Path, provenance: dict, layout: Layout, cells: Sequence[Cell],
              work: Callable[[Cell], list[dict]], *, workers: int = 1, progress: str | None = None) -> int:
    """Do the cells that the file lacks, append their records, and return how many that were.

    `work` takes a cell and gives its records; with several workers it must be picklable, and only this process writes.
    Raises CourseError for a damaged file, and for one that another sweep wrote.
    """
    import joblib

    path = Path(path)
    found = read(path, layout)
    if found.provenance is not None:
        _require_same(path, found.provenance, provenance)
    done = {layout.cell_of(record) for record in found.records}
    todo = [cell for cell in cells if tuple(cell) not in done]
    bar = tqdm(total=len(cells), initial=len(cells) - len(todo), desc=progress, disable=progress is None, leave=False)
    with path.open("ab") as file:
        file.truncate(found.size)
        if found.provenance is None:
            _append(file, [{"provenance": provenance, "cell": layout.cell, "fields": layout.fields,
                            "lines": layout.lines}])
        jobs = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")
        for records in jobs(joblib.delayed(work)(cell) for cell in todo):
            if len(records) != layout.lines:
                raise RuntimeError(f"a cell gave {len(records)} records instead of {layout.lines}")
            _append(file, records)
            bar.update()
    bar.close()
    return len(todo)


def _append(file, records: Iterable[dict]) -> None:
    file.write("".join(json.dumps(record) + "\n" for record in records).encode())
    file.flush()
    os.fsync(file.fileno())


def _require_same(path: Path, old: dict, new: dict) -> None:
    for name in dict.fromkeys([*old, *new]):
        if name not in UNIMPORTANT and old.get(name) != json.loads(json.dumps(new.get(name))):
            raise CourseError(f"{path.name} comes from another sweep ({name} is {old.get(name)!r} there and "
                              f"{new.get(name)!r} here); nothing was written: name another file")
