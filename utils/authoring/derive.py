"""From one solution notebook to the notebook a student opens."""
from __future__ import annotations

import ast
import re
import symtable
import textwrap
from collections import Counter
from pathlib import Path

from .first_cell import Settings, badges
from .notebook import METADATA, Refused, code_cells, is_exercise, source, tags, where

BEGIN = re.compile(r"(?P<indent>\s*)# BEGIN SOLUTION(?P<hint>.*)")
END = re.compile(r"\s*# END SOLUTION\s*")
MARKER = re.compile(r"#\s*(BEGIN|END)[ _-]*SOLUTION", re.I)


def student_version(notebook: dict, path: Path, chosen: Settings) -> dict:
    """The course notebook of a solution notebook: regions emptied, remarks dropped, outputs cleared, cell ids kept.

    Raises Refused with one sentence for each thing wrong; `path` is the solution notebook and appears in them.
    """
    problems = structure_problems(notebook, path)
    cells = []
    for number, cell in enumerate(notebook["cells"]):
        try:
            if "solution" not in tags(cell):
                cells.append(_student_cell(cell, checked_name(notebook["cells"], number)))
        except ValueError as error:
            problems.append(f"{where(path, cell)}: {error}")
    if problems:
        raise Refused(problems)
    if chosen.repository:
        cells.insert(0, {"cell_type": "markdown", "id": "badges", "metadata": {}, "source": badges(path.name, chosen)})
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def structure_problems(notebook: dict, path: Path) -> list[str]:
    """One sentence for each missing or repeated cell id, and for a first cell that is not where it belongs."""
    ids = [cell.get("id") for cell in notebook["cells"]]
    problems = [f"{where(path)}: cell {number} has no id." for number, found in enumerate(ids) if not found]
    problems += [f"{where(path)}: the cell id {found} is used {count} times."
                 for found, count in Counter(ids).items() if found and count > 1]
    if "badges" in ids:
        problems.append(f"{where(path)}: the cell id badges is kept for the generated cell of course/.")
    code = code_cells(notebook)
    if "setup" in ids and code[0].get("id") != "setup":
        problems.append(f"{where(path)}: the cell setup is generated and must be the first code cell.")
    return problems


def checked_name(cells: list[dict], number: int) -> tuple[str, str] | None:
    """(exercise, name) of `name = check("exercise", name)`, last in exercise cell `number` or in the next code cell.

    None if the cell is no exercise. Raises ValueError if there is no such line.
    """
    if not is_exercise(cells[number]):
        return None
    following = [cell for cell in cells[number + 1:] if cell["cell_type"] == "code"][:1]
    for cell in [cells[number], *(cell for cell in following if not is_exercise(cell))]:
        for statement in reversed(parsed(source(cell)).body):
            if call := check_call(statement):
                return call
    raise ValueError('the exercise is not followed by a line like name = check("3.2 name", name).')


def check_call(statement: ast.stmt) -> tuple[str, str] | None:
    """(exercise, name) if the statement is `name = check("exercise", name)`."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)],
                        value=ast.Call(func=ast.Name(id="check"),
                                       args=[ast.Constant(value=str(exercise)), ast.Name(id=same)])) if name == same:
            return exercise, name
    return None


def bound(statements: ast.AST) -> set[str]:
    """The names that statements of a cell bind there; not what is bound inside a function of theirs."""
    symbols = symtable.symtable(ast.unparse(statements), "cell", "exec").get_symbols()
    return {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}


def parsed(text: str) -> ast.Module:
    """The syntax tree of a cell; magics are left out. Raises ValueError with the line that is not plain Python."""
    try:
        return ast.parse("\n".join("" if line.startswith("%") else line for line in text.split("\n")))
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno} is not plain Python: {error.msg}.") from None


def _student_cell(cell: dict, checked: tuple[str, str] | None) -> dict:
    kept = {"metadata": {"tags": tags(cell)} if tags(cell) else {}}
    if cell["cell_type"] != "code":
        extra = {"attachments": cell["attachments"]} if cell.get("attachments") else {}
        return {"cell_type": cell["cell_type"], "id": cell.get("id"), "source": source(cell), **kept, **extra}
    text = source(cell)
    if checked:
        text = stub(text, checked[1])
        parsed(text)
    elif MARKER.search(text):
        raise ValueError("a solution region is allowed only in a cell tagged exercise.")
    return {"cell_type": "code", "id": cell.get("id"), "source": text, "execution_count": None, "outputs": [], **kept}


def stub(text: str, name: str) -> str:
    """The text of an exercise cell with every solution region emptied; `name` is what the cell's check line tests.

    An indented region becomes its hint and `raise NotImplementedError`. A region at the margin must define `name` and
    becomes its hint and `name = ...`: raising there would stop the notebook. Raises ValueError for a broken region.
    """
    lines, region, begin, count = [], None, None, 0
    for line in text.split("\n"):
        if found := BEGIN.fullmatch(line):
            if region is not None:
                raise ValueError("a solution region begins inside another one.")
            if not found["hint"].startswith(":") or not found["hint"][1:].strip():
                raise ValueError("a solution region has no hint: write # BEGIN SOLUTION: one-line hint.")
            region, begin, count = [], found, count + 1
        elif END.fullmatch(line):
            if region is None:
                raise ValueError("# END SOLUTION has no # BEGIN SOLUTION before it.")
            lines += _emptied(begin["indent"], begin["hint"][1:].strip(), region, name)
            region = None
        elif MARKER.search(line):
            raise ValueError(f'"{line.strip()}" must stand alone, as # BEGIN SOLUTION: hint or # END SOLUTION.')
        else:
            (lines if region is None else region).append(line)
    if region is not None:
        raise ValueError("# BEGIN SOLUTION has no # END SOLUTION after it.")
    if not count:
        raise ValueError("an exercise cell needs a solution region, # BEGIN SOLUTION: hint to # END SOLUTION.")
    return "\n".join(lines)


def _emptied(indent: str, hint: str, region: list[str], name: str) -> list[str]:
    if indent:
        return [f"{indent}# YOUR CODE HERE: {hint}", f"{indent}raise NotImplementedError"]
    if name not in bound(parsed(textwrap.dedent("\n".join(region)))):
        raise ValueError(f"the solution region at the margin does not define {name}, which the check line tests.")
    return [f"# YOUR CODE HERE: {hint}", f"{name} = ..."]
