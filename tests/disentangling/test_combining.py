"""Rules against planted rules, combinations of causal models against planted parts, and what is refused."""
import itertools
import time

import numpy as np
import pytest
import torch
from sentences import sentence
from test_cliques import planted, random_graph

from utils.disentangling import (HEURISTICS, METHODS, claim, cliques, combine, evaluate_parts, features, find_clique,
                                 find_rules, trade_off)
from utils.disentangling.cliques import Clique
from utils.metrics import share
from utils.tasks import addition, pair_labels

INPUTS = addition("(X+Y)+Z").all_inputs()
X, Y, Z = INPUTS.numpy().T


# ---------------------------------------------------------------- rules

def test_features_by_hand():
    made = features(torch.tensor([[1, 2, 10], [7, 8, 3]]))
    assert {name: column.tolist() for name, column in made.items()} == {
        "X": [1, 7], "Y": [2, 8], "Z": [10, 3], "X+Y": [3, 15], "X+Z": [11, 10], "Y+Z": [12, 11], "X+Y+Z": [13, 18],
        "X is even": [0, 0], "Y is even": [1, 1], "Z is even": [1, 0]}


@pytest.mark.parametrize("inside, words", [
    (X + Y <= 11, "X+Y is at most 11"), (Z >= 7, "Z is at least 7"), (Y % 2 == 0, "Y is even"),
    (Y % 2 == 1, "Y is odd"), ((X + Y + Z >= 12) & (X + Y + Z <= 16), "X+Y+Z is 12 to 16"), (Z == 4, "Z is 4")])
def test_a_planted_rule_is_found_and_said_in_words(inside, words):
    found = find_rules(inside, features(INPUTS), depth=2, shuffles=20)
    assert [rule.conditions for rule in found.rules if rule.inside] == [(words,)]
    assert found.score.estimate == 1 and found.score.low > 0.85 > 0.6 > found.control.high and found.control.low > 0.3
    assert (found.predicted == inside).all() and f"inside  if {words} (right on " in str(found)
    assert sum(rule.held_out for rule in found.rules) == len(found.held_out) == 300
    assert all(rule.correct == rule.held_out for rule in found.rules)


def test_two_conditions_on_different_features():
    found = find_rules((X + Y <= 11) & (Z <= 7), features(INPUTS), shuffles=5)
    inside, *others = found.rules
    assert set(inside.conditions) == {"X+Y is at most 11", "Z is at most 7"} and inside.inside
    assert len(others) == 2 and not any(rule.inside for rule in others)


def test_without_a_rule_the_score_is_that_of_shuffled_labels():
    """On held-out inputs a tree grown on noise is at chance; on the inputs it was grown on it looks better."""
    inside = np.random.default_rng(0).random(1000) < 0.3
    found = find_rules(inside, features(INPUTS), depth=6, shuffles=30)
    assert found.score.low < 0.5 < found.score.high and found.control.low < found.score.estimate < found.control.high
    seen = np.setdiff1d(np.arange(1000), found.held_out)
    right = found.predicted == inside
    assert (right[seen][inside[seen]].mean() + right[seen][~inside[seen]].mean()) / 2 > 0.6


@pytest.mark.parametrize("held_out", [0.05, 0.3, 0.95])
def test_both_sides_are_in_both_parts(held_out):
    inside = np.arange(1000) < 20
    apart = np.isin(np.arange(1000), find_rules(inside, features(INPUTS), held_out=held_out, shuffles=2).held_out)
    assert inside[apart].sum() == round(20 * held_out) and (~inside)[apart].sum() == round(980 * held_out)


def test_held_out_inputs_do_not_reach_the_tree():
    """Flip the label of every held-out input: the tree stays, its score turns upside down."""
    inside = X + Y <= 11
    found = find_rules(inside, features(INPUTS), shuffles=2)
    held_out = list(found.held_out)
    assert np.allclose(inside[held_out].mean(), inside.mean(), atol=0.01), "as many inside as in all"
    assert found.held_out == find_rules(inside, features(INPUTS), shuffles=2).held_out
    assert found.held_out != find_rules(inside, features(INPUTS), shuffles=2, seed=1).held_out
    noisy = inside.copy()
    noisy[np.random.default_rng(0).choice(1000, 100, replace=False)] ^= True
    wrong = find_rules(noisy, features(INPUTS), depth=1, shuffles=2)
    [rule] = [rule for rule in wrong.rules if rule.inside]
    here = np.array(wrong.held_out)[(X + Y <= 11)[list(wrong.held_out)]]
    assert rule.conditions == ("X+Y is at most 11",)
    assert rule.held_out == len(here) and rule.correct == noisy[here].sum()


def test_shares_with_their_intervals():
    """Wilson intervals from the tables: 8 of 10 gives 0.490 to 0.943, 0 of 10 gives 0 to 0.278."""
    some, none = share(np.array([True] * 8 + [False] * 2)), share(np.zeros(10, dtype=bool))
    assert (round(float(some.low), 3), some.estimate, round(float(some.high), 3)) == (0.490, 0.8, 0.943)
    assert none.low == none.estimate == 0 and round(float(none.high), 3) == 0.278


def test_a_claim_about_named_inputs():
    named = (INPUTS.numpy() >= 7).all(1)
    assert named.sum() == 64
    true = claim(~named, named)
    assert true.named.estimate == 0 and true.others.estimate == 1 and true.difference.high < -0.9
    chance = claim(np.random.default_rng(0).random(1000) < 0.4, named)
    assert chance.difference.low < 0 < chance.difference.high
    graph = np.ones((1000, 1000), dtype=bool)
    graph[named] = False
    by_clique = claim(find_clique(graph), named)
    assert by_clique == claim(torch.tensor(~named), named)


def test_newcombe_interval_of_a_difference():
    """Newcombe 1998, example 56/70 against 48/80: difference 0.2, interval 0.0524 to 0.3339."""
    explained = np.array([True] * 56 + [False] * 14 + [True] * 48 + [False] * 32)
    gap = claim(explained, np.arange(150) < 70).difference
    assert (round(float(gap.estimate), 4), round(float(gap.low), 4), round(float(gap.high), 4)) == (0.2, 0.0524, 0.3339)


# ---------------------------------------------------------------- several causal models

LABELS = {name: pair_labels(addition(name), "P").numpy() for name in ("(X+Y)+Z", "X+(Y+Z)", "(X+Z)+Y")}


def network(state):
    """IIA graphs of a made-up network: X and Y first on the inputs of `state`, else Y and Z; across them it babbles."""
    same = state[:, None] == state
    answers = np.where(same, np.where(state[:, None], LABELS["(X+Y)+Z"], LABELS["X+(Y+Z)"]), -1)
    return {name: answers == labels for name, labels in LABELS.items()}


def iia(table, part):
    pairs = list(itertools.permutations(part, 2))
    return sum(table[base][source] for base, source in pairs) / len(pairs)


def test_faithfulness_and_coverage_by_hand():
    tables = {"a": random_graph(30, 0.6, 1), "b": random_graph(30, 0.4, 2)}
    parts = {"a": [3, 1, 2, 8], "b": [20, 25]}
    got = evaluate_parts(tables, parts)
    assert got.coverage == pytest.approx(6 / 30)
    a, b = (iia(tables[name], parts[name]) for name in "ab")
    assert got.faithfulness.estimate == pytest.approx((12 * a + 2 * b) / 14), "12 pairs in one part, 2 in the other"
    assert got.faithfulness.low <= got.faithfulness.estimate <= got.faithfulness.high
    assert got.parts == {"a": (1, 2, 3, 8), "b": (20, 25)}
    only = evaluate_parts(tables, parts, only=[1, 2, 9, 20])
    assert only.coverage == 3 / 4 and only.faithfulness.estimate == pytest.approx(iia(tables["a"], [1, 2]))
    nothing = evaluate_parts(tables, {"a": [4]})
    assert nothing.coverage == pytest.approx(1 / 30) and np.isnan(nothing.faithfulness.estimate)


def test_two_planted_algorithms_are_taken_apart():
    state = Z <= 5
    success = network(state)
    found = combine(success, 1.0)
    assert list(found.parts) == ["(X+Y)+Z", "X+(Y+Z)"]
    assert all(np.array_equal(part, side.nonzero()[0]) for part, side in zip(found.parts.values(), (state, ~state)))
    assert found.coverage == 1 and found.faithfulness.estimate == 1
    assert combine({name: success[name] for name in ("(X+Z)+Y",)}, 1.0).coverage < 0.1
    curve = trade_off(success, (1.0, 0.8, 0.0))
    assert curve.coverage.tolist() == [1, 1, 1]
    assert curve.alone["(X+Y)+Z"][0] == 0.5 and (np.diff(curve.alone["(X+Y)+Z"]) > 0).all()
    assert (curve.control[:2] < 0.1).all() and curve.control[2] == 1
    assert str(curve).splitlines()[1].split() == ["1.00", "1.000", "0.500", "0.500", "0.050", "0.016"]


def test_parts_that_rules_predict_can_be_scored_on_held_out_inputs():
    state = X + Y <= 9
    success = network(state)
    found = find_rules(state, features(INPUTS), shuffles=2)
    parts = {"(X+Y)+Z": found.predicted.nonzero()[0], "X+(Y+Z)": (~found.predicted).nonzero()[0]}
    assert evaluate_parts(success, parts, only=found.held_out).faithfulness.estimate == 1
    wrong = dict(zip(reversed(parts), parts.values()))
    assert evaluate_parts(success, wrong, only=found.held_out).faithfulness.estimate < 0.6


@pytest.mark.parametrize("level", [1.0, 0.8, 0.6])
def test_one_model_on_small_graphs_against_every_subset(level):
    """Each part reaches its level, cannot take one more input, and is seldom much smaller than the best subset."""
    short = 0
    for seed in range(12):
        table = random_graph(11, 0.75, seed)
        part = combine({"a": table}, level).parts.get("a", ())
        assert len(part) < 2 or iia(table, part) >= level - 1e-9
        more = [iia(table, (*part, i)) for i in range(11) if i not in part]
        assert not more or max(more) < level
        best = max((size for size in range(2, 12) for subset in itertools.combinations(range(11), size)
                    if iia(table, subset) >= level - 1e-9), default=0)
        assert best - 1 <= len(part) <= best
        short += len(part) < best
    assert short <= 4


def test_known_cliques_help_where_peeling_is_led_astray():
    """Few inputs are all partners; each of a loose crowd has more partners, and peeling follows the crowd."""
    graph, inside = planted(120, 12, 0.0)
    crowd = np.setdiff1d(np.arange(120), inside)
    graph[np.ix_(crowd, crowd)] = planted(len(crowd), 0, 0.45, 3)[0]
    clique = find_clique(graph)
    assert clique.inputs == inside
    peeled, grown = combine({"a": graph}, 1.0), combine({"a": graph}, 1.0, {"a": clique})
    assert peeled.coverage < grown.coverage == 12 / 120 and grown.parts["a"] == inside
    both = combine({"a": graph, "b": graph}, 1.0, {"a": clique, "b": clique}).parts
    assert both["a"] == inside and not set(both["a"]) & set(both["b"]), "what is taken is gone"


def test_a_thousand_inputs_and_three_models_take_seconds():
    start = time.process_time()
    trade_off(network(Z <= 5), (1.0, 0.9))
    assert time.process_time() - start < 20


# ---------------------------------------------------------------- refusals

GOOD = np.ones((30, 30), dtype=bool)
HALF = np.arange(1000) < 500


@pytest.mark.parametrize("call, parts", [
    (lambda: find_clique(np.ones((3, 4))), ["square", "[3, 4]"]),
    (lambda: find_clique(np.ones((0, 0))), ["square", "[0, 0]"]),
    (lambda: find_clique(np.full((3, 3), 0.5)), ["True and False only", "iia == 1"]),
    (lambda: find_clique(torch.full((3, 3), float("nan"))), ["True and False only"]),
    (lambda: find_clique(GOOD, "magic"), ["no method 'magic'", "there are exact, degree"]),
    (lambda: find_clique(GOOD, "degre"), ["did you mean 'degree'"]),
    (lambda: find_clique(GOOD, seconds=0), ["seconds=0"]),
    (lambda: find_clique(GOOD, steps=0), ["steps=0"]),
    (lambda: find_clique(np.ones((2001, 2001)), "exact"), ["2,001 inputs is too large", "'branch and bound'"]),
    (lambda: features(torch.ones(5, 2)), ["three numbers", "[5, 2]"]),
    (lambda: find_rules(HALF, {"X": X[:10]}), ["'X' has 10 values", "1000 inputs"]),
    (lambda: find_rules(np.arange(1000) < 5, features(INPUTS)), ["5 inputs are inside and 995 outside", "20"]),
    (lambda: find_rules(HALF, features(INPUTS), held_out=1), ["held_out=1"]),
    (lambda: find_rules(np.arange(1000) < 20, features(INPUTS), held_out=0.04), ["held_out=0.04 leaves nothing of 20", "0.05"]),
    (lambda: find_rules(np.arange(1000) < 20, features(INPUTS), held_out=0.96), ["held_out=0.96 leaves nothing of 20", "0.95"]),
    (lambda: find_rules(HALF, features(INPUTS), depth=0), ["depth=0"]),
    (lambda: claim(HALF, HALF[:9]), ["1000 inputs are explained or not, but 9"]),
    (lambda: claim(HALF, ~HALF & HALF), ["0 inputs are named"]),
    (lambda: combine({}, 1.0), ["no causal model to combine"]),
    (lambda: combine({"a": GOOD, "b": GOOD[:9, :9]}, 1.0), ["different numbers of inputs", "a: 30, b: 9"]),
    (lambda: combine({"a": GOOD}, 1.5), ["level=1.5", "0 to 1"]),
    (lambda: combine({"a": GOOD}, 1.0, {"b": find_clique(GOOD)}), ["a clique of 'b'"]),
    (lambda: combine({"a": GOOD}, 1.0, {"a": find_clique(GOOD[:9, :9])}), ["among 9 inputs, but the graphs have 30"]),
    (lambda: evaluate_parts({"a": GOOD}, {"a": [1]}, only=[]), ["only=[]"]),
    (lambda: evaluate_parts({"a": GOOD}, {"b": [1]}), ["no IIA graph of 'b'"]),
    (lambda: evaluate_parts({"a": GOOD}, {"a": [1, 30]}), ["a names the input 30", "0 to 29"]),
    (lambda: evaluate_parts({"a": GOOD}, {"a": [-1]}), ["a names the input -1"]),
    (lambda: evaluate_parts({"a": GOOD, "b": GOOD}, {"a": [1, 2], "b": [2, 3]}), ["input 2 is in two parts"]),
])
def test_bad_input_is_one_sentence(call, parts):
    sentence(call, *parts)


def test_every_method_has_a_place_in_the_list():
    assert HEURISTICS == ("degree", "removal", "branch and bound", "excluding subgraphs", "degeneracy")
    assert set(METHODS) == {"exact", *HEURISTICS} and cliques.BEST in HEURISTICS
    assert isinstance(find_clique(GOOD), Clique)
