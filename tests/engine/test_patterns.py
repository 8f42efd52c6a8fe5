"""Attention patterns: read, patched, ablated and on a path, against hooks by hand on a bridge, and Hugging Face's own."""
import copy
from functools import lru_cache

import pytest
import torch
from sentences import sentence
from small_models import HEADS, LAYERS, bridge, hooks_on, plain, random_prompts
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from utils import patching
from utils.engine import Do, Each, Site, at_end, read, sweep
from utils.masking import Groups, MaskingGame
from utils.metrics import LogitDifference
from utils.patching import Receiver

NAMES = ["gpt2", "llama", "qwen3", "mistral", "gpt_neox"]
OUTCOME = LogitDifference(torch.tensor([3, 50, 7]), torch.tensor([9, 4, 60]))


@lru_cache(maxsize=None)
def eager(name):
    model = copy.deepcopy(plain(name))
    model.set_attn_implementation("eager")
    return model


def run_by_hand(name, tokens, edits=(), wanted=()):
    """Logits of a bridge run with its own hooks, and the wanted activations; edits: (hook name, function)."""
    seen = {}

    def keeping(at):
        def keep(value, hook):
            seen[at] = value.clone()
        return at, keep
    hooks = [(at, lambda value, hook, change=change: change(value.clone())) for at, change in edits]
    logits = bridge(name).run_with_hooks(tokens, prepend_bos=False, fwd_hooks=[*hooks, *map(keeping, wanted)])
    return logits, seen


def pattern_at(layer):
    return f"blocks.{layer}.attn.hook_pattern"


def shaped(found, heads=HEADS):
    """[prompt, query, heads x keys] as [prompt, head, query, key]."""
    return found.unflatten(-1, (heads, -1)).transpose(1, 2)


def close(a, b):
    return bool((a - b).abs().max() <= 1e-5 * (b.max() - b.min()))


@pytest.mark.parametrize("name", NAMES)
def test_patterns_are_those_of_the_model_itself(name):
    """By Hugging Face's output_attentions, and by the hook of the bridge."""
    tokens = random_prompts().tokens
    own = eager(name)(input_ids=tokens, output_attentions=True).attentions
    sites = [Site("pattern", layer) for layer in range(LAYERS)]
    for model in (eager(name), bridge(name)):
        found = read(model, tokens, sites)[1]
        for layer, site in enumerate(sites):
            assert (shaped(found[site]) - own[layer]).abs().max() < 1e-5
    row = read(eager(name), tokens, [Site("pattern", 1, 4, head=2)])[1][Site("pattern", 1, 4, head=2)]
    assert torch.allclose(row, own[1][:, 2, 4], atol=1e-5) and row.shape == (3, 7)


def test_of_both_directions_and_with_padding():
    model, prompts = eager("bert"), random_prompts((7, 4, 6))
    own = model(input_ids=prompts.tokens, attention_mask=prompts.mask, output_attentions=True).attentions
    found = read(model, prompts, [Site("pattern", 2)])[1][Site("pattern", 2)]
    assert (shaped(found) - own[2]).abs().max() < 1e-5 and own[2][0, 0, 0, 5] > 1e-4


EDITS = {
    "one head at one query": (Site("pattern", 1, 4, head=2), lambda x: zeroed(x, (slice(None), 2, 4))),
    "one weight": (Site("pattern", 1, 4, head=2, units=(1,)), lambda x: zeroed(x, (slice(None), 2, 4, 1))),
    "two keys of a head": (Site("pattern", 0, head=1, units=(0, -1)),
                           lambda x: zeroed(x, (slice(None), 1, slice(None), [0, 6]))),
    "two weights by their columns": (Site("pattern", 0, 5, units=(3, 21)),
                                     lambda x: zeroed(x, (slice(None), [0, 3], 5, [3, 0]))),
    "a layer": (Site("pattern", 2), lambda x: torch.zeros_like(x)),
    "another query in each prompt": (Site("pattern", 1, Each((2, 6, 3)), head=0),
                                     lambda x: zeroed(x, (range(3), 0, [2, 6, 3])))}


def zeroed(x, where):
    x[where] = 0
    return x


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("edit", EDITS)
def test_ablation(name, edit):
    tokens = random_prompts().tokens
    site, by_hand = EDITS[edit]
    expected, _ = run_by_hand(name, tokens, [(pattern_at(site.layer), by_hand)])
    untouched, _ = run_by_hand(name, tokens)
    assert not close(expected, untouched)
    before = hooks_on(eager(name))
    for model in (eager(name), bridge(name)):
        assert close(read(model, tokens, [], [Do(site, 0.0)])[0], expected)
    assert hooks_on(eager(name)) == before and "eager" not in ALL_ATTENTION_FUNCTIONS


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("load", [eager, bridge])
def test_patching(name, load):
    """The map of heads, each pattern row at the end copied from the other run, and the map of whole rows by query."""
    clean, corrupted = random_prompts(), random_prompts(seed=4)
    names = [pattern_at(layer) for layer in range(LAYERS)]
    _, seen = run_by_hand(name, clean.tokens, wanted=names)
    heads = patching.head_map(load(name), clean, corrupted, OUTCOME, kind="pattern", positions="end").patched
    rows = patching.position_map(load(name), clean, corrupted, OUTCOME, kind="pattern").patched

    def outcome(layer, where):
        def change(x):
            x[where] = seen[names[layer]][where]
            return x
        return OUTCOME(run_by_hand(name, corrupted.tokens, [(names[layer], change)])[0][:, -1], torch.arange(3))

    for layer in range(LAYERS):
        for head in range(HEADS):
            assert torch.allclose(heads[layer, head], outcome(layer, (slice(None), head, 6)), atol=1e-4)
        for query in range(7):
            assert torch.allclose(rows[layer, query], outcome(layer, (slice(None), slice(None), query)), atol=1e-4)
    assert heads.std() > 1e-3


def test_on_a_path():
    """Only what a head of layer 0 does to the pattern of head 2.1: first run records the pattern, the second writes it."""
    clean, corrupted = random_prompts(), random_prompts(seed=4)
    zs = [f"blocks.{layer}.attn.hook_z" for layer in range(LAYERS)]
    _, kept = run_by_hand("gpt2", clean.tokens, wanted=zs)
    _, other = run_by_hand("gpt2", corrupted.tokens, wanted=zs)
    held = {at: kept[at].clone() for at in zs}
    held[zs[0]][:, :, 3] = other[zs[0]][:, :, 3]
    _, arrived = run_by_hand("gpt2", clean.tokens, [(at, lambda x, at=at: held[at]) for at in zs], [pattern_at(2)])

    def replay(x):
        x[:, 1] = arrived[pattern_at(2)][:, 1]
        return x
    expected = OUTCOME(run_by_hand("gpt2", clean.tokens, [(pattern_at(2), replay)])[0][:, -1], torch.arange(3))
    for model in (eager("gpt2"), bridge("gpt2")):
        found = patching.path_patch(model, clean, corrupted, OUTCOME, (0, 3), [Receiver("pattern", 2, 1)])
        assert torch.allclose(found, expected, atol=1e-4)
    through_q_and_k = [Receiver("q", 2, 1), Receiver("k", 2, 1)]           # what a pattern is made of
    whole = patching.path_patch(bridge("gpt2"), clean, corrupted, OUTCOME, (0, 3), through_q_and_k)
    assert torch.allclose(found, whole, atol=1e-4)


def test_a_sweep_masks_patterns_and_other_rows_stay_as_they_are():
    prompts, model = random_prompts((7, 5, 7)), eager("llama")
    groups = Groups("pattern", (((0, 1),), ((2, 3),)))
    game = MaskingGame(model, prompts, OUTCOME, groups)
    found = game(torch.tensor([[True, True], [False, True], [True, False]]))
    singles = [[], [Do(Site("pattern", 0, head=1), 0.0)], [Do(Site("pattern", 2, head=3), 0.0)]]
    for row, doing in zip(found, singles):
        assert torch.allclose(row, OUTCOME(at_end(model, prompts, doing), torch.arange(3)), atol=1e-4)
    assert torch.allclose(sweep(model, prompts, singles, OUTCOME, batch_size=2), found, atol=1e-4)
    sentence(lambda: MaskingGame(model, prompts, OUTCOME, groups, ablation="mean"), "a pattern has no mean over positions")


def test_what_is_refused():
    tokens = random_prompts().tokens
    fused = copy.deepcopy(plain("gpt2"))
    fused.set_attn_implementation("sdpa")
    sentence(lambda: read(fused, tokens, [Site("pattern", 0)]), "load it with attn_implementation=\"eager\"")
    sentence(lambda: read(fused, tokens, [], [Do(Site("pattern", 0), 0.0)]), "attn_implementation=\"eager\"")
    beyond = Site("pattern", 0, head=1, units=(7,))
    sentence(lambda: read(eager("gpt2"), tokens, [beyond]), "key 7 is out of range", "keys 0 to 6")
    sentence(lambda: read(eager("gpt2"), tokens, [Site("pattern", 0, head=4)]), "head 4 is out of range")
    sentence(lambda: Site("z", 0, head=1, units=(2,)), "a site names a head or units, not both")
    sentence(lambda: read(eager("gpt2"), tokens, [], [Do(Site("pattern", 0), torch.zeros(5))]), "does not fit 'pattern'")
    assert "eager" not in ALL_ATTENTION_FUNCTIONS
