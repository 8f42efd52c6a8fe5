"""Faults that gave wrong numbers in silence, one by one: each is equal to the reference now, or refused in one sentence."""
import copy
from contextlib import suppress

import pytest
import torch
from reference import contributions, naive
from sentences import sentence
from small_models import bridge, build, folder_of, plain, save_with_words, tokenizer_of
from transformers import AutoModelForCausalLM, BertLMHeadModel

from utils import decoding, induction, patching
from utils.engine import ConfiguredModel, Do, LayerConfig, Site, at_end, freeze, is_causal, read, run, sweep
from utils.errors import CourseError
from utils.metrics import LogitDifference
from utils.models import load_model
from utils.tracing import CausalTracer, noise_from_subjects

from .cases import CLEAN, CORRUPTED, MIXED, PROMPTS, Case, put, row
from .tracing import ANSWER, PROMPT, SUBJECT

OUTCOME = LogitDifference(torch.tensor([30, 71]), torch.tensor([45, 28]))


def equal(found, expected, share=1e-5):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= share * (expected.max() - expected.min()), (found - expected).abs().max()


def equal_or_refused(found, expected):
    """What `found()` gives, unless it refuses in one sentence."""
    with suppress(CourseError):
        return equal(found(), expected)
    sentence(found)


# ---------------------------------------------------------------- the readout

def test_attribution_of_a_bridge_in_compatibility_mode():
    """Its weights are folded and centred: logits differ by a constant, their differences do not."""
    model = load_model(folder_of("gpt2"))
    model.enable_compatibility_mode()
    expected = torch.stack([logits[30 if i == 0 else 71] - logits[45 if i == 0 else 28] for i, logits in
                            enumerate(naive("gpt2", row(MIXED, i))[0][-1] for i in PROMPTS)])
    equal_or_refused(lambda: decoding.direct_attribution(model, MIXED, OUTCOME).total, expected)


@pytest.mark.parametrize("name", ["cohere", "granite", "gemma2"])
def test_the_last_state_decodes_to_the_logits(name):
    expected = torch.stack([naive(name, row(MIXED, i))[0][-1] for i in PROMPTS])
    for model in (bridge(name), Case(name, "plain").model):
        equal(decoding.decode_layers(model, MIXED)[-1], expected)


@pytest.mark.parametrize("name", ["olmo2", "gemma2", "gemma3", "granite"])
def test_the_heads_of_a_layer_say_together_what_its_attention_says(name):
    case = Case(name, "plain")
    parts = decoding.direct_attribution(case.model, MIXED, OUTCOME)
    for i in PROMPTS:
        attention = contributions(name, row(MIXED, i), *(answer[i] for answer in case.answers))[1]
        equal(parts.heads[..., i].sum(1), attention)


# ---------------------------------------------------------------- the unit of the noise

class Scaled(torch.nn.Embedding):
    """An embedding that multiplies what it looks up by ten."""

    def forward(self, ids):
        return 10 * super().forward(ids)


def rewritten():
    """The same GPT-2, but its embedding holds a tenth and multiplies by ten."""
    model = copy.deepcopy(plain("gpt2"))
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
    tenth = Scaled(*model.transformer.wte.weight.shape)
    tenth.weight = torch.nn.Parameter(model.transformer.wte.weight / 10, requires_grad=False)
    model.transformer.wte = tenth
    return model


def test_a_gpt2_with_a_scaling_embedding_gets_the_same_noise():
    tokenizer, model = tokenizer_of("gpt2"), rewritten()
    equal(model(MIXED.tokens).logits, plain("gpt2")(MIXED.tokens).logits)
    found, expected = (CausalTracer(m, tokenizer).calculate_hidden_flow(PROMPT, SUBJECT, answer=ANSWER, samples=2)
                       for m in (model, plain("gpt2")))
    equal(found.outcomes, expected.outcomes)
    subjects = [" ab cd", " ef"]
    found, expected = (noise_from_subjects(m, subjects, tokenizer=tokenizer) for m in (model, plain("gpt2")))
    assert abs(found / expected - 1) < 1e-5


@pytest.mark.parametrize("name", ["gemma", "gemma3", "granite", "bloom", "opt_post_norm"])
def test_noise_from_subjects_is_in_the_unit_of_the_place_where_it_is_written(name):
    ids = tokenizer_of(name)(" ab cd")["input_ids"]
    expected = 3 * naive(name, torch.tensor(ids), wanted=[("embed", None)])[1]["embed", None].std().item()
    for model in (bridge(name), Case(name, "plain").model):
        assert abs(noise_from_subjects(model, [" ab cd"], tokenizer=tokenizer_of(name)) / expected - 1) < 1e-5


@pytest.mark.parametrize("name", ["llama", "gemma", "gemma2", "granite", "phi", "gpt_neox", "olmo2", "cohere"])
@pytest.mark.parametrize("mlp", [False, True])
def test_vectors_of_tokens_are_what_the_stream_gets(name, mlp):
    """With the first MLP: what leaves block 0 if attention adds nothing; these families have no learned positions."""
    def vector(token):
        silent = put("attn_out", 0, 0.0)
        site = ("resid_post", 0) if mlp else ("embed", None)
        return naive(name, torch.tensor([token]), [silent], [site])[1][site][0]
    tokens = [25, 60, 99]
    equal_or_refused(lambda: induction.token_vectors(bridge(name), mlp=mlp)[tokens], torch.stack(list(map(vector, tokens))))


# ---------------------------------------------------------------- what is written must arrive

def test_granite_without_an_update():
    for kind in ("attn_out", "mlp_out"):
        expected = torch.stack([naive("granite", row(MIXED, i), [put(kind, 1, 0.0, -1)])[0][-1] for i in PROMPTS])
        assert (expected - at_end(bridge("granite"), MIXED)).abs().max() > 0.1
        equal(decoding.without_update(bridge("granite"), MIXED, kind, 1), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["bert_classifier", "gpt2"])
def test_a_compiled_model_is_intervened_on_or_refused(name):
    model, site = torch.compile(copy.deepcopy(plain(name)), backend="eager"), Site("mlp_out", 1)
    with torch.no_grad():
        model(MIXED.tokens, attention_mask=MIXED.mask)  # compiled before anybody hooks it
    expected = torch.stack([naive(name, row(MIXED, i), [put("mlp_out", 1, 0.0)])[0] if "classifier" in name else
                            naive(name, row(MIXED, i), [put("mlp_out", 1, 0.0)])[0][-1] for i in PROMPTS])
    equal_or_refused(lambda: at_end(model, MIXED, [Do(site, 0.0)]), expected)
    seen = torch.stack([naive(name, row(MIXED, i), wanted=[("mlp_out", 1)])[1]["mlp_out", 1][2] for i in PROMPTS])
    equal_or_refused(lambda: read(model, MIXED, [site])[1][site][:, 2], seen)
    torch._dynamo.reset()


class Idle(torch.nn.Module):
    """A GPT-2 with a second stack of blocks that its forward pass never calls."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = copy.deepcopy(plain("gpt2")), copy.deepcopy(plain("gpt2").transformer.h)
        self.config = self.used.config

    def forward(self, **inputs):
        return self.used(**inputs)


@pytest.mark.parametrize("call", [
    lambda model, site: read(model, MIXED, [site]), lambda model, site: run(model, MIXED, [Do(site, 0.0)]),
    lambda model, site: sweep(model, MIXED, [[], [Do(site, 0.0)]], OUTCOME), lambda model, site: freeze(model, MIXED, site)])
def test_a_place_that_the_pass_never_comes_to_is_refused(call):
    layers = LayerConfig("idle.{num}", "idle.{num}.attn", "idle.{num}.mlp", "used.transformer.wte")
    for kind in ("resid_pre", "resid_post", "mlp_out"):
        sentence(lambda: call(ConfiguredModel(Idle().eval(), layers), Site(kind, 1)), kind)


# ---------------------------------------------------------------- causality

@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_a_masked_language_model_is_not_taken_for_a_causal_one(name, tmp_path):
    save_with_words(build(name), tmp_path)
    sentence(lambda: load_model(str(tmp_path)), "MaskedLM")
    assert not is_causal(plain(name))
    sentence(lambda: CausalTracer(plain(name), tokenizer_of(name)), "both sides")
    both_sides = AutoModelForCausalLM.from_pretrained(tmp_path)  # transformers only warns
    sentence(lambda: CausalTracer(both_sides, tokenizer_of(name)), "both sides")


def test_every_cell_of_a_model_that_looks_both_ways_is_computed():
    """The map before the first change, which a causal model would leave as it was."""
    for name in ("bert", "roberta"):
        case = Case(name, "plain")
        found = patching.residual_map(case.model, CLEAN, CORRUPTED, case.outcome).patched[1, 0]
        expected = torch.stack([case.judged(CORRUPTED, i, put("resid_pre", 1, case.seen("clean", i)["resid_pre", 1], 0))
                                for i in PROMPTS])
        base = torch.stack([case.difference(i, case.logits("corrupted", i)) for i in PROMPTS])
        assert (expected - base).abs().max() > 1e-3
        assert torch.allclose(found, expected, atol=1e-4)


def test_a_bert_that_was_made_a_decoder_is_causal():
    model = BertLMHeadModel(type(plain("bert").config)(**plain("bert").config.to_dict() | dict(is_decoder=True))).eval()
    assert is_causal(model)


# ---------------------------------------------------------------- no crash without a sentence

@pytest.mark.parametrize("name", ["opt", "opt_post_norm"])
def test_opt_has_its_mlp_and_its_lens(name):
    for model in (bridge(name), Case(name, "plain").model):
        for kind in ("mlp_out", "mlp_post"):
            found = read(model, MIXED, [Site(kind, 1)])[1][Site(kind, 1)]
            equal(found[0], naive(name, row(MIXED, 0), wanted=[(kind, 1)])[1][kind, 1])
        equal(decoding.decode_layers(model, MIXED)[-1, 0], naive(name, row(MIXED, 0))[0][-1])


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_gpt2():
    model = torch.ao.quantization.quantize_dynamic(copy.deepcopy(plain("gpt2")), {torch.nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        expected = torch.stack([model(row(MIXED, i)[None]).logits[0, -1] for i in PROMPTS])
    equal_or_refused(lambda: at_end(model, MIXED), expected)
    equal_or_refused(lambda: decoding.decode_layers(model, MIXED)[-1], expected)
    difference = OUTCOME(expected, torch.arange(2))
    equal_or_refused(lambda: decoding.direct_attribution(model, MIXED, OUTCOME).total, difference)
    equal_or_refused(lambda: sweep(model, MIXED, [[], [Do(Site("mlp_out", 1), 0.0)]], OUTCOME)[0], difference)


# ---------------------------------------------------------------- the state of the model

def test_experts_have_no_row_of_neurons():
    for model in (bridge("mixtral"), Case("mixtral", "plain").model):
        sentence(lambda: read(model, MIXED, [Site("mlp_post", 1)]), "mlp_post")


@pytest.mark.parametrize("name", ["gpt2", "bert_classifier", "gptj"])
def test_a_model_in_training_mode_gives_no_random_numbers(name):
    model, case, site = copy.deepcopy(Case(name, "plain").model).train(), Case(name, "plain"), Site("mlp_out", 1)
    logits = torch.stack([case.logits("mixed", i) if "classifier" in name else case.logits("mixed", i)[-1] for i in PROMPTS])
    equal_or_refused(lambda: at_end(model, MIXED), logits)
    equal_or_refused(lambda: sweep(model, MIXED, [[]], case.outcome)[0],
                     torch.stack([case.difference(i, case.logits("mixed", i)) for i in PROMPTS]))
    equal_or_refused(lambda: read(model, MIXED, [site])[1][site][0], case.seen("mixed", 0)["mlp_out", 1])
    equal_or_refused(lambda: freeze(model, MIXED, site).values[0], case.seen("mixed", 0)["mlp_out", 1])


# ---------------------------------------------------------------- a bridge that is another model

def loaded(name, folder, **changes):
    save_with_words(build(name, **changes), folder)
    return load_model(str(folder))


@pytest.mark.parametrize("name, changes", [
    ("gpt2", dict(scale_attn_weights=False)),          # the bridge scales all the same
    ("opt", dict(_remove_final_layer_norm=True)),      # the bridge fails on its first pass
    ("gpt_neox", dict(attention_bias=False))])         # the bridge cannot be made
def test_a_bridge_gives_the_logits_of_the_model_it_was_made_of_or_is_refused(name, changes, tmp_path):
    with torch.no_grad():
        expected = build(name, **changes)(row(MIXED, 0)[None]).logits[0]
    with suppress(CourseError):
        equal(run(loaded(name, tmp_path, **changes), MIXED.part(0, 1))[0], expected)


@pytest.mark.parametrize("load", ["bridge", "plain"])
def test_the_stream_between_in_a_bloom_whose_residual_is_normalised(load, tmp_path):
    """There the MLP's output is added to what the norm gives, not to what enters it."""
    changes = dict(apply_residual_connection_post_layernorm=True)
    hf = build("bloom", **changes)
    model = loaded("bloom", tmp_path, **changes) if load == "bridge" else build("bloom", **changes)

    def halve(module, args, output):
        return (output[0] / 2, *output[1:])
    handle = hf.transformer.h[1].self_attention.register_forward_hook(halve)
    with torch.no_grad():
        expected = hf(row(MIXED, 0)[None]).logits[0]
    handle.remove()
    equal_or_refused(lambda: run(model, MIXED.part(0, 1), [Do(Site("resid_mid", 1), lambda x: x / 2)])[0], expected)
