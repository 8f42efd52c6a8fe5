"""The path that reuses the base run against the plain one, on random interventions of every sort; and when it may be used."""
import copy
import random

import pytest
import torch
from small_models import HEADS, LAYERS, VOCAB, WIDTH, bridge, hooks_on, plain, random_prompts

from utils.engine import Do, Each, Site, at_end, hook_path, interventions, passes, read, run, sweep, sweeps
from utils.engine.anatomy import anatomy_of, take_apart
from utils.engine.passes import count_arithmetic
from utils.engine.sites import ACTIVATIONS
from utils.metrics import LogitDifference, LogProbability, OfPart, Probability, ReciprocalRank

CAUSAL = ("gpt2", "llama", "qwen2", "qwen3", "gpt_neox", "gpt_neox_sequential", "gpt2_classifier")
MODELS = [(plain, name) for name in CAUSAL] + [(bridge, name) for name in ("gpt2", "llama", "qwen2", "qwen3", "gpt_neox")]
LENGTHS = {0: (7, 4, 6, 7), 1: (7, 7, 7, 7)}  # of the prompts, for even and odd seeds


def kinds_of(name):
    return [kind for kind in ACTIVATIONS if not (name == "gpt_neox" and kind == "resid_mid")]


def random_do(kinds, widths, lengths, rng, generator):
    kind = rng.choice(kinds)
    layer = None if kind == "embed" else rng.randrange(LAYERS)
    n = len(lengths)
    position = rng.choice([None, rng.randrange(7), -1, (1, 3), (5, 0, 2), Each.of(map(rng.randrange, lengths))])
    part = rng.choice(["whole", "head", "units"])
    head = 1 if part == "head" and kind in ("z", "q", "k", "v") else None
    units = (3, 0, -1) if part == "units" else None
    site = Site(kind, layer, position, head, units)
    width = 3 if units else WIDTH // HEADS if head is not None else widths[kind]
    chosen = 7 if position is None else 3 if position == (5, 0, 2) else 2 if position == (1, 3) else 1
    draw = lambda *shape: torch.randn(shape, generator=generator)
    mixing = [lambda x: x.flip(1) * 0.5, lambda x: x + x.mean(1, keepdim=True)]
    padding = min(lengths) < 7 and position in (None, (5, 0, 2))  # what stands there is nobody's promise
    number = 0.7 if units else 0.0  # all alike, a norm would blow up rounding errors
    value = rng.choice([number, draw(width), draw(n, width) if site.single else draw(chosen, width),
                        draw(n, chosen, width), lambda x: x.sin(), *([] if padding else mixing)])
    return Do(site, value)


def problem(load, name, seed):
    """Model, prompts, random rows of interventions and random ones that always act."""
    rng, generator, lengths = random.Random(seed), torch.Generator().manual_seed(seed), LENGTHS[seed % 2]
    model, prompts = load(name), random_prompts(lengths)
    sites = {kind: Site(kind, None if kind == "embed" else 0) for kind in kinds_of(name)}
    widths = {kind: read(model, prompts, [site])[1][site].shape[-1] for kind, site in sites.items()}
    draw = lambda: random_do(list(sites), widths, lengths, rng, generator)
    rows = [[draw() for _ in range(rng.randrange(1, 4))] for _ in range(12)] + [[]]
    pool = [draw() for _ in range(4)]          # rows that have writes in common, such as windows
    rows += [rng.sample(pool, rng.randrange(1, 5)) for _ in range(12)]
    return model, prompts, rows, [draw() for _ in range(rng.randrange(3))]


def first_logit(logits, index):
    return logits[:, 0] - logits[:, 1] + index


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("load, name", MODELS)
def test_random_interventions_give_what_hooks_give(load, name, seed):
    model, prompts, rows, always = problem(load, name, seed)
    anatomy = anatomy_of(model, prompts, interventions._equal)
    assert anatomy is not None
    expected = hook_path.sweep(model, prompts, rows, first_logit, always, 64, None)
    for batch_size in (1, 5, 64):
        found = sweeps.sweep(anatomy, prompts, rows, first_logit, always, batch_size, None)
        assert (found - expected).abs().max() <= 1e-5 * (expected.max() - expected.min()), batch_size


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("load, name", MODELS)
def test_random_reads_give_what_hooks_give(load, name, seed):
    model, prompts, rows, always = problem(load, name, seed)
    sites = [Site(k, None if k == "embed" else layer) for k in kinds_of(name) for layer in range(LAYERS)]
    anatomy = anatomy_of(model, prompts, interventions._equal)
    for row in rows[:4]:
        logits, found = passes.read(anatomy, prompts, sites, [*always, *row], False)
        own_logits, own = hook_path.read(model, prompts, sites, [*always, *row], False)
        real = prompts.mask.bool()
        pairs = [(found[s][real], own[s][real]) for s in sites]
        pairs.append((logits, own_logits) if name.endswith("classifier") else (logits[real], own_logits[real]))
        assert all((a - b).abs().max() <= 1e-5 * (b.max() - b.min()) for a, b in pairs)


def test_a_part_of_the_vocabulary_gives_the_same_outcome():
    correct, wrong = torch.tensor([3, 50, 7, 3]), torch.tensor([9, 4, 60, 4])
    outcome, logits = LogitDifference(correct, wrong), torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(0))
    tokens, narrow = outcome.narrow()
    assert sorted(tokens.tolist()) == [3, 4, 7, 9, 50, 60]
    index = torch.tensor([2, 0, 3, 1])
    assert torch.equal(narrow(logits[:, tokens], index), outcome(logits, index))
    tokens, narrow = OfPart(outcome, 2).narrow()
    assert torch.equal(narrow(logits[:2, tokens], torch.tensor([0, 1])), outcome(logits[:2], torch.tensor([2, 3])))
    assert OfPart(ReciprocalRank(correct), 1).narrow()[0] is None


@pytest.mark.parametrize("outcome", [LogitDifference(torch.tensor([3, 50, 7, 3]), torch.tensor([9, 4, 60, 4])),
                                     Probability(torch.tensor([3, 50, 7, 3])), LogProbability(torch.tensor([3, 50, 7, 3])),
                                     ReciprocalRank(torch.tensor([3, 50, 7, 3]))])
def test_every_outcome_is_the_same_on_both_paths(outcome):
    model, prompts, rows, always = problem(bridge, "gpt2", 9)
    expected = hook_path.sweep(model, prompts, rows, outcome, always, 64, None)
    assert (sweep(model, prompts, rows, outcome, always=always) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_vocabulary_in_parts_is_the_whole_vocabulary(monkeypatch, name):
    monkeypatch.setattr("utils.engine.readout.PART_OF_THE_VOCABULARY", 7)
    model, prompts, rows, always = problem(plain, name, 9)
    answers = torch.tensor([3, 50, 7, 100])
    for outcome in (Probability(answers), LogProbability(answers), ReciprocalRank(answers), first_logit):
        expected = hook_path.sweep(model, prompts, rows, outcome, always, 64, None)
        assert (sweep(model, prompts, rows, outcome, always=always) - expected).abs().max() < 2e-5, outcome


# ---------------------------------------------------------------- doing less

def arithmetic(rows, prompts, **options):
    with count_arithmetic() as done:
        sweep(plain("gpt2"), prompts, rows, first_logit, **options)
    return done.flops


def test_a_plain_pass_is_counted_as_its_matrix_products():
    prompts = random_prompts((7,))
    with count_arithmetic() as done:
        at_end(plain("gpt2"), prompts)
    weights = sum(p.numel() for n, p in plain("gpt2").transformer.h.named_parameters() if p.dim() == 2)
    assert done.flops == 2 * 7 * weights + LAYERS * 4 * 7 * 7 * WIDTH


def test_only_layers_above_and_positions_after_are_computed():
    prompts = random_prompts((7,))
    base = arithmetic([[]], prompts)
    cost = {(layer, p): arithmetic([[Do(Site("resid_pre", layer, p), 1.0)]], prompts) - base
            for layer in range(LAYERS) for p in range(7)}
    assert all(cost[layer, p] > cost[layer + 1, p] for layer in range(LAYERS - 1) for p in range(7))
    assert all(cost[layer, p] > cost[layer, p + 1] for layer in range(LAYERS) for p in range(6))
    block = 2 * 12 * WIDTH ** 2                # products of one position in one block
    assert cost[2, 6] == block + 4 * 7 * WIDTH + 2 * WIDTH * VOCAB
    assert cost[0, 6] == 3 * block + 3 * 4 * 7 * WIDTH + 2 * WIDTH * VOCAB


def test_what_the_end_cannot_see_is_not_computed():
    prompts = random_prompts((7,))
    base = arithmetic([[]], prompts)
    unseen = [Site("resid_post", 2, 3), Site("z", 2, 5), Site("mlp_out", 2, 0), Site("q", 2, 1), Site("resid_mid", 2, (0, 2))]
    for site in unseen:
        assert arithmetic([[Do(site, 1.0)]], prompts) == base, site
    for site in (Site("k", 2, 3), Site("resid_pre", 2, 3), Site("resid_post", 1, 3), Site("z", 2, (3, 6))):
        assert arithmetic([[Do(site, 1.0)]], prompts) > base, site
    padded = random_prompts((7, 4))
    assert arithmetic([[Do(Site("resid_pre", 0, 5), 1.0)]], padded) < arithmetic([[Do(Site("resid_pre", 0, 3), 1.0)]], padded)


def test_rows_that_begin_alike_are_one_row_as_long_as_they_are_alike():
    prompts, value = random_prompts((7,)), torch.randn(LAYERS, WIDTH, generator=torch.Generator().manual_seed(0))
    window = lambda end: [Do(Site("mlp_out", layer, 3), value[layer]) for layer in range(end)]
    costs = [arithmetic(rows, prompts) - arithmetic([[]], prompts) for rows in
             ([window(3)], [window(3), window(2)], [window(3), window(2), window(1)], [window(3)] * 5)]
    unembedding = 2 * WIDTH * VOCAB
    last = costs[1] - costs[0]                       # window(2) parts in the last block
    assert last == 2 * (3 * WIDTH ** 2 * 4 + 9 * WIDTH ** 2) + 4 * 7 * WIDTH + unembedding
    assert costs[2] - costs[1] > last and costs[3] - costs[0] == 4 * unembedding
    other = [Do(Site("mlp_out", 0, 3), value[0].clone()), *window(3)[1:]]   # equal numbers, but nobody knows
    assert arithmetic([window(3), other], prompts) - arithmetic([[]], prompts) == 2 * costs[0]
    rows = [window(3), window(2), window(1), other, window(3)]
    expected = hook_path.sweep(plain("gpt2"), prompts, rows, first_logit, [], 64, None)
    assert torch.allclose(sweep(plain("gpt2"), prompts, rows, first_logit), expected, atol=1e-5)


def test_counters_stop_when_they_are_left_also_by_an_error():
    prompts = random_prompts((7,))
    with pytest.raises(ZeroDivisionError), count_arithmetic() as done:
        1 / 0
    run(plain("gpt2"), prompts)
    assert done.flops == 0


# ---------------------------------------------------------------- when the pieces may be used

def used(model, prompts=None):
    """Whether the pieces are used (counted the second time: the first may compare them with the model)."""
    prompts = prompts if prompts is not None else random_prompts()
    at_end(model, prompts)
    with count_arithmetic() as done:
        at_end(model, prompts)
    return done.flops > 0


def test_hooks_of_others_act_and_stay():
    model, calls = plain("gpt2"), []
    assert used(model)
    handle = model.transformer.h[1].register_forward_hook(lambda module, args, out: calls.append(1))
    try:
        assert not used(model) and calls and hooks_on(model) == 1
    finally:
        handle.remove()
    assert used(model)
    model = bridge("gpt2")
    model.add_hook("blocks.1.hook_resid_pre", lambda tensor, hook: calls.append(2))
    try:
        assert not used(model) and calls[-1] == 2
    finally:
        model.reset_hooks()
    assert used(model)


def test_bidirectional_models_take_the_plain_path():
    assert not used(plain("bert"))


def test_pieces_that_do_not_give_the_models_logits_are_not_used():
    """A model that computes otherwise than its family: here every MLP counts twice."""
    model = copy.deepcopy(plain("gpt2"))
    for layer in model.transformer.h:
        layer.mlp.forward = lambda x, own=layer.mlp.forward: 2 * own(x)
    prompts, reference = random_prompts(), plain("gpt2")
    own = model(input_ids=prompts.tokens).logits[:, -1]
    assert (own - reference(input_ids=prompts.tokens).logits[:, -1]).abs().max() > 1e-3
    assert take_apart(model) is not None and not used(model)
    assert torch.allclose(at_end(model, prompts), own, atol=1e-5)


def test_a_sliding_window_is_noticed_where_prompts_are_longer_than_it():
    model = plain("mistral")
    assert used(model, random_prompts((4, 3)))
    prompts = random_prompts((7, 7))
    assert not used(model, prompts)
    assert torch.allclose(at_end(model, prompts), model(input_ids=prompts.tokens).logits[:, -1], atol=1e-6)


def test_changed_weights_are_seen_and_compared_again():
    model, prompts = copy.deepcopy(plain("gpt2")), random_prompts()
    before = at_end(model, prompts)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight.mul_(1.5)
    after = at_end(model, prompts)
    assert (after - before).abs().max() > 1e-3
    assert torch.allclose(after, model(input_ids=prompts.tokens).logits[:, -1], atol=1e-5) and used(model)


def test_a_padding_token_at_the_end_of_a_classifiers_prompt():
    """Hugging Face takes the class from the last token that is not padding; then only its own pass is right."""
    model, prompts = plain("gpt2_classifier"), random_prompts((7, 7))
    prompts.tokens[0, -1] = model.config.pad_token_id
    assert not used(model, prompts)
    assert torch.allclose(at_end(model, prompts), model(input_ids=prompts.tokens).logits, atol=1e-6)
