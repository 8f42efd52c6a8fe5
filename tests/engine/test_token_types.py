"""Texts of two parts: scores of spans at every position, and token types, which only some models take."""
import pytest
import torch
from cells import close, layer_of, rows_of, start_and_end, width_of, write
from reference import naive
from small_models import bridge, plain, random_prompts

from utils.engine import Do, Site, at_end, read, sweep
from utils.engine.sites import ACTIVATIONS
from utils.metrics import LogitDifference

OUTCOME = LogitDifference(torch.tensor([3, 50, 7]), torch.tensor([9, 4, 60]))
KINDS = [kind for kind in ACTIVATIONS if kind not in ("q", "k", "v", "resid_mid")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 4, 128])
def test_spans_with_token_types_on_prompts_of_unequal_length(kind, batch_size):
    """The scores of spans at every position, against one unpadded forward pass per cell."""
    prompts, model, width = random_prompts((7, 4, 5), pairs=True), plain("bert_answerer"), width_of("bert_answerer", kind)
    values = torch.randn(3, width, generator=torch.Generator().manual_seed(3))
    cells = [(layer_of(kind, layer), p) for layer in (0, 2) for p in (0, 3)]
    rows = [[], *([Do(Site(kind, layer, p), values)] for layer, p in cells)]
    result = sweep(model, prompts, rows, start_and_end, batch_size=batch_size)
    for i, (row, types) in enumerate(zip(rows_of(prompts), prompts.types)):
        types = types[:len(row)]
        edits = [[], *([(kind, layer, write([p], values[i][None]))] for layer, p in cells)]
        logits = [naive("bert_answerer", row, edit, types=types)[0] for edit in edits]
        expected = torch.cat([start_and_end(own[None], torch.tensor([i])) for own in logits])
        close(result[:, i], expected)
        found, _ = read(model, prompts, [], rows[1])
        close(found[i, :len(row)], logits[1])
        assert (found[i, len(row):] == -torch.inf).all()
    assert (result[1:] - result[0]).abs().min() > 1e-3


def test_token_types_reach_the_model_and_follow_their_prompts():
    prompts, model = random_prompts((7, 4, 5), pairs=True), plain("bert_classifier")
    with_types = at_end(model, prompts)
    for i, row in enumerate(rows_of(prompts)):
        close(with_types[i], naive("bert_classifier", row, types=prompts.types[i, :len(row)])[0])
    assert (with_types - at_end(model, random_prompts((7, 4, 5)))).abs().min() > 1e-3
    part = prompts.part(1, 3)
    assert torch.equal(part.types, prompts.types[1:3]) and random_prompts().part(0, 1).types is None
    close(at_end(model, part), with_types[1:3])
    outcome = LogitDifference(torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1]))
    rows = [[], [Do(Site("z", 1, None, 2), 0.0)]]
    close(sweep(model, prompts, rows, outcome, batch_size=2), sweep(model, prompts, rows, outcome))
    close(sweep(model, prompts, [[]], outcome)[0], outcome(with_types, torch.arange(3)))


@pytest.mark.parametrize("bridged, name", [(True, "gpt2"), (True, "llama"), (False, "gpt2"), (False, "llama")])
def test_a_model_that_has_no_place_for_token_types_is_not_told(bridged, name):
    """Both paths, the quick one and (with a hook left by somebody) the plain one."""
    prompts, model = random_prompts((7, 4, 5), pairs=True), (bridge if bridged else plain)(name)
    rows = [[], [Do(Site("resid_pre", 1, 2), 0.3)]]
    without = sweep(model, random_prompts((7, 4, 5)), rows, OUTCOME)
    assert torch.equal(sweep(model, prompts, rows, OUTCOME), without)
    handle = next(model.children()).register_forward_hook(lambda *_: None)
    try:
        close(sweep(model, prompts, rows, OUTCOME), without)
    finally:
        handle.remove()
