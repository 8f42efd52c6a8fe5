"""Causal traces against a loop with one hand-hooked pass per cell and sample, and against the peer's numbers."""
import json
from functools import lru_cache

import numpy as np
import pytest
import torch
from benchmarks.make_tracer_numbers import CASES, PACKAGES, SHIPPED, STORED, random_gpt2
from reference import naive
from small_models import LANGUAGE_MODELS, LAYERS, WIDTH, bridge, plain
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from words import Words

from utils import tasks
from utils.models import load_model
from utils.tracing import CausalTracer, noise_from_subjects
from utils.tracing.tracer import Query, noise_from_embeddings

IDS, SUBJECT, SAMPLES, LEVEL = (17, 60, 33, 84, 5, 71), (1, 3), 2, 0.7
PROMPT = "".join(f" w{i}" for i in IDS)
SITES = {"hidden": "resid_post", "mlp": "mlp_out", "attention": "attn_out"}
TRACES = [("hidden", 1, None), ("mlp", 2, None), ("attention", 3, None), ("mlp", 1, None), ("hidden", 1, "mlp"),
          ("hidden", 1, "attention"), ("hidden", 2, "mlp")]


def tracer_of(model):
    return CausalTracer(model, Words(), noise=LEVEL)


def traced(tracer, kind="hidden", window=1, severed=None, **options):
    return tracer.calculate_hidden_flow(PROMPT, SUBJECT, kind=kind, window=window, severed=severed, samples=SAMPLES,
                                        **options)


@lru_cache(maxsize=None)
def by_hand(name, kind, window, severed, level=LEVEL):
    """Scores of every cell and sample, of the corrupted runs and of the clean run, with hand-written hooks."""
    tokens, everywhere = torch.tensor(IDS), [(site, l) for site in SITES.values() for l in range(LAYERS)]
    logits, clean = naive(name, tokens, wanted=everywhere)
    answer = logits[-1].argmax()
    p = lambda edits: naive(name, tokens, edits)[0][-1].softmax(-1)[answer].item()
    scores, low = torch.zeros(len(IDS), LAYERS, SAMPLES), torch.zeros(SAMPLES)
    draws = np.random.RandomState(1).randn(SAMPLES, SUBJECT[1] - SUBJECT[0], WIDTH)

    def put(values, position):
        def change(x):
            x = x.clone()
            x[position] = values[position]
            return x
        return change

    for s, draw in enumerate(draws):
        def corrupt(x, draw=draw):
            x = x.clone()
            x[slice(*SUBJECT)] += level * torch.tensor(draw, dtype=torch.float32)
            return x
        noise = ("embed", None, corrupt)
        low[s], (_, corrupted) = p([noise]), naive(name, tokens, [noise], everywhere)
        for t in range(len(IDS)):
            for l in range(LAYERS):
                together = [m for m in range(LAYERS) if l - window // 2 <= m < l + (window + 1) // 2]
                edits = [(SITES[kind], m, put(clean[SITES[kind], m], t)) for m in together]
                later = [(SITES[severed], m) for m in range(l + 1, LAYERS)] if severed else []
                edits += [(*site, put(corrupted[site], t)) for site in later]
                scores[t, l, s] = p([noise, *edits])
    return scores, low, logits[-1].softmax(-1)[answer].item(), answer.item()


@pytest.mark.parametrize("trace", TRACES, ids=str)
@pytest.mark.parametrize("load", [plain, bridge])
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_trace_equals_the_loop_by_hand(name, load, trace):
    scores, low, high, answer = by_hand(name, *trace)
    flow = traced(tracer_of(load(name)), *trace)
    assert (flow.outcomes - scores).abs().max() < 1e-5 and (flow.low_samples - low).abs().max() < 1e-5
    assert abs(flow.high_score - high) < 1e-5 and flow.answer == f" w{answer}"
    assert (scores - low).abs().max() > 1e-3, "the test is worth nothing if restoring does nothing"


def test_severing_changes_the_trace():
    for severed in ("mlp", "attention"):
        assert (by_hand("gpt2", "hidden", 1, severed)[0] - by_hand("gpt2", "hidden", 1, None)[0]).abs().max() > 1e-3


# ---------------------------------------------------------------- the peer

@pytest.fixture(scope="module")
def peer():
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    assert stored["versions"].keys() == set(PACKAGES) and stored["versions"]["causal-tracer"] == "1.1.0"
    return stored["cases"]


@pytest.fixture(scope="module")
def peer_models():
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(SHIPPED / "tokenizer.json"), bos_token=end, eos_token=end)
    shipped = AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32)
    return {"course-gpt2": CausalTracer(shipped, tokenizer), "random": CausalTracer(random_gpt2(), tokenizer)}


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_same_as_causal_tracer_on_the_same_noise(peer, peer_models, number):
    case, theirs = CASES[number], peer[number]
    assert {key: theirs[key] for key in case} == case
    tracer, settings = peer_models[case["model"]], {key: value for key, value in case.items() if key != "model"}
    assert tracer.noise == pytest.approx(theirs["noise"], abs=1e-6)
    assert tracer._tokenise(case["prompt"]) == theirs["input_ids"]
    flow = tracer.calculate_hidden_flow(**settings)
    assert flow.subject_range == tuple(theirs["subject_range"]) and flow.answer == theirs["answer"]
    assert flow.low_score == pytest.approx(theirs["low"], abs=1e-5)
    assert flow.high_score == pytest.approx(theirs["high"], abs=1e-5)
    assert (flow.scores - torch.tensor(theirs["scores"])).abs().max() < 1e-5


def test_the_stored_numbers_vary(peer):
    for case in peer:
        scores = torch.tensor(case["scores"])
        assert scores.std() > 1e-3 and case["high"] > 2 * case["low"] or case["model"] == "random"


# ---------------------------------------------------------------- samples, batches, cells

@pytest.mark.parametrize("severed", [None, "mlp"])
def test_batch_size_changes_nothing(severed):
    whole = traced(tracer_of(plain("llama")), severed=severed, batch_size=1000)
    for size in (1, 3, 7):
        other = traced(tracer_of(plain("llama")), severed=severed, batch_size=size)
        assert (other.outcomes - whole.outcomes).abs().max() < 1e-6
        assert (other.low_samples - whole.low_samples).abs().max() < 1e-6


def test_mean_and_standard_error_over_samples():
    flow = traced(tracer_of(plain("gpt2")))
    outcomes = flow.outcomes.numpy()
    assert np.allclose(flow.scores, outcomes.mean(-1)) and np.allclose(flow.stderr, outcomes.std(-1, ddof=1) / 2**0.5)
    assert flow.low_score == pytest.approx(flow.low_samples.mean().item())
    assert np.allclose(flow.indirect_effect, outcomes.mean(-1) - flow.low_score)
    assert flow.total_effect == pytest.approx(flow.high_score - flow.low_score)


def test_before_the_subject_nothing_can_be_restored():
    flow = traced(tracer_of(plain("gpt2")))
    assert (flow.outcomes[0] == flow.low_samples).all() and flow.indirect_effect[0].abs().max() < 1e-6
    assert (by_hand("gpt2", "hidden", 1, None)[0][0] - flow.low_samples).abs().max() < 1e-6, "the hooks agree"


def test_cells_that_were_not_asked_for_are_nan_and_the_others_the_same():
    tracer = tracer_of(plain("gpt2"))
    whole, part = traced(tracer), traced(tracer, start_layer=1, end_layer=2, patch_subject_tokens_only=True)
    computed = torch.zeros(len(IDS), LAYERS, dtype=torch.bool)
    computed[slice(*SUBJECT), 1] = True
    assert (part.scores.isnan() == ~computed).all() and part.layers == range(1, 2)
    assert (part.scores[computed] - whole.scores[computed]).abs().max() < 1e-6
    assert part.low_score == pytest.approx(whole.low_score, abs=1e-6)
    assert traced(tracer, start_layer=2).scores[:, :2].isnan().all()


def test_seeds_and_samples():
    tracer = tracer_of(plain("gpt2"))
    flow = tracer.calculate_hidden_flow(PROMPT, SUBJECT, samples=5)
    assert flow.outcomes.shape == (len(IDS), LAYERS, 5)
    assert len(flow.low_samples.unique()) == 5
    other = tracer.calculate_hidden_flow(PROMPT, SUBJECT, samples=5, seed=2)
    assert (flow.low_samples - other.low_samples).abs().max() > 1e-4


# ---------------------------------------------------------------- noise

@pytest.mark.parametrize("of_tracer, of_call", [(LEVEL, 0), (0, None)])
def test_noise_zero_means_none(of_tracer, of_call):
    flow = traced(CausalTracer(plain("gpt2"), Words(), noise=of_tracer), noise=of_call)
    assert flow.noise == 0 and (flow.outcomes - flow.high_score).abs().max() < 1e-6


def test_the_level_of_one_call_wins_over_the_tracers():
    flow = traced(CausalTracer(plain("gpt2"), Words(), noise=5.0), noise=LEVEL)
    assert flow.noise == LEVEL and (flow.low_samples - by_hand("gpt2", "hidden", 1, None)[1]).abs().max() < 1e-5


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_noise_levels(name):
    weight = plain(name).get_input_embeddings().weight
    for model in (plain(name), bridge(name)):
        assert noise_from_embeddings(model) == pytest.approx(3 * weight.std().item(), rel=1e-5)
        assert CausalTracer(model, Words()).noise == pytest.approx(3 * weight.std().item(), rel=1e-5)
        level = noise_from_subjects(model, ["w3 w9", "w40"], tokenizer=Words(), factor=2)
        assert level == pytest.approx(2 * weight[[3, 9, 40]].std().item(), rel=1e-5)


def test_noise_from_facts_takes_the_tokens_inside_the_prompts():
    model, facts = load_model(), tasks.landmark_facts()[:1]
    ids = model.tokenizer.encode(" " + facts[0].subject, add_special_tokens=False)
    assert noise_from_subjects(model, facts) == pytest.approx(3 * model.W_E[ids].std().item(), rel=1e-5)


def test_uniform_noise_has_the_same_standard_deviation():
    from utils.tracing.tracer import _draw
    for rule in ("gaussian", "uniform"):
        draw = _draw(rule, 1, 50, torch.zeros(1, 10, 100))
        assert draw.std().item() == pytest.approx(1, abs=0.01) and abs(draw.mean().item()) < 0.01
    assert draw.abs().max() <= 3**0.5 and draw.abs().max() > 1.7
    flows = [traced(tracer_of(plain("gpt2")), rule=rule) for rule in ("gaussian", "uniform")]
    assert (flows[0].low_samples - flows[1].low_samples).abs().max() > 1e-4


def test_swap_puts_other_subjects_there():
    others = ["w8 w9", "w50", "w44 w2", "w60 w33", "w7 w7 w7"]        # of other lengths, and the subject itself
    flow = traced(tracer_of(plain("gpt2")), rule="swap", other_subjects=others)
    swaps = [[(8, 9), (44, 2)][i] for i in np.random.RandomState(1).permutation(2)]
    _, _, high, answer = by_hand("gpt2", "hidden", 1, None)
    for sample, swap in enumerate(swaps):
        tokens = torch.tensor([IDS[0], *swap, *IDS[3:]])
        _, clean = naive("gpt2", torch.tensor(IDS), wanted=[("resid_post", 1)])

        def restore(x):
            x = x.clone()
            x[4] = clean["resid_post", 1][4]
            return x
        p = lambda edits: naive("gpt2", tokens, edits)[0][-1].softmax(-1)[answer].item()
        assert flow.low_samples[sample].item() == pytest.approx(p([]), abs=1e-5)
        assert flow.outcomes[4, 1, sample].item() == pytest.approx(p([("resid_post", 1, restore)]), abs=1e-5)
    assert flow.noise is None and flow.outcomes.shape[-1] == 2 and flow.high_score == pytest.approx(high, abs=1e-5)
    more = tracer_of(plain("gpt2")).calculate_hidden_flow(PROMPT, SUBJECT, rule="swap", other_subjects=others)
    assert more.outcomes.shape[-1] == 2, "there are only two"


# ---------------------------------------------------------------- on the shipped model

def test_the_shipped_model_carries_a_fact(shipped):
    flow = shipped.calculate_hidden_flow("The Space Needle is located in the city of", samples=3)
    assert flow.input_tokens[:4] == ("<|endoftext|>", "The", " Space", " Needle") and flow.subject_range == (1, 4)
    assert flow.answer == " Seattle" and flow.high_score > 0.9 > 0.5 > flow.low_score
    assert flow.scores[-1, -1].item() == pytest.approx(flow.high_score, abs=1e-5), "the last state is the answer"


def test_an_answer_can_be_given(shipped):
    prompt = "The Space Needle is located in the city of"
    by_name = shipped.calculate_hidden_flow(prompt, answer=" Paris", samples=1)
    paris = shipped.tokenizer.encode(" Paris", add_special_tokens=False)[0]
    by_id = shipped.calculate_hidden_flow(prompt, answer=paris, samples=1)
    assert by_name.answer == by_id.answer == " Paris" and by_name.high_score == by_id.high_score < 0.01
    assert by_name.stderr.isnan().all(), "one sample has no standard error"


def test_many_queries_at_once(shipped, capsys):
    fact = next(f for f in tasks.landmark_facts() if f.subject == "Space Needle")
    options = dict(samples=2, kind="mlp", window=3)
    flows = shipped.calculate_hidden_flows([fact, fact.prompt, Query(fact.prompt, (2, 4), " Rome")], **options)
    one = [shipped.calculate_hidden_flow(fact.prompt, fact.subject, answer=fact.answer, seed=1, **options),
           shipped.calculate_hidden_flow(fact.prompt, seed=2, **options),
           shipped.calculate_hidden_flow(fact.prompt, (2, 4), answer=" Rome", seed=3, **options)]
    for a, b in zip(flows, one, strict=True):
        assert torch.equal(a.outcomes, b.outcomes) and (a.answer, a.subject_range) == (b.answer, b.subject_range)
    same = shipped.calculate_hidden_flows([fact, fact], seed=5, own_noise=False, **options)
    assert torch.equal(same[0].outcomes, same[1].outcomes), "the same noise for both"
    own = shipped.calculate_hidden_flows([fact, fact], seed=5, **options)
    assert torch.equal(own[0].outcomes, same[0].outcomes) and not torch.equal(own[1].outcomes, same[1].outcomes)
    capsys.readouterr()
    shipped.calculate_hidden_flows([fact], **options)
    assert "causal tracing" in capsys.readouterr().err
    shipped.calculate_hidden_flows([fact], progress=False, **options)
    assert capsys.readouterr().err == ""
