"""Metrics against numbers worked out by hand, and the bootstrap against the coverage it promises."""
import math

import numpy as np
import pytest
import torch
from sentences import sentence

from utils.metrics import (Interval, LogitDifference, LogProbability, Probability, ReciprocalRank, bootstrap,
                           logit_difference, reciprocal_rank, recovery, recovery_interval, share)

LOGITS = torch.tensor([[2.0, 0.5, -1.0, 2.0], [0.0, 3.0, 1.0, -2.0]])


def test_logit_difference():
    result = logit_difference(LOGITS, torch.tensor([0, 2]), torch.tensor([2, 1]))
    assert result.tolist() == [3.0, -2.0]
    assert logit_difference(LOGITS[0], torch.tensor(1), torch.tensor(0)).item() == -1.5


def test_outcomes_follow_the_index_of_their_prompt():
    """Rows of a batch come in any order: row 0 belongs to prompt 1, rows 1 and 2 to prompt 0."""
    rows, index = LOGITS[[1, 0, 1]], torch.tensor([1, 0, 0])
    answer, wrong = torch.tensor([2, 1]), torch.tensor([0, 3])
    assert LogitDifference(answer, wrong)(rows, index).tolist() == [5.0, -3.0, 1.0]
    total = sum(math.exp(x) for x in LOGITS[1].tolist())
    probability = Probability(answer)(rows, index)
    assert probability[0].item() == pytest.approx(math.exp(3) / total)
    assert probability[2].item() == pytest.approx(math.exp(1) / total)
    assert LogProbability(answer)(rows, index).tolist() == pytest.approx([math.log(p) for p in probability.tolist()], rel=1e-5)
    assert ReciprocalRank(answer)(rows, index).tolist() == pytest.approx([1.0, 0.25, 0.5])


def test_ties_share_the_better_rank():
    assert reciprocal_rank(LOGITS[0].expand(3, -1), torch.tensor([0, 3, 1])).tolist() == pytest.approx([1.0, 1.0, 1 / 3])


def test_recovery_is_a_ratio_of_means():
    """Total effects 4 and 1; the patch brings back 2 and 1: (2 + 1) / (4 + 1), not the mean of 0.5 and 1."""
    clean, corrupted = torch.tensor([3.0, 2.0]), torch.tensor([-1.0, 1.0])
    assert recovery(torch.tensor([1.0, 2.0]), corrupted, clean).item() == pytest.approx(0.6)
    cells = torch.stack([corrupted, clean, 2 * clean - corrupted])
    assert recovery(cells, corrupted, clean).tolist() == pytest.approx([0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="give the same outcome, so there is no effect to recover"):
        recovery(cells, clean, clean)


def test_bootstrap_by_hand():
    """Two prompts 0 and 1: resampled means are 0, 1/2 and 1 with probabilities 1/4, 1/2, 1/4."""
    interval = bootstrap([0.0, 1.0], level=0.4, resamples=4000)
    assert (interval.estimate, interval.low, interval.high) == (0.5, 0.5, 0.5)
    interval = bootstrap([0.0, 1.0], level=0.6, resamples=4000)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_bootstrap_is_reproducible_and_depends_on_the_seed():
    samples = np.random.default_rng(0).normal(size=(2, 30))
    one, two, other = bootstrap(samples), bootstrap(samples), bootstrap(samples, seed=1)
    assert (one.low == two.low).all() and (one.high == two.high).all() and (one.low != other.low).any()
    assert one.low.shape == (2,) and (one.low < one.estimate).all() and (one.estimate < one.high).all()


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    """400 samples of 40 draws from a normal distribution with mean 1: the 95 % interval holds 1 in 91 to 98 % of them."""
    draws = np.random.default_rng(7).normal(1.0, 2.0, size=(400, 40))
    interval = bootstrap(draws, resamples=500)
    covered = ((interval.low <= 1.0) & (1.0 <= interval.high)).mean()
    assert 0.91 <= covered <= 0.98
    half = bootstrap(draws, level=0.5, resamples=500)
    assert 0.42 <= ((half.low <= 1.0) & (1.0 <= half.high)).mean() <= 0.56


def test_arrays_that_belong_together_are_resampled_together():
    a = np.random.default_rng(0).normal(size=50)
    interval = bootstrap((a, a), lambda x, y: (x - y).mean(-1))
    assert interval.low == interval.high == 0.0
    with pytest.raises(ValueError, match="need the same prompts"):
        bootstrap((a, a[:10]), lambda x, y: x.mean(-1))


def test_a_statistic_of_its_own():
    assert bootstrap([1.0, 2.0, 9.0], lambda x: np.median(x, axis=-1)).estimate == 2.0


def test_many_resamples_at_once_or_one_by_one():
    """A statistic with `axis` gets a batch of resamples: the same draws, the same interval, as a loop by hand."""
    cells = np.random.default_rng(0).normal(size=(3, 20000))
    at_once = bootstrap(cells, lambda x, axis: x.mean(axis), resamples=30)
    one_by_one = bootstrap(cells, lambda x: x.mean(-1), resamples=30)
    rng = np.random.default_rng(0)
    by_hand = np.quantile([cells[:, rng.integers(0, 20000, 20000)].mean(-1) for _ in range(30)], [0.025, 0.975], axis=0)
    for interval in (at_once, one_by_one):
        assert np.allclose([interval.low, interval.high], by_hand, atol=1e-12)


def test_arrays_with_prompts_of_their_own():
    """The difference of two means: its variance is the sum of theirs."""
    a, b = np.random.default_rng(0).normal(size=50), np.random.default_rng(1).normal(size=200)
    interval = bootstrap((a, b), lambda x, y: x.mean(-1) - y.mean(-1), together=False, resamples=4000)
    expected = 2 * 1.96 * (a.var() / 50 + b.var() / 200) ** 0.5
    assert interval.high - interval.low == pytest.approx(expected, rel=0.05)


def test_resamples_without_a_number_do_not_count():
    """Two prompts: a quarter of the resamples has no second prompt, and there the ratio is 0 / 0."""
    ratio = lambda x, y: x.sum(-1) / y.sum(-1)
    interval = bootstrap(([0.0, 1.0], [0.0, 2.0]), ratio)
    assert (interval.estimate, interval.low, interval.high) == (0.5, 0.5, 0.5)
    assert np.isnan([bootstrap([[1.0, np.nan, 3.0, 4.0]]).low, bootstrap([[1.0, np.nan, 3.0, 4.0]]).estimate]).all()


def test_a_share_has_the_interval_of_wilson():
    """By the formula of Wilson 1927 with z = 1.959964; all right is not 100 % for certain, and one input is enough."""
    z = 1.959964
    for right, n in ((60, 60), (0, 7), (45, 60), (1, 1)):
        p, middle = right / n, (right / n + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        found = share(np.arange(n) < right)
        assert (found.estimate, found.low, found.high) == pytest.approx((p, middle - half, middle + half), abs=1e-6)
    sentence(lambda: share(np.zeros(0, dtype=bool)), "a share needs at least one answer")


def test_one_prompt_is_not_enough():
    with pytest.raises(ValueError, match="a bootstrap needs at least two prompts, got 1"):
        bootstrap([[1.0]])


def test_recovery_interval():
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randn(40, generator=generator) + 5, torch.randn(40, generator=generator) - 5
    patched = torch.stack([corrupted, (clean + corrupted) / 2, clean])
    interval = recovery_interval(patched, corrupted, clean)
    assert interval.estimate == pytest.approx([0, 0.5, 1]) and interval.low == pytest.approx([0, 0.5, 1])
    noisy = recovery_interval(patched + torch.randn(3, 40, generator=generator), corrupted, clean)
    assert (noisy.low < noisy.estimate).all() and (noisy.estimate < noisy.high).all()
    assert (np.abs(noisy.estimate - [0, 0.5, 1]) < 0.1).all()


def test_an_interval_prints_itself():
    assert str(Interval(np.array(0.5), np.array(0.25), np.array(0.75))) == "0.500 [0.250, 0.750]"
    assert "shape (2,)" in str(bootstrap(np.arange(6.0).reshape(2, 3)))
