"""The circuit by its weights: composition scores, planted circuits, and what the weights of each family reproduce."""
import copy
import math
import warnings

import pytest
import torch
from small_models import HEADS, LAYERS, VOCAB, WIDTH, bridge, plain, save

from utils import induction
from utils.induction import HeadWeights
from utils.models import load_model

SIZE = WIDTH // HEADS


def some_weights(seed=0, layers=3, heads=2, width=12, size=3):
    draw = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(layers, heads, *shape, generator=draw)
    return HeadWeights(make(width, size), make(width, size), make(width, size), make(size, width))


def dense_score(w, kind, early, late):
    writes = w.v[early] @ w.o[early]
    reads = {"q": w.q[late] @ w.k[late].T, "k": w.k[late] @ w.q[late].T, "v": w.v[late] @ w.o[late]}[kind]
    norm = torch.linalg.matrix_norm
    return (norm(writes @ reads) / norm(writes) / norm(reads)).item()


@pytest.mark.parametrize("kind", "qkv")
def test_composition_scores_are_those_of_the_dense_matrices(kind):
    weights = some_weights()
    found = induction.composition_scores(weights, kind)
    assert found.shape == (3, 2, 3, 2)
    for early in [(layer, head) for layer in range(3) for head in range(2)]:
        for late in [(layer, head) for layer in range(3) for head in range(2)]:
            value = found[(*early, *late)].item()
            if early[0] < late[0]:
                assert value == pytest.approx(dense_score(weights, kind, early, late), abs=1e-5) and 0 <= value <= 1
            else:
                assert math.isnan(value)


@pytest.mark.parametrize("kind", "qkv")
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_composition_scores_are_those_of_transformerlens(name, kind, folded):
    """TransformerLens in its compatibility mode: norms folded into the weights, what is written centred."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = induction.composition_scores(induction.head_weights(bridge(name)), kind)
    theirs = folded(name).all_composition_scores(kind.upper()).scores
    earlier = ~found.isnan()
    assert (found - theirs)[earlier].abs().max() < 1e-5 and found[earlier].max() > 0.1


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """Bridges of their own, as compatibility mode cannot be undone."""
    loaded = {}

    def load(name):
        if name not in loaded:
            folder = tmp_path_factory.mktemp(name)
            save(copy.deepcopy(plain(name)), folder)
            loaded[name] = load_model(str(folder))
            loaded[name].enable_compatibility_mode()
        return loaded[name]
    return load


def planted_weights():
    """Two layers of two heads, width 4, size 1. Head 0.0 reads direction 0 and writes 1; 1.0 has its keys in
    direction 1, its queries in 2, its values in 3. Heads 0.1 and 1.1 live in direction 3 alone."""
    axis = torch.eye(4)
    column = lambda *directions: torch.stack([axis[d] for d in directions]).view(2, 2, 4, 1)
    return HeadWeights(q=column(3, 3, 2, 3), k=column(3, 3, 1, 3), v=column(0, 3, 3, 3), o=column(1, 3, 0, 3).mT)


def test_composition_finds_the_planted_pair_and_only_through_its_keys():
    scores = {kind: induction.composition_scores(planted_weights(), kind) for kind in "qkv"}
    assert scores["k"][0, 0, 1, 0] == 1 and scores["q"][0, 0, 1, 0] == 0 and scores["v"][0, 0, 1, 0] == 0
    assert scores["k"][0, 1, 1, 0] == 0 and scores["v"][0, 1, 1, 0] == 1 and scores["k"][0, 0, 1, 1] == 0


def test_random_matrices_compose_like_one_over_the_root_of_the_width():
    weights = some_weights(layers=4, heads=4, width=100, size=10)
    random = induction.random_weights(weights, seed=1)
    assert random.o.shape == weights.o.shape and not torch.equal(random.q, weights.q)
    assert torch.equal(random.q, induction.random_weights(weights, seed=1).q)
    for kind in "qkv":
        assert induction.composition_scores(random, kind).nanmean().item() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "gpt_neox"])
def test_head_weights_reproduce_queries_keys_and_values(name):
    """On a centred vector that needs no division, norm and projection of the model are these matrices, up to biases."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weights = induction.head_weights(bridge(name))
    assert any("positions act inside the heads" in str(w.message) for w in caught) == (name != "gpt2")
    assert weights.q.shape == weights.k.shape == (LAYERS, HEADS, WIDTH, SIZE)
    assert weights.o.shape == (LAYERS, HEADS, SIZE, WIDTH)
    centred = [w.mean(2).abs().max() < 1e-6 for w in (weights.q, weights.k, weights.v)]   # deaf to a shift of the vector
    assert all(centred) if name in ("gpt2", "gpt_neox") else not any(centred)
    draw = torch.Generator().manual_seed(3)
    vectors = torch.randn(2, WIDTH, generator=draw)
    vectors = vectors - (0 if name in ("llama", "qwen2") else vectors.mean(-1, keepdim=True))
    vectors = vectors / vectors.pow(2).mean(-1, keepdim=True).sqrt()
    block = bridge(name).blocks[1]
    for kind, own in (("q", weights.q), ("k", weights.k), ("v", weights.v)):
        out = getattr(block.attn, kind)(block.ln1(vectors[None]))[0]
        out = out.reshape(2, -1, SIZE)
        difference = (out[0] - out[1]).repeat_interleave(HEADS // out.shape[1], 0)       # biases cancel
        mine = torch.einsum("w,hws->hs", vectors[0] - vectors[1], own[1])
        assert torch.allclose(mine, difference, atol=1e-3 * difference.abs().max()), kind


def test_token_vectors_are_what_block_0_makes_of_a_token():
    model, vectors = plain("gpt2").transformer, induction.token_vectors(bridge("gpt2"), mlp=True)
    block, embedded = model.h[0], model.wte.weight
    assert torch.allclose(vectors, embedded + block.mlp(block.ln_2(embedded)), atol=1e-4)
    assert torch.equal(induction.token_vectors(bridge("gpt2")), embedded)
    scaled = induction.token_vectors(bridge("gpt2"), mlp=True, divide=True)
    assert torch.allclose(scaled, torch.nn.functional.layer_norm(vectors, (WIDTH,)), atol=1e-4)
    llama = induction.token_vectors(bridge("llama"), divide=True)
    assert torch.allclose(llama.pow(2).mean(-1), torch.ones(VOCAB), atol=1e-3) and llama.mean(-1).abs().max() > 0.05
    assert torch.equal(bridge("gpt2").W_E, embedded)                                     # the model is as it was


def test_the_circuit_is_the_dense_product():
    weights, vectors = some_weights(), torch.randn(20, 12, generator=torch.Generator().manual_seed(7))
    circuit = induction.induction_circuit(weights, (0, 1), (2, 0), vectors)
    by_hand = (vectors @ weights.q[2, 0]) @ (vectors @ weights.v[0, 1] @ weights.o[0, 1] @ weights.k[2, 0]).T
    assert circuit.shape == (20, 20) and torch.allclose(circuit.AB, by_hand, atol=1e-3)
    hits = induction.top1(circuit, batch_size=7)
    assert hits.tolist() == (by_hand.argmax(1) == torch.arange(20)).tolist()
    assert induction.top1(circuit, torch.tensor([19, 3])).tolist() == [hits[19].item(), hits[3].item()]


def test_a_planted_circuit_is_right_for_every_token_and_a_shuffled_one_for_few():
    """The previous-token head copies its token into a space of its own; the induction head compares tokens there."""
    tokens = 16
    eye, none = torch.eye(tokens), torch.zeros(tokens, tokens)
    vectors = torch.cat([eye, none], 1)                    # tokens live in the first 16 directions
    low, high = torch.cat([eye, none]), torch.cat([none, eye])
    stack = lambda first, second: torch.stack([first, second])[:, None]
    weights = HeadWeights(q=stack(low, low), k=stack(low, high), v=stack(low, low), o=stack(high.T, low.T))
    circuit = induction.induction_circuit(weights, (0, 0), (1, 0), vectors)
    assert torch.equal(circuit.AB, eye) and induction.top1(circuit).all()
    circuit.B = circuit.B.roll(1, 1)
    assert not induction.top1(circuit).any()
