"""From the exercise cells of a solution notebook to the references that `check` hands to who has not attempted them."""
from __future__ import annotations

import ast
import builtins
import symtable
from contextlib import suppress
from pathlib import Path

from .derive import MARKER, bound, check_call, checked_name, parsed
from .notebook import Refused, code_cells, is_exercise, source, where

FOLDER = Path("utils", "checks", "references")
HEAD = '''"""Derived from the exercise cells of solutions/{} by python -m utils.authoring."""
from __future__ import annotations
'''


def module_path(root: Path, path: Path) -> Path:
    """Where the references of the solution notebook `path` stand: nb03.py for 03_*.ipynb."""
    return root / FOLDER / f"nb{path.name[:2]}.py"


def references(notebook: dict, path: Path) -> str:
    """The text of a module that defines what each exercise is checked for, as solved; "" without exercises.

    From each exercise cell it takes what the checked name depends on, without the marks of the solution, and from all
    cells the imports that this needs. Raises Refused with one sentence for each name that comes from nowhere.
    """
    imports, defined, needed, problems = _imports(notebook), {}, {}, []
    for number, cell in enumerate(notebook["cells"]):
        if not is_exercise(cell):
            continue
        name = checked_name(notebook["cells"], number)[1]
        defined[name], used = _definition(source(cell), name)
        for other in sorted(used - defined.keys() - vars(builtins).keys()):
            if other in imports:
                needed[other] = imports[other]
            else:
                problems.append(f"{where(path, cell)}: {name} uses {other}, which is neither imported, nor made in this "
                                "cell, nor an exercise before it.")
    if problems:
        raise Refused(problems)
    head = "\n".join([HEAD.format(path.name), *_import_lines(needed)])
    return "\n\n\n".join([head, *defined.values()]) + "\n" if defined else ""


def _definition(text: str, name: str) -> tuple[str, set[str]]:
    """The statements of a cell on which `name` depends, as text, and the names that these need from elsewhere."""
    lines, wanted, made, kept = text.split("\n"), {name}, set(), []
    for statement in reversed(parsed(text).body):
        if check_call(statement) or not bound(statement) & wanted:
            continue
        first = min([statement.lineno, *(node.lineno for node in getattr(statement, "decorator_list", []))])
        own = "\n".join(line for line in lines[first - 1:statement.end_lineno] if not MARKER.search(line))
        kept.append(own)
        made |= bound(statement)
        wanted |= _read(own)
    apart = "\n\n\n" if any("\ndef " in f"\n{own}" for own in kept) else "\n"
    return apart.join(reversed(kept)), wanted - made


def _read(text: str) -> set[str]:
    """The names that statements read of the notebook, at once or when a function of theirs is called."""
    module = symtable.symtable(text, "cell", "exec")
    tables = [module]
    for table in tables:          # grows as it is walked
        tables += table.get_children()
    return {symbol.get_name() for table in tables for symbol in table.get_symbols()
            if symbol.is_referenced() and (table is module or symbol.is_global())}


def _imports(notebook: dict) -> dict[str, tuple[str, str]]:
    """{name: (module, what of it)} for the imports of all cells; the module is "" where it is itself imported."""
    found = {}
    for cell in code_cells(notebook):
        with suppress(ValueError):          # no plain Python: for the rules of lint
            for node in parsed(source(cell)).body:
                module = getattr(node, "module", "")
                for alias in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else []:
                    found[alias.asname or alias.name.split(".")[0]] = module, ast.unparse(alias)
    return found


def _import_lines(needed: dict[str, tuple[str, str]]) -> list[str]:
    """One line for each module, `import ...` first."""
    lines = [f"import {what}" for module, what in needed.values() if not module]
    for wanted in {module for module, _ in needed.values() if module}:
        parts = sorted(what for module, what in needed.values() if module == wanted)
        lines.append(f"from {wanted} import {', '.join(parts)}")
    return sorted(lines, key=lambda line: (line.startswith("from"), line))
