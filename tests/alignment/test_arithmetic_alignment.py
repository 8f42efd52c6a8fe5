"""Where the shipped adder keeps X + (Y + Z): searched anew, with every control beside it."""
import pytest
import torch

from utils.alignment import control_table, fit, iia, locate
from utils.alignment.controls import MEANING
from utils.engine import Site, freeze
from utils.models import all_sums, encode_sums, load_adder
from utils.tasks import addition, sample_counterfactuals, split

RANK = 128                  # of 768
SEARCH = dict(steps=250, batch_size=64, patience=9)


@pytest.fixture(scope="module")
def model():
    return load_adder(device="cpu")


def searched(model, layer):
    """The frozen sums at one layer, swaps of Y + Z for the search and, between other sums, for the score."""
    inputs = all_sums()
    frozen = freeze(model, encode_sums(model, inputs), Site("resid_post", layer))
    seen, unseen = split(inputs, 0.2, 0)
    return frozen, *(locate(frozen, inputs, sample_counterfactuals(addition("X+(Y+Z)"), "P", rows, changed=None, among=among,
                                                                    seed=seed))
                     for seed, (rows, among) in enumerate([(10_000, seen), (1000, unseen)]))


def test_a_partial_sum_is_found_and_no_control_comes_near(model):
    frozen, train, held_out = searched(model, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = type(model)(model.config).eval().requires_grad_(False)
    other = freeze(untrained, encode_sums(model, all_sums()), Site("resid_post", 1))
    found = fit(frozen, train, RANK, **SEARCH)
    table = control_table(frozen, train, held_out, found, untrained=other, **SEARCH).set_index("name")
    assert table.iia["found"] >= 0.9 and set(table.index) == set(MEANING)
    assert (table.high.drop("found") < 0.5).all()


def test_two_blocks_later_it_is_gone(model):
    frozen, train, held_out = searched(model, 3)
    assert iia(frozen, held_out, fit(frozen, train, RANK, **SEARCH).subspace).high < 0.5
