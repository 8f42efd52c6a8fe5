"""Runs solution notebooks and keeps what they print, without anything that changes from run to run."""
from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from .notebook import METADATA, Refused, render, source, where, write

WIDGET = "application/vnd.jupyter.widget-view+json"


def run(path: Path, *, strict: bool, cwd: Path | None = None, timeout: int = 300) -> dict:
    """The notebook in `path` after running it in `cwd` (its own folder) under COURSE_STRICT=`strict`; writes nothing.

    Raises Refused naming the cell, with its error, if one fails.
    """
    notebook = nbformat.read(path, as_version=4)
    started: list[dict] = []
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", coalesce_streams=True,
                            on_cell_start=lambda cell, cell_index: started.append(cell),
                            resources={"metadata": {"path": str(cwd or path.parent)}})
    environment = {**os.environ, "COURSE_STRICT": "1" if strict else "0", "HF_HUB_OFFLINE": "1"}
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        raise Refused([f"{where(path, started[-1])}: {error.ename}: {error.evalue.splitlines()[0]}"]) from error
    return json.loads(nbformat.writes(notebook))


def execute(path: Path) -> bool:
    """Run the solution notebook in `path` with COURSE_STRICT=1, store its outputs; returns whether the file changed."""
    return write(path, render(tidy(run(path, strict=True))))


def tidy(notebook: dict) -> dict:
    """The notebook without timestamps, widget state and progress bars (stderr), its code cells counted from 1."""
    cells, count = [], 0
    for cell in notebook["cells"]:
        cell = {**cell, "metadata": {key: value for key, value in cell["metadata"].items() if key == "tags"}}
        if cell["cell_type"] == "code":
            ran = bool(source(cell).strip())
            count += ran
            cell["outputs"] = [_tidy_output(output, count) for output in cell["outputs"] if not _volatile(output)]
            cell["execution_count"] = count if ran else None
        cells.append(cell)
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def _volatile(output: dict) -> bool:
    return output.get("name") == "stderr" or WIDGET in output.get("data", {})


def _tidy_output(output: dict, count: int) -> dict:
    output = {key: value for key, value in output.items() if key != "transient"}
    if "metadata" in output:
        output["metadata"] = {}
    return {**output, "execution_count": count} if output["output_type"] == "execute_result" else output
