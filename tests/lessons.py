"""A lesson's own cells run in this process, so that tests can hold what its prose says against its variables."""
import contextlib
import io
import json
from pathlib import Path

import matplotlib

SOLUTIONS = Path(__file__).resolve().parents[1] / "solutions"


def run_lesson(number, model=None, *, skip=(), replace=()):
    """The variables of the notebook after its last cell, and what each cell printed under "printed".

    The first cell is left out; model: what it would call MODEL. skip: cells on which nothing depends. replace: (cell,
    old text, new text), to measure less or something else; the old text must occur once.
    """
    matplotlib.use("Agg")
    [notebook] = SOLUTIONS.glob(f"{number}_*.ipynb")
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code" and cell["id"] != "setup"}
    for cell, old, new in replace:
        assert code[cell].count(old) == 1, f"{old!r} must stand once in the cell {cell}"
        code[cell] = code[cell].replace(old, new)
    assert set(skip) <= code.keys(), "cells to skip must exist"
    names = {"__name__": "lesson", "MODEL": model, "printed": {}}
    for cell, source in code.items():
        if cell not in skip:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
                exec(compile(source, cell, "exec"), names)
            names["printed"][cell] = printed.getvalue()
    return names
