"""Notebooks as plain JSON: read, render, write. nbformat would mend missing ids silently, and we want to see them."""
from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).resolve().parents[2]
METADATA = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"}}


class Refused(Exception):
    """What the builder will not build; `problems` holds one sentence each."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


def read(path: Path) -> dict:
    """The notebook in `path`; raises Refused if it is not one of format 4.5 or later (the first with cell ids)."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        version = notebook["nbformat"], notebook["nbformat_minor"]
        notebook["cells"]
    except (ValueError, KeyError, TypeError):
        raise Refused([f"{where(path)}: this is no Jupyter notebook."]) from None
    if version < (4, 5):
        raise Refused([f"{where(path)}: notebook format {version[0]}.{version[1]} has no cell ids, 4.5 is needed."])
    return notebook


def render(notebook: dict) -> str:
    """The text of a notebook, always the same for the same content and laid out as Jupyter saves it."""
    cells = [{**cell, "source": source(cell).splitlines(keepends=True)} for cell in notebook["cells"]]
    return json.dumps({**notebook, "cells": cells}, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def write(path: Path, text: str) -> bool:
    """Replace `path` by `text` at once, never half; returns whether it changed."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return True


def source(cell: dict) -> str:
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def tags(cell: dict) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def is_exercise(cell: dict) -> bool:
    return cell["cell_type"] == "code" and "exercise" in tags(cell)


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def output_text(cell: dict) -> Iterator[tuple[str, str]]:
    """All text of the outputs of a cell as (mime type, text); printed text has the type "stream"."""
    def joined(value):
        return "".join(value) if isinstance(value, list) else value

    for output in cell.get("outputs", []):
        if output["output_type"] == "stream":
            yield "stream", joined(output["text"])
        for kind, value in output.get("data", {}).items():
            yield kind, joined(value) if isinstance(value, (str, list)) else json.dumps(value)


def where(path: Path, cell: dict | None = None) -> str:
    """`solutions/00_start.ipynb`, with the cell id if a cell is meant: how every sentence begins."""
    name = f"{path.parent.name}/{path.name}"
    return f"{name}, cell {cell.get('id', '(no id)')}" if cell else name
