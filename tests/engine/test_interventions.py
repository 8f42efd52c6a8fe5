"""The engine against one forward pass per cell with hand-written hooks (tests/reference.py)."""
import numpy as np
import pytest
import torch
from cells import close, layer_of, rows_of, start_and_end, width_of, write
from reference import naive
from small_models import HEADS, LANGUAGE_MODELS, LAYERS, WIDTH, bridge, plain, random_prompts

from utils.engine import Do, Each, Site, at_end, read, run, sweep
from utils.engine.sites import ACTIVATIONS
from utils.errors import CourseError
from utils.metrics import LogitDifference
from utils.models import shape_of

OUTCOME = LogitDifference(torch.tensor([3, 50, 7]), torch.tensor([9, 4, 60]))
ALL = list(ACTIVATIONS)
# what each plain model offers; a bridge offers everything but resid_mid where attention and MLP run side by side
NAMES = ("gpt2", "llama", "qwen2", "qwen3", "mistral", "gpt_neox", "gpt_neox_sequential", "bert", "bert_classifier",
         "bert_answerer", "gpt2_classifier")  # the others: tests/families
PLAIN = {name: [k for k in ALL if k not in ("q", "k", "v")] for name in NAMES}
for name in ("gpt_neox", "bert", "bert_classifier", "bert_answerer"):
    PLAIN[name].remove("resid_mid")
BRIDGED = {name: [k for k in ALL if (name, k) != ("gpt_neox", "resid_mid")] for name in LANGUAGE_MODELS}
CASES = [(False, name, kind) for name in NAMES for kind in PLAIN[name]] + \
        [(True, name, kind) for name in LANGUAGE_MODELS for kind in BRIDGED[name]]


def model_of(bridged, name):
    return bridge(name) if bridged else plain(name)


def last(name, logits):
    return logits if name.endswith(("classifier", "answerer")) else logits[-1]


# ---------------------------------------------------------------- reading

@pytest.mark.parametrize("bridged, name, kind", CASES)
def test_read_is_what_a_plain_hook_sees(bridged, name, kind):
    prompts = random_prompts((7, 5, 3))
    site = Site(kind, layer_of(kind))
    logits, found = read(model_of(bridged, name), prompts, [site])
    for i, row in enumerate(rows_of(prompts)):
        expected_logits, expected = naive(name, row, wanted=[(kind, site.layer)])
        close(found[site][i, :len(row)], expected[kind, site.layer])
        close(logits[i] if name.endswith("classifier") else logits[i, :len(row)], expected_logits)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "gpt_neox_sequential"])
def test_the_stream_is_the_sum_of_its_updates(name):
    sites = {kind: Site(kind, 1) for kind in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")}
    _, found = read(plain(name), random_prompts(), sites.values())
    value = {kind: found[site] for kind, site in sites.items()}
    close(value["resid_mid"], value["resid_pre"] + value["attn_out"])
    close(value["resid_post"], value["resid_mid"] + value["mlp_out"])


def test_parallel_blocks_add_both_updates_at_once():
    sites = [Site(kind, 1) for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post")]
    _, found = read(bridge("gpt_neox"), random_prompts(), sites)
    pre, attention, mlp, post = (found[site] for site in sites)
    close(post, pre + attention + mlp)


def test_read_chooses_positions_heads_and_units():
    prompts, model = random_prompts(), bridge("gpt2")
    whole, size = Site("z", 2), WIDTH // HEADS
    chosen = {Site("z", 2, 3): lambda x: x[:, 3], Site("z", 2, -2): lambda x: x[:, 5],
              Site("z", 2, (1, 4)): lambda x: x[:, [1, 4]],
              Site("z", 2, Each((0, 6, 2))): lambda x: x[[0, 1, 2], [0, 6, 2]],
              Site("z", 2, 3, head=1): lambda x: x[:, 3, size:2 * size],
              Site("z", 2, head=3): lambda x: x[:, :, 3 * size:],
              Site("z", 2, 0, units=(5, 1, -1)): lambda x: x[:, 0][:, [5, 1, 31]]}
    _, found = read(model, prompts, [whole, *chosen])
    for site, pick in chosen.items():
        assert torch.equal(found[site], pick(found[whole])), site


def test_keys_and_values_have_their_own_number_of_heads():
    """Llama with 4 query heads and 2 shared key / value heads of width 8."""
    _, found = read(bridge("llama"), random_prompts(), [Site("k", 1), Site("k", 1, None, 1), Site("q", 1, None, 3)])
    assert found[Site("k", 1)].shape[-1] == 16
    assert torch.equal(found[Site("k", 1, None, 1)], found[Site("k", 1)][..., 8:])
    assert found[Site("q", 1, None, 3)].shape[-1] == 8
    with pytest.raises(CourseError, match="head 2 is out of range: each layer has heads 0 to 1"):
        read(bridge("llama"), random_prompts(), [Site("v", 1, None, 2)])


# ---------------------------------------------------------------- writing

@pytest.mark.parametrize("bridged, name, kind", CASES)
def test_sweep_equals_one_forward_per_cell(bridged, name, kind):
    """Every kind of activation: two layers, every position, prompts of unequal length, a different value for each."""
    prompts, width = random_prompts((6, 6, 4)), width_of(name, kind)
    layers = [None] if kind == "embed" else [0, LAYERS - 1]
    values = torch.randn(3, 6, width, generator=torch.Generator().manual_seed(2))
    cells = [(layer, p) for layer in layers for p in range(6)]
    rows = [[Do(Site(kind, layer, p), values[:, p])] for layer, p in cells]
    difference = LogitDifference(torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1]))
    outcome = start_and_end if name == "bert_answerer" else difference
    result = sweep(model_of(bridged, name), prompts, rows, outcome, batch_size=7)
    expected = torch.zeros(len(cells), 3)
    for c, (layer, p) in enumerate(cells):
        for i, row in enumerate(rows_of(prompts)):
            edits = [(kind, layer, write([p], values[i, p][None]))] if p < len(row) else []
            logits = last(name, naive(name, row, edits)[0])
            expected[c, i] = outcome(logits[None], torch.tensor([i]))
    close(result, expected)
    assert result.std() > 0.01  # the values do matter


@pytest.mark.parametrize("bridged, name, kind", [(True, "gpt2", "z"), (True, "llama", "q"), (True, "llama", "v"),
                                                 (True, "qwen2", "k"), (True, "gpt_neox", "k"), (False, "llama", "z"),
                                                 (False, "bert", "z"), (False, "gpt2_classifier", "z")])
def test_heads(bridged, name, kind):
    prompts, model = random_prompts((5, 5, 5)), model_of(bridged, name)
    size = WIDTH // HEADS
    heads = width_of(name, kind) // size
    outcome = LogitDifference(torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1]))
    result = sweep(model, prompts, [[Do(Site(kind, 1, -1, head), 0.5)] for head in range(heads)], outcome)
    for head in range(heads):
        columns = slice(head * size, (head + 1) * size)
        for i, row in enumerate(prompts.tokens):
            logits = last(name, naive(name, row, [(kind, 1, write([4], [0.5], columns))])[0])
            assert result[head, i] == pytest.approx((logits[outcome.correct[i]] - logits[outcome.wrong[i]]).item(), abs=1e-4)
    assert len(result[:, 0].unique()) == heads or kind in ("k", "v")


RAMP = torch.linspace(-1, 1, WIDTH)   # a layer norm of a constant vector would only amplify rounding
STREAM = Site("resid_mid", 1)


@pytest.mark.parametrize("position, where", [
    (2, [[2]] * 3), (-1, [[6]] * 3), ((0, 3, -2), [[0, 3, 5]] * 3), (Each((0, 4, 6)), [[0], [4], [6]]),
    (None, [list(range(7))] * 3), ([1, 2], [[1, 2]] * 3), (range(2), [[0, 1]] * 3), (torch.tensor(5), [[5]] * 3),
    (np.int64(4), [[4]] * 3)])
@pytest.mark.parametrize("bridged", [True, False])
def test_positions(bridged, position, where):
    prompts = random_prompts()
    logits = run(model_of(bridged, "gpt2"), prompts, [Do(Site("resid_mid", 1, position), RAMP)])
    for i, row in enumerate(prompts.tokens):
        close(logits[i], naive("gpt2", row, [("resid_mid", 1, write(where[i], [RAMP] * 7))])[0])


def test_units():
    prompts, units = random_prompts(), (3, 100, -1)
    logits = run(bridge("gpt2"), prompts, [Do(Site("mlp_post", 0, 4, units=units), torch.tensor([1.0, 2.0, 3.0]))])
    change = write([4], [torch.tensor([1.0, 2.0, 3.0])], [3, 100, 127])
    close(logits[0], naive("gpt2", prompts.tokens[0], [("mlp_post", 0, change)])[0])


def values(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("position, value, at", [
    (2, 1.5, lambda v, i, p: v),
    (2, torch.tensor(1.5), lambda v, i, p: v),
    (2, values(WIDTH), lambda v, i, p: v),                       # one axis: width
    (2, values((3, WIDTH)), lambda v, i, p: v[i]),               # single position: prompt, width
    (Each((1, 2, 3)), values((3, WIDTH)), lambda v, i, p: v[i]),
    ((2, 4), values((2, WIDTH)), lambda v, i, p: v[p]),          # several positions: position, width
    ((2, 4), values((3, 2, WIDTH)), lambda v, i, p: v[i, p]),    # three axes: prompt first
    ((2, 4), values((1, 2, WIDTH)), lambda v, i, p: v[0, p]),
    ((2, 4), values((3, 1, WIDTH)), lambda v, i, p: v[i, 0]),
    (2, values((3, 1, WIDTH)), lambda v, i, p: v[i, 0]),
    (2, values((1, WIDTH)), lambda v, i, p: v[0])])
@pytest.mark.parametrize("batch_size", [2, 100])
def test_shapes_of_values(position, value, at, batch_size):
    prompts = random_prompts()
    kept = value.clone() if isinstance(value, torch.Tensor) else value
    rows = [[Do(Site("resid_pre", 1, position), value)]] * 2
    result = sweep(bridge("gpt2"), prompts, rows, OUTCOME, batch_size=batch_size)
    for i, row in enumerate(prompts.tokens):
        places = [position.positions[i]] if isinstance(position, Each) else [position] if isinstance(position, int) else position
        change = write(places, [at(value, i, p) for p in range(len(places))])
        logits = naive("gpt2", row, [("resid_pre", 1, change)])[0][-1]
        assert result[:, i].tolist() == pytest.approx([(logits[OUTCOME.correct[i]] - logits[OUTCOME.wrong[i]]).item()] * 2, abs=1e-4)
    if isinstance(value, torch.Tensor):
        assert torch.equal(value, kept)


def test_a_function_gets_the_slice_and_returns_the_new_one():
    prompts, seen = random_prompts(), []

    def double(current):
        seen.append(current.shape)
        return 2 * current
    logits = run(bridge("gpt2"), prompts, [Do(Site("z", 1, (2, 5), head=3), double)])
    assert seen == [(3, 2, WIDTH // HEADS)]

    def by_hand(x):
        x = x.clone()
        x[[2, 5], 24:] *= 2
        return x
    close(logits[1], naive("gpt2", prompts.tokens[1], [("z", 1, by_hand)])[0])
    with pytest.raises(CourseError, match="returned None: is `return` missing"):
        run(bridge("gpt2"), prompts, [Do(Site("z", 1), lambda x: None)])


@pytest.mark.parametrize("bridged, name", [(True, "gpt2"), (True, "llama"), (False, "gpt2"), (False, "llama")])
def test_joint_interventions_act_together(bridged, name):
    """One row writes three layers at once, among them resid_mid below another site of the same block."""
    prompts = random_prompts()
    plan = [("resid_mid", 0, 2, RAMP), ("mlp_out", 0, 2, -0.4), ("resid_post", 0, 1, -RAMP), ("attn_out", 2, 6, 0.1)]
    logits = run(model_of(bridged, name), prompts, [Do(Site(k, l, p), v) for k, l, p, v in plan])
    edits = [(k, l, write([p], [v])) for k, l, p, v in plan]
    close(logits[2], naive(name, prompts.tokens[2], edits)[0])


def test_written_resid_mid_reaches_resid_post_and_can_be_overwritten_there():
    model, prompts, post = bridge("gpt2"), random_prompts(), Site("resid_post", 1)
    _, found = read(model, prompts, [post, Site("mlp_out", 1)], [Do(Site("resid_mid", 1), 0.5)])
    close(found[post], found[Site("mlp_out", 1)] + 0.5)
    _, found = read(model, prompts, [post], [Do(post, 2.0), Do(Site("resid_mid", 1), 0.5)])
    assert (found[post] == 2.0).all()


def test_several_interventions_on_one_site_in_one_row_are_written_in_order():
    prompts = random_prompts()
    rows = [[Do(Site("resid_pre", 1), 0.1), Do(Site("resid_pre", 1, 3), 0.9), Do(Site("resid_pre", 1, 3, units=(0,)), -2.0)]]
    result = sweep(bridge("gpt2"), prompts, rows, OUTCOME)
    x = torch.full((7, WIDTH), 0.1)
    x[3] = 0.9
    x[3, 0] = -2.0
    logits = naive("gpt2", prompts.tokens[0], [("resid_pre", 1, lambda old: x)])[0][-1]
    assert result[0, 0].item() == pytest.approx((logits[3] - logits[9]).item(), abs=1e-4)


def test_read_sees_what_was_written():
    site = Site("mlp_out", 1, 2)
    _, found = read(bridge("gpt2"), random_prompts(), [site], [Do(site, 4.0)])
    assert (found[site] == 4.0).all()


@pytest.mark.parametrize("bridged, name", [(True, "gpt2"), (True, "llama"), (False, "bert"), (False, "gpt2_classifier")])
def test_batch_size_changes_no_number(bridged, name):
    prompts, model = random_prompts((8, 3, 5)), model_of(bridged, name)
    rows = [[], [Do(Site("resid_pre", 1, 1), values((3, WIDTH)))], [Do(Site("z", 2, None, 1), 0.0)],
            [Do(Site("mlp_out", 0, Each.of(prompts.ends)), lambda x: -x), Do(Site("attn_out", 1, 0), 1.0)]]
    outcome = LogitDifference(torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1]))
    whole = sweep(model, prompts, rows, outcome, batch_size=256)
    assert whole.shape == (4, 3)
    for size in (1, 2, 5, 12):
        close(sweep(model, prompts, rows, outcome, batch_size=size), whole)
    assert (whole[1:] - whole[0]).abs().max() > 0.01


def test_an_empty_row_is_the_plain_run():
    prompts = random_prompts((7, 4, 2))
    result = sweep(bridge("gpt2"), prompts, [[]], OUTCOME)
    for i, row in enumerate(rows_of(prompts)):
        logits = naive("gpt2", row)[0][-1]
        assert result[0, i].item() == pytest.approx((logits[OUTCOME.correct[i]] - logits[OUTCOME.wrong[i]]).item(), abs=1e-4)
    assert sweep(bridge("gpt2"), prompts, [], OUTCOME).shape == (0, 3)


def test_at_end_takes_the_last_real_position_and_the_classes_of_a_classifier():
    prompts = random_prompts((7, 4, 2))
    ends = at_end(bridge("llama"), prompts)
    classes = at_end(plain("bert_classifier"), prompts)
    for i, row in enumerate(rows_of(prompts)):
        close(ends[i], naive("llama", row)[0][-1])
        close(classes[i], naive("bert_classifier", row)[0])


def test_tokens_without_a_mask_are_taken_as_they_are():
    tokens = random_prompts().tokens
    close(run(bridge("gpt2"), tokens), plain("gpt2")(tokens).logits)


def test_shape_of():
    assert shape_of(bridge("llama")) == shape_of(plain("llama")) == shape_of(plain("bert")) == (LAYERS, HEADS)
