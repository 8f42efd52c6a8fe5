"""Induction: kinds of heads on planted patterns, ablations against hooks by hand, weights against dense products."""
import copy
import math
import warnings

import pytest
import torch
from small_models import HEADS, LAYERS, VOCAB, WIDTH, bridge, hooks_on, naive, plain, random_prompts

from utils import induction, patching
from utils.induction import ABLATIONS, KINDS, HeadWeights
from utils.interventions import Do, Site, run
from utils.metrics import LogProbability, bootstrap
from utils.models import CourseError, Prompts, load_model
from utils.published import published

S, N = 5, 4
SIZE = WIDTH // HEADS


def repeats(n=N, period=S):
    """[BOS, half, half] for the small models; made without the function that is tested."""
    half = torch.randint(1, VOCAB, (n, period), generator=torch.Generator().manual_seed(0))
    tokens = torch.cat([torch.zeros(n, 1, dtype=torch.long), half, half], 1)
    return Prompts(tokens, torch.ones_like(tokens), torch.full((n,), 2 * period), (("x",) * (2 * period + 1),) * n)


@pytest.fixture(scope="module")
def shipped():
    return load_model("course-gpt2")


@pytest.fixture(scope="module")
def sequences(shipped):
    return induction.repeated_prompts(shipped, 12, 30, seed=5)


# ---------------------------------------------------------------- sequences and their parts

def test_sequences_have_bos_first_and_two_equal_halves(shipped):
    prompts = induction.repeated_prompts(shipped, 6, 9, seed=1)
    assert prompts.tokens.shape == (6, 19) and (prompts.tokens[:, 0] == shipped.tokenizer.bos_token_id).all()
    assert torch.equal(prompts.tokens[:, 1:10], prompts.tokens[:, 10:])
    assert not (prompts.tokens[:, 1:] == shipped.tokenizer.bos_token_id).any()
    assert prompts.equal_length and prompts.ends.tolist() == [18] * 6 and len(prompts.labels[0]) == 19
    assert induction.period_of(prompts) == 9
    assert torch.equal(prompts.tokens, induction.repeated_prompts(shipped, 6, 9, seed=1).tokens)
    assert not torch.equal(prompts.tokens, induction.repeated_prompts(shipped, 6, 9, seed=2).tokens)


def test_a_tokenizer_without_bos_uses_its_end_of_text(shipped, monkeypatch):
    tokenizer = shipped.tokenizer
    monkeypatch.setattr(type(tokenizer), "eos_token_id", 7, raising=False)
    for bos, first in ((None, 7), (5, 5)):
        monkeypatch.setattr(type(tokenizer), "bos_token_id", bos, raising=False)
        tokens = induction.repeated_prompts(shipped, 3, 4).tokens
        assert (tokens[:, 0] == first).all() and not (tokens[:, 1:] == first).any()


def test_tokens_that_only_pad_the_vocabulary_are_not_drawn(shipped, monkeypatch):
    monkeypatch.setattr(shipped.cfg, "d_vocab", 5000)
    assert induction.repeated_prompts(shipped, 50, 60).tokens.max() < 2560


def test_parts_share_out_all_targets():
    made = induction.Predictions(torch.arange(1.0, 11)[None], torch.zeros(1, 10))       # target t has log-probability t
    at = {part: made.log_probability[0, made.part(part)].tolist() for part in induction.PARTS}
    assert at == {"first half": [1, 2, 3, 4, 5], "boundary": [6], "second half": [7, 8, 9, 10]}
    assert made.loss().item() == -8.5 and made.loss("boundary").item() == -6


def test_predictions_are_log_softmax_of_the_position_before():
    prompts = repeats()
    found = induction.predictions(bridge("gpt2"), prompts)
    assert found.log_probability.shape == found.right.shape == (N, 2 * S)
    for row, tokens in enumerate(prompts.tokens):
        logits, _ = naive("gpt2", tokens)
        for position in range(1, 2 * S + 1):
            expected = logits[position - 1].log_softmax(-1)[tokens[position]].item()
            assert found.log_probability[row, position - 1].item() == pytest.approx(expected, abs=1e-4)
            assert found.right[row, position - 1].item() == float(logits[position - 1].argmax() == tokens[position])
    assert found.loss().tolist() == pytest.approx((-found.log_probability[:, S + 1:].mean(1)).tolist())
    assert found.accuracy("first half").tolist() == pytest.approx(found.right[:, :S].mean(1).tolist())


def test_a_perfect_copier_is_right_everywhere_but_in_the_first_half(monkeypatch):
    prompts = repeats()
    logits = 50.0 * torch.nn.functional.one_hot(prompts.tokens.roll(-1, 1), VOCAB)       # position t says token t + 1
    logits[:, :S + 1] = 0.0                                                              # nothing is known before S + 1
    monkeypatch.setattr(induction, "run", lambda model, prompts, interventions: logits)
    found = induction.predictions(None, prompts)
    assert found.accuracy().tolist() == [1.0] * N and found.loss().abs().max() < 1e-4
    assert torch.allclose(found.loss("first half"), torch.tensor(VOCAB).log())
    assert torch.allclose(found.loss("boundary"), torch.tensor(VOCAB).log())


# ---------------------------------------------------------------- kinds of heads

def planted(kind, period=S):
    """A pattern that looks, at every query, exactly where a head of this kind would; at BOS where it is idle."""
    pattern = torch.zeros(2 * period + 1, 2 * period + 1)
    for query in range(2 * period + 1):
        key = {"previous-token": query - 1, "duplicate-token": query - period if query > period else 0,
               "induction": query - period + 1 if query > period else 0}[kind]
        pattern[query, max(key, 0)] = 1
    return pattern


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("period", [2, 3, 5, 8])
def test_a_planted_head_scores_1_on_its_own_kind_and_0_on_the_others(kind, period):
    scores = {other: induction.stripe(planted(kind, period), other).item() for other in KINDS}
    assert scores[kind] == 1 and scores["duplicate-token"] == (kind == "duplicate-token")
    if period > 2:                 # at period 2 the token before is the token after the earlier copy
        assert scores == {other: float(other == kind) for other in KINDS}


def test_pairs_that_count():
    assert [x.tolist() for x in induction.counted("induction", 3)] == [[4, 5, 6], [2, 3, 4]]
    assert [x.tolist() for x in induction.counted("duplicate-token", 3)] == [[4, 5, 6], [1, 2, 3]]
    assert [x.tolist() for x in induction.counted("previous-token", 3)] == [[2, 3, 4, 5, 6], [1, 2, 3, 4, 5]]


def test_the_pairs_are_about_the_tokens_they_claim():
    tokens = repeats(1, 40).tokens[0]
    queries, keys = induction.counted("duplicate-token", 40)
    assert torch.equal(tokens[queries], tokens[keys])
    queries, keys = induction.counted("induction", 40)
    assert torch.equal(tokens[queries], tokens[keys - 1])          # the key stands after a copy of the query's token
    assert (keys < queries).all()


def test_the_whole_diagonal_counts_two_queries_that_are_no_induction():
    """A head at rest on BOS, and on position 1 at query S, gets credit from the diagonal and none from `stripe`."""
    resting = torch.zeros(2 * S + 1, 2 * S + 1)
    resting[:, 0] = 1
    resting[S] = torch.eye(2 * S + 1)[1]
    diagonal = resting.diagonal(offset=1 - S)
    assert len(diagonal) == S + 2 and diagonal.mean().item() == pytest.approx(2 / (S + 2))
    assert induction.stripe(resting, "induction") == 0


def test_stripe_keeps_leading_axes_and_averages():
    pattern = torch.rand(2, 3, 11, 11, generator=torch.Generator().manual_seed(0))
    by_hand = torch.stack([pattern[..., q, q + 1 - S] for q in range(S + 1, 2 * S + 1)]).mean(0)
    assert torch.allclose(induction.stripe(pattern, "induction"), by_hand)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "gpt_neox"])
def test_patterns_are_the_attention_weights_of_hugging_face(name):
    tokens, model = repeats(2).tokens, copy.deepcopy(plain(name))
    model.set_attn_implementation("eager")                         # only this one tells its weights
    with torch.no_grad():
        expected = torch.stack(model(input_ids=tokens, output_attentions=True).attentions)
    found = induction.patterns(bridge(name), tokens)
    assert found.shape == (LAYERS, HEADS, 2, 2 * S + 1, 2 * S + 1)
    assert torch.allclose(found.transpose(1, 2), expected, atol=1e-5)


def test_head_scores_do_not_depend_on_the_batch_size():
    prompts = repeats(5)
    whole, single = (induction.head_scores(bridge("gpt2"), prompts, batch_size=size) for size in (8, 1))
    pattern = induction.patterns(bridge("gpt2"), prompts.tokens)
    for kind in KINDS:
        assert whole[kind].shape == (LAYERS, HEADS, 5) and torch.allclose(whole[kind], single[kind], atol=1e-6)
        assert torch.allclose(whole[kind], induction.stripe(pattern, kind), atol=1e-6)


def test_best_head():
    scores = torch.zeros(3, 4, 2)
    scores[1, 2] = torch.tensor([0.9, 0.1])
    scores[2, 0] = torch.tensor([0.7, 0.7])
    assert induction.best_head(scores) == (2, 0)


# ---------------------------------------------------------------- taking parts away

def test_replacements_by_hand():
    values = torch.arange(3 * 5 * 1.0).view(3, 5, 1) ** 2
    zero, mean, resample, first = (induction.replacement(values, how) for how in ABLATIONS)
    assert (zero == 0).all()
    assert mean[1, 2, 0] == (values[0, 2, 0] + values[2, 2, 0]) / 2
    assert torch.equal(resample, values[[1, 2, 0]])
    assert torch.equal(first[:, :3], values[:, :3]) and torch.equal(first[:, 3:], values[:, 1:3])


def test_what_is_equal_in_all_sequences_survives_mean_and_resample():
    values = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0))
    values[:, 0] = values[0, 0]                                                          # as at BOS
    for how, survives in (("mean", True), ("resample", True), ("zero", False)):
        assert torch.allclose(induction.replacement(values, how)[:, 0], values[:, 0], atol=1e-6) == survives


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_knock_out_is_what_hooks_by_hand_give(how):
    prompts, group = repeats(), [(0, 1), (2, 3)]
    plain_z = [naive("gpt2", tokens, wanted=[("z", 0), ("z", 2)])[1] for tokens in prompts.tokens]
    found = induction.knock_out(bridge("gpt2"), prompts, [[], group], how)
    for row, tokens in enumerate(prompts.tokens):
        def edit(layer, head):
            def change(z):
                z, part = z.clone(), slice(head * SIZE, (head + 1) * SIZE)
                others = [plain_z[i]["z", layer][:, part] for i in range(N) if i != row]
                donor = plain_z[(row + 1) % N]["z", layer][:, part]
                z[:, part] = {"zero": 0.0 * donor, "mean": torch.stack(others).mean(0), "resample": donor}[how]
                return z
            return "z", layer, change
        for which, edits in enumerate(([], [edit(*head) for head in group])):
            logits, _ = naive("gpt2", tokens, edits)
            right = logits.log_softmax(-1)[torch.arange(S + 1, 2 * S), tokens[S + 2:]]
            assert found[which, row].item() == pytest.approx(-right.mean().item(), abs=1e-4)


def test_knock_out_leaves_no_hook_and_reports_other_parts():
    model, prompts = bridge("gpt2"), repeats()
    induction.knock_out(model, prompts, [[]])            # a first run lets the bridge put its own hooks on
    before = hooks_on(model)
    first = induction.knock_out(model, prompts, [[(1, 1)]], "zero", part="first half")
    expected = induction.predictions(model, prompts, [Do(Site("z", 1, None, 1), 0.0)]).loss("first half")
    assert torch.allclose(first[0], expected) and hooks_on(model) == before


def test_random_heads_are_different_groups_that_spare_the_excluded():
    model, spared = bridge("gpt2"), [(0, 0), (1, 2)]
    groups = induction.random_heads(model, 3, 200, exclude=spared, seed=4)
    assert len(groups) == 200 and all(len(set(group)) == 3 for group in groups)
    drawn = {head for group in groups for head in group}
    assert drawn == {(layer, head) for layer in range(LAYERS) for head in range(HEADS)} - set(spared)
    assert groups == induction.random_heads(model, 3, 200, exclude=spared, seed=4)
    assert groups != induction.random_heads(model, 3, 200, exclude=spared, seed=5)


@pytest.mark.parametrize("how", ABLATIONS)
def test_mlp_map_is_one_run_per_cell(how):
    prompts = repeats(3)
    found = induction.mlp_map(bridge("gpt2"), prompts, how)
    assert found.shape == (LAYERS + 1, 2 * S, 3)
    outputs = [naive("gpt2", t[:-1], wanted=[("mlp_out", layer) for layer in range(LAYERS)]) for t in prompts.tokens]
    for row, tokens in enumerate(prompts.tokens):
        def lost(layers, position):
            def edit(layer):
                def change(x):
                    stack = [o[1]["mlp_out", layer] for o in outputs]
                    donors = {"zero": [0.0 * stack[0][position]], "resample": [stack[(row + 1) % 3][position]],
                              "mean": [stack[i][position] for i in range(3) if i != row],
                              "first copy": [stack[row][position - S]]}[how]
                    x = x.clone()
                    x[position] = torch.stack(donors).mean(0)
                    return x
                return "mlp_out", layer, change
            said = lambda logits: logits[-1].log_softmax(-1)[tokens[-1]].item()
            return said(outputs[row][0]) - said(naive("gpt2", tokens[:-1], [edit(layer) for layer in layers])[0])
        for position in (S - 1, S, S + 1, 2 * S - 1):
            if how == "first copy" and position <= S:
                assert found[:, position].isnan().all()
                continue
            for line, layers in ((0, [0]), (LAYERS - 1, [LAYERS - 1]), (LAYERS, range(LAYERS))):
                assert found[line, position, row].item() == pytest.approx(lost(layers, position), abs=2e-4)


def test_resampling_cannot_see_what_every_sequence_shares():
    """BOS is the same everywhere, so its MLPs cannot be seen by resampling, and can by zeroing."""
    prompts = repeats()
    assert induction.mlp_map(bridge("gpt2"), prompts, "resample")[:, 0].abs().max() < 1e-5
    assert induction.mlp_map(bridge("gpt2"), prompts, "zero")[:, 0].abs().max() > 1e-2


# ---------------------------------------------------------------- the circuit by its weights

def some_weights(seed=0, layers=3, heads=2, width=12, size=3):
    draw = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(layers, heads, *shape, generator=draw)
    return HeadWeights(make(width, size), make(width, size), make(width, size), make(size, width))


def dense_score(w, kind, early, late):
    writes = w.v[early] @ w.o[early]
    reads = {"q": w.q[late] @ w.k[late].T, "k": w.k[late] @ w.q[late].T, "v": w.v[late] @ w.o[late]}[kind]
    norm = torch.linalg.matrix_norm
    return (norm(writes @ reads) / norm(writes) / norm(reads)).item()


@pytest.mark.parametrize("kind", "qkv")
def test_composition_scores_are_those_of_the_dense_matrices(kind):
    weights = some_weights()
    found = induction.composition_scores(weights, kind)
    assert found.shape == (3, 2, 3, 2)
    for early in [(layer, head) for layer in range(3) for head in range(2)]:
        for late in [(layer, head) for layer in range(3) for head in range(2)]:
            value = found[(*early, *late)].item()
            if early[0] < late[0]:
                assert value == pytest.approx(dense_score(weights, kind, early, late), abs=1e-5) and 0 <= value <= 1
            else:
                assert math.isnan(value)


def planted_weights():
    """Two layers of two heads, width 4, size 1. Head 0.0 reads direction 0 and writes 1; 1.0 has its keys in
    direction 1, its queries in 2, its values in 3. Heads 0.1 and 1.1 live in direction 3 alone."""
    axis = torch.eye(4)
    column = lambda *directions: torch.stack([axis[d] for d in directions]).view(2, 2, 4, 1)
    return HeadWeights(q=column(3, 3, 2, 3), k=column(3, 3, 1, 3), v=column(0, 3, 3, 3), o=column(1, 3, 0, 3).mT)


def test_composition_finds_the_planted_pair_and_only_through_its_keys():
    scores = {kind: induction.composition_scores(planted_weights(), kind) for kind in "qkv"}
    assert scores["k"][0, 0, 1, 0] == 1 and scores["q"][0, 0, 1, 0] == 0 and scores["v"][0, 0, 1, 0] == 0
    assert scores["k"][0, 1, 1, 0] == 0 and scores["v"][0, 1, 1, 0] == 1 and scores["k"][0, 0, 1, 1] == 0


def test_random_matrices_compose_like_one_over_the_root_of_the_width():
    weights = some_weights(layers=4, heads=4, width=100, size=10)
    random = induction.random_weights(weights, seed=1)
    assert random.o.shape == weights.o.shape and not torch.equal(random.q, weights.q)
    assert torch.equal(random.q, induction.random_weights(weights, seed=1).q)
    for kind in "qkv":
        assert induction.composition_scores(random, kind).nanmean().item() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "gpt_neox"])
def test_head_weights_reproduce_queries_keys_and_values(name):
    """On a centred vector that needs no division, norm and projection of the model are these matrices, up to biases."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weights = induction.head_weights(bridge(name))
    assert any("positions act inside the heads" in str(w.message) for w in caught) == (name != "gpt2")
    assert weights.q.shape == weights.k.shape == (LAYERS, HEADS, WIDTH, SIZE)
    assert weights.o.shape == (LAYERS, HEADS, SIZE, WIDTH)
    centred = [w.mean(2).abs().max() < 1e-6 for w in (weights.q, weights.k, weights.v)]   # deaf to a shift of the vector
    assert all(centred) if name in ("gpt2", "gpt_neox") else not any(centred)
    draw = torch.Generator().manual_seed(3)
    vectors = torch.randn(2, WIDTH, generator=draw)
    vectors = vectors - (0 if name in ("llama", "qwen2") else vectors.mean(-1, keepdim=True))
    vectors = vectors / vectors.pow(2).mean(-1, keepdim=True).sqrt()
    block = bridge(name).blocks[1]
    for kind, own in (("q", weights.q), ("k", weights.k), ("v", weights.v)):
        out = getattr(block.attn, kind)(block.ln1(vectors[None]))[0]
        out = out.reshape(2, -1, SIZE)
        difference = (out[0] - out[1]).repeat_interleave(HEADS // out.shape[1], 0)       # biases cancel
        mine = torch.einsum("w,hws->hs", vectors[0] - vectors[1], own[1])
        assert torch.allclose(mine, difference, atol=1e-3 * difference.abs().max()), kind


def test_token_vectors_are_what_block_0_makes_of_a_token():
    model, vectors = plain("gpt2").transformer, induction.token_vectors(bridge("gpt2"), mlp=True)
    block, embedded = model.h[0], model.wte.weight
    assert torch.allclose(vectors, embedded + block.mlp(block.ln_2(embedded)), atol=1e-4)
    assert torch.equal(induction.token_vectors(bridge("gpt2")), embedded)
    scaled = induction.token_vectors(bridge("gpt2"), mlp=True, divide=True)
    assert torch.allclose(scaled, torch.nn.functional.layer_norm(vectors, (WIDTH,)), atol=1e-4)
    llama = induction.token_vectors(bridge("llama"), divide=True)
    assert torch.allclose(llama.pow(2).mean(-1), torch.ones(VOCAB), atol=1e-3) and llama.mean(-1).abs().max() > 0.05
    assert torch.equal(bridge("gpt2").W_E, embedded)                                     # the model is as it was


def test_the_circuit_is_the_dense_product():
    weights, vectors = some_weights(), torch.randn(20, 12, generator=torch.Generator().manual_seed(7))
    circuit = induction.induction_circuit(weights, (0, 1), (2, 0), vectors)
    by_hand = (vectors @ weights.q[2, 0]) @ (vectors @ weights.v[0, 1] @ weights.o[0, 1] @ weights.k[2, 0]).T
    assert circuit.shape == (20, 20) and torch.allclose(circuit.AB, by_hand, atol=1e-3)
    hits = induction.top1(circuit, batch_size=7)
    assert hits.tolist() == (by_hand.argmax(1) == torch.arange(20)).tolist()
    assert induction.top1(circuit, torch.tensor([19, 3])).tolist() == [hits[19].item(), hits[3].item()]


def test_a_planted_circuit_is_right_for_every_token_and_a_shuffled_one_for_few():
    """The previous-token head copies its token into a space of its own; the induction head compares tokens there."""
    tokens = 16
    eye, none = torch.eye(tokens), torch.zeros(tokens, tokens)
    vectors = torch.cat([eye, none], 1)                    # tokens live in the first 16 directions
    low, high = torch.cat([eye, none]), torch.cat([none, eye])
    stack = lambda first, second: torch.stack([first, second])[:, None]
    weights = HeadWeights(q=stack(low, low), k=stack(low, high), v=stack(low, low), o=stack(high.T, low.T))
    circuit = induction.induction_circuit(weights, (0, 0), (1, 0), vectors)
    assert torch.equal(circuit.AB, eye) and induction.top1(circuit).all()
    circuit.B = circuit.B.roll(1, 1)
    assert not induction.top1(circuit).any()


# ---------------------------------------------------------------- the shipped model: what lesson 04 says about it

def test_the_second_half_is_known_and_the_first_is_not(shipped, sequences):
    made = induction.predictions(shipped, sequences)
    assert made.accuracy().mean() >= 0.95 and made.accuracy("first half").mean() <= 0.02
    assert made.loss().mean() < 0.6 and made.loss("first half").mean() > 6
    # the first token of the second copy: a bet on the start of the text, nearly always the top token and never probable
    assert made.accuracy("boundary").mean() > 0.8 and made.loss("boundary").mean() > 5


def test_induction_head_and_previous_token_head_exist_and_no_duplicate_token_head(shipped, sequences):
    scores = induction.head_scores(shipped, sequences)
    assert induction.best_head(scores["induction"]) == (3, 2) and scores["induction"][3, 2].mean() > 0.9
    assert induction.best_head(scores["previous-token"]) == (2, 1) and scores["previous-token"][2, 1].mean() > 0.9
    assert scores["duplicate-token"].mean(-1).max() < 0.2


def test_both_heads_are_needed_and_random_heads_are_not(shipped, sequences):
    pair = [(2, 1), (3, 2)]
    controls = induction.random_heads(shipped, 1, 5, exclude=pair, seed=1)
    losses = induction.knock_out(shipped, sequences, [[], *([head] for head in pair), *controls])
    assert (losses[1:3].mean(1) > 6).all() and losses[0].mean() < 0.6 and losses[3:].mean() < 0.6
    assert bootstrap(losses[3:].mean(0)).high < bootstrap(losses[1]).low


def test_the_circuit_by_weights(shipped):
    """Embeddings alone give some of it, the MLP of block 0 nearly all; other pairs give nothing."""
    weights, previous, head = induction.head_weights(shipped), (2, 1), (3, 2)

    def rate(early, late, **how):
        circuit = induction.induction_circuit(weights, early, late, induction.token_vectors(shipped, **how))
        return induction.top1(circuit).float().mean().item()
    assert 0.15 < rate(previous, head) < 0.4 and rate(previous, head, mlp=True) > 0.85
    assert rate((2, 3), head, mlp=True) < 0.05 and rate(previous, (4, 0), mlp=True) < 0.05
    scores = {kind: induction.composition_scores(weights, kind) for kind in "qkv"}
    assert scores["k"][:, :, 3, 2].nan_to_num(0).argmax() == 2 * 5 + 1
    assert scores["k"][2, 1, 3, 2] > 0.15 and scores["q"][2, 1, 3, 2] < 0.08 and scores["v"][2, 1, 3, 2] < 0.08


def test_an_idle_induction_head_rests_on_the_first_token_and_bets_on_it(shipped, sequences):
    resting = induction.patterns(shipped, sequences.tokens)[3, 2][:, 2:31, 1].mean()
    losses = induction.knock_out(shipped, sequences, [[], [(3, 2)]], part="boundary").mean(1)
    assert resting > 0.7 and losses[1] > losses[0] + 0.7


def test_the_pair_composes_through_keys_in_runs_too(shipped, sequences):
    """Path patching: the prediction is lost with the keys that another first half gives, not with queries or values."""
    period, tokens = 30, sequences.tokens
    other = tokens.clone()
    other[:, 1:period + 1] = tokens[:, 1:period + 1].roll(1, 0)
    cut = lambda t: Prompts(t[:, :-1], torch.ones_like(t[:, :-1]), sequences.ends - 1, ((),) * len(t))
    outcome = LogProbability(tokens[:, -1])
    lost = {kind: patching.path_map(shipped, cut(tokens), cut(other), outcome, [patching.Receiver(kind, 3, 2)],
                                    senders=[(2, 1), (2, 3)]).effect[2] for kind in "qkv"}
    assert lost["k"][1] > 0.8 and max(lost["q"][1], lost["v"][1], lost["k"][3]) < 0.1


def test_mlps_matter_and_what_they_seem_to_do_depends_on_the_donor(shipped):
    prompts = induction.repeated_prompts(shipped, 8, 8, seed=1)
    maps = {how: induction.mlp_map(shipped, prompts, how).mean(-1) for how in ABLATIONS}
    end, first_a, first_b, elsewhere = 15, 7, 8, 3
    assert maps["first copy"][:3, end].max() < 0.3 and maps["first copy"][3:6, end].min() > 1
    for how in ("mean", "resample"):
        assert maps[how][0, [first_a, first_b, end]].min() > 4 and maps[how][0, elsewhere] < 0.3
        assert maps[how][:, 0].abs().max() < 1e-3
    assert maps["zero"][0, elsewhere] > 4 and maps["zero"][1, 0] > 0.3


def test_the_published_circuit_has_its_number():
    assert published("induction circuit").value == "0.2283"


# ---------------------------------------------------------------- mistakes

PLAIN, ODD = random_prompts(), random_prompts((6, 6))
EVERY_HEAD = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]


@pytest.mark.parametrize("call, message", [
    (lambda m: induction.repeated_prompts(m, 3, 0),
     "3 sequences of period 0 cannot be made: choose at least 1 sequence, and a period from 1 to 11"),
    (lambda m: induction.repeated_prompts(m, 3, 12),
     r"1 to 11 \(1 \+ 2 \* period tokens must fit into the context of 24\)"),
    (lambda m: induction.repeated_prompts(m, 0, 5), "0 sequences of period 5 cannot be made"),
    (lambda m: induction.predictions(m, PLAIN), r"not \[BOS, half, the same half\]: make them with repeated_prompts"),
    (lambda m: induction.head_scores(m, ODD), r"not \[BOS, half, the same half\]"),
    (lambda m: induction.mlp_map(m, ODD, "zero"), r"not \[BOS, half, the same half\]"),
    (lambda m: induction.predictions(m, repeats()).loss("third half"),
     "no part is called 'third half'; choose one of: first half, boundary, second half"),
    (lambda m: induction.counted("copy", 4),
     "no kind of head is called 'copy'; choose one of: previous-token, duplicate-token, induction"),
    (lambda m: induction.patterns(plain("gpt2"), repeats().tokens),
     "shows no attention patterns: load it with utils.models.load_model"),
    (lambda m: induction.knock_out(m, repeats(), [[(3, 0)]]), "layer 3 is out of range: this model has layers 0 to 2"),
    (lambda m: induction.knock_out(m, repeats(), [[(0, 4)]]), "head 4 is out of range: each layer has heads 0 to 3"),
    (lambda m: induction.knock_out(m, repeats(), [[(0, 0)]], "noise"),
     "no ablation is called 'noise'; choose one of: zero, mean, resample, first copy"),
    (lambda m: induction.knock_out(m, repeats(1), [[(0, 0)]], "mean"),
     "'mean' takes values of other sequences: give at least 2, not 1"),
    (lambda m: induction.mlp_map(m, repeats(1), "resample"),
     "'resample' takes values of other sequences: give at least 2"),
    (lambda m: induction.random_heads(m, 11, 2, exclude=[(0, 0), (0, 1)]),
     "no groups of 11 can be drawn: 10 of 12 heads are left, so choose 1 to 10"),
    (lambda m: induction.random_heads(m, 1, 2, exclude=EVERY_HEAD), "0 of 12 heads are left, so exclude fewer"),
    (lambda m: induction.random_heads(m, 0, 2),
     "no groups of 0 can be drawn: 12 of 12 heads are left, so choose 1 to 12"),
    (lambda m: induction.head_weights(plain("gpt2")), "weights of heads are read from a TransformerBridge"),
    (lambda m: induction.composition_scores(some_weights(), "o"), "composition is by 'q', 'k' or 'v', not 'o'"),
    (lambda m: induction.induction_circuit(some_weights(), (2, 0), (2, 1), torch.zeros(5, 12)),
     "head 2.0 cannot feed 2.1: it must be in an earlier layer")])
def test_mistakes(call, message):
    with pytest.raises(CourseError, match=message) as error:
        call(bridge("gpt2"))
    assert "\n" not in str(error.value)


def test_a_bridge_without_attention_patterns(monkeypatch):
    model = bridge("gpt2")
    hooks = {name: hook for name, hook in model.hook_dict.items() if not name.endswith("hook_pattern")}
    monkeypatch.setattr(type(model), "hook_dict", property(lambda self: hooks))
    with pytest.raises(CourseError, match="shows no attention patterns"):
        induction.head_scores(model, repeats())


def test_the_plain_run_is_not_disturbed():
    """Nothing here may leave the model changed."""
    model, prompts = bridge("gpt2"), repeats()
    before = run(model, prompts)
    induction.knock_out(model, prompts, [[(0, 0), (1, 1)]], "resample")
    induction.mlp_map(model, prompts, "mean")
    induction.head_scores(model, prompts)
    induction.token_vectors(model, mlp=True, divide=True)
    assert torch.equal(run(model, prompts), before)
