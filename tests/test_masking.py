"""Grouped masking: masks against hand-written hooks, and estimators on planted games and a planted model."""
import itertools

import planted
import pytest
import torch
from planted import BACKUP, SHAPLEY, WORTH, PlantedGame, planted_model, planted_prompts
from sentences import sentence
from small_models import HEADS, LAYERS, bridge, hooks_on, naive, plain, random_prompts

from utils import masking
from utils.groups import Groups
from utils.interventions import at_end
from utils.masking import (ABLATIONS, MaskingGame, difference_of_means, keep_one, leave_one_out, partners, random_masks,
                           second_differences, shapley, shapley_taylor)
from utils.metrics import LogitDifference

ESTIMATORS = {"leave-one-out": leave_one_out, "keep-one": keep_one, "Shapley": shapley,
              "difference of means": lambda game: difference_of_means(game, 1000)}


def outcome_of(prompts):
    correct = torch.arange(len(prompts)) + 3
    return LogitDifference(correct, correct + 10)


def game(name="gpt2", kind="mlp_post", number=5, load=plain, prompts=None, **options):
    model, prompts = load(name), random_prompts((7, 4, 6)) if prompts is None else prompts
    return MaskingGame(model, prompts, outcome_of(prompts), Groups.random(model, kind, number, seed=3), **options)


# ---------------------------------------------------------------- masks

def test_masking_everything_is_allowed_and_said():
    masked = game()
    mask = masked.groups.drop(range(5))
    assert mask.active == 0 and str(mask) == "everything is masked: 0 of 384 units are active"
    zeros = [("mlp_post", layer, torch.zeros_like) for layer in range(LAYERS)]
    check(masked, mask, lambda i, tokens: zeros)


def check(masked, mask, edits, name="gpt2"):
    """The game against one forward pass per prompt of the plain model with hooks."""
    found = masked(mask.row[None])[0]
    for i in range(len(masked.prompts)):
        tokens = masked.prompts.tokens[i, :masked.prompts.ends[i] + 1]
        logits, _ = naive(name, tokens, edits(i, tokens))
        expected = logits[-1, i + 3] - logits[-1, i + 13]
        assert abs(found[i] - expected) <= 1e-4 * max(1, abs(expected)), i


def columns(groups, dropped, layer, size):
    units = [unit for g in dropped for at, unit in groups.members[g] if at == layer]
    return [column for unit in units for column in range(unit * size, (unit + 1) * size)]


def setting(where, value):
    """An edit of the naive reference: the activation with `value`, [position, width] or [width], at some columns."""
    def change(x):
        x = x.clone()
        x[:, where] = value.expand_as(x)[:, where]
        return x
    return change


@pytest.mark.parametrize("kind", ["mlp_post", "z"])
@pytest.mark.parametrize("load, name", [(plain, "gpt2"), (plain, "llama"), (plain, "gpt_neox"), (plain, "bert"),
                                        (bridge, "gpt2")])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_masks_write_what_hooks_write(load, name, kind, ablation):
    prompts = random_prompts((7, 7, 7) if name == "bert" else (7, 4, 7))  # without padding the reference can run BERT
    data = random_prompts((7, 7, 7, 7, 7) if name == "bert" else (4, 7, 7, 4, 7), seed=5)
    masked = game(name, kind, 4, load, prompts, ablation=ablation, data=data, seed=1, batch_size=8)
    width = naive(name, prompts.tokens[0], wanted=[(kind, 0)])[1][kind, 0].shape[-1]
    size = width // HEADS if kind == "z" else 1
    layers, partner = range(LAYERS), partners(prompts, data, seed=1)
    tokens_of = lambda p: [row[:end + 1] for row, end in zip(p.tokens, p.ends)]
    if ablation == "mean":
        seen = [naive(name, t, wanted=[(kind, l) for l in layers])[1] for t in tokens_of(data)]
        mean = {l: torch.cat([s[kind, l] for s in seen]).mean(0) for l in layers}

    def edits(dropped):
        def of_prompt(i, tokens):
            if ablation == "zero":
                values = {l: torch.zeros(width) for l in layers}
            elif ablation == "mean":
                values = mean
            else:
                other = tokens_of(partner)[i]
                assert len(other) == len(tokens) and not torch.equal(other, tokens)
                values = {l: v for (_, l), v in naive(name, other, wanted=[(kind, l) for l in layers])[1].items()}
            return [(kind, l, setting(columns(masked.groups, dropped, l, size), values[l])) for l in layers]
        return of_prompt

    for dropped in ([1], [0, 3], [0, 1, 2, 3]):
        check(masked, masked.groups.drop(dropped), edits(dropped), name)
    assert load is bridge or not hooks_on(masked.model)


def test_the_interventions_of_a_mask_are_for_the_engine_too():
    for ablation in ABLATIONS:
        masked = game(ablation=ablation, prompts=random_prompts((5, 5, 5)))
        mask = masked.groups.keep([1, 4])
        logits = at_end(masked.model, masked.prompts, masked.interventions(mask))
        assert torch.allclose(masked(mask.row[None])[0], masked.outcome(logits, torch.arange(3)), atol=1e-4)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_batch_size_changes_no_number(ablation):
    prompts, kept = random_prompts((7, 7, 7, 7, 7)), random_masks(5, 20, seed=4)
    large, small = (game(prompts=prompts, ablation=ablation, batch_size=size)(kept) for size in (128, 4))
    assert (large - small).abs().max() <= 1e-4 * large.abs().max()


def test_a_mask_is_run_once_and_passes_are_counted(monkeypatch):
    masked, asked = game(), []
    sweep = masking.sweep

    def counting(model, prompts, rows, *args, **options):
        asked.append(len(rows))
        return sweep(model, prompts, rows, *args, **options)
    monkeypatch.setattr(masking, "sweep", counting)
    kept = random_masks(5, 100, seed=0)
    distinct = len(kept.unique(dim=0))
    values = masked(kept)
    assert asked == [distinct] and masked.passes == 3 * distinct
    assert torch.equal(masked(kept.flip(0)), values.flip(0)) and asked == [distinct]
    result = leave_one_out(masked)
    assert result.passes == 3 * 6, "what an estimate needs does not depend on what ran before"
    assert masked.passes <= 3 * 32


def test_many_masks_as_a_tidy_table(capsys):
    masked = game(progress="masks")
    masks = [masked.groups.drop(range(5)), masked.groups.keep([0, 1]), masked.groups.keep(range(5))]
    table = masked.table(masks)
    assert list(table.kept) == [(), (0, 1), (0, 1, 2, 3, 4)] and list(table.active) == [0, 154, 384]
    plain_run = masked.outcome(at_end(masked.model, masked.prompts), torch.arange(3))
    assert table.outcome[2] == pytest.approx(plain_run.mean().item(), abs=1e-4)
    assert table.standard_error[2] == pytest.approx(plain_run.std().item() / 3 ** 0.5, rel=1e-3)
    assert "masks" in capsys.readouterr().err


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


def exact_shapley(game, groups):
    orders = list(itertools.permutations(range(groups)))
    total = torch.zeros(groups)
    for order in orders:
        steps = torch.zeros(groups + 1, groups, dtype=torch.bool)
        for i, g in enumerate(order):
            steps[i + 1:, g] = True
        total[list(order)] += game(steps).mean(1).diff()
    return total / len(orders)


def test_shapley_values():
    assert torch.allclose(exact_shapley(PlantedGame(), 6), SHAPLEY, atol=1e-4)
    result = shapley(PlantedGame(), 400, seed=1)
    found, error = (torch.tensor(result.table[c].to_numpy()) for c in ("estimate", "se_sampling"))
    assert ((found - SHAPLEY).abs() <= 4 * error + 1e-6).all() and error[list(BACKUP)].min() > 0
    assert found.sum() == pytest.approx(sum(WORTH.values()) + planted.BACKED_UP, abs=1e-4)
    assert result.converged() and not shapley(PlantedGame(), 4, seed=1).converged(0.02)
    assert result.table.seed.eq(1).all() and result.table.draws.eq(400).all()


def test_standard_errors_tell_how_estimates_scatter():
    """Over many seeds, the sampling error reported is the scatter that is seen."""
    for estimator in (lambda seed: shapley(PlantedGame(), 20, seed=seed),
                      lambda seed: difference_of_means(PlantedGame(), 60, seed=seed)):
        tables = [estimator(seed).table for seed in range(60)]
        seen = torch.tensor([list(t.estimate) for t in tables]).std(0)[3]
        said = torch.tensor([list(t.se_sampling) for t in tables]).mean(0)[3]
        assert 0.75 < said / seen < 1.33
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

def test_an_unknown_layer_head_or_unit():
    model, prompts = plain("gpt2"), random_prompts()
    play = lambda groups: MaskingGame(model, prompts, outcome_of(prompts), groups)
    sentence(lambda: Groups.contiguous(model, "z", 2, 3), "layer 3 is out of range", "layers 0 to 2")
    sentence(lambda: play(Groups("z", [[(3, 0)]])), "layer 3 is out of range", "layers 0 to 2")
    sentence(lambda: play(Groups("z", [[(0, 4)]])), "head 4 is out of range", "heads 0 to 3")
    sentence(lambda: play(Groups("mlp_post", [[(0, 128)]])), "unit 128 is out of range", "units 0 to 127")
    assert not hooks_on(model)


def test_a_game_that_cannot_be_played():
    one = random_prompts((7,))
    sentence(lambda: game(ablation="mean", data=one), "at least two examples, not 1")
    sentence(lambda: game(ablation="noise"), "zero, mean, resample", "not 'noise'")
    short = random_prompts((7, 7, 4), seed=5)
    sentence(lambda: game(ablation="resample", data=short), "prompt 2 has 6 tokens", "same length")
    sentence(lambda: game(ablation="resample", prompts=one), "no other input has as many")
    sentence(lambda: game()(torch.ones(2, 4, dtype=torch.bool)), "[mask, 5 groups]", "shape (2, 4)")
    sentence(lambda: game()(torch.ones(2, 5)), "bool", "torch.float32")
    sentence(lambda: game().table([]), "there is no mask")
    sentence(lambda: game().table([Groups.singles(plain("gpt2"), "z").keep(0)]), "other groups than the game")


def test_too_few_draws():
    sentence(lambda: difference_of_means(PlantedGame(), 3), "3 random masks are too few for 6 groups", "draw more")
    for estimator in (shapley, shapley_taylor):
        sentence(lambda: estimator(PlantedGame(), 1), "at least two random orders", "not 1")

    class Single:
        labels = ("a",)
    sentence(lambda: second_differences(Single()), "needs two groups")
