"""Answers to the exercises of lesson 10, see the top of tests/checks/test_exercises.py."""
import time

import networkx
import numpy as np
import torch

# ---------------------------------------------------------------- 10.1


def graph_of(label):
    """The table of a network that is right where it says `label(base columns, source columns)`."""
    return lambda predicted, inputs: predicted == label(*inputs.T[:, :, None], *inputs.T[:, None, :])


def with_a_loop(predicted, inputs):
    """Pair by pair, from the causal model run by hand."""
    found = torch.zeros(predicted.shape, dtype=torch.bool)
    for b, (_, _, z) in enumerate(inputs.tolist()):
        for s, (x, y, _) in enumerate(inputs.tolist()):
            found[b, s] = int(predicted[b, s]) + 3 == (x + y) + z
    return found


# ---------------------------------------------------------------- 10.2 and 10.3

def apart(n):
    return ~torch.eye(n, dtype=torch.bool)


def in_place(success):
    success &= success.T.clone()
    return success.fill_diagonal_(False)


def with_networkx(success):
    """The mutual edges of a directed graph."""
    graph = networkx.from_numpy_array(success.numpy(), create_using=networkx.DiGraph).to_undirected(reciprocal=True)
    graph.remove_edges_from(list(networkx.selfloop_edges(graph)))
    return torch.tensor(networkx.to_numpy_array(graph, weight=None, nodelist=range(len(success))) > 0)


def with_stack(labels, own):
    """Both differences multiplied: zero if one of them is."""
    n = len(own)
    return torch.stack([labels - own.view(n, 1).expand(n, n), labels - own.expand(n, n)]).prod(0) == 0


# ---------------------------------------------------------------- 10.4

def hasty_peel(joined, timed=True):
    begin, left = time.time(), list(range(len(joined)))
    partners = joined.sum(1).tolist()
    while min(partners[i] for i in left) < len(left) - 1:
        left.remove(min(left, key=lambda i: partners[i]))
    return left + [time.time() - begin] * timed


def peeler(worst=torch.argmin, enough=1, timed=False, doubled=False):
    """The finder with one flaw at a time."""
    def peel(joined):
        begin, left = time.time(), torch.arange(len(joined))
        while len(left):
            partners = joined[left][:, left].sum(1)
            if partners.min() >= len(left) - enough:
                break
            left = left[torch.arange(len(left)) != worst(partners)]
        return left.tolist() * (1 + doubled) + [time.time() - begin] * timed
    return peel


def largest(joined):
    """The exact search, as a set."""
    return set(max(networkx.find_cliques(networkx.from_numpy_array(joined.numpy())), key=len))


def pairs_only(joined):
    return next(([int(a), int(b)] for a, b in joined.nonzero()), [0])


# ---------------------------------------------------------------- 10.5

def scorer(replace=False, same=False, plain=False, train_on_all=False, share=0.3, seeded=True, added=False,
           shifted=False):
    """The score with one flaw at a time."""
    def score(grow, columns, inside, seed):
        rng = np.random.default_rng(seed if seeded else 0)
        order, cut = rng.permutation(len(inside)), round(share * len(inside))
        test, train = order[:cut], order[cut:]
        if replace:
            train, test = rng.choice(len(inside), 140), rng.choice(len(inside), 60)
        if train_on_all:
            train = order
        if same:
            test = train[:60]
        tree = grow(columns[train], inside[train + 1 - len(inside)] if shifted else inside[train])
        if plain:
            return tree.score(columns[test], inside[test])
        right = tree.predict(columns[test]) == inside[test]
        return (right[inside[test]].mean() + right[~inside[test]].mean()) / (1 if added else 2)
    return score


def with_sklearn(grow, columns, inside, seed):
    """The library's own split (equal shares of both classes) and score."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import train_test_split

    kept, held, labels, truth = train_test_split(columns, inside, test_size=0.3, random_state=seed, stratify=inside)
    return balanced_accuracy_score(truth, grow(kept, labels).predict(held))


def predicts_all(grow, columns, inside, seed):
    """The verdict on every input, of which only those held out are counted."""
    test = np.zeros(len(inside), dtype=bool)
    test[np.random.default_rng(seed).choice(len(inside), 60, replace=False)] = True
    said = grow(columns[~test], inside[~test]).predict(columns)
    return np.mean([(said == inside)[test & side].mean() for side in (inside, ~inside)])


# ---------------------------------------------------------------- 10.6

def owners(parts, last=False):
    """{input: part}, the first (or last) part that names it."""
    found = {}
    for name, part in parts.items():
        for i in part:
            if last or i not in found:
                found[i] = name
    return found


def covered(parts_of=lambda parts: parts, coverage=None, diagonal=False, by_part=False):
    """Coverage and faithfulness with one flaw at a time; `coverage` from (number of inputs, parts)."""
    def cover(success, parts):
        n, given = len(success["a"]), parts_of(parts)
        found = [[bool(success[name][i, j]) for i in part for j in part if diagonal or i != j]
                 for name, part in given.items()]
        share = coverage(n, parts) if coverage else sum(map(len, given.values())) / n
        if by_part:
            return share, np.mean([np.mean(values) for values in found if values])
        return share, sum(map(sum, found)) / sum(map(len, found))
    return cover


def exclusive(parts, last=False):
    named = owners(parts, last)
    return {name: [i for i in part if named[i] == name] for name, part in parts.items()}


def with_masks(success, parts):
    """One table of who belongs together, one of successes, as arrays."""
    names, named = list(parts), owners(parts)
    n = len(success[names[0]])
    part = np.array([names.index(named[i]) if i in named else -1 for i in range(n)])
    together = (part[:, None] == part) & (part >= 0) & ~np.eye(n, dtype=bool)
    right = sum(success[name].numpy() & (part == k)[:, None] for k, name in enumerate(names))
    return torch.tensor([(part >= 0).mean(), (right * together).sum() / together.sum()])


FIRST = lambda n, parts: len(owners(parts)) / n
WRONG = {
    "10.1 iia_graph": [
        (graph_of(lambda a, b, c, x, y, z: a + b + z - 3), "the wrong way round"),
        (graph_of(lambda a, b, c, x, y, z: x + y + c), "a class with a total"),
        (graph_of(lambda a, b, c, x, y, z: a + b + c - 3), "as if nothing had been swapped"),
        (graph_of(lambda a, b, c, x, y, z: x + y + z - 3), "the total of the source"),
        (graph_of(lambda a, b, c, x, y, z: a + y + z - 3), "the graph of X+(Y+Z)"),
        (graph_of(lambda a, b, c, x, y, z: x + b + z - 3), "the graph of (X+Z)+Y"),
        (lambda predicted, inputs: ~with_a_loop(predicted, inputs), "True and False"),
        (lambda predicted, inputs: with_a_loop(predicted, inputs).float(), "numbers of type bool"),
        (lambda predicted, inputs: with_a_loop(predicted, inputs).float().mean(), "the result has shape"),
    ],
    "10.2 joined": [
        (lambda success: success | success.T, "One direction is enough for you, and"),
        (lambda success: (success | success.T) & apart(6), "both must succeed"),
        (lambda success: success & success.T, "clear the diagonal"),
        (lambda success: success & apart(6), "Only one direction is looked at"),
        (lambda success: (success & success.T).triu(1), "the table must be symmetric"),
        (in_place, "changed its argument `success`"),
        (lambda success: (success & success.T & apart(6)).nonzero(), "the result has shape"),
    ],
    "10.3 free_swaps": [
        (lambda labels, own: labels == own[:, None], "compared with the base only"),
        (lambda labels, own: labels == own, "compared with the source only"),
        (lambda labels, own: (labels == own) & (labels == own[:, None]), "one is enough"),
        (lambda labels, own: (labels != own) & (labels != own[:, None]), "do not come free"),
        (lambda labels, own: own == own[:, None], "look at the right label"),
        (lambda labels, own: with_stack(labels.T, own), "was transposed"),
    ],
    "10.4 peel": [
        (hasty_peel, "is a running time among them"),
        (lambda joined: hasty_peel(joined, timed=False), "anew in every round"),
        (peeler(timed=True), "is a running time among them"),
        (peeler(worst=torch.argmax), "which input do you take away"),
        (peeler(enough=0), "nothing is left"),
        (peeler(enough=2), "are no partners"),
        (peeler(doubled=True), "in the list twice"),
        (pairs_only, "which input do you take away"),
        (lambda joined: len(largest(joined)), "return a list of inputs"),
    ],
    "10.5 held_out_score": [
        (scorer(replace=True), "drawn with replacement"),
        (scorer(same=True), "inputs that it was grown on"),
        (scorer(train_on_all=True), "grown on all inputs"),
        (scorer(plain=True), "the larger class decides it"),
        (scorer(added=True), "added, not averaged"),
        (scorer(share=0.7), "not 30 %"),
        (scorer(seeded=False), "every seed holds out the same inputs"),
        (scorer(shifted=True), "belong to different inputs"),
        (lambda grow, columns, inside, seed: 0.65, "use `grow(columns, inside)`"),
    ],
    "10.6 cover": [
        (covered(diagonal=True, by_part=True), "counts inputs 3 and 4 twice"),
        (covered(coverage=FIRST), "Inputs 3 and 4 are counted in two parts; they"),
        (covered(coverage=FIRST, diagonal=True), "and so is what an input does with itself"),
        (covered(coverage=FIRST, diagonal=True, by_part=True), "both doubles and what an input does with itself"),
        (covered(exclusive, diagonal=True), "counts what an input does with itself"),
        (covered(exclusive, by_part=True), "a small part weighs as much as a large one"),
        (covered(exclusive, by_part=True, diagonal=True), "a mean over parts, and what an input"),
        (covered(lambda parts: exclusive(parts, last=True)), "not to the last"),
        (covered(exclusive, coverage=lambda n, parts: 8 / n), "counts inputs in one part only"),
        (covered(exclusive, coverage=lambda n, parts: len(owners(parts))), "divide by their number"),
        (lambda success, parts: covered(exclusive)(success, parts)[0], "return two numbers"),
    ],
}
RIGHT = {
    "10.1 iia_graph": [with_a_loop, graph_of(lambda a, b, c, x, y, z: x + y + c - 3)],
    "10.2 joined": [with_networkx],
    "10.3 free_swaps": [with_stack],
    "10.4 peel": [peeler(), largest, lambda joined: torch.tensor(sorted(largest(joined)))],
    "10.5 held_out_score": [with_sklearn, predicts_all, scorer()],
    "10.6 cover": [with_masks, covered(exclusive)],
}
