"""What lesson 08 says in words about its small networks, measured by the lesson's own cells."""
import torch

CONTROLS = ("no swap", "full patch", "random subspace", "arbitrary labels", "untrained model")


def test_neither_neurons_nor_the_whole_layer_are_p(lesson):
    assert lesson["best_one"].high < 0.65 and lesson["best_two"].high < 0.75
    nothing, whole = (line.split("IIA ")[1].split()[0] for line in lesson["printed"]["whole"].splitlines())
    assert nothing == "0.500" and abs(float(whole) - 0.5) < 0.05


def test_one_direction_is(lesson):
    score, above, held_out, columns = (lesson[name] for name in ("score", "above", "held_out", "columns"))
    assert score(above, lesson["hidden"], held_out, columns).low > 0.97
    assert score(above, lesson["strangers"], held_out, columns).low > 0.96
    assert lesson["iia"](lesson["frozen"], held_out, lesson["found"].subspace).low > 0.97
    assert abs(lesson["error"](lesson["orthonormal_columns"](lesson["weights"]))) < 1e-5


def test_the_direction_is_a_sum_of_neurons_that_listen_to_the_first_pair(lesson):
    neuron, direction = (lesson["told"](numbers) for numbers in lesson["along"].values())
    assert neuron < 0.8 and direction > 0.99
    values, equal = lesson["said"][:, lesson["unit"]], lesson["equal"]
    assert values[equal].max() < 0.05 and 0.4 < (values[~equal] == 0).float().mean() < 0.6
    own, other = (lesson["listens"](lesson["network"], places)[lesson["large"]] for places in ([0, 1], [2, 3]))
    assert len(own) == 6 and (other < 0.01).sum() == 5 and (own > other).all()


def test_the_careless_evaluation_likes_nothing_best(lesson):
    found, nothing = lesson["printed"]["careless-score"].splitlines()
    assert "1.000" in nothing and nothing.endswith("of 250 swaps") and float(found.split(": ")[1][:5]) < 0.6
    assert len(lesson["held_out"]) == 2000


def test_few_inputs_are_learned_by_heart(lesson):
    assert all(same.low > 0.99 for same, _ in lesson["leaks"].values())
    elsewhere = [other for _, other in lesson["leaks"].values()]
    assert elsewhere[0].high < 0.85 and elsewhere[-1].low > 0.98
    assert "95%" in lesson["printed"]["careless-parts"]


def test_controls(lesson):
    table = lesson["controls"].set_index("name")
    assert table.low["found"] > 0.99 and lesson["both"].subspace.error < 1e-5
    assert (table.high[list(CONTROLS)] < 0.8).all()
    for part in (slice(0, 700), slice(700, 1400), slice(1400, 2100)):                   # P alone, Q alone, both
        assert lesson["iia"](lesson["frozen"], lesson["judge_both"][part], lesson["both"].subspace).estimate >= 0.99
    assert table.iia[list(CONTROLS)].idxmax() == "random subspace"
    assert table.high["random subspace"] - table.low["random subspace"] > 0.1


def test_directions_against_neurons_and_layers(lesson):
    neurons, first, second, third = (curve.estimate for curve in lesson["curves"].values())
    assert neurons[0] < 0.65 and neurons[1] < 0.75 and neurons[2] < 0.92 and 0.95 < neurons[3] < first[0]
    assert first[0] > 0.97 and first[2:].min() > 0.99
    assert max(second.max(), third.max()) < 0.65 and second.min() < 0.45
    site = lesson["freeze_layer"](lesson["network"], lesson["embed"](lesson["inputs"], lesson["vectors"]), 1)
    history = lesson["fit"](site, lesson["train"], 8, steps=300).history
    assert history.validation_loss.iloc[-1] < history.validation_loss.iloc[0] and history.validation_iia.iloc[-1] < 0.5


def test_wrong_graphs(lesson):
    plain, made = lesson["grids"]["plainly"], lesson["grids"]["by interchanges"]
    for grid in (plain, made):
        for wrong in ("AABB", "ABBA"):
            searched = grid[wrong].drop("no swap")
            assert 0.64 < searched.min() and searched.max() < 0.7
        assert grid.ABAB["no swap"] == 0.5 and grid.ABAB[["AABB", "ABBA", "random"]].max() < 0.8
    right = lesson["matrices"]["by interchanges"].loc["ABAB", "ABAB"]
    assert right.iia >= 0.98 and right.low > 0.98
    assert abs(plain.ABAB["ABAB"] - plain.ABAB["random"]) < 0.05
    for line in lesson["printed"]["graphs-parts"].splitlines():
        found, random = (float(line.split(name)[1].split()[0]) for name in ("subspace ", "random ones "))
        assert found > 0.98 if line.startswith("by") else 0.66 < found < 0.83 and found - random < 0.05
    for line in lesson["printed"]["graphs-networks"].splitlines():
        assert float(line.split("aside ")[1][:5]) > 0.99


def test_the_plain_network_mixes_the_pairs(lesson):
    assert lesson["own"]["plainly"] == 0 and lesson["own"]["by interchanges"] > 0.6
    one, other = (lesson["listens"](lesson["trained"]["plainly"], places) for places in ([0, 2], [1, 3]))
    assert torch.maximum(one, other).div(torch.minimum(one, other)).max() < 1.6


def test_the_illusion(lesson):
    assert lesson["grid"].round(6).tolist() == [[1, 1, .5, .5], [1, .5, .5, .5], [.5] * 4, [.5] * 4]
    assert lesson["ours"]["rank"]["read"] == lesson["ours"]["rank"]["whole"] == 8 and lesson["ours"].iia["read"] > 0.99
