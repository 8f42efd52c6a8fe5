"""Cliques of IIA graphs: against brute force and planted answers."""
import time

import numpy as np
import pytest
import torch

from utils.disentangling import HEURISTICS, METHODS, cliques, find_clique, mutual, shuffled_pairs
from utils.disentangling.cliques import disjoint_cliques, is_clique


def random_graph(n, density, seed):
    """Directed: a pair is mutual with probability `density` squared. The diagonal is random too."""
    return np.random.default_rng(seed).random((n, n)) < density


def planted(n, size, density, seed=0):
    """A symmetric random graph with one clique put in, and its rows."""
    rng = np.random.default_rng(seed)
    graph = np.triu(rng.random((n, n)) < density, 1)
    inside = rng.choice(n, size, replace=False)
    graph |= graph.T
    graph[np.ix_(inside, inside)] = True
    return graph, tuple(sorted(inside.tolist()))


def brute_force(graph):
    """The size of the largest clique, by looking at every subset (as bits) of the inputs."""
    n = len(graph)
    partners = [sum(1 << j for j in range(n) if j != i and graph[i, j] and graph[j, i]) for i in range(n)]
    good = [True] + [False] * (2**n - 1)
    for subset in range(1, 2**n):
        low = (subset & -subset).bit_length() - 1
        rest = subset & (subset - 1)
        good[subset] = good[rest] and rest & ~partners[low] == 0
    return max(subset.bit_count() for subset in range(2**n) if good[subset])


# ---------------------------------------------------------------- graphs

def test_a_pair_counts_if_both_directions_succeed():
    table = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 0, 1]])
    assert mutual(table).tolist() == [[False, True, False], [True, False, False], [False, False, False]]
    assert is_clique(table, [0, 1]) and is_clique(table, [2]) and is_clique(table, [])
    assert not is_clique(table, [1, 2]) and not is_clique(table, [0, 1, 2])
    assert table[0, 0] == 1 and table[1, 1] == 0, "the table itself is left alone"


def test_shuffled_pairs_keep_how_many_succeed_and_nothing_else():
    graph = random_graph(60, 0.5, 0)
    dealt = shuffled_pairs(graph, seed=1)
    assert dealt.sum() == graph.sum() and mutual(dealt).sum() == mutual(graph).sum()
    assert (dealt.diagonal() == graph.diagonal()).all() and (dealt != graph).mean() > 0.3
    assert (dealt == shuffled_pairs(graph, seed=1)).all() and (dealt != shuffled_pairs(graph, seed=2)).any()
    blocks = planted(60, 30, 0.1)[0]
    assert len(find_clique(shuffled_pairs(blocks))) < 15 < len(find_clique(blocks)) == 30


# ---------------------------------------------------------------- cliques

SMALL = [(n, density, seed) for n in (1, 2, 5, 9, 12) for density in (0.3, 0.7, 0.9) for seed in range(4)]
GRAPHS = [random_graph(n, density, 100 * n + seed) for n, density, seed in SMALL]
TRUTH = [brute_force(graph) for graph in GRAPHS]


def test_the_exact_search_agrees_with_every_subset():
    for graph, size in zip(GRAPHS, TRUTH):
        found = find_clique(graph, "exact")
        assert len(found) == size and is_clique(graph, found.inputs) and found.proven and found.of == len(graph)


@pytest.mark.parametrize("method", HEURISTICS)
def test_heuristics_on_small_graphs(method):
    """Always a clique, seldom a smaller one than the best; what is proven is the best."""
    hits = 0
    for graph, size in zip(GRAPHS, TRUTH):
        found = find_clique(graph, method)
        assert is_clique(graph, found.inputs) and size - 2 <= len(found) <= size
        assert len(found) == size or not found.proven
        hits += len(found) == size
    assert hits >= {"branch and bound": len(GRAPHS), "degeneracy": len(GRAPHS)}.get(method, 0.85 * len(GRAPHS))
    if method in ("branch and bound", "degeneracy"):
        assert all(find_clique(graph, method).proven for graph in GRAPHS)
    else:
        assert not any(find_clique(graph, method).proven for graph in GRAPHS)


@pytest.mark.parametrize("method", METHODS)
def test_no_clique_can_be_extended(method):
    """In the first graph peeling by degree stops short, in the second so does excluding subgraphs."""
    for graph in (random_graph(6, 0.7, 1), random_graph(20, 0.7, 1)):
        inside = set(find_clique(graph, method).inputs)
        assert not any(is_clique(graph, inside | {i}) for i in set(range(len(graph))) - inside)


def test_excluding_subgraphs_looks_again_without_the_independent_set():
    """Two graphs where one look, or taking cliques away between looks, ends at four; one where that alone gets five."""
    assert [len(find_clique(random_graph(n, density, seed), "excluding subgraphs"))
            for n, density, seed in ((20, 0.6, 47), (40, 0.6, 4))] == [5, 5]
    stuck = random_graph(20, 0.6, 5)
    assert (len(find_clique(stuck, "excluding subgraphs")), len(find_clique(stuck, "removal"))) == (4, 5)
    graph = mutual(random_graph(40, 0.7, 2))
    partners = [sum(1 << int(j) for j in row.nonzero()[0]) for row in graph]
    clique, apart = (list(cliques._nodes(bits)) for bits in cliques._ramsey(partners, 2**40 - 1))
    assert is_clique(graph, clique) and not graph[np.ix_(apart, apart)].any() and min(len(clique), len(apart)) > 3


@pytest.mark.parametrize("n, density, seed, size",
                         [(12, 0.7, 49, 4), (12, 0.9, 28, 6), (20, 0.6, 5, 5), (40, 0.6, 19, 6)])
def test_branch_and_bound_improves_on_the_clique_it_starts_from(n, density, seed, size):
    """Growing from every input ends one short of the best on these graphs, so the search has to find the last one."""
    graph = random_graph(n, density, seed)
    found = find_clique(graph, "branch and bound")
    assert len(found) == len(find_clique(graph, "exact")) == size and found.proven


@pytest.mark.parametrize("density", [0.6, 0.9])
def test_all_methods_on_graphs_of_forty_inputs(density):
    """Too large for every subset; the exact search is the judge."""
    for seed in range(3):
        graph = random_graph(40, density, seed)
        best = find_clique(graph, "exact")
        assert best.proven
        for method in HEURISTICS:
            found = find_clique(graph, method)
            assert is_clique(graph, found.inputs) and 0.7 * len(best) <= len(found) <= len(best)
            assert method != "branch and bound" or (len(found) == len(best) and found.proven)


@pytest.mark.parametrize("method", HEURISTICS)
def test_a_thousand_inputs_take_seconds_and_the_planted_clique_is_found(method):
    graph, inside = planted(1000, 60, 0.3)
    start = time.process_time()
    found = find_clique(graph, method)
    assert found.inputs == inside and time.process_time() - start < 10


def test_the_easy_extremes():
    for method in METHODS:
        assert len(find_clique(np.ones((200, 200)), method)) == 200
        assert len(find_clique(np.zeros((200, 200)), method)) == 1
        two = np.kron(np.eye(2), np.ones((6, 6)))
        two[11] = two[:, 11] = 0
        assert find_clique(two, method).inputs == tuple(range(6)), "the larger of two blocks"


def test_deep_cliques_do_not_exhaust_the_stack():
    graph = np.ones((1500, 1500), dtype=bool)
    graph[0, 1] = False
    for method in HEURISTICS:
        assert len(find_clique(graph, method)) == 1499


def test_limits_are_said():
    graph = random_graph(150, 0.95, 0)
    stopped = find_clique(graph, "exact", seconds=0.2)
    assert not stopped.proven and stopped.limit == "0.2 s" and is_clique(graph, stopped.inputs)
    assert "best so far at the limit of 0.2 s" in str(stopped) and "'branch and bound'" in str(stopped)
    assert 0.2 <= stopped.seconds < 5
    hard = random_graph(300, 0.97, 0)
    for method in ("branch and bound", "degeneracy"):
        some, more = (find_clique(hard, method, steps=steps) for steps in (300, 3000))
        assert not some.proven and some.limit == "300 steps" and len(some) <= len(more)
        assert some.inputs == find_clique(hard, method, steps=300).inputs, "steps, not seconds: the same each time"
    assert "none is larger" in str(find_clique(GRAPHS[0])) and "heuristic" in str(find_clique(GRAPHS[0], "degree"))
    assert find_clique(two_blocks(), "degree").mask.tolist() == [True] * 6 + [False] * 5


def two_blocks():
    graph = np.zeros((11, 11), dtype=bool)
    graph[:6, :6] = graph[6:, 6:] = True
    return graph


@pytest.mark.parametrize("method", METHODS)
def test_cliques_one_after_the_other(method):
    found = disjoint_cliques(two_blocks(), method)
    assert [clique.inputs for clique in found] == [tuple(range(6)), tuple(range(6, 11))]
    assert len(disjoint_cliques(two_blocks(), method, smallest=0.9)) == 1
    assert not found[1].proven, "the largest among what was left proves nothing about the whole graph"
    inputs = [i for clique in disjoint_cliques(random_graph(30, 0.7, 1), method) for i in clique.inputs]
    assert len(inputs) == len(set(inputs))
