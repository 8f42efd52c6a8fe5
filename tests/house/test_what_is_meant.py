"""Input that could be read in two ways is read as it was meant, or refused: masks, text for a list, NaN."""

import numpy as np
import pytest
import torch
from sentences import sentence
from small_models import plain, random_prompts

from utils.alignment import fit
from utils.alignment.swaps import Swaps
from utils.decoding import trajectories
from utils.disentangling import evaluate_parts
from utils.engine import Site, freeze
from utils.errors import several, whole_number, whole_numbers
from utils.induction import best_head
from utils.masking import Groups, MaskingGame
from utils.metrics import LogProbability, ReciprocalRank, reciprocal_rank
from utils.models import load_bert, load_model
from utils.models.classifiers import class_names
from utils.tracing import CausalTracer, noise_from_subjects

MASKS = [np.array, torch.tensor, list]


# ---------------------------------------------------------------- masks

@pytest.mark.parametrize("as_mask", MASKS)
def test_groups_are_chosen_by_a_mask(as_mask):
    groups = Groups.contiguous(plain("gpt2"), "mlp_post", 4, 1)
    mask = as_mask([False, False, True, True])
    assert groups.keep(mask) == groups.keep([2, 3]) and groups.drop(mask) == groups.drop([2, 3])
    assert groups.keep(mask).kept == {2, 3}
    sentence(lambda: groups.keep(as_mask([False] * 4)), "the set of groups to keep is empty")


@pytest.mark.parametrize("as_mask", MASKS[:2])
def test_groups_are_made_of_masks_over_layers_and_units(as_mask):
    marks = np.zeros((2, 3, 4), dtype=bool)
    marks[0, 0, 1] = marks[0, 2, 3] = marks[1, 1, 0] = True
    assert Groups("z", [as_mask(mark) for mark in marks.tolist()]) == Groups("z", [[(0, 1), (2, 3)], [(1, 0)]])


def test_positions_of_a_game_are_chosen_by_a_mask():
    groups, outcome = Groups.singles(plain("gpt2"), "z", 1), LogProbability(torch.tensor([3, 4, 5]))
    found, expected = (MaskingGame(plain("gpt2"), random_prompts((5, 5, 5)), outcome, groups, positions=positions)
                       for positions in (torch.tensor([False, True, False, False, True]), (1, 4)))
    mask = torch.tensor([[False] * 4])
    assert torch.equal(found(mask), expected(mask))


@pytest.mark.parametrize("as_mask", MASKS)
def test_parts_are_chosen_by_a_mask(as_mask):
    success = {"a": np.arange(25).reshape(5, 5) % 2 == 0}
    found, expected = (evaluate_parts(success, {"a": part}) for part in
                       (as_mask([False, False, True, True, True]), [2, 3, 4]))
    assert found == expected and found.parts == {"a": (2, 3, 4)}
    sentence(lambda: evaluate_parts(success, {"a": "12"}), "lists of whole numbers, not {'a': '12'}")
    sentence(lambda: evaluate_parts(success, {"a": [1.9]}), "lists of whole numbers, not {'a': [1.9]}")


def test_whole_numbers():
    assert whole_number(np.int64(3), "it") == whole_number(torch.tensor(3), "it") == 3
    assert whole_numbers(range(2), "it") == [0, 1] and whole_numbers([], "it") == []
    assert whole_numbers([False, True], "it") == [1] == whole_numbers(torch.tensor([1]), "it")
    sentence(lambda: whole_number("3", "the number of layers"), "the number of layers must be a whole number, not '3'")
    sentence(lambda: whole_numbers([1, True], "the layers"), "each of the layers must be a whole number, not True")
    sentence(lambda: several("abc", "the names"), "the names must be a list, not the text 'abc', which would be read letter")


# ---------------------------------------------------------------- a text where a list is meant

def test_a_text_is_no_list():
    model, tracer = load_model(), CausalTracer(load_model())
    groups = Groups.contiguous(plain("gpt2"), "mlp_post", 4, 1)
    sentence(lambda: trajectories(model, "Paris", "Paris"), "`prompts` must be a list of texts, not the text 'Paris'")
    sentence(lambda: trajectories(model, ["A:"] * 6, " Paris"), "`answers` must be a list of texts, not the text ' Paris'")
    sentence(lambda: noise_from_subjects(model, "Paris"), "`subjects` must be a list, not the text 'Paris'")
    sentence(lambda: tracer.calculate_hidden_flows("The capital of France is"), "`queries` must be a list, not the text")
    sentence(lambda: tracer.calculate_hidden_flow("The capital of France is", "France", rule="swap", other_subjects="Italy"),
             "`other_subjects` must be a list of texts, not the text 'Italy'")
    sentence(lambda: class_names(load_bert(), "+-"), "the labels must be a list, not the text '+-'")
    sentence(lambda: groups.keep("12"), "groups must be a list, not the text '12'")
    sentence(lambda: Groups("z", "12"), "the groups must be a list, not the text '12'")
    sentence(lambda: Groups("z", [[(0, 1.9)]]), "a unit must be a whole number, not 1.9")


# ---------------------------------------------------------------- NaN

def test_nan_has_no_rank():
    logits, answer = torch.tensor([[1.0, 2.0, 3.0], [1.0, torch.nan, 0.0], [torch.nan] * 3]), torch.tensor([1, 0, 2])
    for found in (reciprocal_rank(logits, answer), ReciprocalRank(answer)(logits, torch.arange(3))):
        assert found[0] == 0.5 and found[1:].isnan().all()
    assert reciprocal_rank(torch.tensor([-torch.inf, 2.0]), torch.tensor(1)) == 1      # infinite is no NaN


def test_nan_is_never_the_best_head():
    scores = torch.tensor([[[0.1], [torch.nan]], [[0.3], [-0.2]]])
    assert best_head(scores) == (1, 0)
    assert best_head(-scores) == (1, 1)
    sentence(lambda: best_head(scores * torch.nan), "every score is NaN")


def test_nothing_is_found_in_nan():
    frozen = freeze(plain("gpt2"), random_prompts((5,) * 12), Site("resid_post", 1, 4))
    ids = torch.arange(12)
    swaps = Swaps(ids, {"X": ids.flip(0)}, ids, ids)
    assert fit(frozen, swaps, 2, steps=2).subspace.columns.isfinite().all()
    frozen.values = frozen.values.clone()
    frozen.values[3, 0, 1] = torch.nan
    sentence(lambda: fit(frozen, swaps, 2, steps=2), "activations that are to be swapped are NaN or infinite")


def test_an_answer_has_no_rank_where_the_stream_is_nan(monkeypatch):
    monkeypatch.setattr("utils.decoding.decode", lambda model, state: torch.full((len(state), 2560), torch.nan))
    sentence(lambda: trajectories(load_model(), ["The capital of France is"], [" Paris"]), "decodes to NaN")
