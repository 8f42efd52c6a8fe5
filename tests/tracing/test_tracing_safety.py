"""Causal tracing refuses bad input in one sentence and leaves the model as it was."""
import pytest
from benchmarks.make_tracer_numbers import random_gpt2
from sentences import sentence
from small_models import bridge, hooks_on, plain
from test_tracing import PROMPT, SUBJECT, by_hand, traced, tracer_of
from transformers import AutoModel
from words import Words

from utils.engine import LayerConfig
from utils.tracing import CausalTracer, noise_from_subjects


# ---------------------------------------------------------------- bad input

BAD = {
    "unknown kind": (dict(kind="resid"), ["kind must be one of hidden, mlp, attention, not 'resid'"]),
    "unknown rule": (dict(rule="zero"), ["rule must be one of gaussian, uniform, swap, not 'zero'"]),
    "unknown severed": (dict(severed="heads"), ["severed must be 'mlp', 'attention' or None, not 'heads'"]),
    "severed mlp trace": (dict(severed="mlp", kind="mlp"), ["goes with kind 'hidden'"]),
    "no window": (dict(window=0), ["window must be at least 1, not 0"]),
    "no samples": (dict(samples=0), ["samples must be at least 1, not 0"]),
    "no batch": (dict(batch_size=0), ["batch_size must be at least 1, not 0"]),
    "negative noise": (dict(noise=-0.1), ["at least 0, not -0.1"]),
    "start": (dict(start_layer=3), ["start_layer 3 and end_layer 3 are out of range", "layers 0 to 2"]),
    "negative start": (dict(start_layer=-1), ["start_layer -1", "layers 0 to 2"]),
    "end": (dict(end_layer=4), ["end_layer 4", "to 3"]),
    "end zero": (dict(end_layer=0), ["end_layer 0", "start_layer + 1 to 3"]),
    "swap without others": (dict(rule="swap"), ["needs other_subjects with as many tokens as ' w60 w33' has, 2",
                                                "of the 0"]),
    "swap, other length": (dict(rule="swap", other_subjects=["w1"]), ["of the 1 given none has"]),
    "answer id": (dict(answer=101), ["answer 101 is out of range: token ids go from 0 to 100"]),
    "answer of two tokens": (dict(answer=" w1 w2"), ["' w1 w2' is 2 tokens for this model ( w1 |  w2)"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options(case):
    options, parts = BAD[case]
    model = plain("gpt2")
    before = hooks_on(model)
    sentence(lambda: CausalTracer(model, Words()).calculate_hidden_flow(PROMPT, SUBJECT, **options), *parts)
    assert hooks_on(model) == before


@pytest.mark.parametrize("prompt, subject, parts", [
    ("The Space Needle is in", "Space Neddle", ["'Space Neddle' is not in the prompt: did you mean 'Space Needle'?"]),
    ("Rome or Rome is in", "Rome", ["'Rome' is in the prompt 2 times", "subject=(1, 3) or (4, 5)"]),
    ("", None, ["a prompt is empty"]), ("   ", "Rome", ["a prompt is empty"]),
    ("Rome" + " is" * 128, "Rome", ["a prompt has", "the context of this model ends at 128"]),
    ("The Space Needle is in", (3, 3), ["positions (3, 3) are out of range", "0 to 5"]),
    ("the city is in", None, ["no subject can be guessed"])])
def test_bad_prompts_and_subjects(shipped, prompt, subject, parts):
    plainly = CausalTracer(shipped.model, shipped.tokenizer)      # the same through tokenizer(prompt)
    for tracer in (shipped, plainly):
        sentence(lambda: tracer.calculate_hidden_flow(prompt, subject), *parts)


def test_bad_models():
    sentence(lambda: CausalTracer(plain("gpt2")), "this model has no tokenizer: give one, CausalTracer(model, tokenizer)")
    sentence(lambda: CausalTracer(AutoModel.from_config(plain("gpt2").config), Words()),
         "a GPT2Model has no language-modelling head", "AutoModelForCausalLM, not AutoModel")
    sentence(lambda: CausalTracer(plain("gpt2_classifier"), Words()), "has no language-modelling head")
    sentence(lambda: CausalTracer(plain("bert"), Words()), "looks at both sides of a token")
    sentence(lambda: CausalTracer(plain("gpt2"), Words(), noise=-1), "at least 0, not -1")
    sentence(lambda: CausalTracer(plain("gpt2"), Words(), noise=float("nan")), "at least 0, not nan")
    sentence(lambda: noise_from_subjects(plain("gpt2"), [], tokenizer=Words()), "there are no subjects")


@pytest.mark.parametrize("layer_config", [None, LayerConfig("transformer.h.{num}", "transformer.h.{num}.attn",
                                                            "transformer.h.{num}.mlp", "transformer.wte")])
def test_damaged_weights(layer_config):
    model = random_gpt2()
    model.transformer.h[1].mlp.c_fc.weight[0, 0] = float("nan")
    sentence(lambda: traced(CausalTracer(model, Words(), layer_config=layer_config)), "this model gives logits that are NaN or infinite: its weights are damaged")


def test_a_plain_model_has_a_context_too():
    sentence(lambda: tracer_of(plain("gpt2")).calculate_hidden_flow(" w1" * 25, (0, 1)), "25 tokens", "ends at 24")


# ---------------------------------------------------------------- the model that is handed in

@pytest.mark.parametrize("load", [plain, bridge])
def test_a_hook_left_by_somebody_else_survives_and_acts(load):
    model, calls = load("gpt2"), []
    untouched = traced(tracer_of(model))
    target = (model.original_model if load is bridge else model).transformer.h[1].mlp

    def halve(module, args, output):
        calls.append(1)
        return output / 2
    handle = target.register_forward_hook(halve)
    try:
        before = hooks_on(model)
        flow = traced(tracer_of(model))
        assert hooks_on(model) == before and calls
        assert (flow.outcomes - untouched.outcomes).abs().max() > 1e-4
        if load is plain:
            by_hand.cache_clear()
            scores, *_ = by_hand("gpt2", "hidden", 1, None)
            assert (flow.outcomes - scores).abs().max() < 1e-5
    finally:
        handle.remove()
        by_hand.cache_clear()
    assert (traced(tracer_of(model)).outcomes - untouched.outcomes).abs().max() < 1e-6


def test_the_model_is_put_into_evaluation_mode():
    model = random_gpt2().train()
    assert CausalTracer(model, Words()).model is model and not model.training
