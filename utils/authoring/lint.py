"""The rules for notebooks that a machine can hold us to; every problem is one sentence."""
from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Iterator

from .first_cell import Settings, first_cell
from .notebook import code_cells, is_exercise, output_text, source, tags, where

PLAIN, LONG = 15, 30          # most lines of a code cell; of an exercise or the first cell
MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/(?:home|Users|root|tmp|mnt|opt|work|workspace|private|var)/\w|"
                          r"\b[A-Z]:\\(?:Users|Windows|Program|Temp)")
ABSOLUTE = re.compile(r"(/[\w.-]+){2,}/?|~/.*|[A-Za-z]:[\\/].*")
RATING = re.compile(r"difficulty ([1-5]) of 5 · (\d+) minutes")
HEADING = re.compile(r"^#{1,6} .*", re.M)


def lint(notebook: dict, path: Path, chosen: Settings) -> list[str]:
    """All problems of one solution notebook."""
    rules = (_source_problems(notebook), _output_problems(notebook), _execution_problems(notebook),
             _exercise_problems(notebook), _story_problems(notebook))
    problems = [f"{where(path, cell)}: {text}" for rule in rules for cell, text in rule]
    first = code_cells(notebook)[:1]
    if not first or source(first[0]) != first_cell(chosen, tags(first[0]))["source"]:
        problems.append(f"{where(path)}: its first code cell is not the generated one; run python -m utils.authoring.")
    return problems


def lint_course(notebook: dict, path: Path) -> list[str]:
    """Problems of one course notebook: leftovers of the solution."""
    problems = ["it holds metadata.widgets."] if "widgets" in notebook["metadata"] else []
    for cell in code_cells(notebook):
        if cell["outputs"] or cell["execution_count"] is not None:
            problems.append(f"cell {cell['id']} holds outputs or an execution count.")
        if "SOLUTION" in source(cell):
            problems.append(f"cell {cell['id']} still holds a solution.")
    return [f"{where(path)}: {text}" for text in problems]


def _source_problems(notebook: dict) -> Iterator[tuple[dict | None, str]]:
    if "widgets" in notebook["metadata"]:
        yield None, "it holds metadata.widgets; run it again with python -m utils.authoring --execute."
    for cell in notebook["cells"]:
        if found := MACHINE_PATH.search(source(cell)):
            yield cell, f"it names a path of one machine, {found[0]}..."
    for cell in code_cells(notebook):
        lines = source(cell).split("\n")
        limit = LONG if is_exercise(cell) or cell.get("id") == "setup" else PLAIN
        if len(lines) > limit:
            yield cell, f"it has {len(lines)} lines, at most {limit} are allowed."
        plain = [line for line in lines if line.strip() != "%matplotlib inline"]
        try:
            tree = ast.parse("\n".join(plain))
        except SyntaxError as error:
            line = plain[(error.lineno or 1) - 1].strip()
            yield cell, f'"{line}" is not plain Python: no ! and no magic but %matplotlib inline.'
            continue
        inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values[1:]}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node not in inside and ABSOLUTE.fullmatch(str(node.value)):
                yield cell, f'"{node.value}" is an absolute path.'
            if isinstance(node, ast.Name) and node.id == "get_ipython":
                yield cell, "get_ipython() is a magic in disguise."


def _output_problems(notebook: dict) -> Iterator[tuple[dict, str]]:
    for cell in code_cells(notebook):
        for kind, text in output_text(cell):
            if kind.startswith("image/"):
                yield cell, f"its figure is a bare {kind} without alt text: show it with show(figure, alt=...)."
            if kind == "text/html":
                images = re.findall(r"<img\b[^>]*>", text)
                if any(not re.search(r'alt="[^"]*[^"\s][^"]*"', image) for image in images):
                    yield cell, "its figure has no alt text: show it with show(figure, alt=...)."
            if kind == "application/vnd.jupyter.widget-view+json":
                yield cell, "it stores a widget; give a static fallback."
            elif kind in ("stream", "text/plain", "text/html"):
                if found := MACHINE_PATH.search(re.sub(r'src="data:[^"]*"', "", text)):
                    yield cell, f"its output names a path of one machine, {found[0]}..."
                if re.search(r" at 0x[0-9a-f]{6,}", text):
                    yield cell, "its output shows a memory address, which changes with every run."


def _execution_problems(notebook: dict) -> Iterator[tuple[dict | None, str]]:
    code = [cell for cell in code_cells(notebook) if source(cell).strip()]
    counts = [cell.get("execution_count") for cell in code]
    if counts != list(range(1, len(code) + 1)):
        yield None, "it is not executed from top to bottom; run python -m utils.authoring --execute."
    for cell in code:
        if any(output["output_type"] == "error" for output in cell.get("outputs", [])):
            yield cell, "its stored output is an error."
    if sum(bool(re.search(r"^\s*# NBVAL_CHECK_OUTPUT\s*$", source(cell), re.M)) for cell in code) < 2:
        yield None, "at least two cells must carry # NBVAL_CHECK_OUTPUT."


def _exercise_problems(notebook: dict) -> Iterator[tuple[dict | None, str]]:
    cells = notebook["cells"]
    numbers = [number for number, cell in enumerate(cells) if is_exercise(cell)]
    if len(numbers) < 5:
        yield None, f"it has {len(numbers)} exercises, at least five are needed."
    for number in numbers:
        text = next((source(cell) for cell in cells[number::-1] if cell["cell_type"] == "markdown"), "")
        if not RATING.search(text):
            yield cells[number], 'the text before the exercise does not say "difficulty N of 5 · M minutes".'
        if "<details>" not in text:
            yield cells[number], "the text before the exercise has no hint in <details>."


def _story_problems(notebook: dict) -> Iterator[tuple[None, str]]:
    texts = [source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    prose = re.sub(r"^```.*?^```", "", "\n\n".join(texts), flags=re.M | re.S)    # a comment in code is no heading
    headings = HEADING.findall(prose)
    if not any("spot the bug" in heading.lower() for heading in headings):
        yield None, 'no heading says "spot the bug".'
    if not any("> **Predict.**" in text for text in texts):
        yield None, "there is no block that begins > **Predict.**"
    if not headings or "what this does not show" not in headings[-1].lower():
        yield None, 'its last section is not headed "What this does not show".'
