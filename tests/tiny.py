"""A tiny course in a temporary folder, for the tests of the builder, nbval and the first cell."""
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

EXERCISE_TEXT = """### Exercise 99.1 · double
*difficulty 1 of 5 · 2 minutes*

<details><summary>Hint</summary>

Add.

</details>"""
EXERCISE = '''def double(x):
    """Twice x."""
    # BEGIN SOLUTION: add x to itself
    return x + x
    # END SOLUTION

double = check("99.1 double", double)'''
REGISTER = '''from utils.checks import call, check, close, exercise

@exercise("99.1 double", reference=lambda x: x + x, difficulty=1, minutes=2)
def _(attempt):
    close(call(attempt, 3.0), 6.0)'''


def markdown(cell_id, text, *tags):
    return {"cell_type": "markdown", "id": cell_id, "metadata": {"tags": list(tags)} if tags else {}, "source": text}


def code(cell_id, text, *tags, **more):
    return {**markdown(cell_id, text, *tags), "cell_type": "code", "execution_count": None, "outputs": [], **more}


def notebook(*cells):
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def good_cells():
    """A notebook that breaks no rule once it is built and executed."""
    cells = [markdown("title", "# 99 Demo"), code("register", REGISTER),
             markdown("question", "## Spot the bug\n\n> **Predict.** What is twice three?")]
    for number in range(5):
        cells += [markdown(f"ex{number}-text", EXERCISE_TEXT), code(f"ex{number}", EXERCISE, "exercise")]
    return cells + [markdown("remark", "For instructors.", "solution"),
                    code("use", "# NBVAL_CHECK_OUTPUT\nprint(double(3))"),
                    code("again", "# NBVAL_CHECK_OUTPUT\ndouble(4)"),
                    markdown("doubt", "## What this does not show\n\nThat it works for 5.")]


def link(real: Path, folder: Path, *own: str):
    """Make a folder of links to what `real` holds; along the path `own`, and in it, it is a folder of its own."""
    folder.mkdir()
    for path in real.iterdir():
        if own and path.name == own[0]:
            link(path, folder / path.name, *own[1:])
        elif own or not path.name.startswith("nb"):
            (folder / path.name).symlink_to(path)


class Course:
    """A course folder: `utils` is the real one without its references, the notebooks are those you add."""

    def __init__(self, root: Path):
        self.root = root
        link(ROOT / "utils", root / "utils", "checks", "references")
        for name in ("solutions", "course"):
            (root / name).mkdir()
        for name in ("pyproject.toml", "conftest.py", "requirements.txt"):
            (root / name).write_text((ROOT / name).read_text())
        self.set_address("")

    def set_address(self, address):
        lines = (self.root / "pyproject.toml").read_text().splitlines()
        lines = [f'repository = "{address}"' if line.startswith("repository =") else line for line in lines]
        (self.root / "pyproject.toml").write_text("\n".join(lines) + "\n")

    def add(self, *cells, name="99_demo.ipynb", folder="solutions"):
        path = self.root / folder / name
        path.write_text(json.dumps(notebook(*cells)))
        return path

    def read(self, folder="course", name="99_demo.ipynb"):
        return json.loads((self.root / folder / name).read_text())

    def cell(self, cell_id, **where):
        return next(cell for cell in self.read(**where)["cells"] if cell["id"] == cell_id)

    def text(self, cell_id, **where):
        return "".join(self.cell(cell_id, **where)["source"])
