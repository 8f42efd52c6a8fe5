"""`check`: its four outcomes, its helpers, and what a student sees of them in Jupyter."""
import copy

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from tiny import REGISTER, ROOT, code, notebook

from utils import checks
from utils.checks import ExerciseError, call, check, close, exercise, require, same_device, student_code, tensor_like

NAME = "99.1 double"


def reference(x):
    return 2 * x


@pytest.fixture(autouse=True)
def exercises(monkeypatch):
    """Two exercises that exist during one test: a function and a value."""
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    monkeypatch.setattr(checks, "_EXERCISES", {})

    @exercise(NAME, reference=reference, difficulty=1, minutes=2)
    def _(attempt):
        x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 7.0]])
        result = tensor_like(call(attempt, x), {"batch": 2, "position": 3})
        close(result, 2 * x, wrong={"The sign is flipped.": -2 * x})

    @exercise("99.2 layer", reference=4, difficulty=2, minutes=1)
    def _(attempt):
        require(attempt == 4, "that is another layer.")


def message(attempt, name=NAME):
    with pytest.raises(ExerciseError) as caught:
        check(name, attempt)
    text = str(caught.value)
    assert text.startswith(f"{name}: ") and "\n" not in text
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    return text.removeprefix(f"{name}: ")


# ---------------------------------------------------------------- the four outcomes

def test_passed_hands_back_the_students_own(capsys):
    own = lambda x: x + x
    assert check(NAME, own) is own and check("99.2 layer", 4) == 4
    assert capsys.readouterr().out == "✔ 99.1 double: passed\n✔ 99.2 layer: passed\n"


def stub(x):
    raise NotImplementedError


@pytest.mark.parametrize("name, attempt, expected", [
    (NAME, stub, reference), (NAME, ..., reference), (NAME, None, reference),
    ("99.2 layer", ..., 4), ("99.2 layer", None, 4)])
def test_not_attempted_hands_back_the_reference(name, attempt, expected, capsys, monkeypatch):
    assert check(name, attempt) == expected
    assert capsys.readouterr().out == f"○ {name}: not attempted yet, going on with the course's own version\n"
    monkeypatch.setenv("COURSE_STRICT", "1")
    assert "not attempted, and COURSE_STRICT=1" in message(attempt, name)


def test_the_reference_is_never_taken_for_an_attempt(capsys):
    assert check(NAME, check(NAME, stub)) is reference
    assert "✔" not in capsys.readouterr().out


def test_wrong_names_the_mistake():
    assert message(lambda x: -2 * x) == "The sign is flipped."
    assert message(3, "99.2 layer") == "that is another layer."


def test_raised_is_the_students_own_error():
    def attempt(x):
        return x.no_such_thing
    with pytest.raises(AttributeError, match="no_such_thing"):
        check(NAME, attempt)


@pytest.mark.parametrize("error", [NotImplementedError("not for this device"), AssertionError("my own"), KeyError("a")])
def test_other_errors_of_the_student_are_no_outcome_of_ours(error):
    def attempt(x):
        raise error
    with pytest.raises(type(error)) as caught:
        check(NAME, attempt)
    assert caught.value is error


def test_an_error_in_the_check_itself_is_not_blamed_on_the_student():
    @exercise("99.3 broken", reference=1, difficulty=1, minutes=1)
    def broken(attempt):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError) as caught:
        check("99.3 broken", 2)
    assert not hasattr(caught.value, "students_traceback")
    assert caught.traceback[-1].name == "broken"


# ---------------------------------------------------------------- the registry

def test_unknown_exercise_lists_the_nearest(monkeypatch):
    for name in ("99.1 duble", "98.1 double", "double"):
        with pytest.raises(ExerciseError, match=r'There is no exercise ".*": did you mean \'99\.1 double\'\?'):
            check(name, stub)


def test_registry_is_in_course_order():
    exercise("99.10 last", reference=1, difficulty=1, minutes=1)(lambda attempt: None)
    names = [name for name in checks.registry() if name.startswith("99")]
    assert names == ["99.1 double", "99.2 layer", "99.10 last"]
    assert checks.registry()[NAME].difficulty == 1 and checks.registry()[NAME].minutes == 2


@pytest.mark.parametrize("name, difficulty, minutes", [
    ("double", 1, 1), ("9.1", 1, 1), ("9.1 a", 6, 1), ("9.1 a", 0, 1), ("9.1 a", 1, 0)])
def test_malformed_registrations_are_refused(name, difficulty, minutes):
    with pytest.raises(ValueError):
        exercise(name, reference=1, difficulty=difficulty, minutes=minutes)


def test_two_exercises_cannot_share_a_name():
    elsewhere = eval(compile("lambda attempt: None", "elsewhere.py", "eval"))
    with pytest.raises(ValueError, match="registered twice"):
        exercise(NAME, reference=1, difficulty=1, minutes=1)(elsewhere)


# ---------------------------------------------------------------- helpers: call

def in_place(x):
    return x.mul_(2)


def slow_change(x):
    result = 2 * x
    x[0, 0] = float("nan")
    return result


@pytest.mark.parametrize("attempt, expected", [
    (lambda x: None, "it returned None: is `return` missing?"),
    (in_place, "it changed its argument `x`: work on a copy."),
    (slow_change, "it changed its argument `x`: work on a copy."),
    (lambda: 1, "it cannot be called with (a Tensor): too many positional arguments."),
    (lambda x, y: x, "it cannot be called with (a Tensor): missing a required argument: 'y'."),
    (3, "expected a function, got an int."),
    (lambda x: 6.0, "expected a tensor, got a float."),
    (lambda x: (2 * x).numpy(), "expected a tensor, got a ndarray."),
    (lambda x: 2 * x[0], "the result has shape [3], expected [batch 2, position 3]: the axis batch is missing."),
    (lambda x: 2 * x[:, 0], "the result has shape [2], expected [batch 2, position 3]: the axis position is missing."),
    (lambda x: 2 * x.T, "the result has shape [3, 2], expected [batch 2, position 3]: are the axes in another order?"),
    (lambda x: 2 * x[:, None],
     "the result has shape [2, 1, 3], expected [batch 2, position 3]: there is one axis too many."),
    (lambda x: 2 * x[:, :2], "the result has shape [2, 2], expected [batch 2, position 3]."),
    (lambda x: (2 * x).to("meta"),
     "the result is on device meta, expected cpu: make new tensors on the device of the input."),
    (lambda x: (2 * x).long(), "expected numbers of type float, got torch.int64."),
    (lambda x: x * float("nan"), "the result contains NaN."),
    (lambda x: 3 * x, "expected 14 at [1, 2], got 21."),
    (lambda x: 2 * x + torch.tensor([0.0, 0.0, 9.0]), "expected 6 at [0, 2], got 15."),
])
def test_one_sentence_for(attempt, expected):
    assert message(attempt) == expected


def test_the_original_arguments_are_never_touched():
    given = {"x": torch.ones(2), "nested": [np.zeros(2), (torch.zeros(1),)]}
    kept = copy.deepcopy(given)

    def attempt(first, *, cache):
        cache["nested"][1][0].add_(1)
        cache["new"] = 1
        return first
    with pytest.raises(ExerciseError, match="changed its argument `cache`"):
        call(attempt, given["x"], cache=given)
    assert given.keys() == kept.keys() and torch.equal(given["nested"][1][0], kept["nested"][1][0])


def test_activation_caches_are_guarded():
    class ActivationCache:
        def __init__(self, cache_dict):
            self.cache_dict = cache_dict

        def __getitem__(self, name):
            return self.cache_dict[name]
    cache = ActivationCache({"a": torch.zeros(2)})
    assert call(lambda cache: cache["a"] + 1, cache).tolist() == [1, 1]
    with pytest.raises(ExerciseError, match="changed its argument `cache`"):
        call(lambda cache: cache["a"].add_(1), cache)
    assert cache["a"].tolist() == [0, 0]


def test_nan_arguments_models_and_generators_pass_unchanged():
    model, generator, nan = torch.nn.Linear(2, 2), torch.Generator(), torch.tensor([float("nan")])
    assert call(lambda m, g, x: (m, g), model, generator, nan) == (model, generator)
    call(lambda g: torch.rand(1, generator=g), generator)


@pytest.mark.parametrize("raises", [False, True])
def test_hooks_left_behind_are_named_and_removed(raises):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    model[0].register_forward_hook(lambda *a: None)       # one that was there before stays

    def attempt(model):
        model[0].register_forward_hook(lambda *a: None)
        model.register_forward_pre_hook(lambda *a: None)
        if raises:
            raise KeyError
        return 1
    with pytest.raises(KeyError if raises else ExerciseError, match=None if raises else "left 2 hooks on the model"):
        call(attempt, model)
    assert len(model[0]._forward_hooks) == 1 and not model._forward_pre_hooks


# ---------------------------------------------------------------- helpers: results

def test_a_scalar_may_be_a_plain_number():
    assert tensor_like(3.0, ()).item() == 3.0
    assert tensor_like(torch.tensor(3), {}, dtype=int).item() == 3
    with pytest.raises(ExerciseError, match="expected a tensor, got a float"):
        tensor_like(3.0, {"batch": 1})


@pytest.mark.parametrize("dtype, good, bad", [
    (float, torch.float64, torch.int64), (int, torch.int32, torch.float32),
    (bool, torch.bool, torch.int64), (torch.float32, torch.float32, torch.float64)])
def test_kinds_of_numbers(dtype, good, bad):
    tensor_like(torch.ones(2, dtype=good), dtype=dtype)
    with pytest.raises(ExerciseError, match="expected numbers of type"):
        tensor_like(torch.ones(2, dtype=bad), dtype=dtype)


def test_result_is_detached_and_devices_compare():
    assert not tensor_like(torch.ones(1, requires_grad=True)).requires_grad
    same_device(torch.ones(1), "cpu")
    with pytest.raises(ExerciseError, match="on device cpu, expected meta"):
        same_device(torch.ones(1), "meta")


def test_builtins_without_a_signature_can_be_answers():
    assert call(max, 1.0, 3.0) == 3.0


def test_close_compares_the_known_mistakes_first():
    close(1.00001, 1, atol=1e-4)
    close([1, 2], np.array([1.0, 2.0]))
    close(float("nan"), float("nan"))
    with pytest.raises(ExerciseError, match="^off by one$"):
        close(2, 1, wrong={"sign": -1, "off by one": 2})
    with pytest.raises(ExerciseError, match="^too far$"):
        close(5, 1, message="too far", wrong={"sign": -1})
    with pytest.raises(ExerciseError, match="expected 1, got 5."):
        close(5, 1)
    with pytest.raises(ExerciseError, match="contains NaN"):
        close([1, float("nan")], [1, 2])
    with pytest.raises(ExerciseError, match="shape"):
        close([1, 2], [1, 2, 3])
    with pytest.raises(ExerciseError, match="expected numbers, got a str"):
        close("1", 1)


def test_close_refuses_a_check_that_cannot_fail():
    with pytest.raises(ValueError, match="This check cannot fail"):
        close(1, 1, wrong={"sign": 1.00001})


def test_student_code_marks_only_what_the_student_raised():
    with pytest.raises(KeyError) as caught, student_code():
        raise KeyError
    assert caught.value.students_traceback


# ---------------------------------------------------------------- in Jupyter

def test_what_a_student_sees(tmp_path):
    """Wrong: one line. Raised: the student's frames and none of the files of checks."""
    cells = [code("path", f"import sys\nsys.path.insert(0, {str(ROOT)!r})"), code("register", REGISTER),
             code("wrong", "double = lambda x: 3 * x\ndouble = check('99.1 double', double)"),
             code("raised", "def double(x):\n    return x.nothing\ndouble = check('99.1 double', double)"),
             code("unknown", "check('99.1 duble', double)")]
    ran = nbformat.from_dict(notebook(*cells))
    NotebookClient(ran, allow_errors=True, kernel_name="python3", timeout=60).execute()
    shown = {cell.id: "\n".join(output.traceback) for cell in ran.cells[2:] for output in cell.outputs
             if output.output_type == "error"}
    assert shown["wrong"] == "✘ 99.1 double: expected 6, got 9."
    assert shown["unknown"] == '✘ There is no exercise "99.1 duble": did you mean \'99.1 double\'?'
    assert "AttributeError" in shown["raised"] and "nothing" in shown["raised"]
    assert "helpers.py" not in shown["raised"] and "in call(" not in shown["raised"]
