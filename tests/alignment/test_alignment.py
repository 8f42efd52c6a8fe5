"""Subspaces, rows, the search and the scores, against full rotations and whole forward passes."""
import os

import pytest
import torch
from sentences import sentence
from reference import naive
from small_models import LAYERS, WIDTH, plain, random_prompts
from sums import QUICK, SUM

from utils.alignment import (Subspace, Swaps, fit, freeze_layer, iia, load_subspace, locate, mlp, orthonormal, predict,
                             predict_pairs, random_subspace, together)
from utils.engine import Each, Site, freeze
from utils.tasks import addition, sample_counterfactuals

CLASSES = 5             # of the small classifier


# ---------------------------------------------------------------- subspaces

def test_a_swap_is_the_swap_of_coordinates_in_a_full_rotation():
    found = random_subspace((3, 4), {"P": 2, "Q": 5}, seed=1)
    rest = torch.linalg.qr(torch.cat([found.columns, torch.randn(12, 5)], 1)).Q[:, 7:]
    rotation = torch.cat([found.columns, rest], 1)
    base, p, q = torch.randn(3, 6, 3, 4)
    turned = base.flatten(1) @ rotation
    turned[:, :2], turned[:, 2:7] = (p.flatten(1) @ rotation)[:, :2], (q.flatten(1) @ rotation)[:, 2:7]
    assert torch.allclose(found.swap(base, {"P": p, "Q": q}).flatten(1), turned @ rotation.T, atol=1e-5)
    assert torch.allclose(found.swap(base, {"Q": q}), found.part("Q").swap(base, {"Q": q}), atol=1e-6)
    assert torch.allclose(found.swap(base, {"Q": base}), base) and found.error < 1e-5
    assert "P: 2, Q: 5; of 3 x 4" in repr(found)


def test_orthonormal_keeps_what_the_first_columns_span():
    weights = torch.randn(20, 6) * 50
    columns = orthonormal(weights)
    for n in range(1, 7):
        assert torch.linalg.matrix_rank(torch.cat([weights[:, :n], columns[:, :n]], 1), atol=1e-2) == n


def test_a_subspace_as_wide_as_everything_takes_the_source():
    found = random_subspace((2, 3), {"P": 6})
    base, source = torch.randn(2, 5, 2, 3)
    assert torch.equal(found.swap(base, {"P": source}), source)


def test_files(tmp_path):
    found = random_subspace((2, 8), {"P": 3, "Q": 1})
    found.save(tmp_path / "s.safetensors")
    again = load_subspace(tmp_path / "s.safetensors")
    assert torch.equal(again.columns, found.columns) and (again.ranks, again.shape) == (found.ranks, found.shape)
    Subspace(found.columns * 2, found.ranks, found.shape).save(tmp_path / "bent.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "s.safetensors").read_bytes()[:50])
    for name in ("bent", "cut", "missing"):
        sentence(lambda: load_subspace(tmp_path / f"{name}.safetensors"), name)


def test_bad_subspaces():
    sentence(lambda: random_subspace((2, 8), {"P": 0}), "rank 0", "1 to 16")
    sentence(lambda: random_subspace((2, 8), {"P": 17}), "17", "2 positions x 8 = 16")
    sentence(lambda: random_subspace((2, 8), {"P": 10, "Q": 7}), "17", "16 or less")
    found, base = random_subspace((2, 8), {"P": 3}), torch.zeros(4, 2, 8)
    sentence(lambda: found.swap(base, {"Q": base}), "'Q'", "P")
    sentence(lambda: found.swap(base, {"P": base[:3]}), "source of 'P'", "[3, 2, 8]")
    sentence(lambda: found.swap(base[:, :1], {"P": base}), "the base", "[4, 1, 8]")


# ---------------------------------------------------------------- rows

def test_locate_finds_every_input(summing):
    frozen, inputs = summing
    data = sample_counterfactuals(SUM, "P", 50)
    swaps = locate(frozen, inputs, data)
    assert torch.equal(inputs[swaps.base], data.base) and torch.equal(inputs[swaps.sources["P"]], data.sources["P"])
    assert torch.equal(swaps.labels, data.labels) and torch.equal(swaps.base_labels, data.base_labels)


def test_sets_together_swap_what_they_lack_with_the_base(summing):
    frozen, inputs = summing
    p = locate(frozen, inputs, sample_counterfactuals(SUM, "P", 10))
    other = Swaps(p.base, {"Q": p.sources["P"]}, p.labels, p.base_labels)
    both = together(p, other)
    assert len(both) == 20 and torch.equal(both.sources["Q"][:10], p.base) and torch.equal(both.sources["P"][10:], p.base)
    found = random_subspace((1, 12), {"P": 3, "Q": 3})
    assert torch.equal(predict(frozen, both, found)[:10], predict(frozen, p, found))


def test_bad_rows(summing):
    frozen, inputs = summing
    data = sample_counterfactuals(SUM, "P", 10)
    good = locate(frozen, inputs, data)
    one = torch.zeros(1, dtype=torch.long)
    sentence(lambda: locate(frozen, inputs[:4], data), "4 inputs", "frozen on 8")
    few = freeze_layer(mlp((3, 12, 4)), inputs[:1].float(), 0)
    sentence(lambda: locate(few, inputs[:1], data), "the input (", "was not frozen")
    sentence(lambda: locate(frozen, inputs, sample_counterfactuals(addition("(X+Y)+Z"), "P", 10)), "4 outputs", "28 values")
    sentence(lambda: good[torch.zeros(10, dtype=torch.bool)], "empty")
    sentence(lambda: Swaps(one, {}, one, one), "empty")
    sentence(lambda: Swaps(good.base[:9], good.sources, good.labels, good.base_labels), "9 base inputs", "10 sources of 'P'")
    for label in (-1, 4):
        wrong = Swaps(good.base, good.sources, torch.full_like(good.labels, label), good.base_labels)
        for call in (lambda: fit(frozen, wrong, 2), lambda: iia(frozen, wrong, None)):
            sentence(call, str(label), "classes 0 to 3")
    for index in (-1, 8):
        wrong = Swaps(torch.full_like(good.base, index), good.sources, good.labels, good.base_labels)
        sentence(lambda: predict(frozen, wrong, None), f"input {index}", "0 to 7")


def test_prompts_of_different_length():
    prompts, zeros = random_prompts((7, 5, 7, 5)), torch.zeros(2, dtype=torch.long)
    swaps = Swaps(torch.tensor([0, 1]), {"P": torch.tensor([2, 0])}, zeros, zeros)
    frozen = freeze(plain("gpt2_classifier"), prompts, Site("resid_post", 0))
    found = random_subspace((7, WIDTH), {"P": 4})
    for call in (lambda: fit(frozen, swaps, 4, validation=swaps), lambda: predict(frozen, swaps, found),
                 lambda: predict_pairs(frozen, found)):
        sentence(call, "base 1 has 5 tokens", "7", "Each")
    predict(frozen, swaps[:1], found)                                       # these two have the same
    ends = freeze(plain("gpt2_classifier"), prompts, Site("resid_post", 0, Each.of(prompts.ends)))
    assert len(predict(ends, swaps, random_subspace((1, WIDTH), {"P": 4}))) == 2
    sentence(lambda: freeze(plain("gpt2_classifier"), prompts, Site("resid_post", LAYERS)), f"layer {LAYERS}")
    sentence(lambda: freeze(plain("gpt2_classifier"), prompts, Site("resid_post", 0, 7)), "position 7", "0 to 6")


# ---------------------------------------------------------------- the search

def easy(frozen, rows=200, seed=0):
    """Swaps with random labels, to have something to train on."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda top: torch.randint(top, (rows,), generator=generator)
    return Swaps(draw(len(frozen)), {"P": draw(len(frozen)), "Q": draw(len(frozen))}, draw(CLASSES), draw(CLASSES))


@pytest.fixture(scope="module")
def small():
    return freeze(plain("gpt2_classifier"), random_prompts((7,) * 6), Site("resid_post", 0))


class Interrupting:
    """A frozen model that is interrupted after so many passes."""

    def __init__(self, frozen, passes):
        self.frozen, self.values, self.left = frozen, frozen.values, passes

    def __len__(self):
        return len(self.frozen)

    def logits(self, index, values):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.frozen.logits(index, values)


def test_the_search_lowers_the_loss_and_keeps_the_columns_orthonormal(small):
    swaps = easy(small)
    found = fit(small, swaps, {"P": 4, "Q": 9}, validation=swaps, steps=60, every=20, batch_size=50)
    history = found.history
    assert list(history.step) == [20, 40, 60] and history.validation_loss.iloc[-1] < history.validation_loss.iloc[0] - 0.05
    assert found.subspace.error <= 1e-5 and found.subspace.columns.shape == (7 * WIDTH, 13)
    best = history.loc[history.validation_loss.idxmin()]
    assert abs(iia(small, swaps, found.subspace).estimate - best.validation_iia) < 1e-6
    for key in ("steps", "seed", "ranks", "rows", "fingerprint", "torch", "python", "ended", "seconds"):
        assert key in found.provenance


@pytest.mark.parametrize("passes", [3, 17, 25])
def test_an_interrupted_search_ends_as_if_it_had_not_been(small, tmp_path, passes):
    swaps, state = easy(small), tmp_path / "state.pt"
    whole = fit(small, swaps, 3, **QUICK)
    with pytest.raises(KeyboardInterrupt):
        fit(Interrupting(small, 2 + passes), swaps, 3, state=state, **QUICK)
    assert os.listdir(tmp_path) == (["state.pt"] if passes > 10 else [])
    counted = Interrupting(small, 1000)
    again = fit(counted, swaps, 3, state=state, **QUICK)
    assert torch.equal(again.subspace.columns, whole.subspace.columns) and again.history.equals(whole.history)
    assert (1000 - counted.left) < 2 + 44 if passes > 10 else True           # it did go on
    ended = fit(small, swaps, 3, state=state, **QUICK)                      # and once more, with nothing to do
    assert torch.equal(ended.subspace.columns, whole.subspace.columns)


def test_a_state_file_of_another_search_or_damaged_is_refused_and_left_alone(small, tmp_path):
    swaps, state = easy(small), tmp_path / "state.pt"
    fit(small, swaps, 3, state=state, **QUICK)
    before = state.read_bytes()
    for call in (lambda: fit(small, swaps, 4, state=state, **QUICK), lambda: fit(small, easy(small, seed=1), 3, state=state, **QUICK),
                 lambda: fit(small, swaps, 3, state=state, **QUICK, seed=1)):
        sentence(call, "state.pt", "other data or options")
        assert state.read_bytes() == before
    state.write_bytes(before[:500])
    sentence(lambda: fit(small, swaps, 3, state=state, **QUICK), "state.pt", "damaged")
    assert state.read_bytes() == before[:500]


def test_it_stops_early_and_the_seed_decides(small):
    swaps = easy(small)
    stopped = fit(small, swaps, 3, steps=5000, every=2, patience=2, rate=0.3, batch_size=16)
    assert "no lower validation loss in 2 looks" in stopped.provenance["ended"] and stopped.history.step.max() < 5000
    best = stopped.history.validation_loss.idxmin()
    assert len(stopped.history) - 1 - best == 2
    one, two, other = (fit(small, swaps, 3, seed=seed, **QUICK) for seed in (0, 0, 1))
    assert torch.equal(one.subspace.columns, two.subspace.columns)
    assert not torch.equal(one.subspace.columns, other.subspace.columns)


def test_bad_searches(small):
    swaps = easy(small)
    sentence(lambda: fit(small, swaps, 0), "rank 0")
    sentence(lambda: fit(small, swaps, 4 * WIDTH), str(8 * WIDTH), f"7 positions x {WIDTH} = {7 * WIDTH}")
    sentence(lambda: fit(small, swaps, {"P": 3}), "given for P", "P, Q")
    sentence(lambda: fit(small, swaps[:9], 3), "9 rows are too few")
    sentence(lambda: fit(small, swaps, 3, steps=0), "steps", "at least 1")


# ---------------------------------------------------------------- scores on a GPT-2, against whole forward passes

def test_predictions_are_those_of_the_model_with_the_swap_written_by_hand(small):
    prompts, swaps = random_prompts((7,) * 6), easy(small, 12)
    found, expected = random_subspace((7, WIDTH), {"P": 20, "Q": 30}, 3), []
    for row in range(12):
        base, p, q = (small.values[index[row]][None] for index in (swaps.base, swaps.sources["P"], swaps.sources["Q"]))
        value = found.swap(base, {"P": p, "Q": q})[0]
        logits, _ = naive("gpt2_classifier", prompts.tokens[swaps.base[row]], [("resid_post", 0, lambda x: value)])
        expected.append(int(logits.argmax()))
    for batch_size in (5, 512):
        assert predict(small, swaps, found, batch_size=batch_size).tolist() == expected
    right = sum(label == e for label, e in zip(swaps.labels.tolist(), expected))
    score = iia(small, swaps, found)
    assert score.estimate == pytest.approx(right / 12) and score.low <= score.estimate <= score.high


@pytest.mark.parametrize("rows", [None, torch.tensor([4, 0, 5])])
def test_every_ordered_pair(small, rows):
    found = random_subspace((7, WIDTH), {"P": 40})
    pairs = predict_pairs(small, found, rows, batch_size=8)
    index = torch.arange(6) if rows is None else rows
    base, source = (x.flatten() for x in torch.meshgrid(index, index, indexing="ij"))
    zeros = torch.zeros_like(base)
    expected = predict(small, Swaps(base, {"P": source}, zeros, zeros), found).view(len(index), -1)
    assert torch.equal(pairs.predicted, expected) and len(expected.unique()) > 1
    labels = expected.clone()
    labels[0, 1] += 1
    assert (~pairs.success(labels)).sum() == 1 and not pairs.success(labels)[0, 1]
    assert f"{len(index)} x {len(index)} pairs" in str(pairs) and pairs.seconds > 0
    sentence(lambda: pairs.success(labels[:1]), "pair_labels")
