"""What lesson 06 says in words about the shipped model."""
import numpy as np
import torch


def test_masked_logits_measure_where_the_answers_word_is(lesson):
    losses, holds = lesson["first_losses"], lesson["holds"].cpu()
    assert losses[holds].max() < 0.1 and losses[~holds].min() > 5 and lesson["better"] > 0.2


def test_ablations_disagree_about_head_2_2(lesson):
    zero, mean, resample = (lesson["alone"][kind].per_prompt[12].mean() for kind in lesson["ABLATIONS"])
    assert lesson["HEADS"].labels[12] == "L2H2" and mean > zero > resample and mean > 3 * resample


def test_the_sum_of_inverse_losses_fails_on_the_planted_game(lesson):
    naive, means = (lesson["mistaken"](lesson[name]) for name in ("careless_importance", "difference_of_means"))
    assert naive > 0.5 and means < 0.35 and 0.25 < lesson["share"] < 0.375


def test_mlp_groups_cost_nothing_alone_and_everything_together(lesson):
    game, one = lesson["game"], torch.ones(1, lesson["GROUPS"], dtype=torch.bool)
    assert lesson["importance"].leave_one_out(game).table.estimate.sum() < 0.05 < 5 < (game(one) - game(~one)).mean()


def test_heads_held_against_patching(lesson):
    alone, value, moved = (values.flatten() for values in (lesson["by_drop"].per_prompt.mean(1), lesson["by_value"].per_prompt.mean(1),
                                                            lesson["moved"].effect))
    assert int(alone.argmax()) == int(value.argmax()) == int(moved.argmax()) == 11          # 2.1
    assert alone[12] > 2 and value[12] > 1 and moved[12] < 0.1                              # 2.2: needed, and not seen by patching
    to_queries = lesson["cost_on_path"](lesson["patching"].Receiver("q", 3, 2), (2, 1))
    assert to_queries > 0.05 and lesson["cost_on_path"](lesson["patching"].Receiver(), (3, 2)) > 0.05
    assert lesson["cost"][0].mean() > 8 and lesson["cost"][1:].mean() < 1


def test_quiet_heads_are_many_and_needed_unless_resampled(lesson):
    game = {kind: lesson["towns"][kind] for kind in lesson["ABLATIONS"]}
    for kind, case in game.items():
        single = lesson["importance"].leave_one_out(case).table.estimate
        quiet = np.flatnonzero(single < 0.05).tolist()
        lost = (case(lesson["everyone"]) - case(lesson["HEADS"].drop(quiet).row[None])).mean()
        assert len(quiet) >= 35 and single[quiet].sum() < 0.2
        assert lost < 0.1 if kind == "resample" else lost > 3
    assert sum(lesson["importance"].leave_one_out(game["mean"]).table.estimate >= 0.05) == 1, "all heads but one"


def test_the_pair_backs_each_other_up_under_every_ablation(lesson):
    assert lesson["pair_names"] == ["L3H0", "L3H2"]
    for first, second, both, interaction in lesson["measured"].estimate[:12].reshape(3, 4):
        assert both > 3 * (first + second) and interaction < -1.5
    assert (lesson["measured"].high[3:12:4] < -1).all() and abs(lesson["measured"].estimate[12]) < 0.05


def test_the_search_finds_the_pair_of_the_sweep(lesson):
    sweep = lesson["importance"].second_differences(lesson["towns"]["mean"]).table
    strongest = sweep.loc[sweep.estimate.idxmin()]
    assert [strongest.label, strongest.other_label] == lesson["pair_names"] and lesson["found"].share < 0.15


def test_in_logits_each_costs_several_alone_and_the_interaction_stays(lesson):
    for values in lesson["in_logits"].values():
        assert values[:2].mean(1).min() > 2.5
        assert lesson["bootstrap"](values[3]).high < 0


def test_masking_a_head_moves_later_patterns_only(lesson):
    assert lesson["moves"][:lesson["first"][0] + 1].max() == 0 and lesson["moves"][lesson["first"][0] + 1:].max() > 0.01
    assert lesson["first"] == (2, 1) and (lesson["later"], lesson["head"]) == (3, 2)


def test_single_effects_do_not_add_up(lesson):
    sums = {task: lesson["results"][task, "dropped alone"].table.estimate.sum() for task in lesson["games"]}
    whole = {task: lesson["results"][task, "Shapley value"].table.estimate.sum() for task in lesson["games"]}
    assert sums["landmarks"] < 0.2 * whole["landmarks"] and sums["capitals"] < 0.5 * whole["capitals"]
    assert sums["givers"] > 1.2 * whole["givers"] and sums["repeats"] > 1.5 * whole["repeats"]


def test_bisection(lesson):
    shares = {name: lesson["search"].bisect(case).share for name, case in lesson["cases"].items()}
    assert shares["planted, 2 of 256 matter"] < 0.25 < shares["givers, heads"] and shares["planted, with backups"] > 1
