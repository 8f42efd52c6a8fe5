"""What each exercise asks for is written once, in the solution notebook; the builder derives what the checks hand back."""
import ast
import copy
import re
import sys

import pytest
from tiny import EXERCISE, EXERCISE_TEXT, ROOT, code, good_cells, markdown

from utils import checks
from utils.authoring.__main__ import main
from utils.authoring.notebook import code_cells, is_exercise, read, source

REFERENCES = ROOT / "utils" / "checks" / "references"
ONE_LINE = {"orthonormal_columns": "a QR has no second form: alignment.subspaces.orthonormal is the package's own"}


def exercise(cell_id, name, text):
    text = f'{text}\n{name} = check("99.1 {name}", {name})'
    return [markdown(f"{cell_id}-text", EXERCISE_TEXT), code(cell_id, text, "exercise")]


def derived(course, *cells):
    """The module that the builder derives from these cells: its text and what it defines."""
    course.add(markdown("title", "# Demo"), *cells)
    assert main([], root=course.root) == 0
    text = (course.root / "utils" / "checks" / "references" / "nb99.py").read_text()
    names = {}
    exec(compile(text, "nb99.py", "exec"), names)          # its own names, nothing of the notebook
    return text, names


# ---------------------------------------------------------------- written once

def test_every_reference_is_the_derived_one():
    for name, found in checks.registry().items():
        if not name.startswith("99."):
            assert found.own_reference is None, f"{name} writes its reference itself, and the solution notebook does so too"


class Plain(ast.NodeTransformer):
    """A function without what may differ between two copies: docstring, annotations, decorators, names."""

    def __init__(self):
        self.names = {}

    def visit(self, node):
        for field in {"name", "id", "arg"} & set(node._fields):
            setattr(node, field, self.names.setdefault(getattr(node, field), f"name {len(self.names)}"))
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef):
            node.returns, node.decorator_list = None, []
            node.body = node.body[ast.get_docstring(node) is not None:]
        return self.generic_visit(node)


def trees(found):
    """{syntax tree without what may differ: name} of functions."""
    return {ast.dump(Plain().visit(copy.deepcopy(node))): node.name for node in found if isinstance(node, ast.FunctionDef)}


def functions(text):
    """The trees of all functions in a text but the checks, which are all called _."""
    return trees(node for node in ast.walk(ast.parse(text)) if getattr(node, "name", "_") != "_")


def solved():
    """The trees of what the exercise cells define."""
    paths = sorted((ROOT / "solutions").glob("*.ipynb"))
    texts = [source(cell) for path in paths for cell in code_cells(read(path)) if is_exercise(cell)]
    return {tree: name for text in texts for tree, name in trees(ast.parse(text).body).items()}


def test_no_solution_is_written_a_second_time():
    """Not even under other names: solution cells against all functions of the package."""
    answers = {tree: name for tree, name in solved().items() if name not in ONE_LINE}
    assert len(answers) > 60
    twice = [f"{path.relative_to(ROOT)}: {name} is {answers[tree]} of the solution notebooks"
             for path in sorted((ROOT / "utils").rglob("*.py")) if path.parent != REFERENCES
             for tree, name in functions(path.read_text(encoding="utf-8")).items() if tree in answers]
    assert not twice, "\n".join(twice)


def test_a_copy_is_found_under_other_names():
    text = (REFERENCES / "nb03.py").read_text(encoding="utf-8")
    disguised = re.sub(r"\bresid\b|\bfound\b", "stream", text).replace("def patch_residual", "def mine")
    assert disguised != text
    assert set(functions(disguised)) == set(functions(text))
    assert set(trees(ast.parse(disguised).body)) <= set(solved())


def test_derived_modules_are_read_only_when_asked_for():
    """Lesson 04 needs transformer_lens, which takes seconds to import."""
    for module in [name for name in sys.modules if name.startswith("utils.checks.references.")]:
        del sys.modules[module]
    checks.registry()
    assert "utils.checks.references.nb04" not in sys.modules
    assert checks.registry()["4.7 donors"].reference(1) == {2: 1}


# ---------------------------------------------------------------- derived

def test_takes_the_function_without_the_marks(tiny_course):
    text, names = derived(tiny_course, *good_cells()[1:])
    assert names["double"](4) == 8 and "SOLUTION" not in text and "check" not in text.split('"""')[2]
    assert 'def double(x):\n    """Twice x."""\n    return x + x\n' in text


def test_takes_what_the_answer_depends_on(tiny_course):
    """Imports of other cells, statements of the same cell, exercises before it; and nothing else."""
    given = code("load", "import math, random\nfrom collections import Counter as Bag, deque\nunused = deque()")
    first = exercise("one", "half", "# BEGIN SOLUTION: half\nlogs = math.log(4)\nhalf = logs / 2\n# END SOLUTION\nprint(1)")
    second = exercise("two", "count", "PLACES = [1, 1]\nshown = 3\n\ndef count():\n    # BEGIN SOLUTION: count\n"
                                      "    return Bag(PLACES), half\n    # END SOLUTION\n")
    text, names = derived(tiny_course, given, *first, *second)
    assert names["count"]() == ({1: 2}, names["half"]) and names["half"] == pytest.approx(0.6931, abs=1e-4)
    assert "import math\nfrom collections import Counter as Bag\n" in text
    assert not any(word in text for word in ("random", "deque", "unused", "shown", "print"))


def test_keeps_decorators_and_functions_inside(tiny_course):
    text = ("from functools import cache\n\n@cache\ndef outer(n):\n    # BEGIN SOLUTION: add\n    def inner(k):\n"
            "        return k + n\n\n    return [inner(i) for i in range(2)]\n    # END SOLUTION\n")
    text, names = derived(tiny_course, *exercise("one", "outer", text))
    assert names["outer"](1) == [1, 2] and hasattr(names["outer"], "cache_info")


def test_refuses_what_depends_on_the_notebook(tiny_course, capsys):
    """A name that a cell before it makes: the checks would not have it."""
    text = EXERCISE.split("\n\n")[0].replace("x + x", "factor * x")
    tiny_course.add(markdown("title", "# Demo"), code("load", "factor = 2"), *exercise("one", "double", text))
    assert main([], root=tiny_course.root) == 1
    assert ("solutions/99_demo.ipynb, cell one: double uses factor, which is neither imported, nor made in this cell, nor "
            "an exercise before it.") in capsys.readouterr().err


def test_check_reports_references_out_of_step(tiny_course, capsys):
    tiny_course.add(*good_cells())
    assert main(["--execute"], root=tiny_course.root) == 0
    module = tiny_course.root / "utils" / "checks" / "references" / "nb99.py"
    capsys.readouterr()

    def one_problem():
        assert main(["--check"], root=tiny_course.root) == 1
        return capsys.readouterr().err

    module.write_text(module.read_text().replace("x + x", "2 * x"))
    assert "references/nb99.py is not what solutions/99_*.ipynb gives: it was edited by hand" in one_problem()
    module.unlink()
    assert "references/nb99.py is missing" in one_problem()
    assert main([], root=tiny_course.root) == 0
    module.with_name("nb98.py").write_text("")
    assert "references/nb98.py: there is no solutions/98_*.ipynb behind it" in one_problem()
