"""Writing at a frozen activation against the model's own pass with the same intervention: logits, gradients, what is left."""
import pytest
import torch
from sentences import sentence
from small_models import LAYERS, bridge, hooks_on, plain, random_prompts

from utils.engine import Do, Each, Site, at_end, freeze, read
from utils.engine.trained_writes import _Hooked, _InPieces

SITES = [Site("resid_post", 0), Site("resid_post", LAYERS - 1), Site("resid_pre", 1, (2, 4)),
         Site("resid_post", 1, Each((6, 3, 5, 4))), Site("mlp_post", 1, units=(3, 0, 5)), Site("z", 1, head=2),
         Site("attn_out", LAYERS - 1, (0, 3)), Site("embed"),
         Site("resid_post", 1, Each((3, 1, 2, 0)))]
MODELS = [(plain, "gpt2"), (plain, "gpt2_classifier"), (bridge, "gpt2"), (bridge, "llama"), (plain, "gpt_neox"),
          (plain, "bert_classifier")]
INDEX = torch.tensor([2, 0, 0, 3, 1])


def draw(frozen, seed=0):
    return torch.randn(len(INDEX), *frozen.values.shape[1:], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("site", SITES, ids=str)
@pytest.mark.parametrize("load, name", MODELS, ids=lambda value: getattr(value, "__name__", value))
def test_logits_and_gradients_are_those_of_the_model(load, name, site):
    model, prompts = load(name), random_prompts((7, 4, 6, 5))
    at_end(model, prompts)  # a bridge hooks its own parts when it is first used
    before = hooks_on(model)
    frozen, own = freeze(model, prompts, site), _Hooked(model, prompts, site)
    assert isinstance(frozen, _Hooked if name == "bert_classifier" else _InPieces)
    values = draw(frozen).requires_grad_()
    found, expected = frozen.logits(INDEX, values), own.logits(INDEX, values)
    assert (found - expected).abs().max() <= 1e-5 * (expected.max() - expected.min()).clamp(min=1)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((logits * weight).sum(), values)[0] for logits in (found, expected)]
    assert gradients[1].abs().max() > 1e-3
    assert torch.allclose(*gradients, atol=1e-4 * float(gradients[1].abs().max()))
    assert hooks_on(model) == before


@pytest.mark.parametrize("name", ["gpt2", "gpt2_classifier", "bert_classifier"])
def test_the_values_are_those_of_the_run_and_change_nothing(name):
    model, prompts, site = plain(name), random_prompts((7, 7, 7, 7)), Site("resid_post", 1)
    frozen = freeze(model, prompts, site)
    assert len(frozen) == 4 and not frozen.values.requires_grad
    assert torch.allclose(frozen.values, read(model, prompts, [site])[1][site], atol=1e-5)
    assert torch.allclose(frozen.logits(INDEX, frozen.values[INDEX]), at_end(model, prompts)[INDEX], atol=1e-5)
    # written at one prompt at a time, as everybody else writes
    values = draw(frozen)
    for row, i in enumerate(INDEX.tolist()):
        expected = at_end(model, prompts.part(i, i + 1), [Do(site, values[row:row + 1])])
        assert torch.allclose(frozen.logits(INDEX, values)[row], expected[0], atol=1e-4)


def test_the_same_frozen_run_serves_again_and_other_rows_do_not_matter():
    frozen = freeze(plain("gpt2"), random_prompts((7, 4, 6, 5)), Site("resid_post", 0, (1, 2)))
    values = draw(frozen)
    first = frozen.logits(INDEX, values)
    frozen.logits(INDEX.flip(0), draw(frozen, 1))
    assert torch.equal(frozen.logits(INDEX, values), first)
    assert torch.allclose(frozen.logits(INDEX[3:], values[3:]), first[3:], atol=1e-5)


def test_an_error_leaves_no_hook():
    model = plain("bert_classifier")
    frozen = freeze(model, random_prompts((7, 4, 6, 5)), Site("resid_post", 1))
    with pytest.raises(Exception):
        frozen.logits(INDEX, torch.zeros(len(INDEX), 2, 2))
    assert not hooks_on(model)


def test_bad_sites():
    prompts = random_prompts((7, 4, 6, 5))
    sentence(lambda: freeze(plain("gpt2"), prompts, Site("resid_post", 9)), "layer 9", f"0 to {LAYERS - 1}")
    sentence(lambda: freeze(plain("gpt2"), prompts, Site("resid_post", 0, 7)), "position 7", "0 to 6")
