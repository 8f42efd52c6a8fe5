"""`LayerConfig`: models of other shapes, named by templates or functions, and the sentence for a wrong name."""
from types import SimpleNamespace

import pytest
import torch
from sentences import sentence
from reference import PATHS
from small_models import LANGUAGE_MODELS, LAYERS, hooks_on, plain
from words import Words

from utils.engine import ConfiguredModel, Do, LayerConfig, Site, read, run
from utils.tracing import CausalTracer

PROMPT, SUBJECT = "w17 w60 w33 w84 w5 w71", (1, 3)
TRACES = [dict(kind="hidden"), dict(kind="mlp", window=2), dict(kind="attention", window=3), dict(severed="mlp")]


def config(name, before=""):
    paths = PATHS[name]
    block = before + paths["block"].replace("{}", "{num}")
    return LayerConfig(block, f"{block}.{paths['attn_out']}", f"{block}.{paths['mlp_out']}", before + paths["embed"])


def functions(name):
    """The same names, given as functions of the layer's number."""
    given = config(name)
    by_number = lambda template: lambda num: template.format(num=num)
    fields = ("hidden_layers_matcher", "attention_layers_matcher", "mlp_layers_matcher")
    return LayerConfig(*(by_number(getattr(given, field)) for field in fields), given.embedding_layer)


class Stranger(torch.nn.Module):
    """A causal language model that nobody knows: another family's name, other module names."""

    def __init__(self, net):
        super().__init__()
        self.net, self.config = net, SimpleNamespace(model_type="stranger")

    def forward(self, input_ids, **options):
        return self.net(input_ids=input_ids, **options)


def trace(model, layer_config=None, **options):
    return CausalTracer(model, Words(), layer_config=layer_config, noise=0.7).calculate_hidden_flow(
        PROMPT, SUBJECT, samples=2, **options)


@pytest.mark.parametrize("options", TRACES, ids=str)
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_the_same_numbers_as_without(name, options):
    known = trace(plain(name), **options)
    ways = [trace(plain(name), config(name), **options), trace(plain(name), functions(name), **options),
            trace(Stranger(plain(name)), config(name, "net."), **options)]
    for flow in ways:
        assert (flow.outcomes - known.outcomes).abs().max() < 1e-5
        assert flow.high_score == pytest.approx(known.high_score, abs=1e-6)
    assert known.indirect_effect.abs().max() > 1e-3


def test_the_noise_level_comes_from_the_named_embedding():
    model = plain("llama")
    assert CausalTracer(Stranger(model), Words(), layer_config=config("llama", "net.")).noise == pytest.approx(
        3 * model.get_input_embeddings().weight.std().item())


def test_the_engine_takes_a_configured_model_like_any_other():
    model, configured = plain("gpt_neox"), ConfiguredModel(plain("gpt_neox"), config("gpt_neox"))
    tokens = torch.tensor([[3, 4, 5], [6, 7, 8]])
    sites = [Site("embed"), *(Site(kind, 1) for kind in ("resid_pre", "resid_post", "attn_out", "mlp_out"))]
    logits, found = read(configured, tokens, sites)
    expected, theirs = read(model, tokens, sites)
    assert torch.allclose(logits, expected, atol=1e-5)
    assert all(torch.allclose(found[site], theirs[site], atol=1e-5) for site in sites)
    doing = [Do(Site("resid_pre", 1, 0), 0.0)]
    assert torch.allclose(run(configured, tokens, doing), run(model, tokens, doing), atol=1e-5)
    assert hooks_on(model) == 0


# ---------------------------------------------------------------- bad input


GOOD = dict(hidden_layers_matcher="transformer.h.{num}", attention_layers_matcher="transformer.h.{num}.attn",
            mlp_layers_matcher="transformer.h.{num}.mlp", embedding_layer="transformer.wte")
BAD = {
    "as for AutoModel": (dict(hidden_layers_matcher="h.{num}"),
                         ["hidden_layers_matcher: this model has no module 'h.0'", "nearest are 'transformer.h.0'"]),
    "misspelled": (dict(mlp_layers_matcher="transformer.h.{num}.mpl"), ["mlp_layers_matcher", "'transformer.h.0.mpl'",
                                                                        "'transformer.h.0.mlp'"]),
    "a function": (dict(attention_layers_matcher=lambda num: f"transformer.h.{num}.self_attn"),
                   ["attention_layers_matcher", "'transformer.h.0.attn'"]),
    "embedding": (dict(embedding_layer="wte"), ["embedding_layer: this model has no module 'wte'",
                                                "'transformer.wte'"]),
    "empty": (dict(embedding_layer=""), ["embedding_layer: this model has no module ''"]),
    "no number": (dict(hidden_layers_matcher="transformer.h"), ["hidden_layers_matcher is 'transformer.h'",
                                                                "needs {num}"]),
    "one for all": (dict(hidden_layers_matcher=lambda num: "transformer.h.0"),
                    ["hidden_layers_matcher gives one module"]),
    "unequal": (dict(mlp_layers_matcher=lambda num: f"transformer.h.{num}.mlp" if num < 2 else "none"),
                ["different numbers of layers", "hidden_layers_matcher 3", "mlp_layers_matcher 2"]),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_names(case):
    change, parts = BAD[case]
    sentence(lambda: CausalTracer(plain("gpt2"), Words(), layer_config=LayerConfig(**GOOD | change)), *parts)
    CausalTracer(plain("gpt2"), Words(), layer_config=LayerConfig(**GOOD))


def test_an_unknown_family_is_asked_for_a_layer_config():
    sentence(lambda: trace(Stranger(plain("gpt2"))), "models of type 'stranger' are not known here",
         "layer_config=LayerConfig(...)", "gpt2", "llama")


def test_a_bridge_needs_none():
    from small_models import bridge
    sentence(lambda: CausalTracer(bridge("gpt2"), Words(), layer_config=LayerConfig(**GOOD)), "leave layer_config out")


def test_other_activations_and_layers_are_refused():
    configured, tokens = ConfiguredModel(plain("gpt2"), LayerConfig(**GOOD)), torch.tensor([[1, 2]])
    sentence(lambda: read(configured, tokens, [Site("z", 0)]), "does not say where 'z' is")
    sentence(lambda: read(configured, tokens, [Site("resid_post", LAYERS)]), "layer 3 is out of range", "0 to 2")
