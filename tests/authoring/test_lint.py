"""The rules for notebooks: each bad notebook is reported in one sentence, and good ones are left in peace."""
import copy

import pytest
from tiny import EXERCISE, Course, code, good_cells, markdown

from utils.authoring import first_cell, lint
from utils.authoring.__main__ import main


def printing(text):
    return code("bad", "1", outputs=[{"output_type": "stream", "name": "stdout", "text": text}])


def displaying(kind, value, cell_id="bad"):
    return code(cell_id, "1", outputs=[{"output_type": "display_data", "metadata": {}, "data": {kind: value}}])


BAD_CELLS = {
    "shell": (code("bad", "!ls"), "is not plain Python"),
    "shell in an assignment": (code("bad", "x = !ls"), "is not plain Python"),
    "magic": (code("bad", "%timeit 1"), "is not plain Python"),
    "cell magic": (code("bad", "%%bash\nls"), "is not plain Python"),
    "hidden magic": (code("bad", 'get_ipython().run_line_magic("time", "1")'), "a magic in disguise"),
    "absolute path": (code("bad", 'open("/data/set/x.csv")'), "is an absolute path"),
    "home": (code("bad", 'open("~/x.csv")'), "is an absolute path"),
    "drive": (code("bad", r'open("C:\\x.csv")'), "is an absolute path"),
    "machine path in text": (markdown("bad", "Look into /home/me/course."), "a path of one machine"),
    "long cell": (code("bad", "\n".join("1" * 16)), "16 lines, at most 15"),
    "bare figure": (displaying("image/png", "abc"), "without alt text"),
    "empty alt": (displaying("text/html", '<figure><img alt="" src="data:x"></figure>'), "has no alt text"),
    "no alt": (displaying("text/html", '<img src="data:x">'), "has no alt text"),
    "memory address": (printing("<f at 0x7fbe436884a0>"), "memory address"),
    "machine path in an output": (printing("in /home/me/x"), "its output names a path"),
    "error": (code("bad", "1", outputs=[{"output_type": "error", "ename": "E", "traceback": []}]), "is an error"),
    "stored widget": (displaying("application/vnd.jupyter.widget-view+json", {}), "a widget"),
}
GOOD_CELLS = {
    "matplotlib": code("fine", "%matplotlib inline"),
    "relative path and a slash": code("fine", 'name = "/"\nprint(f"{name}/x/y", "a/b/c")'),
    "figure": displaying("text/html", '<figure><img alt="A map." src="data:x;base64,/home/a"></figure>', "fine"),
    "latex": markdown("fine", r"$Q:\mathbb{R}$ and https://example.org/home/x"),
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A notebook without problems, with its path and settings; executed once for all lint tests."""
    course = Course(tmp_path_factory.mktemp("lint"))
    path = course.add(*good_cells())
    assert main(["--execute"], root=course.root) == 0
    return course.read("solutions"), path, first_cell.settings(course.root)


def problems(clean, *cells, drop=(), **changes):
    """Sentences of the linter for the clean notebook with cells added at the front part, dropped or changed."""
    content, path, chosen = copy.deepcopy(clean[0]), clean[1], clean[2]
    content["cells"] = [cell for cell in content["cells"] if cell["id"] not in drop]
    for cell in content["cells"]:
        cell["source"] = changes.get(cell["id"], cell["source"])
    content["cells"][3:3] = cells
    for count, cell in enumerate((c for c in content["cells"] if c["cell_type"] == "code"), start=1):
        cell["execution_count"] = count
    return lint.lint(content, path, chosen)


@pytest.mark.parametrize("case", BAD_CELLS)
def test_lint_finds(case, clean):
    cell, fragment = BAD_CELLS[case]
    found = problems(clean, copy.deepcopy(cell))
    assert len(found) == 1 and fragment in found[0] and "solutions/99_demo.ipynb, cell bad" in found[0]


@pytest.mark.parametrize("case", GOOD_CELLS)
def test_lint_allows(case, clean):
    assert problems(clean, copy.deepcopy(GOOD_CELLS[case])) == []


def test_lint_allows_long_exercises_only(clean):
    body = lambda count: EXERCISE.replace("    return x + x", "    x = x\n" * count + "    return x + x")
    assert problems(clean, ex0=body(20)) == []
    assert any("at most 30" in text for text in problems(clean, ex0=body(30)))


@pytest.mark.parametrize("changes, fragment", [
    ({"drop": ["ex4"]}, "it has 4 exercises"),
    ({"ex0-text": "Do it. <details>h</details>"}, "does not say \"difficulty N of 5"),
    ({"ex0-text": "difficulty 1 of 5 · 2 minutes"}, "has no hint in <details>"),
    ({"question": "## Find it\n\n> **Predict.** x"}, 'no heading says "spot the bug"'),
    ({"question": "Spot the bug\n```\n# spot the bug\n```\n> **Predict.** x"}, 'no heading says "spot the bug"'),
    ({"question": "## Spot the bug"}, "> **Predict.**"),
    ({"doubt": "What this does not show"}, "its last section is not headed"),
    ({"doubt": "## What this does not show\n\n## More"}, "its last section is not headed"),
    ({"use": "print(6)"}, "at least two cells must carry # NBVAL_CHECK_OUTPUT"),
    ({"setup": 'MODEL = "gpt2"'}, "its first code cell is not the generated one"),
])
def test_lint_misses(changes, fragment, clean):
    found = problems(clean, **changes)
    assert len(found) == 1 and fragment in found[0]


def test_lint_finds_widget_state_and_disorder(clean):
    content, path, chosen = copy.deepcopy(clean[0]), clean[1], clean[2]
    content["metadata"]["widgets"] = {}
    assert "metadata.widgets" in lint.lint(content, path, chosen)[0]
    del content["metadata"]["widgets"]
    code_cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    code_cells[1]["execution_count"], code_cells[2]["execution_count"] = 3, 2
    assert "not executed from top to bottom" in lint.lint(content, path, chosen)[0]


def test_lint_of_the_course_finds_leftovers(clean):
    found = lint.lint_course(clean[0], clean[1])
    assert any("holds outputs" in text for text in found) and any("still holds a solution" in text for text in found)
