"""Importance-guided fine-tuning: what moves and what does not, exactly; curves; what is forgotten."""
import copy
from dataclasses import replace

import pytest
import torch
from sentences import sentence
from small_models import HEADS, LAYERS, MODELS, STRANGERS, WIDTH, bridge, hooks_on, plain, random_prompts

from utils.engine import Do, Site, at_end, read
from utils.masking import Examples, Groups, MaskingGame, compare_finetuning, finetune, finetuning, leave_one_out
from utils.masking.finetuning import owned
from utils.masking.importance import second_differences
from utils.metrics import LogitDifference, LogProbability
from utils.tasks import SpanLogProbability

FAMILIES = ["gpt2", "llama", "qwen3", "gpt_neox", "bert_classifier"]
SIZE = WIDTH // HEADS


def examples(name="gpt2", seed=0, n=12):
    """Prompts whose answer is given by their last token, so that there is something to learn."""
    prompts = random_prompts((5,) * n, seed)
    classes = 3 if "classifier" in name else 20
    return Examples(prompts, LogProbability(prompts.tokens[:, -1] % classes))


def train(model, name="gpt2", groups=None, chosen=None, **options):
    options = {"steps": 5, "batch_size": 8, "every": 5, **options}
    return finetune(model, examples(name), groups, chosen, **options)


def moved(before, after):
    """{parameter: True where it changed}, without the parameters that did not change at all."""
    other = dict(after.named_parameters())
    changed = {name: p != other[name] for name, p in before.named_parameters()}
    return {name: where for name, where in changed.items() if where.any()}


# ---------------------------------------------------------------- what belongs to a group

@pytest.mark.parametrize("kind", ["mlp_post", "z"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_weights_of_a_group_are_those_its_units_depend_on_and_act_through(name, kind):
    """With other numbers where marked, the activations of these units change and no others of the layer; with other
    numbers elsewhere in these matrices, all but these; with the units silenced, other weights out of them change nothing.
    """
    model, prompts = plain(name), random_prompts((6, 6))
    groups = Groups.singles(model, kind, 1) if kind == "z" else Groups.contiguous(model, kind, 8, 1)
    marks = owned(model, groups, [2])
    units = [unit for _, unit in groups.members[2]]
    columns = units if kind == "mlp_post" else [u * SIZE + i for u in units for i in range(SIZE)]
    into, out = ({n: m for n, m in marks.items() if is_outgoing(n, name) == wanted} for wanted in (False, True))
    assert into and len(out) == 1 and sum(int(m.sum()) for m in out.values()) == len(columns) * WIDTH
    site = Site(kind, 1)

    def activation(model):
        return read(model, prompts, [site])[1][site]
    changed = (activation(shaken(model, into)) != activation(model)).any(0).any(0).nonzero().flatten().tolist()
    assert changed == columns
    silent = [Do(Site(kind, 1, units=tuple(columns)), 0.0)]
    assert torch.equal(at_end(shaken(model, out), prompts, silent), at_end(model, prompts, silent))
    assert not torch.equal(at_end(shaken(model, out), prompts), at_end(model, prompts))
    rest = {n: ~marks.get(n, torch.zeros_like(p, dtype=torch.bool)) for n, p in model.named_parameters()
            if any(n.startswith(m.rsplit(".", 1)[0] + ".") for m in into)}
    if not (name in ("llama", "qwen3") and kind == "z"):          # two heads share keys and values, which nobody owns
        assert (activation(shaken(model, rest)) == activation(model)).all(0).all(0)[columns].all()


def is_outgoing(parameter, name):
    endings = {"gpt2": ("c_proj.weight",), "llama": ("o_proj.weight", "down_proj.weight"),
               "gpt_neox": ("attention.dense.weight", "dense_4h_to_h.weight"), "bert": ("output.dense.weight",)}
    return parameter.endswith(endings.get(name, endings["llama"] if name == "qwen3" else endings["bert"]))


def shaken(model, marks):
    """A copy with other numbers where marked."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name in marks:
                parameter += 0.5 * marks[name]
    return other


@pytest.mark.parametrize("kind", ["mlp_post", "z"])
@pytest.mark.parametrize("name", sorted(set(MODELS) - set(STRANGERS)))
def test_every_family_with_a_record_can_be_trained_by_group(name, kind):
    if name == "mixtral" and kind == "mlp_post":
        return sentence(lambda: Groups.contiguous(plain(name), kind, 2), "the experts of this model share the work")
    groups = Groups.contiguous(plain(name), kind, 2)
    first, second = (owned(plain(name), groups, [g]) for g in range(2))
    assert set(first) | set(second) and not any((first[n] & second[n]).any() for n in set(first) & set(second))


def test_groups_share_no_weight_and_hold_all_that_neurons_have():
    model = plain("gpt2")
    groups = Groups.random(model, "mlp_post", 5)
    marks = [owned(model, groups, [g]) for g in range(5)]
    for name in marks[0]:
        covered = sum(m.get(name, torch.zeros(1)).int() for m in marks)
        assert covered.eq(1).all(), name
    assert set(marks[0]) == {f"transformer.h.{layer}.mlp.{part}" for layer in range(LAYERS)
                             for part in ("c_fc.weight", "c_fc.bias", "c_proj.weight")}


# ---------------------------------------------------------------- what moves

@pytest.mark.parametrize("kind", ["mlp_post", "z"])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_masked_does_not_move_at_all_and_what_is_chosen_does(name, kind):
    model = plain(name)
    groups = Groups.contiguous(model, kind, 6)
    result = train(model, name, groups, [1, 4], weight_decay=0.5)
    marks, changed = owned(model, groups, [1, 4]), moved(model, result.model)
    assert set(changed) <= set(marks)
    for where, mark in marks.items():
        assert not (changed.get(where, torch.zeros(1, dtype=torch.bool)) & ~mark).any(), where
    moving = sum(int(c.sum()) for c in changed.values())
    assert 0.5 * result.trained < moving <= result.trained == sum(int(m.sum()) for m in marks.values())


def test_weight_decay_does_not_touch_what_is_held():
    """The optimiser would shrink the whole matrix: with a rate of 0.1 and decay 0.5 by 5 % a step."""
    model = plain("gpt2")
    groups = Groups.contiguous(model, "mlp_post", 4, 1)
    after = train(model, groups=groups, chosen=[0], weight_decay=0.5, rate=0.1).model
    held, own = slice(32, None), slice(0, 32)
    before, now = (m.transformer.h[1].mlp.c_fc.weight for m in (model, after))
    assert torch.equal(before[:, held], now[:, held]) and (before[:, own] != now[:, own]).all()


@pytest.mark.parametrize("load, name", [(plain, "gpt2"), (bridge, "gpt2"), (bridge, "llama"), (plain, "bert_classifier")])
def test_the_model_that_was_handed_in_never_changes(load, name):
    model = load(name)
    state = {n: p.clone() for n, p in model.state_dict().items()}
    before = at_end(model, random_prompts())
    result = train(model, name, Groups.contiguous(model, "mlp_post", 4), [0])
    everything = train(model, name)
    assert all(torch.equal(p, state[n]) for n, p in model.state_dict().items())
    assert torch.equal(at_end(model, random_prompts()), before) and (load is bridge or not hooks_on(model))
    assert not any(p.requires_grad for p in model.parameters())
    for trained in (result.model, everything.model):
        assert type(trained) is type(model) and not any(p.requires_grad for p in trained.parameters())
        assert not torch.equal(at_end(trained, random_prompts()), before)
    parameters = sum(p.numel() for p in plain(name).parameters())
    assert everything.trained == parameters > result.trained


# ---------------------------------------------------------------- curves

@pytest.mark.parametrize("name", ["gpt2", "bert_classifier"])
def test_training_raises_the_outcome(name):
    result = train(plain(name), name, steps=40, every=20)
    curve = result.curves
    assert list(curve.step) == [0, 20, 40] and (curve.examples == "training").all()
    assert curve.outcome.iloc[-1] > curve.outcome.iloc[0] + 1
    own = examples(name)
    values = own.outcome(at_end(result.model, own.prompts), torch.arange(12))
    assert curve.outcome.iloc[-1] == pytest.approx(values.mean().item(), abs=1e-4)
    assert curve.standard_error.iloc[-1] == pytest.approx(values.std().item() / 12 ** 0.5, abs=1e-4)


def test_a_model_that_marks_spans_learns_too():
    prompts = random_prompts((7, 5, 6, 7), pairs=True)
    own = Examples(prompts, SpanLogProbability(torch.tensor([1, 2, 3, 4]), prompts.ends))
    curve = finetune(plain("bert_answerer"), own, steps=30, every=30).curves
    assert curve.outcome.iloc[-1] > curve.outcome.iloc[0] + 1


def test_a_bridge_learns_as_the_model_inside_it():
    groups = Groups.contiguous(plain("gpt2"), "z", 6)
    one, other = (train(load("gpt2"), groups=groups, chosen=[1, 2], steps=10) for load in (plain, bridge))
    assert list(one.curves.outcome) == pytest.approx(list(other.curves.outcome), abs=1e-3)


def test_the_last_step_is_measured_and_other_tasks_along():
    held_out = {"other prompts": examples(seed=1), "elsewhere": replace(examples(seed=2), outcome=outcome_elsewhere())}
    curve = train(plain("gpt2"), held_out=held_out, steps=7, every=3).curves
    assert list(curve.step.unique()) == [0, 3, 6, 7]
    assert list(curve.examples.unique()) == ["training", "other prompts", "elsewhere"]
    assert curve.seed.eq(0).all() and curve.prompts.eq(12).all()


def outcome_elsewhere():
    first = torch.zeros(12, dtype=torch.long)
    return LogitDifference(first, first + 1)


def test_the_same_seed_gives_the_same_curve():
    groups = Groups.contiguous(plain("gpt2"), "mlp_post", 4)
    run = lambda seed: train(plain("gpt2"), groups=groups, chosen=[2], seed=seed, steps=6, every=2)
    torch.manual_seed(1)
    one = run(0)
    torch.manual_seed(2)
    assert one.curves.equals(run(0).curves) and not moved(one.model, run(0).model)
    assert not one.curves.outcome.equals(run(1).curves.outcome)


def test_important_random_and_everything():
    model, own = plain("gpt2"), examples()
    groups = Groups.contiguous(model, "mlp_post", 6)
    importance = leave_one_out(MaskingGame(model, own.prompts, own.outcome, groups))
    table = compare_finetuning(model, own, groups, importance, 2, seeds=(0, 1), steps=3, every=3)
    assert list(table.choice.unique()) == ["important", "random", "everything"] and len(table) == 3 * 2 * 2
    sizes = table.groupby("choice").trained.unique()
    assert len(sizes["important"]) == 1 and sizes["important"][0] == sizes["random"][0] < sizes["everything"][0]
    best = importance.table.nlargest(2, "estimate").group
    alone = finetune(model, own, groups, best, steps=3, every=3, seed=1).curves
    rows = table[(table.choice == "important") & (table.seed == 1)]
    assert list(rows.outcome) == list(alone.outcome)
    start = table[table.step == 0]
    assert start.outcome.nunique() == 1, "all begin at the same model"


def test_random_groups_are_never_among_the_important_and_differ_by_seed(monkeypatch):
    model, own, drawn = plain("gpt2"), examples(), {}
    groups = Groups.contiguous(model, "mlp_post", 12)
    importance = leave_one_out(MaskingGame(model, own.prompts, own.outcome, groups))
    real = finetuning.finetune

    def spy(model, examples, groups, chosen, seed, **options):
        drawn.setdefault(seed, []).append(None if chosen is None else tuple(sorted(chosen)))
        return real(model, examples, groups, chosen, seed=seed, **options)
    monkeypatch.setattr(finetuning, "finetune", spy)
    compare_finetuning(model, own, groups, importance, 5, seeds=range(4), steps=1)
    best = tuple(sorted(importance.table.nlargest(5, "estimate").group))
    assert all(choices[0] == best and choices[2] is None for choices in drawn.values())
    random = [choices[1] for choices in drawn.values()]
    assert all(len(set(groups)) == 5 and not set(groups) & set(best) for groups in random) and len(set(random)) > 1


# ---------------------------------------------------------------- bad input

def test_trainings_that_cannot_be_made():
    model, groups = plain("gpt2"), Groups.contiguous(plain("gpt2"), "mlp_post", 6)
    sentence(lambda: train(model, groups=groups, chosen=[]), "the set of groups to train is empty", "at least one")
    sentence(lambda: train(model, groups=groups, chosen=[6]), "group 6 is unknown", "groups 0 to 5")
    sentence(lambda: train(model, chosen=[1]), "give groups too")
    sentence(lambda: train(model, groups=Groups.contiguous(model, "resid_post", 2), chosen=[0]), "no weights of their own",
             "'mlp_post'", "'z'")
    sentence(lambda: train(model, groups=Groups("z", [[(LAYERS, 0)]]), chosen=[0]), "layer 3 is out of range")
    for name in ("steps", "batch_size", "every"):
        sentence(lambda: train(model, **{name: 0}), f"{name} must be at least 1, not 0")
    assert not hooks_on(model) and not any(p.requires_grad for p in model.parameters())


def test_a_class_that_is_missing_from_the_fine_tuning_set():
    model, own = plain("bert_classifier"), examples("bert_classifier")
    only = replace(own, outcome=LogProbability(own.outcome.answer.clamp(max=1)))
    sentence(lambda: finetune(model, only), "class 2 is missing from the fine-tuning set", "only 0, 1")
    known = examples().outcome.answer.tolist()
    words = replace(examples(), classes=[*known, 98, 99])
    sentence(lambda: finetune(plain("gpt2"), words), "class 98, 99 is missing", "only")
    assert len(finetune(plain("gpt2"), examples(), steps=1).curves) == 2, "a language model need not know all its words"


def test_comparisons_that_cannot_be_made():
    model, own = plain("gpt2"), examples()
    groups = Groups.contiguous(model, "mlp_post", 6)
    game = MaskingGame(model, own.prompts, own.outcome, groups)
    for number in (0, 4):
        sentence(lambda: compare_finetuning(model, own, groups, leave_one_out(game), number), f"{number} important groups of 6",
                 "choose 1 to 3")
    sentence(lambda: compare_finetuning(model, own, groups, second_differences(game), 2), "15 rows for 6 groups")


def test_a_family_that_is_not_known():
    class Model(torch.nn.Module):
        class config:
            model_type, num_hidden_layers, num_attention_heads, hidden_size = "mamba", 2, 2, 8
    sentence(lambda: owned(Model(), Groups("z", [[(0, 0)]]), [0]), "'mamba'", "gpt2")
