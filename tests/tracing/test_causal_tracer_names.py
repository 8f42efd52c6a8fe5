"""Code written for causal-tracer 1.1.0 runs with another import line; what its README shows, on the shipped model."""
import matplotlib
import numpy as np
import pytest
import torch
from sentences import sentence
from small_models import LAYERS, SHIPPED, bridge, plain
from transformers import AutoModelForCausalLM, AutoTokenizer
from words import Words

from utils.causal_tracer import (GPT2_LAYER_CONFIG, LLAMA_LAYER_CONFIG, CausalTracer, HiddenFlowQuery, LayerConfig,
                                 LayerMatcher, plot_hidden_flow_heatmap)
from utils.engine import Each

NEEDLE, SUBJECT = "The Space Needle is located in the city of", "The Space Needle"


@pytest.fixture(scope="module")
def loaded():
    matplotlib.use("Agg")
    return AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32), AutoTokenizer.from_pretrained(SHIPPED)


@pytest.fixture(scope="module")
def tracer(loaded):
    model, tokenizer = loaded
    return CausalTracer(model, tokenizer)


# ---------------------------------------------------------------- the examples of the README

def test_a_trace_of_the_stream_and_its_plot(tracer):
    flow = tracer.calculate_hidden_flow(NEEDLE, subject=SUBJECT)
    assert flow.scores.shape == (len(flow.input_tokens), 8) and flow.answer == " Seattle"
    plot_hidden_flow_heatmap(flow)


@pytest.mark.parametrize("kind", ["mlp", "attention"])
def test_a_window_as_large_as_the_model_and_larger(tracer, kind):
    """ROME restores layers max(0, l - w // 2) to min(L, l - (-w // 2)): at window 10 and 8 layers five to eight of them."""
    flow = tracer.calculate_hidden_flow(NEEDLE, subject=SUBJECT, kind=kind, window=10)
    plot_hidden_flow_heatmap(flow)
    layers = tracer.count_layers()
    for layer in range(layers):
        assert list(tracer._window(layer, 10)) == list(range(max(0, layer - 10 // 2), min(layers, layer - (-10 // 2))))
    whole = tracer.calculate_hidden_flow(NEEDLE, subject=SUBJECT, kind=kind, window=100)
    assert (whole.outcomes - whole.outcomes[:, :1]).abs().nan_to_num().max() < 1e-5, "all layers, wherever the centre is"
    assert torch.allclose(flow.scores[:, 4:5].nan_to_num(), whole.scores[:, :1].nan_to_num(), atol=1e-5)


def test_more_samples_in_smaller_batches(tracer):
    flow = tracer.calculate_hidden_flow(NEEDLE, subject=SUBJECT, samples=50, batch_size=8)
    assert flow.outcomes.shape[-1] == 50


def test_some_cells_only(tracer):
    flow = tracer.calculate_hidden_flow(NEEDLE, subject=SUBJECT, start_layer=3, end_layer=5, patch_subject_tokens_only=True)
    computed = ~flow.scores.isnan()
    expected = torch.zeros_like(computed)
    expected[slice(*flow.subject_range), 3:5] = True
    assert torch.equal(computed, expected)


def test_a_layer_config_may_leave_out_the_prefix_of_the_body(loaded, tracer):
    model, tokenizer = loaded
    names = LayerConfig(hidden_layers_matcher="h.{num}", attention_layers_matcher="h.{num}.attn",
                        mlp_layers_matcher="h.{num}.mlp", embedding_layer="wte")
    own = CausalTracer(model, tokenizer, layer_config=names)
    flow, known = (t.calculate_hidden_flow(NEEDLE, subject=SUBJECT, samples=2) for t in (own, tracer))
    first = flow.subject_range[0]                 # before the subject nothing differs, and the known model saves the passes
    assert (flow.scores - known.scores)[first:].abs().max() < 1e-5
    assert own.get_layer_names_of_kind("mlp") == [f"transformer.h.{layer}.mlp" for layer in range(8)]


def test_the_fields_of_a_flow(tracer):
    flow = tracer.calculate_hidden_flow(NEEDLE, subject=SUBJECT, samples=2, kind="mlp")
    assert isinstance(flow.low_score, float) and isinstance(flow.high_score, float) and flow.kind == "mlp"
    assert tracer.tokenizer.decode(flow.input_ids) == "".join(flow.input_tokens)
    assert list(flow.layer_outputs) == [f"transformer.h.{layer}.mlp" for layer in range(8)]
    kept = {}
    hooks = [tracer.model.get_submodule(name).register_forward_hook(lambda m, a, out, name=name: kept.update({name: out[0]}))
             for name in flow.layer_outputs]
    with torch.no_grad():
        tracer.model(flow.input_ids[None])
    for hook in hooks:
        hook.remove()
    for name, output in flow.layer_outputs.items():
        assert output.shape == (len(flow.input_tokens), 160) and torch.allclose(output, kept[name], atol=1e-4)
    assert "layer_outputs" not in repr(flow)


# ---------------------------------------------------------------- its other names

def test_the_answer_by_its_id_and_the_seed(tracer):
    other = tracer.tokenizer.encode(" Paris")[0]
    flow = tracer.calculate_hidden_flow(NEEDLE, SUBJECT, "hidden", answer_id_override=other, patch_seed=5, samples=2)
    ours = tracer.calculate_hidden_flow(NEEDLE, SUBJECT, answer=other, seed=5, samples=2)
    assert flow.answer == " Paris" and torch.equal(flow.low_samples, ours.low_samples)
    usual = tracer.calculate_hidden_flow(NEEDLE, SUBJECT, answer=other, samples=2)
    assert not torch.equal(flow.low_samples, usual.low_samples)
    sentence(lambda: tracer.calculate_hidden_flow(NEEDLE, SUBJECT, answer=" Rome", answer_id_override=other),
             "answer and answer_id_override are two names of one option")
    sentence(lambda: tracer.calculate_hidden_flow(NEEDLE, SUBJECT, seed=2, patch_seed=3), "seed and patch_seed")


def test_several_queries_as_objects(tracer):
    other = tracer.tokenizer.encode(" Paris")[0]
    queries = [NEEDLE, HiddenFlowQuery(NEEDLE, "Needle"), HiddenFlowQuery(text=NEEDLE, override_answer_id=other)]
    flows = tracer.calculate_hidden_flows(queries, samples=2, patch_seed=3, own_noise=False, progress=False)
    assert [flow.answer for flow in flows] == [" Seattle", " Seattle", " Paris"]
    assert flows[1].subject_range[1] - flows[1].subject_range[0] == 1 and flows[0].subject_range == flows[2].subject_range
    alone = tracer.calculate_hidden_flow(NEEDLE, samples=2, patch_seed=3)
    assert torch.equal(flows[0].outcomes.nan_to_num(), alone.outcomes.nan_to_num())
    sentence(lambda: tracer.calculate_hidden_flows(NEEDLE), "`queries` must be a list, not the text")


@pytest.mark.parametrize("name, preset", [("gpt2", GPT2_LAYER_CONFIG), ("llama", LLAMA_LAYER_CONFIG)])
def test_presets_and_the_names_of_layers(name, preset):
    words, options = "w17 w60 w33 w84", dict(subject=(1, 3), samples=2)
    known, named = CausalTracer(plain(name), Words()), CausalTracer(plain(name), Words(), preset)
    flows = [tracer.calculate_hidden_flow(words, **options) for tracer in (known, named)]
    assert (flows[0].outcomes - flows[1].outcomes)[1:].abs().max() < 1e-5
    for tracer in (known, named):
        assert tracer.count_layers() == LAYERS
        assert tracer.get_layer_name(2, "hidden") == preset.hidden_layers_matcher.format(num=2)
        assert tracer.get_layer_names_of_kind("attention") == [preset.attention_layers_matcher.format(num=layer)
                                                               for layer in range(LAYERS)]
        sentence(lambda: tracer.get_layer_name(3, "hidden"), "layer 3 is out of range")
        sentence(lambda: tracer.get_layer_name(0, "resid"), "kind must be one of hidden, mlp, attention")
    assert CausalTracer(bridge(name), Words()).count_layers() == LAYERS


def test_a_matcher_may_take_the_model_and_the_number():
    def matcher(ending) -> LayerMatcher:
        def name(model, number):
            assert model is plain("gpt2")
            return f"transformer.h.{number}{ending}"
        return name
    names = LayerConfig(matcher(""), matcher(".attn"), lambda number, ending=".mlp": f"transformer.h.{number}{ending}",
                        "transformer.wte")
    assert CausalTracer(plain("gpt2"), Words(), names).get_layer_name(1, "mlp") == "transformer.h.1.mlp"


def test_positions_of_a_trace(tracer):
    whole = tracer.calculate_hidden_flow(NEEDLE, SUBJECT, samples=2)
    first, last = whole.subject_range[0], len(whole.input_tokens) - 1
    for positions, tokens in (("end", [last]), (-1, [last]), ([first, last], [first, last]), (Each((first,)), [first])):
        some = tracer.calculate_hidden_flow(NEEDLE, SUBJECT, samples=2, positions=positions)
        assert (~some.scores.isnan()).all(1).nonzero().flatten().tolist() == tokens
        assert (some.outcomes[tokens] - whole.outcomes[tokens]).abs().max() < 1e-5
    sentence(lambda: tracer.calculate_hidden_flow(NEEDLE, SUBJECT, positions=99), "position 99 is out of range")


def test_the_plot_is_saved_and_shown(tracer, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: shown.append(True))
    flow = tracer.calculate_hidden_flow(NEEDLE, SUBJECT, samples=2)
    path = tmp_path / "traces" / "needle.pdf"
    figure = plot_hidden_flow_heatmap(flow, str(path), "A title", "a label", show=True, color="Oranges")
    assert path.read_bytes().startswith(b"%PDF") and shown == [True]
    axes = figure.axes[0]
    assert (axes.get_title(), axes.get_xlabel(), axes.collections[0].get_cmap().name) == ("A title", "a label", "Oranges")
    plot_hidden_flow_heatmap(flow, show=False)
    assert shown == [True] and np.isfinite(flow.low_score)
