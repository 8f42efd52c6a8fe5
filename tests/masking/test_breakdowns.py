"""Importance by position, by input and across models; models that were never trained."""
import pytest
import torch
from planted import MAIN, SPARE, PlantedGame, planted_model, planted_prompts
from sentences import sentence
from small_models import LAYERS, bridge, hooks_on, plain, random_prompts

from utils.engine import Each, at_end
from utils.masking import Groups, MaskingGame, by_input, by_position, compare_models, keep_one, leave_one_out
from utils.masking.importance import second_differences, shapley
from utils.metrics import LogitDifference
from utils.models import like, plain_copy, untrained

MODELS = [(plain, "gpt2"), (plain, "llama"), (plain, "gpt_neox"), (plain, "qwen3"), (plain, "bert_classifier"),
          (bridge, "gpt2"), (bridge, "llama"), (bridge, "gpt_neox"), (bridge, "qwen2")]


def outcome_of(prompts):
    first = torch.zeros(len(prompts), dtype=torch.long)
    return LogitDifference(first, first + 1)


def logits_of(model):
    return at_end(model, random_prompts((7, 7)))


# ---------------------------------------------------------------- by position

def test_only_the_position_that_is_read_matters():
    """The planted model has no attention: nothing but the last position can reach the answer."""
    model, prompts = planted_model(), planted_prompts()
    groups = Groups.contiguous(model, "mlp_post", 8)
    table = by_position(model, prompts, outcome_of(prompts), groups)
    whole = leave_one_out(MaskingGame(model, prompts, outcome_of(prompts), groups)).table
    assert len(table) == 5 * 8 and set(table.position) == set(range(5)) and (table.passes == 9 * 6).all()
    assert (table[table.position < 4].estimate == 0).all()
    assert list(table[table.position == 4].estimate) == pytest.approx(list(whole.estimate), abs=1e-3)
    assert table[table.position == 4].estimate.max() > 1
    assert table.place[0] == "0 *" and table.prompts.eq(6).all()


def test_named_positions_of_prompts_of_any_length_and_any_estimator():
    model, prompts = plain("gpt2"), random_prompts((7, 4, 6))
    groups, ends = Groups.by_layer(model, "z"), Each.of(prompts.ends)
    places = {"first": 0, "end": ends, "both": [0, 1]}
    table = by_position(model, prompts, outcome_of(prompts), groups, positions=places, estimator=keep_one, ablation="mean")
    assert list(table.place.unique()) == ["first", "end", "both"] and (table.method == "keep-one").all()
    game = MaskingGame(model, prompts, outcome_of(prompts), groups, ablation="mean", positions=ends)
    assert list(table[table.place == "end"].estimate) == list(keep_one(game).table.estimate)
    assert not hooks_on(model)


def test_within_one_input_the_places_are_its_tokens():
    model, prompts = plain("gpt2"), random_prompts((4,))
    table = by_position(model, prompts, outcome_of(prompts), Groups.by_layer(model, "mlp_post"))
    assert list(table.place.unique()) == [f"{i} {label}" for i, label in enumerate(prompts.labels[0])]
    assert table.standard_error.isna().all() and table.estimate.notna().all(), "one input says nothing of others"


# ---------------------------------------------------------------- by input

def test_by_input_has_a_row_for_each_input_and_group():
    result = leave_one_out(PlantedGame(prompts=3))
    table = by_input(result, ["a", "b", "c"])
    assert table.shape == (18, 5) and list(table.columns) == ["group", "label", "prompt", "input", "estimate"]
    assert table[table.group == 0].estimate.tolist() == pytest.approx([3 * 0.8, 3 * 1.0, 3 * 1.2])
    assert table.groupby("group").estimate.mean().to_numpy() == pytest.approx(result.table.estimate.to_numpy())
    pairs = by_input(second_differences(PlantedGame(prompts=3)))
    assert len(pairs) == 45 and "other_label" in pairs and list(pairs.input.unique()) == ["0", "1", "2"]
    sentence(lambda: by_input(result, ["a"]), "1 names do not fit 3 inputs")


# ---------------------------------------------------------------- across models

def halves(model):
    """The heads of the lower and of the upper layers, on prompts any of the small models can read."""
    prompts = random_prompts((7, 7, 7, 7), seed=1)
    return MaskingGame(model, prompts, outcome_of(prompts), Groups.contiguous(model, "z", 2))


def test_one_task_on_several_models():
    models = {"gpt2": plain("gpt2"), "llama": bridge("llama"), "bert": plain("bert_classifier"),
              "untrained": untrained(plain("gpt2"))}
    table = compare_models(models, halves)
    assert list(table.model) == [name for name in models for _ in range(2)] and list(table.group) == [0, 1] * 4
    own = leave_one_out(halves(plain("gpt2"))).table
    assert list(table.estimate[:2]) == list(own.estimate)
    reach = 3.182446 * own.standard_error                              # Student's t, 3 degrees of freedom, 95 %
    assert list(table.low[:2]) == pytest.approx(list(own.estimate - reach))
    assert list(table.high[:2]) == pytest.approx(list(own.estimate + reach))
    game = halves(plain("gpt2"))
    assert table.kept[0] == pytest.approx(game.table([game.groups.keep([0, 1])]).outcome[0])
    assert table.masked[0] == pytest.approx(game.table([game.groups.drop([0, 1])]).outcome[0])
    wider = compare_models(models, halves, level=0.99)
    assert (wider.high > table.high).all() and (wider.low < table.low).all()
    assert not any(hooks_on(model) for name, model in models.items() if name != "llama")


def test_the_planted_model_against_its_control():
    def task(model):
        prompts = planted_prompts()
        return MaskingGame(model, prompts, outcome_of(prompts), Groups.contiguous(model, "mlp_post", 8))
    table = compare_models({"planted": planted_model(), "untrained": untrained(planted_model())}, task, estimator=shapley)
    planted, control = (table[table.model == name] for name in ("planted", "untrained"))
    assert planted.estimate.abs().max() > 2 and control.estimate.abs().max() < 0.1
    assert planted.low.iloc[MAIN] > 0 and planted.low.iloc[SPARE] > 0


# ---------------------------------------------------------------- copies

@pytest.mark.parametrize("load, name", MODELS)
def test_a_copy_says_the_same_and_shares_no_weight(load, name):
    model, before = load(name), logits_of(load(name))
    copied = plain_copy(model)
    assert not hasattr(type(copied), "hook_dict") and all(p.requires_grad for p in copied.parameters())
    assert (logits_of(copied) - before).abs().max() < 1e-4 and not copied.training
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(logits_of(model), before) and not any(p.requires_grad for p in model.parameters())
    assert logits_of(like(model, copied)).abs().max() == 0 and not any(p.requires_grad for p in copied.parameters())


@pytest.mark.parametrize("load, name", MODELS)
def test_an_untrained_model_has_the_shape_and_nothing_else(load, name):
    model, before = load(name), logits_of(load(name))
    one, same, other = (untrained(model, seed) for seed in (0, 0, 1))
    assert type(one) is type(model) and getattr(one, "tokenizer", None) is getattr(model, "tokenizer", None)
    assert logits_of(one).shape == before.shape and not one.training
    assert torch.equal(logits_of(one), logits_of(same)) and not torch.equal(logits_of(one), logits_of(other))
    assert logits_of(one).std() < 0.2 * before.std(), "small random weights say almost the same of every word"
    assert torch.equal(logits_of(model), before)


def test_making_a_control_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    untrained(plain("gpt2"))
    assert torch.equal(torch.rand(3), expected)


# ---------------------------------------------------------------- bad input

def test_comparisons_that_cannot_be_made():
    model, prompts = plain("gpt2"), random_prompts((7, 4))
    sentence(lambda: by_position(model, prompts, outcome_of(prompts), Groups.by_layer(model, "z")),
             "prompts of different length", "Each.of(prompts.ends)")
    sentence(lambda: compare_models({}, halves), "there is no model")
    sentence(lambda: compare_models({"gpt2": model}, halves, level=95), "between 0 and 1, not 95")
    sentence(lambda: by_position(model, prompts, outcome_of(prompts), Groups("z", [[(LAYERS, 0)]]), positions={"end": 0}),
             "layer 3 is out of range")
