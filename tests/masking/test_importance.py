"""What groups are worth: estimators on a planted game and on a planted model."""
import itertools

import planted
import pytest
import torch
from planted import BACKUP, SHAPLEY, WORTH, PlantedGame, planted_model, planted_prompts
from scipy.stats import spearmanr
from sentences import sentence

from utils.masking import Groups, MaskingGame, keep_one, kernel_shap, leave_one_out, random_masks, rank_agreement
from utils.masking.importance import difference_of_means, exact_shapley, second_differences, shapley, shapley_taylor
from utils.masking.sampling import STRATEGIES, kernel_masks, random_orders
from utils.metrics import LogitDifference

ESTIMATORS = {"leave-one-out": leave_one_out, "keep-one": keep_one, "Shapley": shapley, "exact Shapley": exact_shapley,
              "KernelSHAP": kernel_shap, "difference of means": lambda game: difference_of_means(game, 1000)}


# ---------------------------------------------------------------- estimators on a planted game

@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_every_estimator_recovers_the_planted_order(name):
    table = ESTIMATORS[name](PlantedGame()).table
    order = table[table.group.isin([0, 1, 2, 5])].sort_values("estimate", ascending=False).group
    assert list(order) == [0, 1, 2, 5] and list(table.label) == list(PlantedGame.labels)
    assert (table.method == name).all()
    within = 4 * table.standard_error + 1e-6
    for group, worth in {**WORTH, 5: 0.0}.items():
        assert abs(table.estimate[group] - worth) <= within[group]


def test_single_ablation_misses_a_backup_and_shapley_shares_it():
    left_out, kept, shared = (f(PlantedGame()).table.estimate for f in (leave_one_out, keep_one, shapley))
    assert left_out[list(BACKUP)].abs().max() < 1e-6
    assert kept[list(BACKUP)].tolist() == pytest.approx([planted.BACKED_UP] * 2)
    assert shared[list(BACKUP)].min() > shared[2], "each of the pair is worth more than group 2"


def over_all_orders(game, groups):
    """The definition: what each group adds, averaged over all orders."""
    orders = list(itertools.permutations(range(groups)))
    total = torch.zeros(groups)
    for order in orders:
        steps = torch.zeros(groups + 1, groups, dtype=torch.bool)
        for i, g in enumerate(order):
            steps[i + 1:, g] = True
        total[list(order)] += game(steps).mean(1).diff()
    return total / len(orders)


def test_shapley_values():
    assert torch.allclose(over_all_orders(PlantedGame(), 6), SHAPLEY, atol=1e-4)
    assert torch.allclose(torch.tensor(exact_shapley(PlantedGame()).table.estimate), SHAPLEY.double(), atol=1e-4)
    deep = chained()
    found = torch.tensor(exact_shapley(deep).table.estimate).float()
    assert torch.allclose(found, over_all_orders(deep, 6), atol=1e-4)
    result = shapley(PlantedGame(), 400, seed=1)
    found, error = (torch.tensor(result.table[c].to_numpy()) for c in ("estimate", "se_sampling"))
    assert ((found - SHAPLEY).abs() <= 4 * error + 1e-6).all() and error[list(BACKUP)].min() > 0
    assert found.sum() == pytest.approx(sum(WORTH.values()) + planted.BACKED_UP, abs=1e-4)
    assert result.converged() and not shapley(PlantedGame(), 4, seed=1).converged(0.02)
    assert result.table.seed.eq(1).all() and result.table.draws.eq(400).all()


def chained():
    """A game with an interaction of three groups: sampling it is never exact."""
    return PlantedGame(backups=((0, 1),), chains=((2, 3, 4), (3, 4, 5)))


@pytest.mark.parametrize("draw", [
    lambda seed: shapley(PlantedGame(), 20, seed=seed), lambda seed: difference_of_means(PlantedGame(), 60, seed=seed),
    lambda seed: shapley(chained(), 20, strategy="antithetic", seed=seed),
    lambda seed: shapley(chained(), 60, strategy="stratified", seed=seed),
    lambda seed: kernel_shap(chained(), 60, strategy="uniform", seed=seed),
    lambda seed: kernel_shap(chained(), 60, strategy="antithetic", seed=seed)])
def test_standard_errors_tell_how_estimates_scatter(draw):
    """Over many seeds, the sampling error reported is the scatter that is seen."""
    tables = [draw(seed).table for seed in range(100)]
    seen = torch.tensor([list(t.estimate) for t in tables]).std(0)[3]
    said = torch.tensor([list(t.se_sampling) for t in tables]).mean(0)[3]
    assert 0.75 < said / seen < 1.33


def test_standard_errors_over_prompts():
    scale = PlantedGame().scale
    table = leave_one_out(PlantedGame()).table
    assert table.se_prompts[0] == pytest.approx(3 * scale.std().item() / 8 ** 0.5, rel=1e-4)
    assert table.se_sampling.eq(0).all() and table.seed.isna().all(), "nothing is drawn"
    assert leave_one_out(PlantedGame(1)).table.standard_error.isna().all(), "one prompt says nothing about others"


def test_estimates_depend_on_nothing_but_the_seed():
    for estimator in (shapley, difference_of_means, shapley_taylor):
        one, same, other = (estimator(PlantedGame(), seed=seed).table for seed in (0, 0, 1))
        assert one.equals(same) and not one.equals(other)


def test_passes_are_distinct_masks_times_prompts():
    assert keep_one(PlantedGame()).passes == 7 * 8
    assert second_differences(PlantedGame()).passes == (1 + 6 + 15) * 8
    for estimate in (shapley(PlantedGame(), 200), difference_of_means(PlantedGame(), 1000)):
        assert estimate.passes == 64 * 8, "there are no more masks over six groups"


@pytest.mark.parametrize("estimator", [second_differences, shapley_taylor])
def test_interaction_finds_the_planted_pair(estimator):
    result = estimator(PlantedGame())
    table = result.table.sort_values("estimate")
    assert tuple(table.iloc[0][["group", "other"]]) == BACKUP and len(table) == 15
    assert table.estimate.iloc[0] < -0.5 and table.estimate.iloc[1:].abs().max() < 1e-5
    assert list(table.iloc[0][["label", "other_label"]]) == ["group 3", "group 4"]


def test_groups_that_need_each_other_interact_above_zero():
    class Both:
        labels = ("a", "b", "c")

        def __call__(self, kept):
            return (kept[:, 0] & kept[:, 1]).float()[:, None].expand(-1, 2)
    assert second_differences(Both()).table.estimate.tolist() == [1, 0, 0]
    assert shapley_taylor(Both(), 4).table.estimate.tolist() == [1, 0, 0]


def test_shapley_taylor_adds_up():
    """With the worth of each group alone, the pairs share out all that the groups are worth together."""
    generator = torch.Generator().manual_seed(0)

    class Anything:
        labels, worth = "abcde", torch.randn(32, 3, generator=generator)

        def __call__(self, kept):
            return self.worth[(kept * 2 ** torch.arange(5)).sum(1)]
    total = (Anything.worth[31] - Anything.worth[0]).mean().item()
    pairs, alone = shapley_taylor(Anything(), 3).table.estimate, keep_one(Anything()).table.estimate
    assert pairs.sum() + alone.sum() == pytest.approx(total, abs=1e-4)


# ---------------------------------------------------------------- how to draw

def test_strategies_draw_what_they_say():
    for strategy in STRATEGIES:
        places = random_orders(6, 12, strategy=strategy, seed=1)
        assert (places.sort(1).values == torch.arange(6)).all(), "each order has every place once"
        assert kernel_masks(6, 12, strategy=strategy).sum(1).clamp(1, 5).equal(kernel_masks(6, 12, strategy=strategy).sum(1))
    for block in random_orders(6, 12, strategy="stratified", seed=1).split(6):
        assert (block.sort(0).values == torch.arange(6)[:, None]).all(), "each group has every place once"
    orders, masks = (draw(6, 12, strategy="antithetic", seed=1) for draw in (random_orders, kernel_masks))
    assert (orders[::2] + orders[1::2] == 5).all() and (masks[::2] ^ masks[1::2]).all()
    chance = torch.tensor([1 / (s * (6 - s)) for s in range(1, 6)])
    for strategy, within in (("uniform", 0.06), ("stratified", 0.002), ("antithetic", 0.06)):
        shares = kernel_masks(6, 1000, strategy=strategy).sum(1).bincount(minlength=6)[1:] / 1000
        assert (shares - chance / chance.sum()).abs().max() < within
    assert len(random_orders(6, 12, seed=1).unique(dim=0)) == 12 and not random_orders(6, 12).equal(random_orders(6, 12, seed=1))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_is_exact_where_groups_only_add_up(strategy):
    additive = PlantedGame(backups=())
    for result in (shapley(additive, 12, strategy=strategy), kernel_shap(additive, 40, strategy=strategy)):
        assert list(result.table.estimate) == pytest.approx([3, 2, 1, 0, 0, 0], abs=1e-5)
        assert result.table.se_sampling.max() < 1e-5


def test_antithetic_draws_are_exact_for_pairs_and_uniform_ones_are_not():
    for estimator, draws in ((shapley, 4), (kernel_shap, 40)):
        error = {s: [(estimator(PlantedGame(), draws, strategy=s, seed=seed).table.estimate - SHAPLEY.numpy()).abs().max()
                     for seed in range(10)] for s in ("antithetic", "uniform")}
        assert max(error["antithetic"]) < 1e-5 and max(error["uniform"]) > 0.1


def test_kernel_shap_adds_up():
    deep = chained()
    total = (deep(torch.ones(1, 6, dtype=torch.bool)) - deep(torch.zeros(1, 6, dtype=torch.bool))).mean().item()
    assert kernel_shap(deep, 40).table.estimate.sum() == pytest.approx(total, abs=1e-5)


# ---------------------------------------------------------------- do two estimates agree?

def test_rank_agreement():
    shared, left_out = exact_shapley(PlantedGame()), leave_one_out(PlantedGame())
    same = rank_agreement(shared, shared)
    assert (same.estimate, same.low, same.high) == pytest.approx((1, 1, 1))
    upside_down = PlantedGame(worth={g: -w for g, w in planted.WORTH.items()}, backups=())
    assert rank_agreement(leave_one_out(PlantedGame(backups=())), leave_one_out(upside_down)).estimate == pytest.approx(-1)
    assert 0 < rank_agreement(shared, left_out).estimate < 1, "leave-one-out puts the backups last"
    expected = spearmanr(shared.table.estimate.round(6), left_out.table.estimate.round(6)).statistic
    assert rank_agreement(shared, left_out).estimate == pytest.approx(expected)


def test_the_interval_of_rank_agreement():
    """Two tasks without anything in common: the interval holds 0; the same noise measured twice on the same prompts: 1."""
    generator = torch.Generator().manual_seed(0)

    class Noise:
        labels = tuple("abcdefghij")

        def __init__(self):
            self.values = torch.randn(10, 40, generator=generator)

        def __call__(self, kept):
            return (~kept).float() @ self.values
    one, other = leave_one_out(Noise()), leave_one_out(Noise())
    apart = rank_agreement(one, other, same_prompts=False)
    assert apart.low < 0 < apart.high and apart.low < apart.estimate < apart.high
    together = rank_agreement(one, one)
    assert together.low == pytest.approx(1) and rank_agreement(one, one, same_prompts=False).low < 0.9
    assert rank_agreement(one, other, seed=1) == rank_agreement(one, other, seed=1)


def sum_of_inverse_losses(kept, loss):
    """A naive importance: 1 / loss added up over the masks that keep a group, scaled to sum to 1."""
    importance = (kept / loss[:, None]).sum(0)
    return importance / importance.sum()


def test_the_sum_of_inverse_losses_fails_on_masks_from_which_the_order_can_be_had():
    """It mixes what a group is worth with how often it was drawn. The masks keep half of the groups, as is usual."""
    wrong, idle = 0, []
    for seed in range(20):
        kept = random_masks(6, 64, size=3, seed=seed)
        loss = 10 - PlantedGame()(kept).mean(1)
        importance = sum_of_inverse_losses(kept.float(), loss)
        wrong += importance[[0, 1, 2, 5]].argsort(descending=True).tolist() != [0, 1, 2, 3]
        idle.append(importance[5].item())
        estimate = difference_of_means(PlantedGame(), 64, size=3, seed=seed).table.estimate[[0, 1, 2, 5]].to_numpy()
        assert (estimate[:-1] > estimate[1:]).all(), "the same masks"
    assert wrong >= 8, "of 20 seeds"
    assert min(idle) > 0.08, "a share for a group that does nothing, where 1/6 is that of chance"


def test_a_loss_near_zero_outweighs_all_other_masks():
    """Of 64 masks one has a loss of 0.0001: the sum of 1 / loss then says little more than which groups it kept."""
    kept = torch.cat([random_masks(6, 63, size=3, seed=0), torch.tensor([[False, False, True, True, True, True]])])
    loss = 10 - PlantedGame()(kept).mean(1)
    loss[-1] = 1e-4
    importance = sum_of_inverse_losses(kept.float(), loss)
    assert importance[5] > 0.2 > 0.01 > importance[0], "the group that does nothing before the one worth most"


def test_random_masks():
    assert random_masks(7, 50, size=3).sum(1).eq(3).all()
    assert 0.4 < random_masks(7, 500).float().mean() < 0.6
    table = difference_of_means(PlantedGame(), 400, size=3).table
    assert table.estimate[5] < -4 * table.se_sampling[5], "at one size, a group that does nothing comes out below 0"


# ---------------------------------------------------------------- estimators on a planted model

@pytest.fixture(scope="module")
def planted_game():
    model, prompts = planted_model(), planted_prompts()
    outcome = LogitDifference(torch.zeros(6, dtype=torch.long), torch.ones(6, dtype=torch.long))
    return MaskingGame(model, prompts, outcome, Groups.contiguous(model, "mlp_post", 8))


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_every_estimator_recovers_the_neurons_planted_in_a_model(planted_game, name):
    table = ESTIMATORS[name](planted_game).table
    estimate = table.estimate[[0, 1, 5]].tolist()
    idle = table[table.group.isin([3, 6, 7])]
    noise = 4 * idle.se_sampling + 0.05                   # the masks of a difference of means differ in the others too
    assert estimate == sorted(estimate, reverse=True) and (idle.estimate.abs() < noise).all()
    assert estimate[-1] > (0.5 if name != "difference of means" else idle.estimate.max())


def test_interaction_finds_the_backup_planted_in_a_model(planted_game):
    alone = leave_one_out(planted_game).table.estimate
    assert alone[[planted.MAIN, planted.SPARE]].abs().max() < 0.1, "dropped alone, neither is missed"
    for table in (second_differences(planted_game).table, shapley_taylor(planted_game).table):
        table = table.sort_values("estimate")
        assert tuple(table.iloc[0][["group", "other"]]) == (planted.MAIN, planted.SPARE)
        assert table.estimate.iloc[0] < -0.5 and table.estimate.iloc[1:].abs().max() < 0.2


# ---------------------------------------------------------------- bad input

def test_too_few_draws():
    sentence(lambda: difference_of_means(PlantedGame(), 3), "3 random masks are too few for 6 groups", "draw more")
    for estimator in (shapley, shapley_taylor):
        sentence(lambda: estimator(PlantedGame(), 1), "at least 2 uniform orders", "not 1")

    class Single:
        labels = ("a",)
        __call__ = PlantedGame.__call__
    sentence(lambda: second_differences(Single()), "needs two groups")


def test_draws_that_cannot_be_made():
    sentence(lambda: shapley(PlantedGame(), 12, strategy="random"), "uniform, stratified, antithetic", "not 'random'")
    sentence(lambda: shapley(PlantedGame(), 11, strategy="antithetic"), "blocks of 2", "a multiple of that, not 11")
    sentence(lambda: shapley(PlantedGame(), 6, strategy="stratified"), "at least 12 stratified orders", "not 6")
    sentence(lambda: kernel_shap(PlantedGame(), 13), "come in pairs", "not 13")
    sentence(lambda: kernel_shap(PlantedGame(), 12), "12 random masks do not tell 6 groups apart", "such as 120")
    sentence(lambda: kernel_masks(1, 10), "a single group")
    sentence(lambda: exact_shapley(PlantedGame(groups=13)), "13 groups have 8,192 masks", "at most 12")


def test_estimates_whose_ranks_cannot_be_compared():
    one = leave_one_out(PlantedGame())
    sentence(lambda: rank_agreement(one, leave_one_out(PlantedGame(groups=7))), "6 and 7", "same groups")
    sentence(lambda: rank_agreement(one, leave_one_out(PlantedGame(1)), same_prompts=False), "8 and 1 prompts")
    sentence(lambda: rank_agreement(one, leave_one_out(PlantedGame(9))), "8 and 9 prompts", "same_prompts")
    sentence(lambda: rank_agreement(one, leave_one_out(PlantedGame(worth={}, backups=()))), "worth the same", "no order")
