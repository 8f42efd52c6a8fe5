"""A lesson's variables after its last cell, so that tests can hold what its prose says against them.

The tests of tests/lessons_run that use the fixture `lesson` run in the kernel in which nbval has just executed the
lesson's solution (`run_tests_in_kernel`). Where nbval executed none, because only these tests were asked for, the
lesson's cells run in this process (`run_lesson`).
"""
import ast
import contextlib
import io
import json
import re
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parents[1]
VARIABLES = {}          # in a solution's kernel: the variables of the notebook
FAILURES = {}           # in the process of the tests: {test that ran in a kernel: how it failed, "" if it passed}


def run_lesson(number, model=None, *, replace=()):
    """The variables of the notebook after its last cell, and what each cell printed under "printed".

    The first cell is left out; model: what MODEL is to be instead. replace: (cell, old text, new text), to measure less or
    something else; the old text must occur once.
    """
    matplotlib.use("Agg")
    [notebook] = (ROOT / "solutions").glob(f"{number}_*.ipynb")
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}
    [own_model] = re.findall('^MODEL = "(.+?)"', code.pop("setup"), re.MULTILINE)
    for cell, old, new in replace:
        assert code[cell].count(old) == 1, f"{old!r} must stand once in the cell {cell}"
        code[cell] = code[cell].replace(old, new)
    names = {"__name__": "lesson", "MODEL": model or own_model, "printed": {}}
    for cell, source in code.items():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(source, cell, "exec"), names)
        names["printed"][cell] = printed.getvalue()
    return names


# ---------------------------------------------------------------- in the kernel of a solution

def run_tests_in_kernel(notebook, items, timeout=300):
    """Run the tests of a lesson in the kernel that executed its solution, and note in FAILURES how they ended.

    notebook: nbval's collector, which holds the kernel. Nothing is run unless all cells were.
    """
    cells = [item for item in items if item.parent is notebook and item.test_outputs is not None]
    if len(cells) < sum(cell.cell_type == "code" for cell in notebook.nb.cells):
        return
    file = ROOT / "tests" / "lessons_run" / f"test_lesson_{notebook.path.name[:2]}.py"
    tests = [item.nodeid for item in items if item.path == file and wants_the_lesson(item)]
    printed = {item.cell.id: "".join(out.text for out in item.test_outputs if out.get("name") == "stdout") for item in cells}
    code = (f"import sys; sys.path.append({str(ROOT / 'tests')!r})\n"
            f"__import__('lessons').run_tests_here({tests!r}, globals() | {{'printed': {printed!r}}})")
    reply = notebook.kernel.kc.execute_interactive(
        code, store_history=False, timeout=timeout, output_hook=lambda message: None,
        user_expressions={"failures": "__import__('lessons').FAILURES"})["content"]
    if reply["status"] == "ok":
        FAILURES.update(ast.literal_eval(reply["user_expressions"]["failures"]["data"]["text/plain"]))
    if not FAILURES.keys() >= set(tests):
        raise RuntimeError(f"{file.name} did not run in the lesson's kernel: {reply.get('evalue', 'no result')}")


def wants_the_lesson(item):
    """True for a test with the fixture `lesson` of tests/lessons_run/conftest.py; a module may have one of its own."""
    return "lesson" in item.fixturenames and not hasattr(item.module, "lesson")


def run_tests_here(tests, variables):
    """Called in the kernel: fills FAILURES."""
    class Note:
        def pytest_runtest_logreport(self, report):
            if report.failed or report.when == "call":
                FAILURES[report.nodeid] = "" if report.passed else report.longreprtext or report.outcome
    VARIABLES.update(variables)
    pytest.main([*(str(ROOT / test) for test in tests), "-o", "addopts=", "-p", "no:cacheprovider",
                 "--disable-plugin-autoload"], plugins=[Note()])
