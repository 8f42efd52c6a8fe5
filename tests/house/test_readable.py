"""Read in one sitting: short modules, short functions, and a function that has a name is written with def."""
import ast
from pathlib import Path

import pytest

from utils.authoring.notebook import code_cells, read, source

ROOT = Path(__file__).resolve().parents[2]
MODULES = {str(path.relative_to(ROOT)): path for folder in ("utils", "tests", "docs") for path in (ROOT / folder).rglob("*.py")}
NOTEBOOKS = sorted((ROOT / "solutions").glob("*.ipynb"))


def lines_of(function):
    """Lines of a function without its docstring."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    return function.end_lineno - function.lineno + 1 - (docstring.end_lineno - docstring.lineno + 1 if docstring else 0)


def long_functions(text, most=40):
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    return {node.name: n for node in found if (n := lines_of(node)) > most}


def named_lambdas(text):
    """The lines on which a lambda gets a name."""
    kinds = (ast.Assign, ast.AnnAssign, ast.NamedExpr)
    values = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    parts = [part for value in values for part in (value.elts if isinstance(value, ast.Tuple) else [value])]
    return [part.lineno for part in parts if isinstance(part, ast.Lambda)]


def test_modules():
    long = {name: n for name, path in MODULES.items() if (n := len(path.read_text(encoding="utf-8").splitlines())) > 350}
    assert len(MODULES) > 150 and not long


def test_functions():
    long = {name: found for name, path in MODULES.items() if (found := long_functions(path.read_text(encoding="utf-8")))}
    assert not long


def test_functions_with_a_name():
    """In the package; in the notebooks it is up to the next test."""
    found = {name: lines for name, path in MODULES.items() if name.startswith("utils")
             and (lines := named_lambdas(path.read_text(encoding="utf-8")))}
    assert not found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_functions_with_a_name_in_notebooks(path):
    texts = {cell["id"]: source(cell).replace("%matplotlib inline", "") for cell in code_cells(read(path))}
    assert not {cell: lines for cell, text in texts.items() if (lines := named_lambdas(text))}


def test_what_is_long_or_nameless_is_found():
    """The rules can break."""
    text = 'def f(x):\n    """Of two\n    lines."""\n' + "    x += 1\n" * 41
    assert long_functions(text) == {"f": 42} and not long_functions(text, 42)
    assert named_lambdas("a = lambda: 1\nb, c = 2, lambda: 3\nif d := lambda: 4:\n    sorted(a, key=lambda x: x)") == [1, 2, 3]
