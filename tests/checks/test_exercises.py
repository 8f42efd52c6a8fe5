"""Every exercise rejects wrong answers by name and accepts right ones, however they are written.

The answers for notebook NN stand in `tests/checks/answers/nbNN.py`, next to one another so that they can be compared:

    WRONG = {"3.2 patch_residual": [(every_position, "replaced the whole stream"),      # answer, part of the message
                                    (off_by_one, "off by one"),
                                    (nothing, "Nothing changed")]}
    RIGHT = {"3.2 patch_residual": [with_torch_where]}                                   # written unlike the reference

Every exercise needs at least three wrong answers and one right one; an answer is a function or a value, as in the
notebook, and none is the reference itself. What goes wrong in the same way everywhere - nothing attempted, nothing
returned, a function that takes no arguments - is tried here for every exercise.
"""
import importlib.util
import json
import re
from pathlib import Path

import pytest

from utils import checks
from utils.authoring.derive import checked_name
from utils.authoring.lint import RATING
from utils.authoring.notebook import is_exercise, source
from utils.checks import ExerciseError, check

HERE, ROOT = Path(__file__).parent, Path(__file__).resolve().parents[2]


def _answers(path):
    spec = importlib.util.spec_from_file_location(f"answers_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG, module.RIGHT


def _in_notebooks():
    """{exercise: (difficulty, minutes)} as the solution notebooks state them."""
    stated = {}
    for path in sorted((ROOT / "solutions").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for number in (number for number, cell in enumerate(cells) if is_exercise(cell)):
            text = next(source(cell) for cell in cells[number::-1] if cell["cell_type"] == "markdown")
            rating = RATING.search(text)
            stated[checked_name(cells, number)[0]] = (int(rating[1]), int(rating[2]))
    return stated


EXERCISES = checks.registry()
WRONG, RIGHT = {}, {}
for file in sorted((HERE / "answers").glob("nb[0-9][0-9].py")):
    for collected, found in zip((WRONG, RIGHT), _answers(file)):
        assert not collected.keys() & found.keys(), f"{file.name} repeats an exercise of another file"
        collected.update(found)
FUNCTIONS = [name for name, exercise in EXERCISES.items() if callable(exercise.reference)]
each_exercise = pytest.mark.parametrize("name", EXERCISES)
each_function = pytest.mark.parametrize("name", FUNCTIONS)


def _each(answers):
    pairs = [(name, number) for name, found in answers.items() for number in range(len(found))]
    return pytest.mark.parametrize("name, number", pairs)


def test_there_are_exercises():
    if not EXERCISES and not list((ROOT / "solutions").glob("*.ipynb")):
        pytest.skip("no notebook and no utils/checks/nbNN.py exists yet")
    assert EXERCISES, "there are notebooks in solutions/ but no exercises in utils/checks/nbNN.py"


def test_no_answers_for_exercises_that_do_not_exist():
    assert not (WRONG.keys() | RIGHT.keys()) - EXERCISES.keys()


def test_notebooks_and_checks_name_the_same_exercises():
    """Each exercise of a notebook is registered, with the same difficulty and minutes, and the other way round."""
    notebooks = {path.name[:2] for path in (ROOT / "solutions").glob("*.ipynb")}
    registered = {name: (exercise.difficulty, exercise.minutes) for name, exercise in EXERCISES.items()
                  if f"{int(name.split('.')[0]):02d}" in notebooks}
    assert _in_notebooks() == registered


@each_exercise
def test_has_enough_answers(name):
    wrong = WRONG.get(name, [])
    assert len({fragment for _, fragment in wrong}) >= 3, "at least three wrong answers with their own messages"
    assert len(RIGHT.get(name, [])) >= 1, "at least one right answer written differently"
    if callable(EXERCISES[name].reference):
        assert all(answer is not EXERCISES[name].reference for answer in RIGHT[name])


@_each(WRONG)
def test_rejects_by_name(name, number):
    answer, fragment = WRONG[name][number]
    assert len(fragment) >= 8, "the fragment must name the mistake"
    with pytest.raises(ExerciseError) as caught:
        check(name, answer)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value), "one line"


@_each(RIGHT)
def test_accepts(name, number, capsys):
    answer = RIGHT[name][number]
    assert check(name, answer) is answer
    assert capsys.readouterr().out.splitlines()[-1] == f"✔ {name}: passed"


@each_exercise
def test_reference_passes(name):
    EXERCISES[name].test(EXERCISES[name].reference)


@each_exercise
def test_not_attempted_hands_back_the_reference(name, monkeypatch, capsys):
    def stub(*args, **kwargs):
        raise NotImplementedError
    exercise = EXERCISES[name]
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    for attempt in [..., None] + [stub] * callable(exercise.reference):
        assert check(name, attempt) is exercise.reference
        assert capsys.readouterr().out.startswith(f"○ {name}: not attempted")
    monkeypatch.setenv("COURSE_STRICT", "1")
    with pytest.raises(ExerciseError, match="not attempted"):
        check(name, ...)


@each_function
@pytest.mark.parametrize("attempt, fragment", [(lambda *args, **kwargs: None, "returned None"),
                                               (lambda: 1, "cannot be called with")])
def test_says_what_goes_wrong_everywhere(name, attempt, fragment):
    with pytest.raises(ExerciseError, match=fragment):
        check(name, attempt)


@each_function
def test_an_error_of_the_student_stays_the_students(name):
    def attempt(*args, **kwargs):
        raise ZeroDivisionError("mine")
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        check(name, attempt)
    assert caught.traceback[-1].name == "attempt"
    assert hasattr(caught.value, "students_traceback"), "run the attempt through `call` or inside `student_code`"


def test_names_begin_with_their_notebook():
    for path in (ROOT / "utils" / "checks").glob("nb[0-9][0-9].py"):
        names = re.findall(r'@exercise\(\s*"(\d+)\.', path.read_text(encoding="utf-8"))
        assert names and {int(number) for number in names} == {int(path.stem[2:])}, path.name
