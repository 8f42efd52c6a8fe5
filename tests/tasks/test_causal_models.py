"""Causal models against plain arithmetic written out by hand, their data, and what they refuse."""
import itertools
import pickle

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sentences import sentence

from utils.tasks import (ARITHMETIC, SUMS, CausalModel, Counterfactuals, addition, draw, pair_labels, pattern,
                         sample_counterfactuals, sample_inputs, split, validate_outputs)
from utils.tasks.causal_models import PATTERNS, SIMPLE, counterfactuals, hierarchical_equality

# What stands in brackets, and the total, each written out: independent of how the models are built.
INNER = {"(X+Y)+Z": lambda x, y, z: x + y, "(X+Z)+Y": lambda x, y, z: x + z, "X+(Y+Z)": lambda x, y, z: y + z,
         "(X)+Y+Z": lambda x, y, z: x, "X+(Y)+Z": lambda x, y, z: y, "X+Y+(Z)": lambda x, y, z: z,
         "(X+Y+Z)": lambda x, y, z: x + y + z}
# The total after P was replaced by p.
AFTER = {"(X+Y)+Z": lambda x, y, z, p: p + z, "(X+Z)+Y": lambda x, y, z, p: p + y, "X+(Y+Z)": lambda x, y, z, p: x + p,
         "(X)+Y+Z": lambda x, y, z, p: p + y + z, "X+(Y)+Z": lambda x, y, z, p: x + p + z,
         "X+Y+(Z)": lambda x, y, z, p: x + y + p, "(X+Y+Z)": lambda x, y, z, p: p}


def xyz(x, y, z):
    return {"X": x, "Y": y, "Z": z}


def abcd(word):
    return {name: ord(letter) - ord("A") for name, letter in zip("ABCD", word)}


def make(**changes):
    """A small sound model, (X + Y) + Z over 0..2, or a spoilt one."""
    parts = {"name": "small", "values": {**dict.fromkeys("XYZ", range(3)), "P": range(5), "O": range(7)},
             "parents": {"P": ["X", "Y"], "O": ["P", "Z"]},
             "functions": {"P": lambda x, y: x + y, "O": lambda p, z: p + z}}
    return CausalModel(**{**parts, **changes})


# ---------------------------------------------------------------- running

@pytest.mark.parametrize("name", SUMS)
def test_sums_run_and_interchange_as_written_out(name):
    model, rng = addition(name), np.random.default_rng(0)
    assert model.inputs == ("X", "Y", "Z") and model.inner == ("P",) and model.output == "O" and model.classes == 28
    for base, source in rng.integers(1, 11, (30, 2, 3)).tolist():
        got = model.run(xyz(*base))
        assert got == {**xyz(*base), "P": INNER[name](*base), "O": sum(base)}
        p = INNER[name](*source)
        swapped = model.run_interchange(xyz(*base), {"P": xyz(*source)})
        assert swapped == {**xyz(*base), "P": p, "O": AFTER[name](*base, p)}
    assert set(ARITHMETIC) | set(SIMPLE) == set(SUMS) == set(INNER) and len(ARITHMETIC) == 3 and len(SIMPLE) == 4


def test_the_batch_is_the_single_run_row_by_row():
    model, rng = hierarchical_equality(4), torch.Generator().manual_seed(0)
    base, one, other = torch.randint(4, (3, 60, 4), generator=rng)
    single = lambda row: dict(zip("ABCD", row.tolist()))
    runs, swapped = model.run_batch(base), model.run_interchange_batch(base, {"P": one, "Q": other})
    for i in range(60):
        assert model.run(single(base[i])) == {v: runs[v][i].item() for v in runs}
        assert model.run_interchange(single(base[i]), {"P": single(one[i]), "Q": single(other[i])}) == {
            v: swapped[v][i].item() for v in swapped}
    p, q = one[:, 0] == one[:, 1], other[:, 2] == other[:, 3]          # each variable from its own source
    assert torch.equal(swapped["O"], (p == q).long()) and torch.equal(swapped["A"], base[:, 0])


@pytest.mark.parametrize("word, hierarchical, follows", [
    ("AABB", 1, {"AABB"}), ("ABCD", 1, set()), ("ABCC", 0, set()), ("BBCD", 0, set()), ("ABAB", 1, {"ABAB"}),
    ("ABBA", 1, {"ABBA"}), ("AAAA", 1, {"ABAB", "AABB", "ABBA"}), ("ABAC", 1, set()), ("CBDB", 1, set()),
    ("AAAB", 0, set())])
def test_equality_tasks_by_hand(word, hierarchical, follows):
    assert hierarchical_equality(5).run(abcd(word))["O"] == hierarchical
    assert {name for name in PATTERNS if pattern(name, 5).run(abcd(word))["O"]} == follows


def test_do_cuts_a_variable_from_its_parents_and_reaches_only_what_comes_after():
    model = addition("(X+Y)+Z")
    assert model.run(xyz(1, 2, 3), do={"P": 20}) == {**xyz(1, 2, 3), "P": 20, "O": 23}
    assert model.run(xyz(1, 2, 3), do={"Y": 9}) == {**xyz(1, 9, 3), "P": 10, "O": 13}
    assert model.run(xyz(1, 2, 3), do={"O": 30}) == {**xyz(1, 2, 3), "P": 3, "O": 30}


def test_labels_count_the_values_of_the_output_in_their_order():
    model = addition("(X+Y+Z)")
    assert model.labels(model.run_batch(torch.tensor([[1, 1, 1], [10, 10, 10], [1, 2, 4]]))).tolist() == [0, 27, 4]
    odd = make(values={**dict.fromkeys("XYZ", (1, 0)), "P": (2, 0, 1), "O": (3, 1, 0, 2)})
    assert odd.labels(odd.run_batch(torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 1]]))).tolist() == [2, 0, 3]
    assert odd.run(xyz(1, 0, 0))["P"] == 1


def test_all_inputs_and_all_pairs():
    model = addition("X+(Y+Z)", 1, 3)
    inputs = model.all_inputs()
    assert list(map(tuple, inputs.tolist())) == list(itertools.product((1, 2, 3), repeat=3))
    table = pair_labels(model, "P")
    for base, source in itertools.product(range(27), repeat=2):
        x, (_, y, z) = inputs[base][0], inputs[source]
        assert table[base, source] == x + y + z - 3
    assert torch.equal(pair_labels(model, "P", inputs[[4, 9]]), table[[4, 9]][:, [4, 9]])
    assert torch.equal(table.diagonal(), model.labels(model.run_batch(inputs))), "a swap with itself changes nothing"
    assert torch.equal(pair_labels(model, "O"), table.diagonal().expand(27, 27)), "all comes from the source"


def test_a_model_is_plain_to_read_and_can_be_sent_to_workers():
    model = addition("(X+Z)+Y")
    assert str(model).splitlines() == ["(X+Z)+Y: X, Y, Z -> O", "  X is 1 to 10", "  Y is 1 to 10", "  Z is 1 to 10",
                                       "  P is 2 to 20, X + Z", "  O is 3 to 30, P + Y"]
    assert "P is 0 or 1, A == C" in str(pattern("ABAB")) and repr(model) == "CausalModel((X+Z)+Y: X, Y, Z -> O)"
    assert pickle.loads(pickle.dumps(model)).run(xyz(1, 2, 3)) == model.run(xyz(1, 2, 3))


def test_variables_may_be_written_in_any_order_and_functions_be_any_python():
    values = {"O": range(7), "P": range(5), **dict.fromkeys("XYZ", range(3))}
    model = make(values=values, functions={"P": lambda x, y: max(x, y) if x else y, "O": lambda p, z: p + z})
    assert model.inputs == ("X", "Y", "Z") and model.variables[-2:] == ("P", "O") and model.floors["O"] == 2
    assert model.run_batch(torch.tensor([[2, 1, 0], [0, 1, 1]]))["O"].tolist() == [2, 2]


# ---------------------------------------------------------------- refusals

@pytest.mark.parametrize("changes, parts", [
    ({"parents": {"P": ["X", "O"], "O": ["P", "Z"]}}, ["cycle", "P -> O -> P"]),
    ({"parents": {"P": ["X", "W"], "O": ["P", "Z"]}}, ["'P' has the parent 'W', which is missing", "X, Y, Z, P, O"]),
    ({"parents": {"P": ["X", "X"], "O": ["P", "Z"]}}, ["'P' has the parent 'X' twice"]),
    ({"parents": {"Q": ["X"], "O": ["P", "Z"]}}, ["'Q', which is no variable of small"]),
    ({"parents": {"O": ["X", "Z"]}}, ["'P' has a function but no parents"]),
    ({"functions": {"P": lambda x, y: x + y}}, ["'O' has parents but no function"]),
    ({"parents": {}, "functions": {}}, ["nothing is computed"]),
    ({"parents": {"P": ["X", "Y"], "O": ["X", "Z"]}}, ["P, O have no children", "output='O'"]),
    ({"output": "Q"}, ["the output is said to be 'Q'"]),
    ({"functions": {"P": lambda x, y: x * 10, "O": lambda p, z: p}}, ["gives 10 for X = 1, Y = 0", "0 to 4"]),
    ({"functions": {"P": lambda x: x, "O": lambda p, z: p}}, ["fails for X = 0, Y = 0", "TypeError", "take 2 values"]),
    ({"functions": {"P": lambda x, y: None, "O": lambda p, z: p}}, ["gives None"]),
    ({"values": {**dict.fromkeys("XYZ", range(3)), "P": range(5), "O": []}}, ["'O' has no values"]),
    ({"values": {**dict.fromkeys("XYZ", (1, 1)), "P": range(5), "O": range(7)}}, ["'X' has a value twice"]),
    ({"values": {**dict.fromkeys("XYZ", (0.5,)), "P": range(5), "O": range(7)}}, ["'X' cannot be 0.5", "whole"]),
    ({"values": {**dict.fromkeys("XYZ", range(2000)), "P": range(4000), "O": range(7)}}, ["4,000,000", "fewer values"]),
])
def test_a_model_that_makes_no_sense(changes, parts):
    assert make().run(xyz(0, 1, 2))["O"] == 3      # the control: unspoilt it is fine
    sentence(lambda: make(**changes), *parts)


ROWS = torch.tensor([[1, 1, 1], [2, 2, 2]])


@pytest.mark.parametrize("call, parts", [
    (lambda m: m.run({"X": 1, "Y": 1}), ["lacks Z"]),
    (lambda m: m.run({**xyz(1, 1, 1), "W": 1}), ["'W'", "no variable of small"]),
    (lambda m: m.run({**xyz(1, 1, 1), "P": 1}), ["computed from X, Y", "do={...}"]),
    (lambda m: m.run(xyz(1, 1, 3)), ["'Z' cannot be 3", "0 to 2"]),
    (lambda m: m.run(xyz(1, 1, -1)), ["'Z' cannot be -1", "0 to 2"]),
    (lambda m: m.run(xyz(1, 1, 1.5)), ["1.5", "whole numbers"]),
    (lambda m: m.run(xyz(1, 1, "two")), ["'two'", "whole numbers"]),
    (lambda m: m.run(xyz(1, 1, 1), {"P": 9}), ["'P' cannot be 9", "0 to 4"]),
    (lambda m: m.run(xyz(1, 1, 1), {"p": 1}), ["'p'", "no variable"]),
    (lambda m: m.run_interchange(xyz(1, 1, 1), {"Q": xyz(1, 1, 1)}), ["the sources name 'Q'"]),
    (lambda m: m.run_batch(ROWS[:, :2]), ["[2, 2]", "columns are X, Y, Z"]),
    (lambda m: m.run_batch(ROWS[0]), ["[3]", "columns are X, Y, Z"]),
    (lambda m: m.run_batch(ROWS + 0.5), ["fractional"]),
    (lambda m: m.run_batch(ROWS + 1), ["'X' cannot be 3"]),
    (lambda m: m.run_batch(ROWS, {"P": torch.tensor([1])}), ["shape [1]", "2 rows"]),
    (lambda m: m.run_interchange_batch(ROWS, {"P": ROWS[:1]}), ["2 base inputs but 1 sources of 'P'"]),
    (lambda m: m.run_interchange_batch(ROWS, {"R": ROWS}), ["'R'", "no variable"]),
    (lambda m: pair_labels(m, "R"), ["'R'", "no variable"]),
    (lambda m: pair_labels(m, "P", ROWS.repeat(2000, 1)), ["16,000,000 pairs", "part"]),
    (lambda m: hierarchical_equality(100).all_inputs(), ["100,000,000", "fewer values"]),
    (lambda m: validate_outputs(m, 28), ["28 outputs", "7 values"]),
    (lambda m: validate_outputs(addition("(X+Y)+Z"), 27), ["27 outputs", "28 values"]),
    (lambda m: pattern("ABBB"), ["no pattern 'ABBB'", "did you mean"]),
    (lambda m: addition("(X+Y)"), ["no sum '(X+Y)'", "did you mean"]),
    (lambda m: draw(m, ["R"]), ["highlight names 'R'"]),
    (lambda m: sample_inputs(m, 5, balance=["R"]), ["balance names 'R'"]),
    (lambda m: sample_inputs(m, 5, among=ROWS[:0]), ["no inputs to draw from"]),
    (lambda m: sample_counterfactuals(m, "R", 5), ["'R'", "no variable"]),
    (lambda m: sample_counterfactuals(m, "P", 0), ["would be empty"]),
    (lambda m: sample_counterfactuals(m, [], 5), ["would be empty"]),
    (lambda m: sample_counterfactuals(m, "P", 5, changed=2), ["changed=2"]),
    (lambda m: sample_counterfactuals(m, "P", 5, among=ROWS[:1]), ["only 0 change the label", "needs 2"]),
    (lambda m: counterfactuals(m, ROWS[:0], {"P": ROWS[:0]}), ["empty"]),
    (lambda m: Counterfactuals(m, ROWS, {"P": ROWS}, torch.tensor([0, 7]), torch.tensor([0, 0])), ["0 to 7", "0 to 6"]),
    (lambda m: Counterfactuals(m, ROWS, {"P": ROWS}, torch.tensor([0, -1]), torch.tensor([0, 0])), ["-1 to 0"]),
    (lambda m: Counterfactuals(m, ROWS, {"P": ROWS[:1]}, torch.tensor([0, 1]), torch.tensor([0, 0])), ["1 sources of"]),
    (lambda m: Counterfactuals(m, ROWS, {"P": ROWS}, torch.tensor([0]), torch.tensor([0, 0])), ["1 labels"]),
    (lambda m: split(ROWS, 0.1), ["0.1 of 2 inputs", "empty"]),
])
def test_bad_input_is_one_sentence(call, parts):
    sentence(lambda: call(make()), *parts)


def test_outputs_that_fit_pass():
    validate_outputs(addition("(X+Y)+Z"), 28)
    validate_outputs(hierarchical_equality(), 2)


# ---------------------------------------------------------------- data

@pytest.mark.parametrize("changed", [0.0, 0.3, 0.5, 1.0])
def test_the_share_of_changed_labels_is_exact_and_the_labels_are_right(changed):
    model = addition("(X+Y)+Z")
    data = sample_counterfactuals(model, "P", 200, changed=changed)
    assert len(data) == 200 and data.changed.sum() == round(200 * changed)
    rows = zip(data.base.tolist(), data.sources["P"].tolist(), data.labels, data.base_labels)
    for base, source, label, before in rows:
        assert label + 3 == source[0] + source[1] + base[2] and before + 3 == sum(base)
    if changed == 0.5:
        first = data.changed[:100].sum()
        assert 25 < first < 75, "rows of both kinds are mixed"


def test_sampling_follows_its_seed_and_its_inputs():
    model = addition("X+(Y+Z)")
    train, held_out = split(model.all_inputs(), 0.2, seed=3)
    rows = lambda t: set(map(tuple, t.tolist()))
    assert len(train) == 800 and len(held_out) == 200 and not rows(train) & rows(held_out)
    assert rows(train) | rows(held_out) == rows(model.all_inputs())
    assert torch.equal(train, split(model.all_inputs(), 0.2, seed=3)[0])
    assert not torch.equal(train, split(model.all_inputs(), 0.2, seed=4)[0])
    one, same, other = (sample_counterfactuals(model, "P", 300, among=train, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.base, same.base) and torch.equal(one.labels, same.labels)
    assert not torch.equal(one.base, other.base)
    assert rows(one.base) | rows(one.sources["P"]) <= rows(train)
    assert str(one) == "300 interchanges of P in X+(Y+Z); 50% change the label"
    assert len(one[:7]) == 7 and torch.equal(one[one.changed].labels, one.labels[one.changed])


def test_balance_makes_rare_cases_as_frequent_as_others():
    """Of twenty objects two are equal once in twenty draws, so P and Q are both true once in four hundred."""
    model = hierarchical_equality(20)
    share = lambda inputs: torch.stack(list(model.run_batch(inputs)[v] for v in "PQ"), 1).double()
    assert share(sample_inputs(model, 4000)).mean(0).max() < 0.08
    even = share(sample_inputs(model, 4000, balance=("P", "Q")))
    assert (even.mean(0) - 0.5).abs().max() < 0.05 and abs(even.prod(1).mean() - 0.25) < 0.05
    data = sample_counterfactuals(model, ("P", "Q"), 1000, balance=("P", "Q"))
    assert abs(data.labels.double().mean() - 0.5) < 0.06 and data.changed.sum() == 500
    natural = sample_counterfactuals(model, ("P", "Q"), 1000, changed=None)
    assert natural.changed.double().mean() < 0.25, "by chance alone most labels stay: the share matters"


def test_large_input_spaces_can_be_sampled_without_listing_them():
    data = sample_counterfactuals(hierarchical_equality(500), "P", 50, changed=None)
    assert data.base.max() > 20 and len(data) == 50


# ---------------------------------------------------------------- drawing

def distance(point, start, end):
    """From a point to the line between two others."""
    along = np.clip(np.dot(point - start, end - start) / np.dot(end - start, end - start), 0, 1)
    return np.linalg.norm(point - start - along * (end - start))


@pytest.mark.parametrize("model", [*map(addition, SUMS), *map(pattern, PATTERNS), hierarchical_equality(3)], ids=repr)
def test_the_drawing_shows_every_variable_and_hides_none(model):
    figure = draw(model, model.inner)
    axes = figure.axes[0]
    texts = {text.get_text(): text for text in axes.texts}
    assert set(model.variables) <= set(texts) and {f"= {f}" for f in model.formulas.values()} <= set(texts)
    assert axes.get_title() == model.name
    places = {v: np.array(texts[v].get_position()) for v in model.variables}
    for one, other in itertools.combinations(places, 2):
        assert np.linalg.norm(places[one] - places[other]) > 0.8, "one on top of another"
    for child in model.variables:
        for parent in model.parents[child]:
            assert places[child][1] > places[parent][1], "arrows go up"
            assert all(distance(places[v], places[parent], places[child]) > 0.2
                       for v in model.variables if v not in (parent, child)), "an arrow runs over a variable"
    plt.close(figure)


def test_an_input_that_nothing_uses_is_drawn_too():
    figure = draw(make(parents={"P": ["X", "Y"], "O": ["P"]}, functions={"P": lambda x, y: x + y, "O": lambda p: p}))
    assert {"X", "Y", "Z", "P", "O"} <= {text.get_text() for text in figure.axes[0].texts}
    plt.close(figure)
