"""Small networks: the frozen layer against the whole network, training, and what is refused."""
import pytest
import torch
from sentences import sentence

from utils.alignment import embed, freeze_layer, mlp, object_vectors, train_mlp
from utils.alignment.networks import accuracy
from utils.tasks import addition, pattern, sample_inputs
from utils.tasks.causal_models import hierarchical_equality


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_frozen_layer_gives_what_the_network_gives(layer):
    network, features = mlp((16, 12, 10, 8, 2), seed=3).requires_grad_(False), torch.randn(7, 16)
    frozen = freeze_layer(network, features, layer)
    assert frozen.values.shape == (7, 1, (12, 10, 8)[layer]) and (frozen.values >= 0).all() and len(frozen) == 7
    index = torch.tensor([5, 0, 0])
    assert torch.allclose(frozen.logits(index, frozen.values[index]), network(features[index]), atol=1e-6)
    values = frozen.values[index].clone().requires_grad_()
    frozen.logits(index, values + 1).sum().backward()
    assert values.grad.abs().max() > 0 and not frozen.values.requires_grad


def test_training_is_repeatable_and_leaves_the_global_generator_alone():
    model, before = hierarchical_equality(), torch.get_rng_state()
    one, two, other = (train_mlp(mlp(seed=seed), model, steps=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [network[0].weight for network in (one, two, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not weights[0].requires_grad


def test_places_are_trained_too():
    """Interchange intervention training moves other weights than plain training; what it reaches is in test_alignment."""
    plain, placed = (train_mlp(mlp(), pattern("ABAB"), steps=3, places=places)
                     for places in (None, {"P": range(8), "Q": range(8, 16)}))
    assert not torch.equal(plain[0].weight, placed[0].weight)


def test_embedding_puts_the_vectors_side_by_side():
    vectors = object_vectors(5, 3)
    inputs = torch.tensor([[4, 0, 0, 2]])
    assert torch.equal(embed(inputs, vectors)[0], torch.cat([vectors[i] for i in (4, 0, 0, 2)]))
    assert vectors.min() >= -1 and vectors.max() <= 1 and len(vectors.unique()) == 15
    model = hierarchical_equality(5)
    assert 0 <= accuracy(mlp((12, 4, 2)), model, sample_inputs(model, 50), vectors) <= 1


def test_bad_input():
    network, features = mlp(), torch.zeros(3, 16)
    sentence(lambda: freeze_layer(network, features, 3), "layer 3", "0 to 2")
    sentence(lambda: freeze_layer(network, features, -1), "layer -1", "0 to 2")
    sentence(lambda: embed(torch.tensor([[0, 20]]), object_vectors()), "0 to 20", "0 to 19")
    sentence(lambda: train_mlp(network, addition("(X+Y)+Z")), "2 outputs", "28 values")
    sentence(lambda: train_mlp(network, hierarchical_equality(), width=3), "16 features", "12")
