"""Cliques of the IIA graph: inputs among which every interchange intervention succeeds.

The nodes are inputs. Two inputs are joined if the network gives the causal model's label in both directions, each input
once the base and once the source; what an input does with itself does not count. On the inputs of a clique the causal
model is a perfect account of the network, as far as interchanges among them can tell. The largest clique is hard to
find (NP-hard), so there are an exact search with a time limit and five heuristics.

Sources: Pislar et al. 2025, arXiv 2503.11429, and the thesis before it, for the graph and the choice of methods; Bron &
Kerbosch 1973 (exact); Boppana & Halldorsson 1992 (excluding subgraphs); Tomita & Seki 2003 (branch and bound by
colours); Eppstein, Loffler & Strash 2013 (degeneracy).
"""
from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int

from ..errors import CourseError, require_known

Success = Bool[np.ndarray, "base source"]   # True where the interchange gave the causal model's label
Given = np.ndarray | torch.Tensor | Sequence    # whatever `checked` makes a Success of: zeros and ones will do
Bits = int                                  # a set of nodes as a whole number: node i is in it if bit i is 1
BEST = "branch and bound"                   # among the heuristics
LARGEST_EXACT = 2000                        # inputs; beyond that the graph of networkx alone takes gigabytes


@dataclass(frozen=True)
class Clique:
    """inputs: row numbers of the graph, ascending; of: how many inputs the graph has; seconds: time taken.

    proven: no larger clique exists. `limit`: what the search was allowed ("10 s", "10,000 steps"), "" if it had no
    limit.
    """
    inputs: tuple[int, ...]
    of: int
    method: str
    proven: bool
    limit: str
    seconds: float

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def mask(self) -> Bool[np.ndarray, "input"]:
        return np.isin(np.arange(self.of), self.inputs)

    def __str__(self) -> str:
        how = f"the best so far at the limit of {self.limit}" if self.limit else "a heuristic"
        how += ", a larger one may exist" + (f"; try {BEST!r}" if self.method == "exact" else "")
        how = "none is larger" if self.proven else how
        return f"clique of {len(self)} of {self.of:,} inputs ({self.method}, {self.seconds:.2f} s): {how}"


# ---------------------------------------------------------------- graphs

def checked(success: Given) -> Success:
    """`success` as a boolean array. Raises CourseError unless it is square, not empty, and all True or False."""
    array = success.detach().cpu().numpy() if isinstance(success, torch.Tensor) else np.asarray(success)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
        raise CourseError(f"an IIA graph is a square table [base, source], this one has the shape {list(array.shape)}")
    if not np.isin(array, (0, 1)).all():
        raise CourseError("an IIA graph holds True and False only: say from which IIA on a pair counts, e.g. iia == 1")
    return array.astype(bool)


def mutual(success: Given) -> Bool[np.ndarray, "input input"]:
    """The pairs that succeed in both directions: symmetric, False on the diagonal."""
    success = checked(success)
    both = success & success.T
    np.fill_diagonal(both, False)
    return both


def is_clique(success: Given, inputs: Iterable[int]) -> bool:
    """Does every interchange among these inputs succeed, in both directions?"""
    inputs = list(inputs)
    return bool((mutual(success)[np.ix_(inputs, inputs)] | np.eye(len(inputs), dtype=bool)).all())


def shuffled_pairs(success: Given, seed: int = 0) -> Success:
    """A control with as many successes but no structure: what happened to a pair is dealt out anew among all pairs.

    The two directions of a pair stay together, so there are as many mutual pairs as before. The diagonal stays.
    """
    success = checked(success).copy()
    row, column = np.triu_indices(len(success), 1)
    order = np.random.default_rng(seed).permutation(len(row))
    success[row, column], success[column, row] = success[row, column][order], success[column, row][order]
    return success


# ---------------------------------------------------------------- all methods

def find_clique(success: Given, method: str = BEST, *, seconds: float = 10.0, steps: int = 10_000) -> Clique:
    """A large clique of the mutual pairs; the result says whether it is proven to be the largest.

    No clique it finds can be extended. method: one of `METHODS`. "exact" lists all maximal cliques (networkx) and stops
    at the first it finds after `seconds`: it is the plain reference, and hopeless where many large cliques overlap.
    "branch and bound" and "degeneracy" stop after `steps` branchings and prove what they found if they end before; all
    but "exact" give the same clique each time. Raises CourseError for an unknown method, a limit of zero, and the exact
    search of more than 2,000 inputs.
    """
    require_known(method, METHODS, f"there is no method {method!r} to find cliques")
    if seconds <= 0 or steps <= 0:
        raise CourseError(f"seconds={seconds}, steps={steps} leave no room for a search: choose numbers above 0")
    graph, start = mutual(success), time.perf_counter()
    inputs, proven, limit = METHODS[method](graph, seconds=seconds, steps=steps)
    inputs = _extended(graph, list(inputs))
    return Clique(tuple(inputs.tolist()), len(graph), method, proven, limit, time.perf_counter() - start)


def _extended(graph: np.ndarray, inputs: list[int]) -> Int[np.ndarray, "input"]:
    """The clique with what still fits added, inputs with many partners first; ascending."""
    inside = np.zeros(len(graph), dtype=bool)
    inside[inputs] = True
    for node in np.argsort(-graph.sum(0), kind="stable"):
        inside[node] |= graph[node, inside].all()
    return inside.nonzero()[0]


def disjoint_cliques(success: Given, method: str = "excluding subgraphs", *, smallest: float = 0.5,
                     seconds: float = 10.0, steps: int = 10_000) -> tuple[Clique, ...]:
    """Take a clique away, look for the next among the other inputs, and so on; in the order found.

    Ends at a clique with less than `smallest` times the inputs of the first, or of one input. `seconds` are for each
    search. Raises CourseError as `find_clique` does.
    """
    success = checked(success)
    rest, found = np.arange(len(success)), []
    while len(rest):
        clique = find_clique(success[np.ix_(rest, rest)], method, seconds=seconds, steps=steps)
        if found and (len(clique) < smallest * len(found[0]) or len(clique) < 2):
            break
        inputs = rest[list(clique.inputs)]
        # proven among the inputs that were left, which proves nothing about the whole graph after the first
        found.append(Clique(tuple(inputs.tolist()), len(success), method, clique.proven and not found, clique.limit,
                            clique.seconds))
        rest = np.setdiff1d(rest, inputs)
    return tuple(found)


# ---------------------------------------------------------------- exact

def _exact(graph: np.ndarray, seconds: float, steps: int) -> tuple[Iterable[int], bool, str]:
    """All maximal cliques, one after the other, until the time is up (looked at after each of them)."""
    import networkx

    if len(graph) > LARGEST_EXACT:
        raise CourseError(f"a graph of {len(graph):,} inputs is too large for the exact search, which takes at most "
                          f"{LARGEST_EXACT:,}: use a heuristic, e.g. find_clique(graph, {BEST!r})")
    # partners of everybody belong to every maximal clique, and each would cost the search a round
    always = graph.sum(0) == len(graph) - 1
    net = networkx.Graph()
    net.add_nodes_from((~always).nonzero()[0].tolist())
    net.add_edges_from(zip(*(side.tolist() for side in np.triu(graph & ~always & ~always[:, None]).nonzero())))
    best, end, limit, proven = [], time.perf_counter() + seconds, f"{seconds:g} s", True
    for clique in networkx.find_cliques(net):
        best = max(best, clique, key=len)
        if time.perf_counter() > end:
            proven = False
            break
    return [*best, *always.nonzero()[0]], proven, limit


# ---------------------------------------------------------------- heuristics

def _degree(graph: np.ndarray, **_) -> tuple[Iterable[int], bool, str]:
    """Take away the input with the fewest partners until all that are left are partners.

    What the thesis calls a removal by degree; its code grows a clique from every input instead, see `_grown`.
    """
    inside, degree = np.ones(len(graph), dtype=bool), graph.sum(0)
    while True:
        left = np.where(inside, degree, len(graph))
        worst = left.argmin()
        if left[worst] >= inside.sum() - 1:
            break
        inside[worst] = False
        degree = degree - graph[worst]
    return inside.nonzero()[0], False, ""


def _with_bits(search: Callable, by_degeneracy: bool, graph: np.ndarray, steps: int,
               **_) -> tuple[Iterable[int], bool, str]:
    """Run a search on sets of nodes as bits, numbered so that low bits come first in a useful order."""
    order = _degeneracy_order(graph) if by_degeneracy else np.argsort(-graph.sum(0), kind="stable")
    rows = np.packbits(graph[np.ix_(order, order)], axis=1, bitorder="little")
    found, proven = search([int.from_bytes(row.tobytes(), "little") for row in rows], steps)
    limit = f"{steps:,} steps" if search in (_branch_and_bound, _degeneracy) else ""
    return order[list(_nodes(found))], proven, limit


def _nodes(bits: Bits) -> Iterator[int]:
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def _ramsey(partners: list[Bits], nodes: Bits) -> tuple[Bits, Bits]:
    """A clique and an independent set of the graph among `nodes`, each large.

    Of the first node's partners and of its non-partners take both; the node joins the clique of the former and the
    independent set of the latter; keep the larger. A stack, since recursion would go as deep as the largest clique.
    """
    todo, done = [(nodes, None)], []
    while todo:
        rest, node = todo.pop()
        if not rest:
            done.append((0, 0))
        elif node is None:
            low = rest & -rest
            node = low.bit_length() - 1
            todo += [(rest, node), (rest & ~partners[node] & ~low, None), (rest & partners[node], None)]
        else:
            (clique_apart, independent_apart), (clique_near, independent_near) = done.pop(), done.pop()
            done.append((max(clique_near | 1 << node, clique_apart, key=int.bit_count),
                         max(independent_near, independent_apart | 1 << node, key=int.bit_count)))
    return done[0]


def _excluding(partners: list[Bits], steps: int, nodes: Bits | None = None) -> tuple[Bits, bool]:
    """Look for a clique, take the independent set found with it away (its nodes exclude one another), look again."""
    nodes = (1 << len(partners)) - 1 if nodes is None else nodes
    best = 0
    while nodes.bit_count() > best.bit_count():
        clique, independent = _ramsey(partners, nodes)
        best = max(best, clique, key=int.bit_count)
        nodes &= ~independent
    return best, False


def _removal(partners: list[Bits], steps: int) -> tuple[Bits, bool]:
    """The largest of the disjoint cliques that the search by excluding subgraphs finds one after the other."""
    nodes, best = (1 << len(partners)) - 1, 0
    while nodes.bit_count() > best.bit_count():
        clique, _ = _excluding(partners, steps, nodes)
        if 2 * clique.bit_count() < best.bit_count():
            break
        best = max(best, clique, key=int.bit_count)
        nodes &= ~clique
    return best, False


def _grown(partners: list[Bits]) -> Bits:
    """From every node: add the first common partner until there is none. The largest of these cliques."""
    best = 0
    for node in range(len(partners)):
        clique, common = 1 << node, partners[node]
        while common:
            low = common & -common
            clique, common = clique | low, common & partners[low.bit_length() - 1]
        best = max(best, clique, key=int.bit_count)
    return best


def _colours(partners: list[Bits], nodes: Bits) -> list[tuple[int, int]]:
    """(node, colour) so that partners differ in colour, colours ascending from 1: a clique has at most one of each."""
    coloured, colour = [], 0
    while nodes:
        colour, free = colour + 1, nodes
        while free:
            low = free & -free
            node = low.bit_length() - 1
            free &= ~partners[node] & ~low
            nodes ^= low
            coloured.append((node, colour))
    return coloured


def _branch_and_bound(partners: list[Bits], steps: int) -> tuple[Bits, bool]:
    """Extend a clique by the node of the highest colour; give up where too few colours are left to do better."""
    best, everything = _grown(partners), (1 << len(partners)) - 1
    stack = [[0, everything, _colours(partners, everything)]]
    while stack:
        clique, common, coloured = stack[-1]
        if not coloured or clique.bit_count() + coloured[-1][1] <= best.bit_count():
            stack.pop()
            continue
        node, _ = coloured.pop()
        stack[-1][1] = common & ~(1 << node)
        larger, common = clique | 1 << node, common & partners[node]
        best = max(best, larger, key=int.bit_count)
        if common:
            if not steps:
                return best, False
            steps -= 1
            stack.append([larger, common, _colours(partners, common)])
    return best, True


def _degeneracy_order(graph: np.ndarray) -> np.ndarray:
    """Nodes in the order in which the one with the fewest partners left is taken away."""
    degree, order = graph.sum(0).astype(float), []
    for _ in range(len(graph)):
        order.append(int(degree.argmin()))
        degree = degree - graph[order[-1]]
        degree[order[-1]] = math.inf
    return np.array(order)


def _degeneracy(partners: list[Bits], steps: int) -> tuple[Bits, bool]:
    """List the cliques of each node with later nodes of the order, `steps` shared out evenly among the nodes.

    Few partners come later where a graph is sparse; ours are often dense, so the share is soon used up.
    """
    best, proven, share = 0, True, -(-steps // len(partners))
    for first in reversed(range(len(partners))):
        stack, left = [(1 << first, partners[first] >> first << first)], share
        while stack:
            clique, common = stack.pop()
            if clique.bit_count() + common.bit_count() <= best.bit_count():
                continue
            if not left:                            # no more branching: finish this clique and go on to the next node
                proven, stack = False, []
                while common:
                    low = common & -common
                    clique, common = clique | low, common & partners[low.bit_length() - 1]
            if not common:
                best = max(best, clique, key=int.bit_count)
                continue
            left -= 1
            pivot = max(_nodes(common), key=lambda node: (common & partners[node]).bit_count())
            branches = []
            for node in _nodes(common & ~partners[pivot]):
                branches.append((clique | 1 << node, common & partners[node]))
                common &= ~(1 << node)
            stack += reversed(branches)
    return best, proven


METHODS: dict[str, Callable[..., tuple[Iterable[int], bool, str]]] = {
    "exact": _exact,
    "degree": _degree,
    "removal": partial(_with_bits, _removal, False),
    "branch and bound": partial(_with_bits, _branch_and_bound, False),
    "excluding subgraphs": partial(_with_bits, _excluding, False),
    "degeneracy": partial(_with_bits, _degeneracy, True),
}
HEURISTICS = tuple(METHODS)[1:]
