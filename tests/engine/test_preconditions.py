"""What must hold of a model and of prompts before a number is trusted; what does not is refused in one sentence."""
import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentences import sentence
from small_models import VOCAB, bridge, plain, random_prompts
from torch import nn

from utils.engine import ConfiguredModel, Do, Each, LayerConfig, Site, at_end, freeze, read, run, sweep
from utils.metrics import LogitDifference, LogProbability, OfPart, Probability, ReciprocalRank
from utils.models import Prompts
from utils.patching import Receiver, head_map, path_map, path_patch, position_map

SITE = Site("resid_post", 1)
PLAIN = ("gpt2", "llama", "bert")
DIFFERENCE = LogitDifference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))
CALLS = {
    "run": lambda model, prompts: run(model, prompts, [Do(SITE, 0.0)]),
    "read": lambda model, prompts: read(model, prompts, [SITE]),
    "at_end": lambda model, prompts: at_end(model, prompts),
    "sweep": lambda model, prompts: sweep(model, prompts, [[], [Do(SITE, 0.0)]], DIFFERENCE),
    "freeze": lambda model, prompts: freeze(model, prompts, SITE),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))


# ---------------------------------------------------------------- the model

@every_call
@pytest.mark.parametrize("name", PLAIN)
def test_training_mode(call, name):
    """Of the whole model, and of a single part of it, such as a dropout that somebody switched on again."""
    model = copy.deepcopy(plain(name))
    call(model, random_prompts())
    list(model.modules())[-1].train()
    sentence(lambda: call(model, random_prompts()), "this model is in training mode", "call model.eval() first")
    sentence(lambda: call(model.train(), random_prompts()), "this model is in training mode")


def test_training_mode_of_a_bridge_and_of_a_configured_model():
    made = bridge("gpt2")
    made.train()
    try:
        sentence(lambda: at_end(made, random_prompts()), "this model is in training mode")
    finally:
        made.eval()
    layers = LayerConfig("transformer.h.{num}", "transformer.h.{num}.mlp", "transformer.h.{num}.attn", "transformer.wte")
    made = ConfiguredModel(copy.deepcopy(plain("gpt2")), layers)
    at_end(made, random_prompts())
    made.model.train()
    sentence(lambda: at_end(made, random_prompts()), "this model is in training mode")


@every_call
@pytest.mark.parametrize("name", PLAIN)
def test_compiled_models(call, name):
    """As a whole, in place, and one block alone: none of them calls the hooks that come after."""
    for compiled in (torch.compile(plain(name)), copy.deepcopy(plain(name)), copy.deepcopy(plain(name))):
        if type(compiled) is type(plain(name)):
            next(part for part in compiled.modules() if isinstance(part, nn.ModuleList))[0].compile()
        sentence(lambda: call(compiled, random_prompts()), "this model was compiled (torch.compile)", "as it was before")


@every_call
def test_weights_on_meta(call):
    model = copy.deepcopy(plain("gpt2")).to("meta")
    sentence(lambda: call(model, random_prompts()), "on the device 'meta', where there are no numbers")


def test_a_model_split_over_devices(monkeypatch):
    """Two devices are not at hand: one weight says that it is on another."""
    model = copy.deepcopy(plain("gpt2"))

    class Elsewhere(nn.Parameter):
        device = torch.device("cuda:1")
    model.transformer.h[1].mlp.c_fc.weight.__class__ = Elsewhere
    sentence(lambda: at_end(model, random_prompts()), "this model is split over cpu and cuda:1", "without device_map")


@every_call
def test_a_quantised_model(call):
    model = torch.ao.quantization.quantize_dynamic(copy.deepcopy(plain("gpt2")), {nn.Linear}, dtype=torch.qint8)
    sentence(lambda: call(model, random_prompts()), "this model is quantised (Linear)", "must be exact")


# ---------------------------------------------------------------- the prompts

def with_mask(rows, **changes):
    prompts = random_prompts((5, 5, 5))
    return replace(prompts, mask=torch.tensor(rows), **changes)


ONES = [1] * 5
BAD_MASKS = {
    "left padding": [[0, 0, 1, 1, 1], ONES, ONES],
    "a hole": [[1, 1, 0, 1, 1], ONES, ONES],
    "a weight": [[1, 1, 2, 0, 0], ONES, ONES],
    "a half": [[1, 1, 1, .5, .5], ONES, ONES],
    "below zero": [[1, 1, 1, 1, -1], ONES, ONES],
    "nothing": [[0] * 5, ONES, ONES],
}


@every_call
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("case", BAD_MASKS)
def test_a_mask_that_is_no_padding_on_the_right(call, name, case):
    for model in (plain(name), *([bridge(name)] if name != "bert" else [])):
        sentence(lambda: call(model, with_mask(BAD_MASKS[case])), "not padded on the right", "1 for its tokens and then 0")


@every_call
def test_a_mask_may_be_true_and_false(call):
    prompts = random_prompts((5, 3, 4))
    call(plain("gpt2"), replace(prompts, mask=prompts.mask.bool()))
    found, expected = (at_end(plain("gpt2"), p) for p in (replace(prompts, mask=prompts.mask.bool()), prompts))
    assert torch.equal(found, expected)


@every_call
def test_ends_at_padding(call):
    for ends in ([4, 4, 4], [-1, 2, 3]):
        prompts = replace(random_prompts((5, 3, 4)), ends=torch.tensor(ends))
        sentence(lambda: call(plain("gpt2"), prompts), "a prompt is said to end at padding")


@every_call
def test_token_ids_that_the_model_does_not_have(call):
    for wrong in (-1, VOCAB):
        for model in (plain("gpt2"), bridge("llama"), plain("bert")):
            tokens = random_prompts().tokens.clone()
            tokens[1, 2] = wrong
            sentence(lambda: call(model, replace(random_prompts(), tokens=tokens)),
                     f"token id {wrong} is out of range: this model has ids 0 to {VOCAB - 1}")


def test_prompts_whose_parts_do_not_belong_together():
    prompts = random_prompts()
    for wrong in (replace(prompts, mask=prompts.mask[:, :3]), replace(prompts, ends=prompts.ends[:2]),
                  Prompts(prompts.tokens[0], prompts.mask[0], prompts.ends, ())):
        sentence(lambda: at_end(plain("gpt2"), wrong), "these are no prompts", "[prompt, position]")


# ---------------------------------------------------------------- positions from the end

@pytest.mark.parametrize("position", [-1, (0, -2), Each((1, -1, 2))])
@pytest.mark.parametrize("name", PLAIN)
def test_positions_from_the_end_where_prompts_end_at_different_ones(name, position):
    """They would be padding. With prompts of one length they are what they say."""
    model, site = plain(name), Site("resid_post", 1, position)
    for call in (lambda p: read(model, p, [site]), lambda p: run(model, p, [Do(site, 0.0)]),
                 lambda p: freeze(model, p, site), lambda p: sweep(model, p, [[Do(site, 0.0)]], DIFFERENCE)):
        call(random_prompts((5, 5, 5)))
        sentence(lambda: call(random_prompts((5, 3, 4))), "counts from the end, but these prompts end at different",
                 "Each.of(prompts.ends)")


def twins(lengths):
    clean = random_prompts(lengths)
    return clean, replace(clean, tokens=random_prompts(lengths, seed=1).tokens)


def test_head_maps_never_write_on_padding():
    model, (clean, corrupted) = bridge("gpt2"), twins((5, 3, 4))
    for call in (lambda where: head_map(model, clean, corrupted, DIFFERENCE, positions=where).effect,
                 lambda where: path_patch(model, clean, corrupted, DIFFERENCE, (0, 1), positions=where)):
        expected = call(Each.of(clean.ends))
        assert torch.equal(call(-1), expected) and not torch.equal(call(0), expected) and expected.abs().max() > 0.01


# ---------------------------------------------------------------- the outcome

OUTCOMES = [lambda ids: LogitDifference(ids, ids + 1), Probability, LogProbability, ReciprocalRank]


@pytest.mark.parametrize("make", OUTCOMES)
def test_an_outcome_for_another_number_of_prompts(make):
    model, (clean, corrupted) = bridge("gpt2"), twins((5, 5, 5))
    for number in (1, 2, 8):
        outcome = make(torch.arange(number))
        for call in (lambda: sweep(model, clean, [[]], outcome), lambda: position_map(model, clean, corrupted, outcome),
                     lambda: head_map(model, clean, corrupted, outcome),
                     lambda: path_patch(model, clean, corrupted, outcome, (0, 1)),
                     lambda: path_map(model, clean, corrupted, outcome)):
            sentence(call, f"is made for {number} prompts, and there are 3", "one answer for each prompt")
    sentence(lambda: sweep(model, clean, [[]], OfPart(make(torch.arange(4)), 2)), "is made for 4 prompts, and there are 5")
    assert sweep(model, clean, [[]], OfPart(make(torch.arange(8)), 2)).shape == (1, 3)


@pytest.mark.parametrize("make", OUTCOMES)
def test_an_answer_below_zero_is_not_counted_from_the_end(make):
    sentence(lambda: sweep(plain("gpt2"), random_prompts(), [[]], make(torch.tensor([3, -1, 4]))),
             "an answer of the outcome is -1, but ids count from 0")


def test_an_outcome_that_is_a_function_is_taken_as_it_is():
    assert sweep(plain("gpt2"), random_prompts(), [[]], lambda logits, index: logits[:, 0]).shape == (1, 3)


def test_a_path_without_a_receiver():
    model, (clean, corrupted) = bridge("gpt2"), twins((5, 5, 5))
    for call in (lambda: path_patch(model, clean, corrupted, DIFFERENCE, (0, 1), []),
                 lambda: path_map(model, clean, corrupted, DIFFERENCE, [])):
        sentence(call, "a path needs an end", "at least one Receiver")
    assert path_patch(model, clean, corrupted, DIFFERENCE, (0, 1), [Receiver()]).shape == (3,)


# ---------------------------------------------------------------- which positions and units are meant

@pytest.mark.parametrize("as_mask", [list, tuple, np.array, torch.tensor, lambda m: [np.bool_(x) for x in m],
                                     lambda m: list(torch.tensor(m))])
def test_a_mask_of_true_and_false_names_the_places_of_true(as_mask):
    mask = as_mask([False, True, False, False, True])
    assert Site("z", 0, mask) == Site("z", 0, (1, 4))
    assert Site("mlp_post", 0, units=mask) == Site("mlp_post", 0, units=(1, 4))
    assert Site("z", 0, as_mask([True])).position == (0,) and Site("z", 0, as_mask([False])).position == ()


def test_a_mask_writes_where_it_says():
    model, prompts = plain("gpt2"), random_prompts((5, 5, 5))
    by_mask, by_number = (at_end(model, prompts, [Do(Site("resid_post", 0, p), 0.0)])
                          for p in (torch.arange(5) > 2, (3, 4)))
    assert torch.equal(by_mask, by_number) and (by_mask - at_end(model, prompts)).abs().max() > 0.01


@pytest.mark.parametrize("wrong, said", [("12", "not the text '12'"), ("3", "not the text '3'"), (1.9, "not 1.9"),
                                         (1.0, "not 1.0"), ([1, 1.9], "not 1.9"), (True, "not True"),
                                         (torch.tensor([0.0, 1.0]), "not 0.0"), ([True, 2], "not True"),
                                         (torch.tensor(True), "not True"), (np.array([[True]]), "not [True]"),
                                         (["1"], "not '1'")])
def test_what_is_no_whole_number(wrong, said):
    sentence(lambda: Site("z", 0, wrong), "position", said)
    sentence(lambda: Site("mlp_post", 0, units=wrong), "units", said)
    sentence(lambda: Site("z", wrong), "layer must be a whole number")
    sentence(lambda: Site("z", 0, head=wrong), "head must be a whole number")
    if not isinstance(wrong, (float, bool)) and np.ndim(wrong):
        sentence(lambda: Each.of(wrong), "positions", said)


def test_numbers_of_any_library_are_welcome():
    for one in (np.int64(2), torch.tensor(2), np.array(2)):
        assert Site("z", one, one, one) == Site("z", 2, 2, 2)
    for several in (range(1, 3), [np.int64(1), torch.tensor(2)], np.array([1, 2]), torch.tensor([1, 2]),
                    (number for number in (1, 2))):
        assert Site("z", 0, several).position == (1, 2)
