"""What lesson 10 says in words: exactly about the planted table, and about the shipped model as its graphs have it."""
import numpy as np
import pytest
from lessons import run_lesson


def test_the_planted_table(lesson):
    table, clique = lesson["first"], lesson["find_clique"]
    assert abs(table.float().mean() - 0.403) < 5e-4 and len(clique(table)) == 600 and clique(table).proven
    assert lesson["two"]["shuffled"].sum() == table.sum() and len(clique(lesson["two"]["shuffled"])) < 20


def test_a_tenth_of_the_inputs_comes_free(lesson):
    for graph in lesson["ARITHMETIC"]:
        for table in (lesson["NOTHING"][graph], lesson["EVERYTHING"][graph]):
            clique = lesson["find_clique"](table)
            assert len(clique) == 100 and lesson["earned"](graph, clique.inputs) == 0


def test_the_hasty_finder_returns_no_clique(lesson):
    assert lesson["hasty_peel"](lesson["ring"])[:-1] == [0, 2, 4] and not lesson["ring"][2, 0]
    assert sorted(lesson["peel"](lesson["ring"])) == [4, 5, 6]


def test_a_clique_is_brittle_and_the_exact_search_the_worst(lesson):
    find = lesson["find_clique"]
    sizes = {method: len(find(lesson["chipped"], method, seconds=1, steps=2000)) for method in lesson["METHODS"]}
    assert max(sizes.values()) < 200 and min(sizes, key=sizes.get) == "exact"


def test_scores_of_rules(lesson):
    assert lesson["hasty_score"](lesson["grow"], lesson["columns"], lesson["coin"], 0) > 0.85
    assert np.mean([lesson["held_out_score"](lesson["grow"], lesson["columns"], lesson["coin"], s) for s in range(10)]) < 0.56
    text = lesson["printed"]["rules-planted"]
    assert "inside  if Z is at most 6 " in text and "inside  if X+Y is 11 " in text


def test_the_planted_combination(lesson):
    curve = lesson["curves"]["planted, 1 % fail"]
    assert abs(curve.coverage[1] - 0.936) < 0.04 and max(line[1] for line in curve.alone.values()) < 0.7
    assert curve.control.max() < 0.1 and curve.coverage[0] < lesson["idle"]["planted, 1 % fail"][0] + 0.1


def test_the_shipped_graphs_belong_to_the_cell_that_the_rule_chooses(lesson):
    made = lesson["made"]
    assert (made.about["layers"], made.about["ranks"]) == ([lesson["LAYER"]], [lesson["RANK"]])
    assert lesson["equal"].float().mean() > 0.999 and len(lesson["partly"]) >= 1


def sizes(lesson, kind):
    return {graph: len(clique) for graph, clique in lesson["cliques"][kind].items()}


def test_no_input_is_always_followed_and_none_as_the_average(lesson):
    graph = "(X+Z)+Y"
    rates = {kind: lesson["success_rate"](lesson["kinds"][kind][graph], graph) for kind in ("found", "shuffled")}
    low, high = rates["found"].quantile(lesson["torch"].tensor([0.05, 0.95]))
    assert 0.24 < low < 0.26 and 0.52 < high < 0.55 and rates["found"].max() < 0.75
    assert rates["found"].std() > 5 * rates["shuffled"].std()


def test_cliques_of_the_network_and_of_its_controls(lesson):
    assert sizes(lesson, "found") == {"(X+Y)+Z": 87, "(X+Z)+Y": 55, "X+(Y+Z)": 386}
    assert max(sizes(lesson, "shuffled").values()) < 386 / 8 and set(sizes(lesson, "nothing swapped").values()) == {100}
    for graph, clique in lesson["cliques"]["found"].items():
        assert 0.7 < lesson["earned"](graph, clique.inputs) < 0.82


def test_rules_say_where_the_clique_is_not(lesson):
    text = lesson["printed"]["rules-real"]
    assert "(right on 115 of 182 held-out inputs)" in text and "outside if X is at least 9 (right on 71 of 71" in text
    assert "inside  if X is even and X is 4 to 7 (right on 16 of 54" in text
    scores = [float(line.split("inputs ")[1][:5]) for line in text.splitlines() if line.startswith("balanced")]
    assert len(scores) == 3 and min(scores) > 0.8


def test_the_claim_is_half_of_a_hill(lesson):
    high, low = lesson["high"], (lesson["mine"] <= 4).all(1)
    found = lesson["claim"](lesson["explained"][1.0], high)
    assert found.named.estimate == pytest.approx(0.22, abs=5e-3) and found.others.estimate == pytest.approx(0.44, abs=5e-3)
    assert found.difference.high < -0.09 and lesson["explained"][0.9].all()
    shares = [lesson["explained"][1.0][block].mean() for block in lesson["BLOCKS"].values()]
    assert np.argmax(shares) == 3 and shares[3] > 0.9 and shares[0] < 0.35 and shares[-1] < 0.25
    rate = lesson["rates"]["X+(Y+Z)"]
    assert max(rate[high].mean(), rate[low].mean()) < 0.93 < 0.96 < rate[lesson["BLOCKS"]["4 to 7"]].mean()


def test_there_is_little_to_combine(lesson):
    curve = lesson["curves"]["arithmetic-gpt2"]
    alone = curve.alone["X+(Y+Z)"]
    assert alone[2] == curve.coverage[2] == curve.control[2] == 1
    assert curve.coverage[1] - alone[1] < 0.03 and 0.05 < curve.coverage[0] - alone[0] < 0.08 and curve.control[1] < 0.5


def test_the_total_and_the_copy_of_x(lesson):
    whole, copy = lesson["found"]["(X+Y+Z)"], lesson["found"]["(X)+Y+Z"]
    assert int((~lesson["FREE"]["(X+Y+Z)"]).sum()) == 0 and 0.98 < whole.float().mean() < 0.99 > copy.float().mean() > 0.98
    assert len(lesson["find_clique"](copy, steps=2000)) == 676
    with_it = {**lesson["without"], "(X+Y+Z)": whole}
    assert list(lesson["combine"](with_it, 0.9).parts) == ["X+(Y+Z)"]
    assert next(iter(lesson["combine"](with_it, 0.98).parts)) == "(X+Y+Z)"


def test_the_same_cells_run_on_another_adder(adder):
    names = run_lesson("10", adder)
    assert not names["shipped"] and len(names["rows"]) == 60 > names["old"].sum() > 30
    assert max(len(clique) for clique in names["cliques"]["found"].values()) < 20
