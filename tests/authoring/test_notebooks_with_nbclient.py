"""One notebook of each folder run by nbclient, which catches what nbval lets pass; and runs from other folders."""
import ast
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from tiny import ROOT, code, good_cells

from utils.authoring.build import build
from utils.authoring.execute import run
from utils.authoring.notebook import Refused, read


def smallest(folder):
    """The first notebook, 00, which is the smallest one."""
    found = sorted((ROOT / folder).glob("*.ipynb"))
    if not found:
        pytest.skip(f"{folder}/ holds no notebook yet")
    return found[0]


def test_course_runs_in_its_own_folder():
    run(smallest("course"), strict=False)


def test_solution_runs_strictly_from_the_root_of_the_course():
    run(smallest("solutions"), strict=True, cwd=ROOT)


@pytest.mark.parametrize("text, sentence", [
    ("%no_such_magic", "UsageError: Line magic function `%no_such_magic` not found."),
    ("raise ValueError('one sentence')", "ValueError: one sentence")])
def test_names_the_failing_cell(text, sentence, tiny_course):
    """The first of these passes nbval: it sends no error output."""
    path = tiny_course.add(code("fine", "1"), code("bad", text), code("after", "2"))
    with pytest.raises(Refused) as caught:
        run(path, strict=False)
    assert str(caught.value) == f"solutions/99_demo.ipynb, cell bad: {sentence}"


def test_runs_from_elsewhere_inside_the_course_only(tiny_course, tmp_path):
    path = tiny_course.add(*good_cells())
    build(tiny_course.root)
    deep, outside = tiny_course.root / "notes" / "mine", tmp_path / "outside"
    deep.mkdir(parents=True), outside.mkdir()
    for folder in (tiny_course.root, deep):
        run(path, strict=True, cwd=folder)
    with pytest.raises(Refused) as caught:
        run(path, strict=True, cwd=outside)
    assert "cell setup: Stop: Open this notebook inside the course folder: there is no utils" in str(caught.value)


def test_outside_the_course_a_student_sees_one_sentence(tiny_course, tmp_path):
    path = tiny_course.add(*good_cells())
    build(tiny_course.root)
    notebook = nbformat.read(path, as_version=4)
    (tmp_path / "outside").mkdir()
    NotebookClient(notebook, allow_errors=True, kernel_name="python3", timeout=60,
                   resources={"metadata": {"path": str(tmp_path / "outside")}}).execute()
    setup = next(cell for cell in notebook.cells if cell.id == "setup")
    assert len(setup.outputs) == 1 and len(setup.outputs[0].traceback) == 1
    assert setup.outputs[0].traceback[0].startswith("Open this notebook inside the course folder")


def setup_text(course):
    course.add(*good_cells())
    build(course.root)
    return course.text("setup")


def test_an_old_python_gets_one_sentence(tiny_course):
    """The version is faked; the cell must also be readable to the older Python, so it is parsed as 3.8."""
    text = setup_text(tiny_course)
    ast.parse(text, feature_version=(3, 8))
    old = "import sys\nsys.version_info, sys.version = (3, 9, 1), '3.9.1 (old)'\n"
    ran = subprocess.run([sys.executable, "-c", old + text], cwd=tiny_course.root, capture_output=True, text=True)
    sentence = ran.stderr.splitlines()[-1].split("Stop: ")[1]
    assert sentence == "This course needs Python 3.11 or newer, and this kernel runs 3.9.1."


def test_the_first_cell_prints_one_line_and_can_run_again(tiny_course):
    text = setup_text(tiny_course)
    twice = "\n".join([text, text, "print(MODEL)", f"assert sys.path.count({str(tiny_course.root)!r}) == 1"])
    ran = subprocess.run([sys.executable, "-c", twice], cwd=tiny_course.root / "course", capture_output=True, text=True)
    lines = ran.stdout.splitlines()
    assert len(lines) == 3 and lines[0] == lines[1] and lines[2] == "course-gpt2", ran.stderr
    for part in ("Python 3.", "torch 2.", "transformers 5.", "transformer_lens 4.", "device "):
        assert part in lines[0]


def test_notebooks_are_readable_for_nbformat():
    for path in [*(ROOT / "course").glob("*.ipynb"), *(ROOT / "solutions").glob("*.ipynb")]:
        nbformat.validate(read(path), relax_add_props=False)
