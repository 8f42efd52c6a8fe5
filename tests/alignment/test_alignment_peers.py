"""Alignment search beside its peers: pyvene's stored numbers, and the parts of `python -m tests.benchmarks alignment` on a
tiny classifier. Can a difference, a lower score or a missed target go unnoticed?"""
import json

import numpy as np
import pytest
import torch
from benchmarks import report
from benchmarks.__main__ import main
from benchmarks.alignment import draws, equality, jobs, ours, peer_bridge, peer_hooked, peer_loop
from benchmarks.alignment.make_pyvene_numbers import STORED, layers
from benchmarks.environment import machine, model_folder
from benchmarks.harness import BenchmarkError, largest_lead, largest_shortfall
from benchmarks.ledger import Ledger, code
from benchmarks.measure import Pair
from benchmarks.suites import SUITES

from utils.alignment import fit, iia, mlp, object_vectors, orthonormal, together
from utils.alignment.networks import accuracy
from utils.tasks import sample_inputs
from utils.tasks.causal_models import hierarchical_equality

PYVENE = json.loads(STORED.read_text(encoding="utf-8"))


# ---------------------------------------------------------------- pyvene's numbers on hierarchical equality

@pytest.fixture(scope="module")
def network():
    """The network that pyvene searched."""
    network = mlp().requires_grad_(False)
    for linear, (weight, bias) in zip(layers(network), PYVENE["weights"], strict=True):
        linear.weight.copy_(torch.tensor(weight))
        linear.bias.copy_(torch.tensor(bias))
    return network


def test_the_peer_searched_the_same_network_and_did_well(network):
    assert PYVENE["versions"]["pyvene"] == "0.1.8" and PYVENE["logits"] <= 1e-5 and PYVENE["error"] <= 1e-4
    assert all(0.9 <= PYVENE["iia"][kind] <= 1 for kind in equality.SWAPPED)
    model = hierarchical_equality()
    assert accuracy(network, model, sample_inputs(model, 5000, balance=("P", "Q")), object_vectors()) >= 0.99


def test_our_search_is_not_below_pyvenes(network):
    data = equality.search(network)
    assert data.fingerprint == PYVENE["data"]
    found = fit(data.frozen, together(*data.train.values()), equality.RANKS, steps=1200)
    for kind, swaps in data.held_out.items():
        score = iia(data.frozen, swaps, found.subspace).estimate
        assert score >= 0.99 and score >= PYVENE["iia"][kind] - 0.005, kind


def test_no_input_of_a_held_out_swap_was_searched(network):
    data = equality.search(network)
    used = lambda kinds: {i for swaps in kinds.values() for part in (swaps.base, *swaps.sources.values())
                          for i in part.tolist()}
    assert not used(data.train) & used(data.held_out)


# ---------------------------------------------------------------- the comparisons

CLASSES = np.array([[1, 2], [3, 3]])
LEAD = np.array([[0.2, 1e-6], [0.1, 0.3]])


def test_other_classes_count_unless_there_was_a_tie():
    peer = {"classes": CLASSES, "lead": LEAD}
    assert largest_lead({"classes": CLASSES}, peer) == 0
    assert largest_lead({"classes": np.array([[1, 4], [3, 3]])}, peer) == 1e-6
    assert largest_lead({"classes": np.array([[1, 4], [5, 3]])}, peer) == 0.1
    for other in (CLASSES[:1], CLASSES + np.nan):
        with pytest.raises(BenchmarkError):
            largest_lead({"classes": other}, peer)
    with pytest.raises(BenchmarkError, match="all numbers of the peer"):
        largest_lead({"classes": CLASSES}, {"classes": np.ones_like(CLASSES), "lead": LEAD})


def test_a_lower_score_is_told():
    score = lambda value: {"iia": np.array(value)}
    assert largest_shortfall(score(0.9), score(0.8)) == pytest.approx(-0.1)
    assert largest_shortfall(score(0.8), score(0.9)) == pytest.approx(0.1)
    with pytest.raises(BenchmarkError):
        largest_shortfall(score(np.nan), score(0.9))


# ---------------------------------------------------------------- the jobs, in this process

@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(model_folder("tiny-classifier", tmp_path_factory.mktemp("models")))


@pytest.mark.parametrize("fresh", [False, True])
def test_a_step_gives_the_logits_of_full_passes(tiny, fresh):
    model, plain = ours.load(tiny), peer_loop.load(tiny)
    found = ours.step(model, layer=1, rank=4, rows=5, fresh=fresh)["logits"]
    drawn, kept = draws.draw(5, 64, 4), []
    peer_loop._hooked(plain, 1, drawn.source, kept.append)

    def change(stream):
        return stream + ((kept[0] - stream).flatten(1) @ drawn.columns @ drawn.columns.T).view_as(stream)
    with torch.no_grad():
        expected, unchanged = peer_loop._hooked(plain, 1, drawn.base, change), plain(input_ids=drawn.base).logits
    assert np.abs(found - expected.numpy()).max() <= 1e-5 * np.ptp(expected.numpy())
    assert np.abs(found - unchanged.numpy()).max() > 1e-2 * np.ptp(expected.numpy())
    again = orthonormal(drawn.columns)
    assert torch.allclose(again @ again.T, drawn.columns @ drawn.columns.T, atol=1e-5)


def test_pairs_get_the_same_classes(tiny):
    settings = dict(rank=40, inputs=12, batch_size=50)
    found, other = (ours.pairs(ours.load(tiny), layer=layer, **settings) for layer in (1, 2))
    expected = peer_loop.pairs(peer_loop.load(tiny), layer=1, **settings)()
    assert found["classes"].shape == (12, 12) and largest_lead(found, expected) <= 1e-5 < largest_lead(other, expected)


def test_all_sides_search(tiny):
    settings = dict(graph="(X+Y)+Z", layer=1, position=5, rank=4, rows=40, epochs=2, batch_size=16)
    scores = [side.search(side.load(tiny), **settings)()["iia"] for side in (ours, peer_bridge, peer_hooked)]
    assert all(score.shape == () and 0 <= score <= 1 for score in scores)
    assert scores[1] == pytest.approx(scores[2], abs=0.01)      # the same search on the same network


# ---------------------------------------------------------------- verdicts and the report

def made(job, **changes):
    return Pair(**dict(job=job, model=job.on, threads=1, ours=(1.0, 1.1, 0.9), peer=(80.0, 81.0, 90.0), difference=0.0,
                       scores=(0.9, 0.8) if job.compare == "scores" else ()) | changes)


def named(name):
    return next(job for job in jobs.JOBS if job.name == name)


def test_targets_can_be_missed():
    assert all(all(made(job).verdicts.values()) for job in jobs.JOBS)
    assert made(named("step"), peer=(59.0,)).verdicts == {"same numbers": True, "60x": False}
    assert made(named("step"), difference=2e-5).verdicts == {"same numbers": False, "60x": True}
    assert made(named("search-bridge"), difference=1e-3).verdicts == {"IIA not lower": False, "1.5x": True}
    assert made(named("pairs"), ours=(181.0,), peer=(1000.0,)).verdicts == {
        "same classes": True, "4x": True, "within 180 s": False}
    assert made(named("search-hooked"), model="tiny-classifier", difference=1.0).verdicts == {}
    assert made(named("search-costliest"), difference=1.0).verdicts == {}


def test_the_report_shows_scores_and_what_was_missed():
    suite = SUITES["alignment"]
    write = lambda pairs: report.write(
        pairs, [], machine=machine(), versions={"alignment.ours": {"torch": "2"}}, date="2025-01-01", command="c",
        title=suite.title, notes=suite.notes, arithmetic=False)
    text = write([*map(made, jobs.JOBS)])
    assert text.startswith(f"# {suite.title}") and "IIA 0.900 against 0.800" in text and "**no**" not in text
    assert "arithmetic that remains" not in text and max(map(len, suite.notes.splitlines())) < 140
    assert "**no**: IIA not lower" in write([made(named("search-bridge"), difference=0.1, scores=(0.7, 0.8))])
    assert "\n\n\n" not in text


def test_the_two_suites_are_kept_apart(tmp_path, capsys):
    engine, alignment = SUITES["engine"], SUITES["alignment"]
    assert not set(engine.names) & set(alignment.names) and code(engine.ours) != code(alignment.ours)
    assert engine.results == "RESULTS.md" and engine.unfinished == "unfinished.jsonl" != alignment.unfinished
    path, pair = tmp_path / alignment.unfinished, made(named("search-bridge"))
    Ledger(path, "code", alignment.jobs).add({}, pair)
    assert Ledger(path, "code", alignment.jobs).pairs == [pair]
    with pytest.raises(SystemExit):
        main(["alignment", "--only", "trace"])
    assert "trace is not among step" in capsys.readouterr().err


def test_a_quick_look_does_every_job_on_a_tiny_model():
    for job in jobs.JOBS:
        less = jobs.small(job)
        assert not less.only and less.settings.keys() == job.settings.keys() and less.settings["layer"] == 1
