"""Lesson 03 runs on a model whose heads share keys and values."""
import pytest
import torch
from lessons import run_lesson
from small_models import save
from transformers import LlamaConfig, LlamaForCausalLM

from utils import patching

HEADS, SHARED = 4, 2


def save_llama(folder):
    """A random Llama of three layers with two query heads to each key and value head, and the shipped tokenizer."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=3, num_attention_heads=HEADS, num_key_value_heads=SHARED,
                                         hidden_size=32, intermediate_size=48, vocab_size=2560, max_position_embeddings=64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    save(model, folder)
    return folder


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    folder = save_llama(tmp_path_factory.mktemp("llama"))
    return run_lesson("03", str(folder), replace=[("model", "(24, 128)", "(4, 128)")])


def test_every_cell_runs(lesson):
    assert lesson["model"].cfg.n_key_value_heads == SHARED and lesson["model"].cfg.n_heads == HEADS
    assert all(lesson["printed"][cell] for cell in ("roles-measured", "verdicts", "metrics-cells", "ex7-use"))


def test_a_shared_value_counts_for_every_head_that_reads_it(lesson):
    """Query heads 0 and 1 read key and value head 0, heads 2 and 3 head 1: by hand, one head of one layer after another."""
    model, clean, changed = lesson["model"], lesson["clean"], lesson["changed_values"]
    assert changed.patched.shape[1] == len(changed.columns) == HEADS and lesson["copied"].shape == (3, HEADS)
    values = model.run_with_cache(clean.tokens)[1]["blocks.1.attn.hook_v"][:, lesson["IO"]]
    for head in range(HEADS):
        written = values[:, head // 2] @ model.blocks[1].attn.W_O[head]
        logits = model.unembed(model.ln_final(written[None]))[0]
        right = [int(ids[0]) in row.topk(5).indices.tolist() for row, ids in zip(logits, lesson["outcome"].correct[:, None])]
        assert lesson["copied"][1, head].item() == pytest.approx(sum(right) / len(right))
    own = patching.head_map(model, clean, lesson["corrupted"], lesson["outcome"], kind="v", direction="noise",
                            positions=tuple(range(lesson["S2"], lesson["END"] + 1)))
    for head in range(HEADS):
        assert torch.equal(changed.patched[:, head], own.patched[:, head // 2])
    assert own.effect.abs().max() > 1e-3 and not torch.allclose(own.effect[:, 0], own.effect[:, 1])
