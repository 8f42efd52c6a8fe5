"""The reference itself: what its names mean fits together, and every edit of the table changes something."""
import pytest
import torch
from reference import PARALLEL, PATHS, contributions, naive
from small_models import LAYERS, plain, random_prompts

from .cases import KINDS, MIXED, PROMPTS, Case, row, writes_at
from .table import FAMILIES

NORMED_AFTER = ("bert", "bert_classifier", "roberta", "roberta_classifier", "opt_post_norm")


def close(one, other):
    assert (one - other).abs().max() <= 1e-5 * (other.max() - other.min())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_stream_is_what_is_added_to_it(name):
    seen = Case(name, "plain").seen("mixed", 0)
    for layer in range(LAYERS):
        before, after, attention, mlp = (seen[kind, layer] for kind in ("resid_pre", "resid_post", "attn_out", "mlp_out"))
        if layer:
            assert torch.equal(before, seen["resid_post", layer - 1])
        if name in NORMED_AFTER:  # each sum is normalised: by the norms that the block itself has
            norms = [m for m in plain(name).get_submodule(PATHS[name]["block"].format(layer)).modules()
                     if isinstance(m, torch.nn.LayerNorm)]
            close(seen["resid_mid", layer], norms[0](before + attention))
            close(after, norms[1](seen["resid_mid", layer] + mlp))
        else:
            close(after, before + attention + mlp)
            if name not in PARALLEL:
                close(seen["resid_mid", layer], before + attention)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_edit_of_the_table_changes_the_outcome(name):
    case = Case(name, "plain")
    for kind in filter(case.has, KINDS):
        for writes in writes_at(case, kind):
            changed = [case.judged(MIXED, i, *(write.edit(case, i) for write in writes)) for i in PROMPTS]
            plainly = [case.difference(i, case.logits("mixed", i)) for i in PROMPTS]
            assert max(abs(a - b) for a, b in zip(changed, plainly)) > 1e-4 * case.range, (kind, writes)


BIASED = ("gpt2", "gpt2_classifier", "gpt_neox", "gpt_neox_sequential", "opt", "bloom", "phi", "gptj", "stablelm")


@pytest.mark.parametrize("name", [name for name in FAMILIES if PATHS[name].get("final") and name not in BIASED])
def test_without_biases_contributions_sum_to_the_logit_difference(name):
    case = Case(name, "plain")
    heads, attention, mlps, embedding = contributions(name, row(MIXED, 0), *(answer[0] for answer in case.answers))
    close(heads.sum(1), attention)
    total = attention.sum() + mlps.sum() + embedding
    assert abs(total - case.difference(0, case.logits("mixed", 0))) < 1e-5 * case.range


def test_attention_reaches_no_further_than_the_window():
    tokens = random_prompts((7,), seed=9).tokens[0]
    other = tokens.clone()
    other[0] = tokens[0] % 90 + 5
    for name, reaches in [("mistral", False), ("llama", True)]:  # from position 0 to position 4 in one layer
        one, two = (naive(name, t, wanted=[("attn_out", 0)])[1]["attn_out", 0][4] for t in (tokens, other))
        assert torch.equal(one, two) != reaches
