"""Grouped masking: what a mask does, against hand-written hooks."""
from dataclasses import replace

import pytest
import torch
from sentences import sentence
from reference import naive
from small_models import HEADS, LAYERS, WIDTH, bridge, hooks_on, plain, random_prompts

from utils.engine import Each, at_end
from utils import engine
from utils.masking import ABLATIONS, Groups, MaskingGame, leave_one_out, random_masks
from utils.masking.game import partners
from utils.metrics import LogitDifference
from utils.tasks import SpanLogProbability


CLASSES = 3          # of bert_classifier


def outcome_of(prompts, name="gpt2"):
    correct = torch.arange(len(prompts))
    if name == "bert_answerer":
        return SpanLogProbability(correct, prompts.ends)
    if name == "bert_classifier":
        return LogitDifference(correct % CLASSES, (correct + 1) % CLASSES)
    return LogitDifference(correct + 3, correct + 13)


def game(name="gpt2", kind="mlp_post", number=5, load=plain, prompts=None, **options):
    model, prompts = load(name), random_prompts((7, 4, 6)) if prompts is None else prompts
    groups = Groups.random(model, kind, number, seed=3)
    return MaskingGame(model, prompts, outcome_of(prompts, name), groups, **options)


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
    for i, (tokens, types) in enumerate(rows_of(masked.prompts)):
        logits, _ = naive(name, tokens, edits(i, tokens), types=types)
        whole = name in ("bert_classifier", "bert_answerer")
        expected = masked.outcome(logits[None] if whole else logits[-1:], torch.tensor([i]))
        assert abs(found[i] - expected) <= 1e-4 * max(1, abs(expected)), i


def rows_of(prompts):
    """(tokens, token types) of each prompt without padding."""
    types = [None] * len(prompts) if prompts.types is None else prompts.types
    return [(row[:end + 1], None if kind is None else kind[:end + 1])
            for row, kind, end in zip(prompts.tokens, types, prompts.ends)]


def replacements(name, kind, ablation, prompts, data):
    """What the reference writes in each layer of prompt i, {layer: [position, width] or [width]}, as a function of i."""
    wanted = [(kind, layer) for layer in range(LAYERS)]
    read = lambda tokens, types: {l: x for (_, l), x in naive(name, tokens, wanted=wanted, types=types)[1].items()}
    if ablation == "zero":
        return lambda i: {l: torch.zeros_like(x[0]) for l, x in read(*rows_of(prompts)[i]).items()}
    if ablation == "mean":
        seen = [read(*row) for row in rows_of(data)]
        return lambda i: {l: torch.cat([x[l] for x in seen]).mean(0) for l in range(LAYERS)}
    others = rows_of(partners(prompts, data, seed=1))
    assert all(len(a) == len(b) and not torch.equal(a, b) for (a, _), (b, _) in zip(others, rows_of(prompts)))
    return lambda i: read(*others[i])


def setting(rows, columns, value):
    """An edit of the reference: the activation with `value`, [position, width] or [width], in some rows and columns."""
    def change(x):
        new = value.expand_as(x).clone()
        chosen = torch.zeros_like(x, dtype=torch.bool)
        for row in rows:
            chosen[row, columns] = True
        return torch.where(chosen, new, x)
    return change


def against_hooks(name, kind, ablation, load=plain, positions=None):
    """A game over four groups, a few masks of it held to the reference. `positions`: (for the game, rows of prompt i)."""
    pairs = name == "bert_answerer"
    prompts = random_prompts((7, 4, 7), pairs=pairs)
    data = random_prompts((4, 7, 7, 9, 4, 7), seed=5, pairs=pairs)
    where, rows = positions or (None, lambda i: range(prompts.ends[i] + 1))
    masked = game(name, kind, 4, load, prompts, ablation=ablation, data=data, seed=1, batch_size=8, positions=where)
    values, size = replacements(name, kind, ablation, prompts, data), WIDTH // HEADS if kind == "z" else 1

    def edits(dropped):
        def columns(layer):
            units = [unit for g in dropped for at, unit in masked.groups.members[g] if at == layer]
            return [column for unit in units for column in range(unit * size, (unit + 1) * size)]
        return lambda i, tokens: [(kind, l, setting(rows(i), columns(l), v)) for l, v in values(i).items()]

    for dropped in ([1], [0, 3], [0, 1, 2, 3]):
        check(masked, masked.groups.drop(dropped), edits(dropped), name)
    assert load is bridge or not hooks_on(masked.model)


@pytest.mark.parametrize("kind", ["mlp_post", "z"])
@pytest.mark.parametrize("load, name", [(plain, "gpt2"), (plain, "llama"), (plain, "gpt_neox"), (plain, "bert"),
                                        (plain, "bert_classifier"), (plain, "bert_answerer"), (bridge, "gpt2")])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_masks_write_what_hooks_write(load, name, kind, ablation):
    against_hooks(name, kind, ablation, load)


@pytest.mark.parametrize("where, rows", [(2, lambda i: [2]), ([1, 3], lambda i: [1, 3]), (range(2), lambda i: [0, 1]),
                                         (Each((6, 3, 1)), lambda i: [(6, 3, 1)[i]])])
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", ["gpt2", "bert_classifier", "bert_answerer"])
def test_masks_at_some_positions(name, ablation, where, rows):
    """Resampling takes prompts in parts of two (batch_size 8), so that `Each` is cut as they are."""
    against_hooks(name, "mlp_post", ablation, positions=(where, rows))


def test_a_partner_brings_its_token_types_and_fits_the_width():
    prompts, data = random_prompts((7, 4), pairs=True), random_prompts((4, 9, 7, 4, 7), seed=5, pairs=True)
    other = replace(data, types=1 - data.types)
    for given in (data, other):
        found = partners(prompts, given, seed=1)
        assert found.tokens.shape == found.types.shape == prompts.tokens.shape and found.ends.equal(prompts.ends)
        for tokens, types in zip(found.tokens, found.types):
            where = [i for i in range(5) if torch.equal(given.tokens[i, :7], tokens)]
            assert where and torch.equal(given.types[where[0], :7], types)


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
    sweep = engine.sweep

    def counting(model, prompts, rows, *args, **options):
        asked.append(len(rows))
        return sweep(model, prompts, rows, *args, **options)
    monkeypatch.setattr("utils.masking.game.sweep", counting)
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
    sentence(lambda: game()(torch.ones(2, 5)), "MaskingGame: `kept` must be a tensor of True and False", "not a Tensor of float32")
    sentence(lambda: game().table([]), "there is no mask")
    sentence(lambda: game().table([Groups.singles(plain("gpt2"), "z").keep(0)]), "other groups than the game")
    assert not hooks_on(plain("gpt2"))


def test_positions_that_are_not_there():
    prompts = random_prompts((7, 7, 4))
    sentence(lambda: game(prompts=prompts, positions=7), "position 7 is out of range", "positions 0 to 6")
    sentence(lambda: game(prompts=prompts, positions=[]), "the set of positions is empty")
    sentence(lambda: game(prompts=prompts, positions=Each((1, 2))), "2 positions for 3 prompts")
    assert not hooks_on(plain("gpt2"))
