"""Attribution patching: against TransformerLens, against gradients taken by hand, and against very small steps."""
import pytest
import torch
from sentences import sentence
from small_models import HEADS, LAYERS, bridge, plain
from test_patching import OUTCOME, pair
from transformer_lens.tools.analysis.attribution_patching import attribution_patch

from utils import patching
from utils.engine import Do, Each, Site, places, read, sweep
from utils.metrics import LogProbability, ReciprocalRank


def theirs(model, clean, corrupted):
    """The mean score of every node over prompts; their metric knows nothing of several, and weights must have gradients."""
    totals = {}
    model.requires_grad_(True)
    try:
        for i in range(3):
            def metric(logits, i=i):
                return logits[0, -1, OUTCOME.correct[i]] - logits[0, -1, OUTCOME.wrong[i]]
            found = attribution_patch(model, clean.tokens[i:i + 1], corrupted.tokens[i:i + 1], metric).node_scores
            totals = {node: totals.get(node, 0) + score / 3 for node, score in found.items()}
    finally:
        model.requires_grad_(False)
    return totals


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_same_as_transformerlens(name, direction):
    """Node by node, the mean over prompts; TransformerLens takes the gradient in the run that is patched as well."""
    clean, corrupted = pair()
    given = (clean, corrupted) if direction == "denoise" else (corrupted, clean)
    found = {kind: patching.attribution_map(bridge(name), clean, corrupted, OUTCOME, kind=kind, direction=direction)
             for kind in ("mlp_out", "resid_pre")}
    by_head = {position: patching.attribution_map(bridge(name), clean, corrupted, OUTCOME, kind="z", positions=position,
                                                  direction=direction) for position in range(6)}
    totals = theirs(bridge(name), *given)
    assert {node.kind for node in totals} >= {"attn_head_out", "mlp_out"}
    for node, score in totals.items():
        if node.kind == "attn_head_out":
            result = by_head[node.position]
            mine = (result.patched - result.base)[node.layer, node.head].mean()
        elif node.kind == "mlp_out":
            mine = (found["mlp_out"].patched - found["mlp_out"].base)[node.layer, node.position].mean()
        else:
            continue
        assert mine.item() == pytest.approx(score, abs=1e-4)
    assert max(map(abs, totals.values())) > 0.1


@pytest.mark.parametrize("kind, module", [("attn_out", "attn"), ("mlp_out", "mlp"), ("resid_post", None)])
def test_the_same_as_a_gradient_by_hand(kind, module):
    """One prompt after another through the plain model, with its own hooks."""
    clean, corrupted = pair()
    model = plain("gpt2")
    result = patching.attribution_map(model, clean, corrupted, OUTCOME, kind=kind)
    for i in range(3):
        seen = {}
        for which, tokens in (("clean", clean.tokens), ("corrupted", corrupted.tokens)):
            def keep(layer, which=which):
                def hook(m, args, output):
                    out = output[0] if isinstance(output, tuple) else output
                    out = out if out.requires_grad else out.detach().requires_grad_()
                    seen[which, layer] = out
                    return (out, *output[1:]) if isinstance(output, tuple) else out
                return hook
            hooks = [(block if module is None else block.get_submodule(module)).register_forward_hook(keep(layer))
                     for layer, block in enumerate(model.transformer.h)]
            logits = model(tokens[i:i + 1]).logits[0, -1]
            for hook in hooks:
                hook.remove()
        outcome = logits[OUTCOME.correct[i]] - logits[OUTCOME.wrong[i]]
        slopes = torch.autograd.grad(outcome, [seen["corrupted", layer] for layer in range(LAYERS)])
        for layer, slope in enumerate(slopes):
            expected = ((seen["clean", layer] - seen["corrupted", layer]) * slope).sum(-1)[0] + outcome
            assert torch.allclose(result.patched[layer, :, i], expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["resid_pre", "attn_out", "mlp_out"])
def test_it_is_laid_out_as_the_exact_map_and_no_more_than_near_it(kind):
    clean, corrupted = pair()
    exact = patching.position_map(bridge("gpt2"), clean, corrupted, OUTCOME, kind=kind)
    near = patching.attribution_map(bridge("gpt2"), clean, corrupted, OUTCOME, kind=kind)
    assert near.effect.shape == exact.effect.shape and (near.rows, near.columns) == (exact.rows, exact.columns)
    assert torch.allclose(near.base, exact.base, atol=1e-5) and torch.allclose(near.source, exact.source, atol=1e-5)
    assert near.effect[:, :2].abs().max() < 1e-5 and (near.effect - exact.effect).abs().max() > 1e-3
    last = patching.attribution_map(bridge("gpt2"), clean, corrupted, OUTCOME, kind="resid_post")
    assert last.patched[-1, :-1].sub(last.base).abs().max() < 1e-5, "in the last layer only the end can matter"


@pytest.mark.parametrize("kind, positions", [("z", "all"), ("z", "end"), ("v", [2, 4]), ("q", -1), ("z", Each((2, 3, 4))),
                                             ("pattern", "end")])
def test_heads_of_prompts_of_any_length_in_parts(kind, positions):
    clean, corrupted = pair((6, 5, 5))
    maps = [patching.attribution_map(bridge("llama"), clean, corrupted, OUTCOME, kind=kind, positions=positions,
                                     batch_size=size) for size in (128, 4)]
    exact = patching.head_map(bridge("llama"), clean, corrupted, OUTCOME, kind=kind, positions=positions)
    assert maps[0].effect.shape == exact.effect.shape == (LAYERS, 2 if kind == "v" else HEADS)
    assert torch.allclose(maps[0].patched, maps[1].patched, atol=1e-4) and maps[0].columns == exact.columns
    slope = by_small_steps(bridge("llama"), clean, corrupted, kind, places(clean, positions), exact.patched.shape[1])
    moved = maps[0].patched - maps[0].base
    assert (moved - slope).abs().max() < 0.01 * slope.abs().max()


def by_small_steps(model, base_of, corrupted, kind, where, heads, step=0.02):
    """What a hundredth of the difference does to the outcome, there and back, times a hundred, [layer, head, prompt]."""
    sites = [Site(kind, layer, where, head) for layer in range(LAYERS) for head in range(heads)]
    there, here = (read(model, prompts, sites)[1] for prompts in (base_of, corrupted))
    rows = [[Do(site, here[site] + sign * step / 2 * (there[site] - here[site]))] for site in sites for sign in (1, -1)]
    found = sweep(model, corrupted, rows, OUTCOME).view(LAYERS, heads, 2, -1)
    return (found[:, :, 0] - found[:, :, 1]) / step


def test_no_more_prompts_at_once_than_the_batch_allows(monkeypatch):
    sizes, own = [], patching.gradients

    def counted(model, prompts, *rest):
        sizes.append(len(prompts))
        return own(model, prompts, *rest)
    monkeypatch.setattr(patching, "gradients", counted)
    patching.attribution_map(bridge("gpt2"), *pair(), OUTCOME, kind="mlp_out", batch_size=8)
    assert sizes == [2, 1]


def test_models_stay_as_they_are_and_training_goes_on():
    model = bridge("gpt2")
    patching.attribution_map(model, *pair(), OUTCOME, kind="z")
    assert all(p.grad is None for p in model.parameters()) and torch.is_grad_enabled()


def test_what_is_refused():
    clean, corrupted = pair()
    sentence(lambda: patching.attribution_map(bridge("gpt2"), clean, corrupted, ReciprocalRank(OUTCOME.correct)),
             "a ReciprocalRank has no gradient", "LogitDifference")
    sentence(lambda: patching.attribution_map(bridge("gpt2"), clean, corrupted, OUTCOME, kind="resid_mid"), "'resid_mid'")
    sentence(lambda: patching.attribution_map(bridge("gpt2"), clean, corrupted, OUTCOME, positions=2), "leave positions out")
    sentence(lambda: patching.attribution_map(bridge("gpt2"), clean, corrupted, OUTCOME, direction="x"), "'denoise' or 'noise'")
    sentence(lambda: patching.attribution_map(bridge("gpt2"), *pair((6, 5, 5)), OUTCOME), "prompts of one length")
    assert patching.attribution_map(plain("gpt2"), clean, corrupted, LogProbability(OUTCOME.correct)).effect.isfinite().all()
