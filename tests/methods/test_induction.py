"""Induction: kinds of heads on planted patterns, ablations against hooks by hand (weights: test_composition.py)."""
import copy

import pytest
import torch
from reference import naive
from small_models import HEADS, LAYERS, VOCAB, WIDTH, bridge, hooks_on, plain, random_prompts
from test_composition import some_weights

from utils import induction
from utils.engine import Do, Site, run
from utils.errors import CourseError
from utils.induction import ABLATIONS, HEAD_ROLES
from utils.models import Prompts, load_model

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
    found = induction.predictions(plain("gpt2"), prompts)
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


@pytest.mark.parametrize("kind", HEAD_ROLES)
@pytest.mark.parametrize("period", [2, 3, 5, 8])
def test_a_planted_head_scores_1_on_its_own_kind_and_0_on_the_others(kind, period):
    scores = {other: induction.stripe(planted(kind, period), other).item() for other in HEAD_ROLES}
    assert scores[kind] == 1 and scores["duplicate-token"] == (kind == "duplicate-token")
    if period > 2:                 # at period 2 the token before is the token after the earlier copy
        assert scores == {other: float(other == kind) for other in HEAD_ROLES}


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
    for kind in HEAD_ROLES:
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
    for how, survives in (("mean of others", True), ("resample", True), ("zero", False)):
        assert torch.allclose(induction.replacement(values, how)[:, 0], values[:, 0], atol=1e-6) == survives


@pytest.mark.parametrize("how", ["zero", "mean of others", "resample"])
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
                z[:, part] = {"zero": 0.0 * donor, "mean of others": torch.stack(others).mean(0), "resample": donor}[how]
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
                              "mean of others": [stack[i][position] for i in range(3) if i != row],
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
     "no ablation is called 'noise'; choose one of: zero, mean of others, resample, first copy"),
    (lambda m: induction.knock_out(m, repeats(1), [[(0, 0)]], "mean of others"),
     "'mean of others' takes values of other sequences: give at least 2, not 1"),
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
    induction.mlp_map(model, prompts, "mean of others")
    induction.head_scores(model, prompts)
    induction.token_vectors(model, mlp=True, divide=True)
    assert torch.equal(run(model, prompts), before)
