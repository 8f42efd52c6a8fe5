"""What single heads add to the stream, against TransformerLens and by hand; keys and values that heads share."""
import copy

import pytest
import torch
from sentences import sentence
from reference import naive
from small_models import HEADS, LAYERS, WIDTH, bridge, plain, random_prompts

from utils.decoding import direct_attribution
from utils.engine import Each, Site, for_each_query_head, head_results, read
from utils.metrics import LogitDifference

SIZE = WIDTH // HEADS


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "gpt_neox"])
def test_the_same_as_transformerlens(name):
    model, prompts = bridge(name), random_prompts()
    names = [f"blocks.{layer}.attn.hook_result" for layer in range(LAYERS)]
    model.cfg.use_attn_result = True
    try:
        _, cache = model.run_with_cache(prompts.tokens, prepend_bos=False, names_filter=lambda at: at in names)
    finally:
        model.cfg.use_attn_result = False
    found = head_results(model, prompts)
    assert found.shape == (LAYERS, HEADS, 3, 7, WIDTH)
    for layer, at in enumerate(names):
        theirs = cache[at].movedim(2, 0)
        assert (found[layer] - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "bert"])
def test_plain_models_by_hand(name):
    """The projection of one head's output alone is the head's result and the bias, which all zeros give."""
    prompts = random_prompts((7, 4))
    found = head_results(plain(name), prompts)
    for i, row in enumerate(row[mask == 1] for row, mask in zip(prompts.tokens, prompts.mask)):
        def alone(x, head):
            return torch.cat([x[:, :head * SIZE] * 0, x[:, head * SIZE:(head + 1) * SIZE], x[:, (head + 1) * SIZE:] * 0], 1)
        for layer in range(LAYERS):
            bias = naive(name, row, [("z", layer, lambda x: x * 0)], [("attn_out", layer)])[1]["attn_out", layer]
            for head in range(HEADS):
                edit = ("z", layer, lambda x, head=head: alone(x, head))
                _, seen = naive(name, row, [edit], [("attn_out", layer)])
                expected = seen["attn_out", layer] - bias
                assert torch.allclose(found[layer, head, i, :len(row)], expected, atol=1e-5)


def test_layers_and_positions():
    model, prompts = bridge("llama"), random_prompts((7, 4, 6))
    whole = head_results(model, prompts)
    assert torch.allclose(head_results(model, prompts, [2]), whole[2:], atol=1e-5)
    ends = head_results(model, prompts, positions="end")
    assert ends.shape == (LAYERS, HEADS, 3, WIDTH)
    for i, end in enumerate(prompts.ends):
        assert torch.allclose(ends[:, :, i], whole[:, :, i, end], atol=1e-5)
    two = head_results(model, prompts, positions=[0, 2])
    assert torch.allclose(two, whole[:, :, :, [0, 2]], atol=1e-5)
    attn_out = Site("attn_out", 1, Each.of(prompts.ends))
    assert torch.allclose(ends[1].sum(0), read(model, prompts, [attn_out])[1][attn_out], atol=1e-5)


@pytest.mark.parametrize("name", ["olmo2", "gemma2", "granite"])
def test_a_norm_behind_attention_is_held_and_heads_still_sum(name):
    model, prompts = plain(name), random_prompts()
    there = Site("attn_out", 1)
    found = read(model, prompts, [there])[1][there]
    assert torch.allclose(head_results(model, prompts, [1])[0].sum(0), found, atol=1e-4 * float(found.abs().max()))


def test_heads_that_do_not_sum_to_their_attention_have_no_result():
    model = copy.deepcopy(plain("gpt2"))
    own = model.transformer.h[1].attn.forward
    model.transformer.h[1].attn.forward = lambda *args, **more: (2 * own(*args, **more)[0], None)
    sentence(lambda: head_results(model, random_prompts()), "the heads of layer 1 do not sum to what its attention adds")


def test_shared_heads_are_repeated_in_their_order():
    values = torch.arange(6).view(1, 3, 2)
    assert for_each_query_head(values, 6, 1)[0, :, 0].tolist() == [0, 0, 2, 2, 4, 4]
    assert torch.equal(for_each_query_head(values, 3, 1), values)
    sentence(lambda: for_each_query_head(values, 4, 1), "4 query heads cannot share 3 key and value heads evenly")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_named_as_the_reason(kind):
    model, prompts = copy.deepcopy(plain("gpt2")).to(kind), random_prompts()
    answers = LogitDifference(prompts.tokens[:, 0], prompts.tokens[:, 1])
    for asked in (lambda: head_results(model, prompts), lambda: direct_attribution(model, prompts, answers)):
        sentence(asked, "rounded too coarsely", "dtype=torch.float32")
