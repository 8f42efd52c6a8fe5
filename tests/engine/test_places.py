"""One meaning of `positions=`: what it says of prompts of different length, and that every function takes it alike."""
import pytest
import torch
from sentences import sentence
from small_models import bridge, plain, random_prompts

from utils import patching
from utils.engine import Each, places
from utils.masking import Groups, MaskingGame
from utils.metrics import LogitDifference

LENGTHS = (6, 4, 5)
OUTCOME = LogitDifference(torch.tensor([3, 50, 7]), torch.tensor([9, 4, 60]))


@pytest.mark.parametrize("positions, expected", [
    ("all", None), (None, None), ("end", Each((5, 3, 4))), (2, 2), (-1, Each((5, 3, 4))), (-4, Each((2, 0, 1))),
    ([1, 3], (1, 3)),
    (range(2), (0, 1)), (torch.tensor([0, 2]), (0, 2)), (torch.tensor(3), 3), (Each((5, -1, 0)), Each((5, 3, 0))),
    ([False, True, False, True, False, False], (1, 3)),
    (torch.tensor([False, True, False, True, False, False]), (1, 3))])
def test_what_a_site_gets(positions, expected):
    assert places(random_prompts(LENGTHS), positions) == expected


def test_in_prompts_of_one_length_the_end_is_a_number_like_any_other():
    prompts = random_prompts((5, 5))
    assert places(prompts, -1) == 4 and places(prompts, [-2, -1]) == (3, 4) and places(prompts, "end") == Each((4, 4))


@pytest.mark.parametrize("positions, part", [
    ("last", 'positions must be "all", "end", one or several integers, or Each, not \'last\''),
    (1.9, "1.9"), ([1.5], "[1.5]"), (True, "not True"), ([], "the set of positions is empty"),
    ([False] * 6, "the set of positions is empty"), ([True, False], "a mask of 2 positions does not fit prompts of 6"),
    (6, "position 6 is out of range: the prompts have positions 0 to 5"), (-7, "the prompts have positions 0 to 5"),
    (4, "position 4 is out of range: prompt 1 has positions 0 to 3"), ([0, 5], "prompt 1 has positions 0 to 3"),
    (-5, "prompt 1 has positions 0 to 3"), (Each((0, 4, 0)), "prompt 1 has positions 0 to 3"),
    (Each((0, 1)), "2 positions for 3 prompts"), ([0, -1], "several positions cannot be counted from the end")])
def test_what_is_refused(positions, part):
    sentence(lambda: places(random_prompts(LENGTHS), positions), part)


def functions(clean, corrupted):
    """Every function with `positions=`, as one that takes them and gives numbers."""
    model, groups = bridge("gpt2"), Groups.singles(plain("gpt2"), "z")
    keys = [patching.Receiver("k", 1, 0), patching.Receiver("v", 2, 1)]      # they read all positions, not the end alone
    kept = groups.drop([0, 1]).row[None]
    yield lambda p: patching.head_map(model, clean, corrupted, OUTCOME, **p).patched
    yield lambda p: patching.path_patch(model, clean, corrupted, OUTCOME, (0, 1), keys, **p)
    yield lambda p: patching.path_map(model, clean, corrupted, OUTCOME, keys, senders=[(0, 1)], **p).patched[0, 1]
    yield lambda p: MaskingGame(plain("gpt2"), clean, OUTCOME, groups, **p)(kept)


@pytest.mark.parametrize("number", range(4))
def test_every_function_means_the_same(number):
    clean, corrupted = random_prompts(LENGTHS), random_prompts(LENGTHS, seed=9)
    measure = list(functions(clean, corrupted))[number]
    whole, end = measure({}), measure(dict(positions="end"))
    assert torch.equal(whole, measure(dict(positions="all"))) and torch.equal(whole, measure(dict(positions=None)))
    assert not torch.allclose(whole, end, atol=1e-4)
    for same in (-1, Each.of(clean.ends)):
        assert torch.equal(end, measure(dict(positions=same)))
    for refused in ("last", 5):
        sentence(lambda: measure(dict(positions=refused)))
