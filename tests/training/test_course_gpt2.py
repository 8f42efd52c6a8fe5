"""The shipped model must do what the lessons teach: everything is measured again from its file."""
import json

import pytest
import torch

from utils.models import CHECKPOINTS, load_model
from utils.training import course_card, course_measure, report

FOLDER = CHECKPOINTS / "course-gpt2"
CARD = json.loads((FOLDER / "measured.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def numbers():
    return course_measure.everything(load_model("course-gpt2"))


@pytest.mark.parametrize("name", course_measure.THRESHOLDS)
def test_threshold(numbers, name):
    assert course_measure.reached(name, numbers[name]), f"{name} is {numbers[name]}, must be {course_measure.THRESHOLDS[name]}"


def as_numbers(value):
    """A row of numbers written as text, as numbers; anything else as it is."""
    try:
        return [float(word) for word in value.split()] if isinstance(value, str) else value
    except ValueError:
        return value


def test_card_states_what_the_file_does(numbers):
    for name, value in numbers.items():
        value, written = as_numbers(value), as_numbers(CARD[name])
        expected = written if isinstance(written, str) else pytest.approx(written, abs=0.02, nan_ok=True)
        assert value == expected, f"the model card says {name} = {written}, measured {value}"
    how = {key: CARD[key] for key in ("seed", "steps")}
    written = course_card.text({name: CARD[name] for name in numbers}, how, report.read_seeds(FOLDER))
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == written


def test_every_threshold_is_on_the_card():
    assert set(course_card.LABELS) == set(course_measure.THRESHOLDS)


def test_files_are_small_and_safe():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 12e6
    assert {file.suffix for file in FOLDER.iterdir()} <= {".json", ".safetensors", ".md", ".txt"}


def test_a_random_model_does_not_reach_the_thresholds():
    """The control: the same measurements on untrained weights must fail, or they would prove nothing."""
    model = load_model("course-gpt2")
    for parameter in model.parameters():
        order = torch.randperm(parameter.shape[-1], generator=torch.Generator().manual_seed(0))
        parameter.data = parameter.data[..., order]
    assert course_measure.ioi_accuracy(model, "held_out_pairs", n=100)["ioi_held_out_pairs_accuracy"] < 0.7
    assert course_measure.induction(model, n=4)["second_half_accuracy"] < 0.1
