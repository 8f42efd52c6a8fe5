"""The builder: what it makes, what it refuses, what --check reports. And: our own notebooks keep the rules."""
import copy
import json
import os
import subprocess
import sys

import pytest
from tiny import EXERCISE, EXERCISE_TEXT, ROOT, Course, code, good_cells, markdown, notebook

from utils.authoring import build, first_cell, lint
from utils.authoring.__main__ import main
from utils.authoring.derive import stub
from utils.authoring.execute import tidy
from utils.authoring.notebook import code_cells, render

ADDRESS = "https://github.com/someone/a-course"


def command(course, *arguments):
    """Exit code of `python -m utils.authoring` in a tiny course."""
    return main(list(arguments), root=course.root)


def files(course):
    return {path: path.read_bytes() for path in sorted(course.root.glob("*/*.ipynb"))}


# ---------------------------------------------------------------- our own notebooks

def test_this_course_is_in_step_and_keeps_the_rules():
    found = build.problems(ROOT)
    assert not found, "\n".join(found)


def test_no_file_names_a_path_of_one_machine():
    if not (ROOT / ".git").exists():
        pytest.skip("no git here, so nothing says which files belong to the course")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True,
                            check=True)
    found = []
    for name in listed.stdout.splitlines():
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        if name.endswith(".ipynb") or name == "tests/authoring/test_lint.py":
            continue          # notebooks are linted cell by cell; this file holds wrong examples
        found += [f"{name}: {match[0]}" for match in lint.MACHINE_PATH.finditer(text)]
    assert not found


# ---------------------------------------------------------------- building

def test_builds_stub_clears_outputs_keeps_ids_drops_remarks(tiny_course):
    cells = good_cells()
    cells[-3]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "6\n"}]
    cells[-3]["execution_count"] = 8
    tiny_course.add(*cells)
    assert command(tiny_course) == 0
    built = tiny_course.read()
    kept = [cell["id"] for cell in cells[1:] if cell["id"] != "remark"]
    assert [cell["id"] for cell in built["cells"]] == ["title", "setup", *kept]
    assert tiny_course.text("ex0") == ('def double(x):\n    """Twice x."""\n    # YOUR CODE HERE: add x to itself\n'
                                       '    raise NotImplementedError\n\ndouble = check("99.1 double", double)')
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells(built))
    assert tiny_course.cell("use", folder="solutions")["outputs"]        # the source keeps its own
    assert not lint.lint_course(built, tiny_course.root / "course" / "99_demo.ipynb")


def test_is_byte_stable(tiny_course):
    tiny_course.add(*good_cells())
    command(tiny_course)
    before = files(tiny_course)
    command(tiny_course)
    assert files(tiny_course) == before
    assert build.build(tiny_course.root) == []


def test_region_at_the_margin_becomes_an_ellipsis():
    text = "import math\n# BEGIN SOLUTION: guess\nhalf = 1\nlayer = half + 2\n# END SOLUTION\nprint(layer)"
    assert stub(text, "layer") == "import math\n# YOUR CODE HERE: guess\nlayer = ...\nprint(layer)"


def test_several_regions_keep_their_indentation():
    text = ("def f(x):\n    # BEGIN SOLUTION: one\n    a = 1\n    # END SOLUTION\n    if x:\n"
            "        # BEGIN SOLUTION: two\n        return a\n        # END SOLUTION")
    assert stub(text, "f") == ("def f(x):\n    # YOUR CODE HERE: one\n    raise NotImplementedError\n    if x:\n"
                               "        # YOUR CODE HERE: two\n        raise NotImplementedError")


def exercise(text, *following):
    return [markdown("text", EXERCISE_TEXT), code("bad", text, "exercise"), *following]


INSIDE = EXERCISE.replace("    return x + x", "    # BEGIN SOLUTION: again\n    return x + x\n    # END SOLUTION")
REFUSED = {
    "region outside an exercise": ([code("bad", EXERCISE)], "only in a cell tagged exercise"),
    "no END": (exercise(EXERCISE.replace("    # END SOLUTION\n", "")), "has no # END SOLUTION"),
    "no BEGIN": (exercise(EXERCISE.replace("    # BEGIN SOLUTION: add x to itself\n", "")), "has no # BEGIN SOLUTION"),
    "nested": (exercise(INSIDE), "begins inside another"),
    "no hint": (exercise(EXERCISE.replace(": add x to itself", "")), "has no hint"),
    "empty hint": (exercise(EXERCISE.replace("add x to itself", " ")), "has no hint"),
    "misspelt marker": (exercise(EXERCISE.replace("# END SOLUTION", "#END SOLUTION")), "must stand alone"),
    "no region": (exercise('double = 2\ndouble = check("99.1 double", double)'), "needs a solution region"),
    "no check": (exercise(EXERCISE.rsplit("\n", 1)[0]), "not followed by a line like name = check"),
    "check not assigned": (exercise(EXERCISE.replace("double = check", "check")), "not followed by a line"),
    "check in the next exercise only": (exercise(EXERCISE.rsplit("\n", 1)[0], code("next", EXERCISE, "exercise")),
                                        "not followed by a line"),
    "margin defines another name": (exercise('# BEGIN SOLUTION: x\nother = 1\n# END SOLUTION\na = check("99.2 a", a)'),
                                    "does not define a"),
    "stub is no Python": (exercise('def f():\n    x = (\n    # BEGIN SOLUTION: x\n    1\n    # END SOLUTION\n    )\n'
                                   'f = check("99.1 f", f)'), "not plain Python"),
    "no id": ([{k: v for k, v in code("bad", "1").items() if k != "id"}], "cell 2 has no id"),
    "repeated id": ([code("bad", "1"), code("bad", "2")], "the cell id bad is used 2 times"),
    "setup not first": ([code("bad", "1"), code("setup", "2")], "the cell setup is generated and must be the first"),
    "reserved id": ([markdown("badges", "1")], "badges is kept for the generated cell"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case, tiny_course, capsys):
    cells, fragment = REFUSED[case]
    tiny_course.add(*good_cells(), name="00_good.ipynb")
    tiny_course.add(markdown("title", "# Bad"), *copy.deepcopy(cells), name="01_bad.ipynb")
    before = files(tiny_course)
    assert command(tiny_course) == 1
    sentences = capsys.readouterr().err.splitlines()
    assert len(sentences) == 1 and fragment in sentences[0] and "solutions/01_bad.ipynb" in sentences[0]
    assert "cell bad" in sentences[0] or case in ("no id", "repeated id", "setup not first", "reserved id")
    assert files(tiny_course) == before, "something was written although one notebook was refused"
    assert command(tiny_course, "--check") == 1


def test_reports_every_problem_at_once(tiny_course, capsys):
    tiny_course.add(code("one", EXERCISE), code("two", EXERCISE))
    assert command(tiny_course) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("text, fragment", [("not json", "no Jupyter notebook"),
                                            ('{"cells": []}', "no Jupyter notebook"),
                                            ('{"nbformat": 4, "nbformat_minor": 4, "cells": []}', "has no cell ids")])
def test_refuses_what_is_no_notebook(text, fragment, tiny_course, capsys):
    (tiny_course.root / "solutions" / "x.ipynb").write_text(text)
    assert command(tiny_course) == 1 and fragment in capsys.readouterr().err


# ---------------------------------------------------------------- --check

@pytest.fixture(scope="module")
def executed_notebook(tmp_path_factory):
    """The bytes of a solution that breaks no rule, with its outputs."""
    root = tmp_path_factory.mktemp("executed") / "tiny"
    root.mkdir()
    path = Course(root).add(*good_cells())
    assert main(["--execute"], root=root) == 0
    return path.read_bytes()


@pytest.fixture
def executed(tiny_course, executed_notebook):
    """A tiny course that breaks no rule."""
    (tiny_course.root / "solutions" / "99_demo.ipynb").write_bytes(executed_notebook)
    assert command(tiny_course) == 0
    assert build.problems(tiny_course.root) == []
    return tiny_course


def edit(path, change):
    content = json.loads(path.read_text())
    change(content["cells"])
    path.write_text(render(content))


def test_check_reports_files_out_of_step(executed, capsys):
    built, written = executed.root / "course" / "99_demo.ipynb", executed.root / "solutions" / "99_demo.ipynb"
    good = built.read_bytes(), written.read_bytes()

    def one_problem():
        assert command(executed, "--check") == 1
        sentences = capsys.readouterr().err.splitlines()
        built.write_bytes(good[0]), written.write_bytes(good[1])
        assert len(sentences) == 1, sentences
        return sentences[0]

    edit(built, lambda cells: cells[0].update(source="# Mine"))
    assert "course/99_demo.ipynb is not what solutions/99_demo.ipynb gives: it was edited by hand" in one_problem()
    edit(written, lambda cells: cells[0].update(source="# New title"))
    assert "or is out of date" in one_problem()
    built.unlink()
    assert "course/99_demo.ipynb is missing" in one_problem()
    (executed.root / "course" / "old.ipynb").write_bytes(good[0])
    assert "course/old.ipynb: there is no solutions/old.ipynb behind it" in one_problem()
    (executed.root / "course" / "old.ipynb").unlink()
    assert command(executed, "--check") == 0


def test_execute_is_byte_stable_and_keeps_ids(executed):
    before = files(executed)
    assert command(executed, "--execute", "99") == 0
    assert files(executed) == before
    outputs = executed.cell("use", folder="solutions")["outputs"]
    assert outputs == [{"name": "stdout", "output_type": "stream", "text": ["6\n"]}]
    counts = [c["execution_count"] for c in executed.read("solutions")["cells"] if c["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_execute_is_strict_and_names_the_failing_cell(tiny_course, capsys):
    cells = good_cells()
    cells[4]["source"] = EXERCISE.replace("    return x + x", "    raise NotImplementedError")
    path = tiny_course.add(*cells)
    command(tiny_course)
    before = path.read_bytes()
    assert command(tiny_course, "--execute") == 1
    error = capsys.readouterr().err
    assert "solutions/99_demo.ipynb, cell ex0" in error and "not attempted, and COURSE_STRICT=1" in error
    assert path.read_bytes() == before


def test_execute_runs_in_the_folder_of_the_notebook(tiny_course):
    tiny_course.add(code("where", "from pathlib import Path\nprint(Path.cwd().name)"))
    assert command(tiny_course, "--execute") == 0
    assert tiny_course.cell("where", folder="solutions")["outputs"][0]["text"] == ["solutions\n"]


def test_execute_of_an_unknown_notebook_names_the_nearest(tiny_course, capsys):
    tiny_course.add(*good_cells())
    assert command(tiny_course, "--execute", "98_demo") == 1
    assert capsys.readouterr().err.strip() == 'There is no solution notebook "98_demo": did you mean \'99_demo.ipynb\'?'


def test_tidy_drops_what_changes_from_run_to_run():
    kept = {"output_type": "execute_result", "data": {"text/plain": "1"}, "metadata": {}, "execution_count": 1}
    cell = code("a", "1", execution_count=17, metadata={"execution": {"busy": "2024"}, "tags": ["exercise"]}, outputs=[
        {"output_type": "stream", "name": "stderr", "text": "50%|"},
        {"output_type": "display_data", "data": {"application/vnd.jupyter.widget-view+json": {}}, "metadata": {}},
        {**kept, "metadata": {"x": 1}, "execution_count": 17}])
    metadata = {"widgets": {}, "language_info": {"version": "3.11.7"}}
    result = tidy({**notebook(cell, code("b", "")), "metadata": metadata})
    assert "widgets" not in result["metadata"] and result["metadata"]["language_info"] == {"name": "python"}
    assert result["cells"][0]["metadata"] == {"tags": ["exercise"]}
    assert result["cells"][0]["outputs"] == [kept]
    assert [c["execution_count"] for c in result["cells"]] == [1, None]


# ---------------------------------------------------------------- address and badges

def test_without_an_address_there_is_no_link(tiny_course):
    tiny_course.add(*good_cells())
    readme = tiny_course.root / "README.md"
    readme.write_text("# Course\n<!-- badges -->\nold\n<!-- /badges -->\nend\n")
    command(tiny_course)
    assert readme.read_text() == "# Course\n<!-- badges -->\n<!-- /badges -->\nend\n"
    text = "".join(path.read_text() for path in tiny_course.root.glob("*/*.ipynb"))
    assert "http" not in text and "git" not in text.replace("digit", "")


def test_the_address_reaches_first_cells_badges_and_readme(tiny_course):
    tiny_course.add(*good_cells())
    readme = tiny_course.root / "README.md"
    readme.write_text("# Course\n<!-- badges -->\n<!-- /badges -->\n")
    command(tiny_course)
    tiny_course.set_address(ADDRESS + ".git")
    assert command(tiny_course, "--check") == 1
    assert command(tiny_course) == 0
    assert tiny_course.read()["cells"][0]["id"] == "badges"
    assert f"{ADDRESS}\"" in tiny_course.text("setup") and "--branch=v1" in tiny_course.text("setup")
    for text in (tiny_course.text("badges"), readme.read_text()):
        assert "gh/someone/a-course/v1?labpath=course%2F99_demo.ipynb" in text
        assert "github/someone/a-course/blob/v1/course/99_demo.ipynb" in text
    tiny_course.set_address("")
    command(tiny_course)
    assert "http" not in readme.read_text() and tiny_course.read()["cells"][0]["id"] == "title"


def test_a_new_first_cell_keeps_the_outputs(executed):
    outputs = executed.cell("setup", folder="solutions")["outputs"]
    executed.set_address(ADDRESS)
    command(executed)
    assert outputs and executed.cell("setup", folder="solutions")["outputs"] == outputs
    assert build.problems(executed.root) == []


def test_a_lesson_may_name_its_model(executed):
    """By a tag on its first cell."""
    path = executed.root / "solutions" / "99_demo.ipynb"
    setup = lambda cells: next(cell for cell in cells if cell["id"] == "setup")
    edit(path, lambda cells: setup(cells)["metadata"].update(tags=["model=sentiment-bert"]))
    assert command(executed) == 0
    assert 'MODEL = "sentiment-bert"\n' in executed.text("setup") and build.problems(executed.root) == []
    assert 'MODEL = "course-gpt2"\n' in first_cell.first_cell(first_cell.settings(executed.root))["source"]


@pytest.mark.parametrize("address", ["github.com/a/b", "https://github.com/a", "https://example.org/a/b"])
def test_refuses_an_address_that_binder_and_colab_cannot_open(address, tiny_course, capsys):
    tiny_course.set_address(address)
    assert command(tiny_course) == 1
    assert "repository must be" in capsys.readouterr().err


def test_a_readme_without_place_for_badges_is_reported(tiny_course, capsys):
    (tiny_course.root / "README.md").write_text("# Course\n")
    assert command(tiny_course) == 0
    tiny_course.set_address(ADDRESS)
    assert command(tiny_course) == 1 and "no place for the badges" in capsys.readouterr().err


# ---------------------------------------------------------------- the module runs as a command, and nbval is strict

def test_runs_as_a_module():
    ran = subprocess.run([sys.executable, "-m", "utils.authoring", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0 and "--execute" in ran.stdout


def test_nbval_runs_solutions_strictly_and_the_course_not(tiny_course):
    """One pytest process, its environment the wrong way round for either folder."""
    show = 'import os\nassert os.environ["COURSE_STRICT"] == "{}", os.environ["COURSE_STRICT"]'
    tiny_course.add(*good_cells()[:5], code("strict", show.format(1)))
    command(tiny_course)
    edit(tiny_course.root / "course" / "99_demo.ipynb", lambda cells: cells[-1].update(source=show.format(0)))
    tiny_course.add(*good_cells()[:2], code("stub", EXERCISE.replace("return x + x", "raise NotImplementedError")),
                    name="98_stub.ipynb")
    edit(tiny_course.root / "solutions" / "98_stub.ipynb", lambda cells: cells.insert(1, first_cell.first_cell(
        first_cell.settings(tiny_course.root))))
    (tiny_course.root / "tests").mkdir()
    for strict in ("0", "1"):
        ran = subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--color=no"],
                             cwd=tiny_course.root, capture_output=True, text=True,
                             env={**os.environ, "COURSE_STRICT": strict})
        failed = [line for line in ran.stdout.splitlines() if line.startswith("FAILED")]
        assert len(failed) == 1 and "98_stub.ipynb::Cell 2" in failed[0], ran.stdout
        assert "not attempted, and COURSE_STRICT=1" in ran.stdout
