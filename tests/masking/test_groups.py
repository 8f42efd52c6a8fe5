"""Groups of units and masks over them: values that can be printed, compared and saved."""
import copy
import itertools
import json
from dataclasses import replace

import pytest
import torch
from sentences import sentence
from small_models import HEADS, LAYERS, WIDTH, bridge, plain, random_prompts

from utils.engine import Site, read
from utils.masking import Groups
from utils.masking.groups import units_of

NEURONS = {"gpt2": 4 * WIDTH, "llama": 48, "bert": 48, "gpt_neox": 48}


@pytest.mark.parametrize("kind, layers, total", [("mlp_post", 1, 128), ("mlp_post", None, 3 * 128), ("z", None, 12),
                                                 ("resid_post", [0, 2], 64), ("embed", None, 32)])
def test_every_unit_is_in_exactly_one_group_and_sizes_differ_by_one_at_most(kind, layers, total):
    model = plain("gpt2")
    units = units_of(model, kind, layers)
    assert len(units) == total == len(set(units))
    for number in (1, 2, 5, 12, total):
        for make in (Groups.contiguous, Groups.random):
            groups = make(model, kind, number, layers)
            sizes = [len(group) for group in groups.members]
            assert len(groups) == number and max(sizes) - min(sizes) <= 1
            assert sorted(itertools.chain(*groups.members)) == sorted(units)


@pytest.mark.parametrize("name", sorted(NEURONS))
def test_widths_are_those_of_the_activations(name):
    for kind in ("mlp_post", "resid_post", "attn_out"):
        width = read(plain(name), random_prompts(), [Site(kind, 0)])[1][Site(kind, 0)].shape[-1]
        assert len(units_of(plain(name), kind, 0)) == width == (NEURONS[name] if kind == "mlp_post" else WIDTH)
    assert len(units_of(plain(name), "z")) == LAYERS * HEADS
    assert len(units_of(plain("llama"), "k", 0)) == 2, "shared by two query heads each"
    assert units_of(bridge("gpt2"), "mlp_post", 0) == units_of(plain("gpt2"), "mlp_post", 0)


def test_ways_to_group():
    model = plain("gpt2")
    assert [len(g) for g in Groups.contiguous(model, "z", 5).members] == [3, 3, 2, 2, 2]
    assert Groups.contiguous(model, "mlp_post", 4, 2).labels[1] == "L2 units 32-63"
    by_layer = Groups.by_layer(model, "z", [2, 0])
    assert by_layer.members == (tuple((2, h) for h in range(4)), tuple((0, h) for h in range(4)))
    assert by_layer.layers == (0, 2) and by_layer.labels[0] == "L2H0 L2H1 L2H2 L2H3"
    assert len(Groups.singles(model, "z")) == 12 and Groups.singles(model, "z").labels[5] == "L1H1"
    assert Groups.contiguous(model, "mlp_post", 1).labels == ("384 units of L0-L2",)
    assert Groups("mlp_post", [[(0, 9), (2, 2)]]).labels == ("2 units of 2 layers",)
    assert Groups("mlp_post", [[(1, 9), (1, 2)], [(0, 4)]]).labels == ("L1 2 units from 2 to 9", "L0 unit 4")
    assert Groups.contiguous(model, "embed", 2).labels[0] == "units 0-15"
    assert Groups("z", [[(0, head) for head in range(5)]]).labels == ("L0 heads 0-4",)


def alike(number, kind, seed):
    """A GPT-2 whose units of layer 1 come in `number` sorts, shuffled; and the sort of each unit."""
    model, generator = copy.deepcopy(plain("gpt2")), torch.Generator().manual_seed(seed)
    weight = model.transformer.h[1].mlp.c_fc.weight if kind == "mlp_post" else model.transformer.h[1].attn.c_attn.weight
    units = weight.shape[1] if kind == "mlp_post" else HEADS
    sort = (torch.arange(units) % number)[torch.randperm(units, generator=generator)]
    if kind == "mlp_post":
        weight.copy_(3 * torch.randn(WIDTH, number, generator=generator)[:, sort])
        model.transformer.h[1].mlp.c_fc.bias.zero_()
    else:                                  # all parts of a fused projection; values in another basis in each head
        size = WIDTH // HEADS
        parts = torch.randn(3, number, WIDTH, size, generator=generator)
        turned = [torch.linalg.qr(torch.randn(size, size, generator=generator))[0] for _ in range(HEADS)]
        heads = [torch.cat([parts[part, s] @ turned[h] if part == 2 else parts[part, s] for h, s in enumerate(sort)], 1)
                 for part in range(3)]
        weight.copy_(torch.cat(heads, 1))
        model.transformer.h[1].attn.c_attn.bias.zero_()
    return model, sort


@pytest.mark.parametrize("kind, number", [("mlp_post", 4), ("mlp_post", 16), ("z", 2)])
@pytest.mark.parametrize("seed", range(4))
def test_clusters_are_units_that_do_the_same(kind, number, seed):
    model, sort = alike(number, kind, seed)
    prompts = random_prompts((12, 20, 16))
    groups = Groups.clustered(model, prompts, kind, number, 1)
    planted = {tuple((1, unit) for unit in (sort == s).nonzero().flatten().tolist()) for s in range(number)}
    assert set(groups.members) == planted and groups.rule == "clustered by 3 prompts, seed 0"
    assert kind == "z" or set(Groups.random(model, kind, number, 1).members) != planted, "four heads can be lucky"


def test_clusters_hold_every_unit_once_and_are_of_one_size():
    model, prompts = plain("gpt2"), random_prompts((7, 4))
    for kind, number, layers in (("mlp_post", 5, 1), ("mlp_post", 7, None), ("z", 5, None), ("embed", 3, None)):
        groups = Groups.clustered(model, prompts, kind, number, layers, seed=3)
        sizes = [len(group) for group in groups.members]
        assert max(sizes) - min(sizes) <= 1 and len(groups) == number
        assert sorted(itertools.chain(*groups.members)) == sorted(units_of(model, kind, layers))
        assert groups == Groups.clustered(model, prompts, kind, number, layers, seed=3)
        firsts = [group[0] for group in groups.members]
        assert firsts == sorted(firsts)


def test_clusters_do_not_see_the_padding():
    model, prompts = plain("gpt2"), random_prompts((7, 4))
    other = replace(prompts, tokens=torch.where(prompts.mask == 1, prompts.tokens, 5))
    assert not torch.equal(other.tokens, prompts.tokens)
    assert Groups.clustered(model, prompts, "mlp_post", 6, 0) == Groups.clustered(model, other, "mlp_post", 6, 0)


def test_groups_are_values(tmp_path):
    model = plain("gpt2")
    one, other = Groups.random(model, "z", 4, seed=1), Groups.random(model, "z", 4, seed=2)
    assert one != other and one == Groups.random(model, "z", 4, seed=1) and hash(one) == hash(Groups("z", one.members))
    one.save(tmp_path / "groups.json")
    again = Groups.load(tmp_path / "groups.json")
    assert again == one and again.rule == one.rule == "random, seed 1"
    lines = str(one).splitlines()
    assert lines[0] == "4 groups of 12 units of 'z' (random, seed 1)" and len(lines) == 5
    assert Groups("z", [[(1, 2), (0, 3)]]) == Groups("z", [[(0, 3), (1, 2)]]), "order within a group says nothing"
    embedded = Groups.contiguous(model, "embed", 2)
    embedded.save(tmp_path / "groups.json")
    assert Groups.load(tmp_path / "groups.json") == embedded


# ---------------------------------------------------------------- masks

def test_masks_keep_or_drop():
    groups = Groups.contiguous(plain("gpt2"), "mlp_post", 3, 0)      # 43, 43 and 42 neurons
    assert groups.keep([0, 2]) == groups.drop(1) and groups.keep([0, 2]) != groups.keep([0])
    assert groups.drop(1).active == 85 and groups.drop(1).row.tolist() == [True, False, True]
    assert str(groups.drop(1)) == "keeps 2 of 3 groups (0, 2): 85 of 128 units are active"


# ---------------------------------------------------------------- bad input

@pytest.mark.parametrize("number", [0, 13])
def test_more_groups_than_units(number):
    for make in (Groups.contiguous, Groups.random):
        sentence(lambda: make(plain("gpt2"), "z", number), f"{number} groups cannot be made of 12 units", "1 to 12")
    sentence(lambda: Groups.clustered(plain("gpt2"), random_prompts(), "z", number), f"{number} groups", "1 to 12")


def test_a_single_position_is_nothing_to_cluster_by():
    sentence(lambda: Groups.clustered(plain("gpt2"), random_prompts((1,)), "z", 2), "at two positions or more")


def test_groups_that_are_none():
    sentence(lambda: Groups("z", []), "there is no group", "at least one group")
    sentence(lambda: Groups("z", [[(0, 1)], []]), "group 1 is empty", "at least one unit")
    sentence(lambda: Groups("z", [[(0, 1)], [(0, 1)]]), "unit 1 of layer 0 is in two groups")
    sentence(lambda: Groups("neurons", [[(0, 1)]]), "no activation is called 'neurons'", "mlp_post")


def test_an_empty_set_of_groups():
    groups = Groups.singles(plain("gpt2"), "z")
    for verb in ("keep", "drop"):
        sentence(lambda: getattr(groups, verb)([]), f"the set of groups to {verb} is empty",
                 "drop(range(12)) masks everything")


@pytest.mark.parametrize("group", [12, -1])
def test_an_unknown_group(group):
    groups = Groups.singles(plain("gpt2"), "z")
    for verb in (groups.keep, groups.drop):
        sentence(lambda: verb([0, group]), f"group {group} is unknown", "groups 0 to 11")


def test_a_file_without_groups(tmp_path):
    path = tmp_path / "groups.json"
    sentence(lambda: Groups.load(path), "there is no file 'groups.json'")
    for content in ("{", '{"kind": "z"}', "[1]", '{"kind": "z", "rule": "", "members": [[1]]}'):
        path.write_text(content)
        sentence(lambda: Groups.load(path), "'groups.json' holds no groups or is damaged", "Groups.save")
    path.write_text(json.dumps({"kind": "z", "rule": "", "members": [[]]}))
    sentence(lambda: Groups.load(path), "group 0 is empty")
