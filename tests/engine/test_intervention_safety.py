"""The engine leaves nothing behind, and says in one sentence what was wrong (its numbers: test_interventions.py)."""
import copy

import pytest
import torch
from reference import PATHS
from small_models import CONTEXT, WIDTH, bridge, hooks_on, plain, random_prompts

from utils.engine import Do, Each, Site, at_end, read, run, sweep
from utils.errors import CourseError
from utils.metrics import LogitDifference

OUTCOME = LogitDifference(torch.tensor([3, 50, 7]), torch.tensor([9, 4, 60]))


# ---------------------------------------------------------------- hooks

def boom(x):
    raise RuntimeError("boom")


@pytest.mark.parametrize("bridged, name", [(True, "gpt2"), (False, "gpt2"), (False, "bert")])
def test_hooks_are_gone_after_success_and_failure_and_others_stay(bridged, name):
    model, prompts = (bridge if bridged else plain)(name), random_prompts()
    calls = []
    block = (model.original_model if bridged else model).get_submodule(PATHS[name]["block"].format(0))
    foreign = block.register_forward_hook(lambda *_: calls.append(1))
    try:
        plain_logits, before = at_end(model, prompts), hooks_on(model)  # a bridge hooks itself on its first pass
        sites = [Site("resid_pre", 1, 0), Site("z", 1), Site("mlp_post", 2)]
        read(model, prompts, sites, [Do(site, 1.0) for site in sites])
        sweep(model, prompts, [[Do(site, 1.0)] for site in sites], lambda logits, index: logits[:, 0])
        assert hooks_on(model) == before
        failing = [Do(Site("z", 0), 1.0), Do(Site("z", 1), boom)]
        for call in (lambda: run(model, prompts, failing), lambda: sweep(model, prompts, [failing], OUTCOME),
                     lambda: sweep(model, prompts, [failing[:1]], lambda logits, index: boom(0))):
            with pytest.raises(RuntimeError, match="boom"):
                call()
            assert hooks_on(model) == before
        with pytest.raises(CourseError):  # the second site cannot be hooked when the first one is already
            read(model, prompts, [Site("z", 0), Site("resid_mid", 0, 99)])
        assert hooks_on(model) == before
        calls.clear()
        assert torch.equal(at_end(model, prompts), plain_logits) and calls
    finally:
        foreign.remove()


def test_a_site_that_cannot_be_reached_leaves_no_hook():
    model = plain("gpt_neox")
    with pytest.raises(CourseError, match="so it has no 'resid_mid'"):
        read(model, random_prompts(), [Site("z", 0), Site("resid_mid", 0)])
    assert hooks_on(model) == 0


def test_what_somebody_else_recorded_is_not_written_over():
    """The stream leaving block 0 is the very tensor that enters block 1: writing there must not reach back."""
    model, prompts, kept = plain("gpt2"), random_prompts(), []
    handle = model.transformer.h[0].register_forward_hook(lambda module, args, out: kept.append(out))
    try:
        run(model, prompts)
        run(model, prompts, [Do(Site("resid_pre", 1), 3.0)])
    finally:
        handle.remove()
    before, after = (out[0] if isinstance(out, tuple) else out for out in kept)
    assert torch.equal(before, after)


def test_no_gradient_and_no_change_of_the_weights():
    model = bridge("gpt2")
    before = [p.clone() for p in model.parameters()]
    assert not run(model, random_prompts(), [Do(Site("resid_mid", 1), 0.0)]).requires_grad
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


# ---------------------------------------------------------------- mistakes

@pytest.mark.parametrize("model, message", [
    (lambda: bridge("gpt_neox"), "attention and MLP side by side, so it has no 'resid_mid'"),
    (lambda: plain("gpt_neox"), "attention and MLP side by side, so it has no 'resid_mid'")])
def test_models_without_a_resid_mid_say_so(model, message):
    with pytest.raises(CourseError, match=message):
        run(model(), random_prompts(), [Do(Site("resid_mid", 0), 0.0)])


def test_an_unknown_family_is_named():
    model = torch.nn.Linear(1, 1).eval()
    model.config = type("Config", (), dict(model_type="mamba", num_hidden_layers=2, num_attention_heads=1))
    with pytest.raises(CourseError, match="models of type 'mamba' are not known here; known are gpt2, gptj"):
        run(model, random_prompts(), [Do(Site("resid_pre", 0), 0.0)])


@pytest.mark.parametrize("make, message", [
    (lambda: Site("resid", 0), "no activation is called 'resid'; choose one of: embed, resid_pre"),
    (lambda: Site("resid_pre"), "'resid_pre' needs a layer"),
    (lambda: Site("embed", 0), "'embed' belongs to no layer"),
    (lambda: Site("mlp_out", 0, head=1), "'mlp_out' is not divided into heads; those that are: z, q, k, v"),
    (lambda: Site("z", 0, head=1, units=(2,)), "a site names a head or units, not both")])
def test_impossible_sites(make, message):
    with pytest.raises(CourseError, match=message):
        make()


@pytest.mark.parametrize("site, value, message", [
    (Site("z", 3), 0.0, "layer 3 is out of range: this model has layers 0 to 2"),
    (Site("z", -1), 0.0, "layer -1 is out of range: this model has layers 0 to 2"),
    (Site("z", 0, None, 4), 0.0, "head 4 is out of range: each layer has heads 0 to 3"),
    (Site("z", 0, 7), 0.0, "position 7 is out of range: the prompts have positions 0 to 6"),
    (Site("z", 0, -8), 0.0, "position -8 is out of range"),
    (Site("z", 0, (0, 9)), 0.0, "position 9 is out of range"),
    (Site("z", 0, Each((0, 1, 12))), 0.0, "position 12 is out of range"),
    (Site("z", 0, Each((0, 1))), 0.0, "Each names 2 positions for 3 prompts: give one for each"),
    (Site("mlp_post", 0, 0, units=(128,)), 0.0, "unit 128 is out of range: 'mlp_post' has units 0 to 127"),
    (Site("z", 0, 1), torch.zeros(5), "a value of shape .5,. does not fit 'z'"),
    (Site("z", 0, 1), torch.zeros(2, WIDTH), "has shape .2, 32.: its first axis must be the 3 prompts, or 1"),
    (Site("z", 0), torch.zeros(4, 7, WIDTH), "has shape .4, 7, 32.: its first axis must be the 3 prompts, or 1")])
def test_mistakes_are_one_sentence_with_the_range(site, value, message):
    model = bridge("gpt2")
    for call in (lambda: run(model, random_prompts(), [Do(site, value)]),
                 lambda: sweep(model, random_prompts(), [[Do(site, value)]], OUTCOME)):
        with pytest.raises(CourseError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    assert hooks_on(model) == hooks_on(bridge("gpt2"))


def test_batch_size_below_one():
    with pytest.raises(CourseError, match="batch_size must be at least 1, not 0"):
        sweep(bridge("gpt2"), random_prompts(), [[]], OUTCOME, batch_size=0)


@pytest.mark.parametrize("model", [plain("gpt2"), bridge("gpt2"), plain("llama"), plain("bert")])
def test_prompts_longer_than_the_context_or_empty(model):
    for call in (lambda prompts: run(model, prompts), lambda prompts: sweep(model, prompts, [[]], OUTCOME)):
        with pytest.raises(CourseError, match=f"a prompt has {CONTEXT + 1} tokens, but the context of this model ends at {CONTEXT}"):
            call(random_prompts((CONTEXT + 1,)))
        call(random_prompts((CONTEXT,) * 3))
        with pytest.raises(CourseError, match="there is nothing to run: the prompts hold no token"):
            call(random_prompts((3,)).part(0, 0))


def test_weights_that_are_not_finite():
    model = copy.deepcopy(plain("gpt2"))
    model.transformer.h[1].mlp.c_fc.weight[0, 0] = float("nan")
    with pytest.raises(CourseError, match="this model gives logits that are NaN or infinite: its weights are damaged"):
        run(model, random_prompts())
