"""Patching maps against one hand-hooked forward pass per cell; path patching against a run written out head by head."""
import pytest
import torch
from reference import naive
from small_models import HEADS, LAYERS, WIDTH, bridge, plain, random_prompts

from utils import patching
from utils.engine import Each
from utils.errors import CourseError
from utils.metrics import LogitDifference
from utils.models import Prompts
from utils.patching import Receiver

OUTCOME = LogitDifference(torch.tensor([3, 50, 7]), torch.tensor([9, 4, 60]))
SIZE = WIDTH // HEADS
FIRST = 2       # the first position at which a clean prompt and its corruption differ


def pair(lengths=(6, 6, 6)):
    """Clean prompts, and the same with other tokens at positions 2 and 4."""
    clean = random_prompts(lengths)
    tokens = clean.tokens.clone()
    tokens[:, FIRST] = torch.tensor([70, 71, 72])
    tokens[0, 4] = 80
    return clean, Prompts(tokens * clean.mask, clean.mask, clean.ends, clean.labels)


def difference(logits, i):
    return (logits[OUTCOME.correct[i]] - logits[OUTCOME.wrong[i]]).item()


def rows_of(prompts):
    return [row[mask == 1] for row, mask in zip(prompts.tokens, prompts.mask)]


def cell(name, base, source, i, kind, layer, positions, columns=slice(None)):
    """Outcome of prompt `i` of `base` with one activation copied from `source`, all by hand."""
    base, source = rows_of(base)[i], rows_of(source)[i]
    _, seen = naive(name, source, wanted=[(kind, layer)])

    def copy(x):
        x = x.clone()
        for p in positions:
            x[p, columns] = seen[kind, layer][p, columns]
        return x
    return difference(naive(name, base, [(kind, layer, copy)])[0][-1], i)


@pytest.mark.parametrize("name, kind, direction", [
    ("gpt2", "resid_pre", "denoise"), ("gpt2", "resid_pre", "noise"), ("gpt2", "resid_mid", "noise"),
    ("gpt2", "attn_out", "denoise"), ("llama", "mlp_out", "denoise"), ("llama", "resid_pre", "noise"),
    ("qwen2", "attn_out", "noise"), ("gpt_neox", "resid_post", "denoise")])
def test_position_map(name, kind, direction):
    clean, corrupted = pair()
    result = patching.position_map(bridge(name), clean, corrupted, OUTCOME, kind=kind, direction=direction, batch_size=11)
    base, source = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    expected = torch.tensor([[[cell(name, base, source, i, kind, layer, [p]) for i in range(3)] for p in range(6)]
                             for layer in range(LAYERS)])
    plain_base, plain_source = (torch.tensor([difference(naive(name, row)[0][-1], i) for i, row in enumerate(rows_of(p))])
                                for p in (base, source))
    scale = expected.max() - expected.min()
    assert (result.patched - expected).abs().max() <= 1e-5 * scale
    assert (result.base - plain_base).abs().max() <= 1e-5 * scale
    assert (result.source - plain_source).abs().max() <= 1e-5 * scale
    effect = (expected.mean(-1) - plain_base.mean()) / (plain_source.mean() - plain_base.mean())
    assert (result.effect - effect).abs().max() < 1e-4 * effect.abs().max()
    assert result.direction == direction and result.rows == ("0", "1", "2") and len(result.columns) == 6


@pytest.mark.parametrize("kind", ["resid_pre", "attn_out", "mlp_out"])
def test_nothing_can_happen_before_the_first_difference(kind):
    result = patching.position_map(bridge("gpt2"), *pair(), OUTCOME, kind=kind)
    assert (result.patched[:, :FIRST] - result.base).abs().max() < 1e-5
    assert result.effect[:, FIRST].abs().max() > 0.01


def test_in_the_last_layer_only_the_end_can_matter():
    """Keys and values of the last block were read before resid_post, so only the end's own state reaches the logits."""
    result = patching.position_map(bridge("gpt2"), *pair(), OUTCOME, kind="resid_post")
    assert (result.patched[-1, :-1] - result.base).abs().max() < 1e-5
    assert result.effect[-1, -1].item() == pytest.approx(1.0, abs=1e-4)
    assert (result.patched[-1, -1] - result.source).abs().max() < 1e-4


def test_patching_all_that_differs_at_layer_0_is_the_other_run():
    """With a single differing token its embedding is all there is: the effect is 1 in both directions."""
    clean, corrupted = pair()
    tokens = clean.tokens.clone()
    tokens[:, FIRST] = corrupted.tokens[:, FIRST]
    corrupted = Prompts(tokens, clean.mask, clean.ends, clean.labels)
    for direction in ("denoise", "noise"):
        effect = patching.residual_map(bridge("gpt2"), clean, corrupted, OUTCOME, direction=direction).effect
        assert effect[0, FIRST].item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name, kind, positions", [
    ("gpt2", "z", "end"), ("gpt2", "q", -1), ("gpt2", "v", 2), ("llama", "z", Each((2, 4, 1))), ("llama", "k", 2),
    ("qwen2", "v", [2, 4]), ("gpt_neox", "q", "end"), ("gpt2", "z", "all"), ("llama", "v", "all"), ("gpt2", "z", -3)])
def test_head_map(name, kind, positions):
    """Prompts of unequal length; keys and values of Llama and Qwen have two heads instead of four."""
    clean, corrupted = pair((6, 5, 5))
    result = patching.head_map(bridge(name), clean, corrupted, OUTCOME, positions=positions, kind=kind, batch_size=5)
    heads = 2 if name in ("llama", "qwen2") and kind in ("k", "v") else HEADS
    assert result.patched.shape == (LAYERS, heads, 3) and len(result.columns) == heads
    ends = clean.ends.tolist()
    where = {"end": lambda i: [ends[i]], "all": lambda i: range(ends[i] + 1), -1: lambda i: [ends[i]],
             -3: lambda i: [ends[i] - 2], 2: lambda i: [2]}.get(
        positions if isinstance(positions, (str, int)) else None,
        lambda i: [positions.positions[i]] if isinstance(positions, Each) else positions)
    for layer in range(LAYERS):
        for head in range(heads):
            columns = slice(head * SIZE, (head + 1) * SIZE)
            for i in range(3):
                expected = cell(name, corrupted, clean, i, kind, layer, where(i), columns)
                assert result.patched[layer, head, i].item() == pytest.approx(expected, abs=1e-4)


def test_interval_surrounds_the_effect_and_is_reproducible():
    result = patching.residual_map(bridge("gpt2"), *pair(), OUTCOME)
    interval = result.interval(seed=3)
    assert torch.allclose(torch.tensor(interval.estimate), result.effect.double(), atol=1e-5)
    assert (interval.low[0, 5] <= interval.high[0, 5]) and (result.interval(seed=3).low == interval.low).all()


# ---------------------------------------------------------------- path patching

def path_by_hand(clean, corrupted, i, sender, receivers, freeze_mlps, positions=None):
    """Wang et al. 2022, appendix B, with plain hooks: hold every head but the sender, record, replay."""
    clean, corrupted = rows_of(clean)[i], rows_of(corrupted)[i]
    heads = [("z", layer) for layer in range(LAYERS)]
    mlps = [("mlp_out", layer) for layer in range(LAYERS)] if freeze_mlps else []
    _, kept = naive("gpt2", clean, wanted=heads + mlps)
    _, other = naive("gpt2", corrupted, wanted=heads)
    layer, head = sender
    columns = slice(head * SIZE, (head + 1) * SIZE)
    sent = kept["z", layer].clone()
    for p in range(len(clean)) if positions is None else positions:
        sent[p, columns] = other["z", layer][p, columns]
    held = {**kept, ("z", layer): sent}
    names = [("resid_post", LAYERS - 1) if r.kind == "logits" else (r.kind, r.layer) for r in receivers]
    _, arrived = naive("gpt2", clean, [(k, l, lambda x, v=v: v) for (k, l), v in held.items()], names)
    edits = []
    for receiver, name in zip(receivers, names):
        part = slice(None) if receiver.head is None else slice(receiver.head * SIZE, (receiver.head + 1) * SIZE)

        def replay(x, name=name, part=part):
            x = x.clone()
            x[:, part] = arrived[name][:, part]
            return x
        edits.append((*name, replay))
    return difference(naive("gpt2", clean, edits)[0][-1], i)


@pytest.mark.parametrize("receivers", [[Receiver()], [Receiver("q", 2, 1)], [Receiver("k", 1, 0), Receiver("v", 2, 3)],
                                       [Receiver("q", 2, 0), Receiver("q", 2, 3)]])
@pytest.mark.parametrize("freeze_mlps", [False, True])
def test_path_patch(receivers, freeze_mlps):
    clean, corrupted = pair()
    for sender in [(0, 1), (0, 3)]:
        result = patching.path_patch(bridge("gpt2"), clean, corrupted, OUTCOME, sender, receivers, freeze_mlps=freeze_mlps)
        expected = [path_by_hand(clean, corrupted, i, sender, receivers, freeze_mlps) for i in range(3)]
        assert result.tolist() == pytest.approx(expected, abs=1e-4)


def test_the_sender_may_be_limited_to_positions():
    clean, corrupted = pair()
    result = patching.path_patch(bridge("gpt2"), clean, corrupted, OUTCOME, (1, 2), positions=FIRST)
    expected = [path_by_hand(clean, corrupted, i, (1, 2), [Receiver()], False, [FIRST]) for i in range(3)]
    assert result.tolist() == pytest.approx(expected, abs=1e-4)
    limited = patching.path_map(bridge("gpt2"), clean, corrupted, OUTCOME, senders=[(1, 2)], positions=FIRST)
    assert torch.equal(limited.patched[1, 2], result)
    whole = patching.path_map(bridge("gpt2"), clean, corrupted, OUTCOME, senders=[(1, 2)])
    assert (whole.patched[1, 2] - result).abs().max() > 1e-3


def test_with_everything_frozen_the_path_to_the_logits_is_the_direct_one():
    """Then the stream changes by exactly what the head's output changed, times its output weights."""
    clean, corrupted = pair()
    result = patching.path_patch(bridge("gpt2"), clean, corrupted, OUTCOME, (1, 0), freeze_mlps=True)
    hf = plain("gpt2")
    for i in range(3):
        wanted = [("z", 1), ("resid_post", LAYERS - 1)]
        (_, c), (_, k) = naive("gpt2", clean.tokens[i], wanted=wanted), naive("gpt2", corrupted.tokens[i], wanted=wanted)
        change = (k["z", 1] - c["z", 1])[-1, :SIZE] @ hf.transformer.h[1].attn.c_proj.weight[:SIZE]
        logits = hf.lm_head(hf.transformer.ln_f(c["resid_post", LAYERS - 1][-1] + change))
        assert result[i].item() == pytest.approx(difference(logits, i), abs=1e-4)


def test_path_map_visits_every_head_below_the_receivers():
    clean, corrupted = pair()
    result = patching.path_map(bridge("gpt2"), clean, corrupted, OUTCOME, [Receiver("q", 2, 1)])
    assert not result.patched[:2].isnan().any() and result.patched[2].isnan().all()
    assert result.effect[2].isnan().all() and not result.effect[:2].isnan().any()
    expected = [path_by_hand(clean, corrupted, i, (1, 3), [Receiver("q", 2, 1)], False) for i in range(3)]
    assert result.patched[1, 3].tolist() == pytest.approx(expected, abs=1e-4)
    both = patching.path_map(bridge("gpt2"), clean, corrupted, OUTCOME, [Receiver("q", 1, 1), Receiver()])
    assert not both.patched.isnan().any()   # every head can reach the logits
    some = patching.path_map(bridge("gpt2"), clean, corrupted, OUTCOME, senders=[(0, 2)])
    assert (~some.patched.isnan()).sum() == 3


@pytest.mark.parametrize("measure", [
    lambda *args, **options: patching.head_map(*args, positions=Each((2, 4, 1)), **options),
    lambda *args, **options: patching.position_map(*args, kind="attn_out", **options),
    lambda *args, **options: patching.path_map(*args, [Receiver("k", 2, 1)], positions=Each((2, 3, 2)), **options)])
def test_prompts_taken_in_parts_give_the_same_numbers(measure):
    whole, parts = (measure(bridge("gpt2"), *pair(), OUTCOME, batch_size=size) for size in (128, 4))     # 4: one at a time
    for name in ("patched", "base", "source"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=1e-5, equal_nan=True)


# ---------------------------------------------------------------- mistakes

@pytest.mark.parametrize("call, message", [
    (lambda m, c, k: patching.residual_map(m, c, k, OUTCOME, direction="forward"), "direction must be 'denoise' or 'noise', not 'forward'"),
    (lambda m, c, k: patching.head_map(m, c, k, OUTCOME, direction="clean"), "direction must be 'denoise' or 'noise'"),
    (lambda m, c, k: patching.residual_map(m, *pair((6, 5, 5)), OUTCOME), "a map over positions needs prompts of one length"),
    (lambda m, c, k: patching.residual_map(m, c, random_prompts((6, 6)), OUTCOME), "3 clean but 2 corrupted prompts: they must come in pairs"),
    (lambda m, c, k: patching.residual_map(m, c, random_prompts((6, 6, 5)), OUTCOME), "same number of tokens, not 6 and 5: they part at position"),
    (lambda m, c, k: patching.path_patch(m, c, k, OUTCOME, (3, 0)), "layer 3 is out of range: this model has layers 0 to 2"),
    (lambda m, c, k: patching.path_patch(m, c, k, OUTCOME, (0, 4)), "head 4 is out of range: each layer has heads 0 to 3"),
    (lambda m, c, k: patching.path_map(m, c, k, OUTCOME, []), "a path needs an end: give at least one Receiver"),
    (lambda m, c, k: patching.path_patch(m, c, random_prompts((6, 6)), OUTCOME, (0, 0)), "they must come in pairs"),
    (lambda m, c, k: patching.head_map(m, c, k, OUTCOME, positions=6), "position 6 is out of range: the prompts have positions 0 to 5"),
    (lambda m, c, k: patching.residual_map(m, c, c, OUTCOME).effect, "give the same outcome, so there is no effect to recover")])
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call(bridge("gpt2"), *pair())
    with pytest.raises(CourseError):
        patching.residual_map(bridge("gpt2"), *pair(), OUTCOME, direction="x")
