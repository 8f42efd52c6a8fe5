"""The nearest valid choice is found in one place, and said in the same words everywhere."""
import pytest
from sentences import CourseError
from tiny import ROOT

from utils.errors import closest, nearest, require_known, warn


@pytest.mark.parametrize("name, known, end", [
    ("degre", ["degree", "greedy"], ": did you mean 'degree'?"),
    ("DEGREE", ["greedy", "degree"], ": did you mean 'degree'?"),
    ("big ben", ["Big Ben", "Big"], ": did you mean 'Big Ben'?"),       # as it is written, not as it was compared
    ("zzz", ["degree", "greedy"], ": there are degree, greedy"),
    ("zzz", [], ": there are none"),
    (3, ["degree"], ": there are degree")])
def test_the_nearest_name_or_all(name, known, end):
    assert nearest(name, known) == nearest(name, iter(known)) == end


def test_something_else_may_be_advised():
    assert nearest("zzz", ["degree"], "choose a method") == ": choose a method"
    assert nearest("degre", ["degree"], "choose a method") == ": did you mean 'degree'?"


def test_several_come_nearest_first():
    assert closest("attn", ["mlp", "attns", "attn", "patterns"], most=2) == ["attn", "attns"]


def test_a_known_name_passes():
    require_known("degree", ["degree"], "there is no method 'degree'")
    with pytest.raises(CourseError, match="there is no method 'degre': did you mean 'degree'"):
        require_known("degre", ["degree"], "there is no method 'degre'")


def test_a_warning_points_at_the_line_of_the_reader():
    """However many functions of the package lie between."""
    package = {"__name__": "utils.attic", "warn": warn}
    exec("def inner():\n    warn('careful')\n\ndef outer():\n    inner()", package)
    for call in (package["inner"], package["outer"]):
        with pytest.warns(UserWarning, match="careful") as caught:
            call()
        assert caught[0].filename == __file__


def test_names_are_compared_in_one_place():
    assert [path.name for path in (ROOT / "utils").rglob("*.py") if "difflib" in path.read_text(encoding="utf-8")] == ["names.py"]
