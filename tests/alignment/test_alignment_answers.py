"""Alignment search on networks whose answer is known, its controls, and the illusion that can be proved."""
import pytest
import torch
from sentences import sentence
from sums import QUICK, SUM

from utils.alignment import (Subspace, Swaps, controls, embed, fit, freeze_layer, iia, locate, mlp, object_vectors,
                             orthonormal, predict_pairs, random_subspace, together, train_mlp)
from utils.alignment.controls import control_table, cross_scores, deal_labels, full_patch, random_iia, relabel
from utils.alignment.illusion import illusion_check, illusion_directions, illusion_network, split_by_readers
from utils.alignment.networks import accuracy
from utils.tasks import addition, pair_labels, pattern, sample_counterfactuals, sample_inputs, split
from utils.tasks.causal_models import PATTERNS, counterfactuals, hierarchical_equality

OBJECTS = object_vectors()


# ---------------------------------------------------------------- networks whose answer is known

def rows_of(frozen, model, inputs, among, rows, seed, variables=("P", "Q")):
    return locate(frozen, inputs, sample_counterfactuals(model, variables, rows, balance=("P", "Q"), among=among, seed=seed))


def all_swaps(frozen, model, inputs, among, rows=4000):
    """P alone, Q alone, both."""
    return together(*(rows_of(frozen, model, inputs, among, rows, seed, variables)
                      for seed, variables in enumerate(("P", "Q", ("P", "Q")))))


@pytest.fixture(scope="module")
def inputs():
    everything = hierarchical_equality().all_inputs()
    return everything, *split(everything, 0.2, 0)


def test_hierarchical_equality(inputs):
    model, (everything, seen, unseen) = hierarchical_equality(), inputs
    network = train_mlp(mlp(), model)
    assert accuracy(network, model, sample_inputs(model, 5000, balance=("P", "Q"), among=unseen, seed=5), OBJECTS) >= 0.99
    frozen = freeze_layer(network, embed(everything, OBJECTS), 0)
    train = all_swaps(frozen, model, everything, seen)
    found = fit(frozen, train, 8, steps=1200)
    held_out = {v: rows_of(frozen, model, everything, unseen, 2000, 9, tuple(v)) for v in ("P", "Q", "PQ")}
    for swaps in held_out.values():
        assert iia(frozen, swaps, found.subspace).estimate >= 0.99
    untrained = freeze_layer(mlp(seed=7), embed(everything, OBJECTS), 0)
    table = control_table(frozen, train, held_out["PQ"], found, untrained=untrained, steps=400).set_index("name")
    assert table.iia["found"] >= 0.99 and table.iia["no swap"] == 0.5
    for name in ("no swap", "full patch", "random subspace", "arbitrary labels", "untrained model"):
        assert table.high[name] < 0.8, name
    assert (table.low <= table.iia).all() and (table.rows == 2000).all()
    # a later layer, where only the answer is left
    late = freeze_layer(network, embed(everything, OBJECTS), 2)
    assert iia(late, rows_of(late, model, everything, unseen, 1000, 9, "P"),
               fit(late, all_swaps(late, model, everything, seen), 8, steps=400).subspace).high < 0.7


def test_wrong_graphs_on_a_network_made_for_ABAB(inputs):
    everything, seen, unseen = inputs
    network = train_mlp(mlp(), pattern("ABAB"), steps=2500, places={"P": range(8), "Q": range(8, 16)})
    frozen = freeze_layer(network, embed(everything, OBJECTS), 0)
    found = {name: fit(frozen, all_swaps(frozen, pattern(name), everything, seen), 8, steps=1000).subspace
             for name in PATTERNS}
    held_out = {name: rows_of(frozen, pattern(name), everything, unseen, 2000, 9) for name in PATTERNS}
    table = cross_scores(frozen, {**found, "nothing": None}, held_out).set_index(["found_for", "scored_on"])
    right = table.loc["ABAB", "ABAB"]
    assert right.iia >= 0.98
    for wrong in ("AABB", "ABBA"):
        assert table.loc[wrong, wrong].high < right.low and table.loc["ABAB", wrong].high < right.low
    assert table.loc["nothing", "ABAB"].iia == 0.5


class Planted:
    """Activations that hold X + Y along one hidden direction, Z along another, noise along all others; their sum decides."""

    def __init__(self, inputs, width=32):
        generator = torch.Generator().manual_seed(0)
        self.directions = torch.linalg.qr(torch.randn(width, 2, generator=generator)).Q
        noise = 0.3 * torch.randn(len(inputs), width, generator=generator)
        held = torch.stack([(inputs[:, 0] + inputs[:, 1]) / 5, inputs[:, 2] / 3], 1)
        self.values = (noise - noise @ self.directions @ self.directions.T + held @ self.directions.T)[:, None]

    def __len__(self):
        return len(self.values)

    def logits(self, index, values):
        held = values[:, 0] @ self.directions
        return -(5 * held[:, :1] + 3 * held[:, 1:] - torch.arange(3, 31)) ** 2


def test_a_planted_direction_is_found_and_another_graph_is_not():
    inputs = addition("(X+Y)+Z").all_inputs()
    seen, unseen = split(inputs, 0.2, 0)
    frozen, found, held_out = Planted(inputs), {}, {}
    for name in ("(X+Y)+Z", "X+(Y+Z)"):
        train, held_out[name] = (locate(frozen, inputs, sample_counterfactuals(addition(name), "P", rows, among=among))
                                 for rows, among in ((5000, seen), (1000, unseen)))
        found[name] = fit(frozen, train, 1, steps=500).subspace
    assert (found["(X+Y)+Z"].columns[:, 0] @ frozen.directions[:, 0]).abs() > 0.99
    table = cross_scores(frozen, found, held_out).set_index(["found_for", "scored_on"])
    assert table.loc["(X+Y)+Z", "(X+Y)+Z"].low >= 0.95
    assert table.loc["(X+Y)+Z", "X+(Y+Z)"].high < 0.5 and table.loc["X+(Y+Z)", "X+(Y+Z)"].high < 0.5


# ---------------------------------------------------------------- controls

def test_arbitrary_labels_keep_the_counts_and_avoid_the_real_labels(summing):
    frozen, inputs = summing
    swaps = locate(frozen, inputs, sample_counterfactuals(SUM, "P", 400))
    table = deal_labels(4, swaps)
    assert table.shape == (4, 4) and table.flatten().bincount().tolist() == [4, 4, 4, 4]
    assert torch.equal(table, deal_labels(4, swaps)) and not torch.equal(table, deal_labels(4, swaps, seed=1))
    new = relabel(swaps, table)
    assert torch.equal(new.labels, table[swaps.base_labels, swaps.labels]) and torch.equal(new.base_labels, swaps.base_labels)
    for own in (swaps.labels, swaps.base_labels):
        assert (new.labels == own).float().mean() < 0.35
    base, after = torch.cartesian_prod(torch.arange(2), torch.arange(2)).T  # two classes: each deal agrees somewhere
    two = Swaps(base, {"P": base}, after, base)
    for seed in range(10):
        dealt = relabel(two, deal_labels(2, two, seed)).labels
        assert (dealt == after).float().mean() <= 0.5 and (dealt == base).float().mean() <= 0.5


def test_full_patch_and_random_subspaces(summing):
    frozen, inputs = summing
    swaps = locate(frozen, inputs, sample_counterfactuals(SUM, "P", 100))
    everywhere = frozen.logits(swaps.base, frozen.values[swaps.sources["P"]]).argmax(-1)
    assert full_patch(frozen, swaps).estimate == pytest.approx(float((everywhere == swaps.labels).float().mean()))
    several = random_iia(frozen, swaps, {"P": 3}, draws=4)
    each = [iia(frozen, swaps, random_subspace((1, 12), {"P": 3}, seed)) for seed in range(4)]
    assert several.estimate == pytest.approx(sum(e.estimate for e in each) / 4)
    assert several.low == min(e.low for e in each) and several.high == max(e.high for e in each)


def test_controls_search_as_was_searched(summing, monkeypatch):
    frozen, inputs = summing
    swaps, asked = locate(frozen, inputs, sample_counterfactuals(SUM, "P", 40)), []
    monkeypatch.setattr(controls, "fit", lambda *given, **options: asked.append(options) or fit(*given, **options))
    control_table(frozen, swaps, swaps, fit(frozen, swaps, 3, **QUICK), untrained=frozen, seed=2, **QUICK)
    assert asked == [QUICK | {"seed": 2}] * 2


def test_an_untrained_network_must_fit(summing):
    frozen, inputs = summing
    swaps = locate(frozen, inputs, sample_counterfactuals(SUM, "P", 40))
    found = fit(frozen, swaps, 3, **QUICK)
    other = freeze_layer(mlp((3, 9, 4)), inputs.float(), 0)
    sentence(lambda: control_table(frozen, swaps, swaps, found, untrained=other, **QUICK), "[8, 1, 9]", "[8, 1, 12]")


# ---------------------------------------------------------------- the illusion

@pytest.fixture(scope="module")
def seeming():
    """The illusion's network on inputs from -1 to 1, class 1 for positive ones, and swaps that change half of the labels."""
    x = torch.linspace(-1, 1, 40)[:, None]
    frozen = freeze_layer(illusion_network(), x, 0)
    base, source = torch.cartesian_prod(torch.arange(40), torch.arange(40)).T
    positive = (x[:, 0] > 0).long()
    return frozen, Swaps(base, {"X": source}, positive[source], positive[base])


def test_the_illusion_works_exactly_and_the_check_tells_it(seeming):
    frozen, swaps = seeming
    directions, readers = illusion_directions(), illusion_network()[1].weight
    logits = {name: frozen.logits(swaps.base, d.swap(*swaps.values(frozen))) for name, d in directions.items()}
    assert torch.allclose(logits["illusion"], logits["carries x"], atol=1e-6)       # the same numbers, not only classes
    assert torch.allclose(logits["carries x"], frozen.logits(swaps.sources["X"], frozen.values[swaps.sources["X"]]), atol=1e-6)
    plain_logits = frozen.logits(swaps.base, frozen.values[swaps.base])
    for part in ("disconnected", "dormant"):
        assert torch.allclose(logits[part], plain_logits, atol=1e-6)
    assert frozen.values[:, 0, 1].abs().max() == 0                                  # dormant: no input moves it
    tables = {name: illusion_check(frozen, swaps, d, readers).set_index("part") for name, d in directions.items()}
    seems, carries = tables["illusion"], tables["carries x"]
    assert seems.iia["whole"] == carries.iia["whole"] == 1 and seems.iia["no swap"] == 0.5
    assert carries.iia["read"] == 1
    assert tables["disconnected"].iia["whole"] == tables["dormant"].iia["whole"] == 0.5
    assert seems.iia["read"] == seems.iia["unread"] == 0.5                          # alone neither part does it
    assert seems.moves["unread"] > 0.1 and seems.moves["read"] == 0 and carries.moves["read"] > 0.1


def test_a_subspace_splits_into_what_is_read_and_what_is_not():
    readers = torch.randn(4, 10)
    columns = orthonormal(torch.randn(10, 3))
    parts = split_by_readers(columns, readers)
    assert (readers @ parts["unread"]).abs().max() < 1e-4 and parts["read"].shape[1] == 3
    both = torch.cat([parts["read"], parts["unread"]], 1)
    assert torch.linalg.matrix_rank(torch.cat([both, columns], 1), atol=1e-3) == torch.linalg.matrix_rank(both, atol=1e-3)
    unread = split_by_readers(parts["unread"], readers)
    assert unread["read"].shape[1] == 0


def test_bad_illusion_checks(seeming):
    frozen, swaps = seeming
    sentence(lambda: illusion_check(frozen, swaps, illusion_directions()["illusion"], torch.zeros(2, 4)), "4 numbers", "3")
    two = random_subspace((1, 3), {"X": 1, "Y": 1})
    sentence(lambda: illusion_check(frozen, swaps, two, torch.zeros(2, 3)), "X, Y", "one variable")


def test_pairs_of_the_causal_model_and_of_the_network_line_up(summing):
    """On a network that computes the sum exactly, every pair succeeds for the graph it computes, and not for another."""
    _, inputs = summing
    network = exact_adder()
    frozen = freeze_layer(network, inputs.float(), 0)
    p = Subspace(torch.tensor([[1.0], [0.0]]), {"P": 1}, (1, 2))
    success = lambda name: predict_pairs(frozen, p).success(pair_labels(addition(name, 1, 2), "P", inputs))
    assert success("(X+Y)+Z").all() and 0.3 < success("X+(Y+Z)").float().mean() < 1
    data = counterfactuals(SUM, inputs, {"P": inputs.flip(0)})
    assert iia(frozen, locate(frozen, inputs, data), p).estimate == 1


def exact_adder():
    """Hidden units X + Y and Z; the logit of class c is largest where their sum is c + 3: c s - c^2 / 2."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 4)).requires_grad_(False)
    network[0].weight.copy_(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    network[0].bias.zero_()
    c = torch.arange(4.0)
    network[2].weight.copy_(c[:, None].expand(4, 2))
    network[2].bias.copy_(-3 * c - c ** 2 / 2)
    return network
