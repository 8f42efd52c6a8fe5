"""Published numbers stand beside the student's own, with their model and source."""
import pytest
from sentences import CourseError, sentence

from utils.show.published import NUMBERS, compare, published


def test_compare_prints_both_numbers_and_the_model_each_belongs_to(capsys):
    compare("ioi clean", 3.97184, "course-gpt2")
    compare("poland", "never", "course-gpt2")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("published for GPT-2 small: 4.276 | course-gpt2: 3.972   (ioi clean; ")
    assert second.startswith("published for GPT-2 medium: layers 15 to 18 | course-gpt2: never   (poland; ")


@pytest.mark.parametrize("key, value", [("ioi corrupted", "-2.738"), ("repeated first half", "-13.898"),
                                        ("repeated second half", "-0.644"), ("repeated accuracy", "0.93"),
                                        ("warsaw", "from layer 19"), ("previous-token head", "4.11")])
def test_numbers_of_the_sources(key, value):
    assert published(key).value == value


def test_every_number_names_its_model_and_source():
    assert all(n.value and n.model.startswith("GPT-2") and len(n.source) > 10 for n in NUMBERS.values())


@pytest.mark.parametrize("key, nearest", [("ioi claen", "ioi clean"), ("induction heads", "induction head")])
def test_an_unknown_key_gets_the_nearest(key, nearest):
    sentence(lambda: published(key), f"no published number is called {key!r}", f"did you mean {nearest!r}?")


def test_a_key_like_no_other_gets_them_all():
    with pytest.raises(CourseError, match="no published number is called '': there are ") as error:
        published("")
    assert all(name in str(error.value) for name in NUMBERS)
