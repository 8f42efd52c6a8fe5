"""What the prose of lesson 04 says about the shipped model."""
import pytest
import torch

from utils import induction, patching
from utils.induction import ABLATIONS
from utils.metrics import LogProbability, bootstrap
from utils.models import Prompts, load_model
from utils.show.published import published


@pytest.fixture(scope="module")
def shipped():
    return load_model("course-gpt2")


@pytest.fixture(scope="module")
def sequences(shipped):
    return induction.repeated_prompts(shipped, 12, 30, seed=5)


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
    for how in ("mean of others", "resample"):
        assert maps[how][0, [first_a, first_b, end]].min() > 4 and maps[how][0, elsewhere] < 0.3
        assert maps[how][:, 0].abs().max() < 1e-3
    assert maps["zero"][0, elsewhere] > 4 and maps["zero"][1, 0] > 0.3


def test_the_published_circuit_has_its_number():
    assert published("induction circuit").value == "0.2283"
