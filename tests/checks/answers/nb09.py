"""Answers to the exercises of lesson 09, see the top of tests/checks/test_exercises.py."""
from itertools import combinations

import torch

from utils.alignment import Subspace, random_subspace
from utils.tasks import SUMS, addition

# ---------------------------------------------------------------- 9.1


def share_with(shift, count=False, sign=True):
    def accuracy(logits, inputs):
        right = (logits.argmax(-1) + shift == inputs.sum(1)) == sign
        return right.sum().item() if count else right.float().mean().item()
    return accuracy


def highest_is_the_totals(logits, inputs):
    """Looks whether the logit of the right class is the highest."""
    own = logits[torch.arange(len(inputs)), inputs.sum(1) - 3]
    return (own == logits.max(1).values).double().mean()


# ---------------------------------------------------------------- 9.2

def labels(shift=3, swapped=False, whole=False, fixed=None):
    """The answer with one flaw at a time."""
    def interchange(base, source, taken):
        if swapped:
            base, source = source, base
        taken = "XYZ" if whole else fixed or taken
        return torch.stack([(source if name in taken else base)[:, i] for i, name in enumerate("XYZ")]).sum(0) - shift
    return interchange


def by_causal_model(base, source, taken):
    """Asks the causal models themselves."""
    if not taken:
        return base.sum(1) - 3
    model = addition(next(name for name, brackets in SUMS.items() if brackets == taken))
    return model.labels(model.run_interchange_batch(base, {"P": source}))


# ---------------------------------------------------------------- 9.3

def answers(base, source, subsets):
    changes = source - base
    return torch.stack([base.sum(1) + changes[:, list(subset)].sum(1) for subset in subsets])


SUBSETS = [subset for n in range(4) for subset in combinations(range(3), n)]


def unsorted_neighbours(base, source):
    return (answers(base, source, SUBSETS).diff(dim=0) != 0).all(0)


def against_nothing(base, source):
    found = answers(base, source, SUBSETS)
    return (found[1:] != found[0]).all(0)


def only_pairs(base, source):
    found = answers(base, source, [(0, 1), (0, 2), (1, 2)])
    return (found[0] != found[1]) & (found[0] != found[2]) & (found[1] != found[2])


def with_signs(base, source):
    """Two subsets give the same answer if some signed sum of the three changes is zero."""
    changes = source - base
    signs = torch.cartesian_prod(*[torch.tensor([-1, 0, 1])] * 3)
    return (changes @ signs[signs.abs().sum(1) > 0].T != 0).all(1)


# ---------------------------------------------------------------- 9.4

def basis_of(numbers):
    return torch.linalg.svd((numbers - numbers.mean(0)).T, full_matrices=False).U[:, :9]


def kron(chosen, directions):
    """`torch.kron` wants its matrices contiguous."""
    return torch.kron(chosen.contiguous(), directions.contiguous())


def with_kron(numbers, places, length):
    """The choice of places times the directions between numbers."""
    return kron(torch.eye(length)[:, list(places)], basis_of(numbers))


def with_ten(numbers, places, length):
    """Also swaps what all numbers have in common, which is the same in both."""
    return kron(torch.eye(length)[:, list(places)], torch.linalg.qr(numbers.T).Q)


def interleaved(numbers, places, length):
    return kron(basis_of(numbers), torch.eye(length)[:, list(places)])


def tied(numbers, places, length):
    return kron(torch.eye(length)[:, list(places)].sum(1, keepdim=True) / len(places) ** 0.5, basis_of(numbers))


def everything_there(numbers, places, length):
    return kron(torch.eye(length)[:, list(places)], torch.eye(numbers.shape[1]))


def not_orthonormal(numbers, places, length):
    return kron(torch.eye(length)[:, list(places)], (numbers[1:] - numbers[0]).T)


def first_place(numbers, places, length):
    return with_kron(numbers, places[:1], length)


def leading(numbers, places, length):
    return kron(torch.eye(length)[:, list(places)], basis_of(numbers)[:, :6])


# ---------------------------------------------------------------- 9.5

def with_replacement(inputs, share, seed):
    generator, held = torch.Generator().manual_seed(seed), round(share * len(inputs))
    drawn = [inputs[torch.randint(len(inputs), (n,), generator=generator)] for n in (len(inputs) - held, held)]
    return drawn[0], drawn[1]


def by_row(inputs, share, seed):
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    held = round(share * len(inputs))
    return inputs[order[held:]], inputs[order[:held]]


def by_set(inputs, share, seed, swapped=False, seeded=True, lost=False, masks=False):
    """With Python's sets, in the order of a random number for each triple."""
    triples = sorted({tuple(sorted(row)) for row in inputs.tolist()})
    scores = torch.rand(len(triples), generator=torch.Generator().manual_seed(seed) if seeded else None).tolist()
    chosen = {triple for _, triple in sorted(zip(scores, triples))[:round(share * len(triples))]}
    inside = torch.tensor([tuple(sorted(row)) in chosen for row in inputs.tolist()])
    rest = ~inside & (torch.arange(len(inputs)) % 7 > 0) if lost else ~inside
    if masks:
        return rest, inside
    return (inputs[inside], inputs[rest]) if swapped else (inputs[rest], inputs[inside])


# ---------------------------------------------------------------- 9.6

def counted_against(batches, is_right):
    right, rows = [0, 0], [0, 0]
    for predicted, label, before in batches:
        for kind, mask in enumerate((label != before, label == before)):
            right[kind] += int(is_right(predicted, label, before)[mask].sum())
            rows[kind] += int(mask.sum())
    return right[0] / max(rows[0], 1), right[1] / max(rows[1], 1)


def counted(batches):
    """Counts in one pass, without joining the batches."""
    return counted_against(batches, lambda predicted, label, before: predicted == label)


def first_batch(batches):
    for batch in batches:
        return counted([batch])


def against_before(batches):
    return counted_against(batches, lambda predicted, label, before: predicted == before)


def of_batches(batches):
    found = [[(predicted == label)[(label != before) == kind].float().mean() for predicted, label, before in batches]
             for kind in (True, False)]
    return tuple(torch.stack(shares).nanmean() for shares in found)


def of_all_rows(batches):
    moved, stayed = counted(batches)
    rows = sum(len(predicted) for predicted, *_ in batches)
    changed = sum(int((label != before).sum()) for _, label, before in batches)
    return moved * changed / rows, stayed * (rows - changed) / rows


# ---------------------------------------------------------------- 9.7

def drawn(found, seed, ranks=None, shape=None):
    return random_subspace(shape or found.shape, ranks or found.ranks, seed)


def not_turned(found, seed):
    columns = torch.randn(found.columns.shape, generator=torch.Generator().manual_seed(seed))
    return Subspace(columns, found.ranks, found.shape)


def turned(found, seed):
    """The same subspace in other coordinates."""
    rank = found.columns.shape[1]
    return Subspace(found.columns @ random_subspace((1, rank), {"P": rank}, seed).columns, found.ranks, found.shape)


def one_position(found, seed):
    inside = random_subspace((1, found.shape[1]), found.ranks, seed).columns
    columns = torch.zeros_like(found.columns)
    columns[:len(inside)] = inside
    return Subspace(columns, found.ranks, found.shape)


def with_svd(found, seed):
    """Directions by a singular value decomposition, drawn with numpy's kind of seed."""
    noise = torch.randn(found.columns.shape, generator=torch.Generator().manual_seed(1000 + seed))
    return Subspace(torch.linalg.svd(noise, full_matrices=False).U, dict(found.ranks), tuple(found.shape))


# ---------------------------------------------------------------- 9.8

def by_regression(values, groups):
    """The share that a linear model on one-hot groups explains."""
    hot = torch.nn.functional.one_hot(groups.unique(return_inverse=True)[1]).float()
    fitted = hot @ torch.linalg.lstsq(hot, values).solution
    return 1 - (values - fitted).square().sum() / (values - values.mean(0)).square().sum()


def mean_of_columns(values, groups):
    return torch.stack([by_regression(column[:, None], groups) for column in values.T]).mean()


def group_means(values, groups):
    return torch.stack([values[groups == group].mean(0) for group in groups.unique()])


def uncentred(values, groups):
    which = groups.unique(return_inverse=True)[1]
    return group_means(values, groups)[which].square().sum() / values.square().sum()


def uncounted(values, groups):
    """Every group counts the same, however large it is."""
    means = group_means(values, groups)
    return (means - means.mean(0)).square().mean(0).sum() / values.var(0, unbiased=False).sum()


WRONG = {
    "9.1 accuracy": [
        (share_with(0), "You compare the number of the class with the total"),
        (share_with(2), "off by one"),
        (share_with(4), "off by one"),
        (share_with(3, count=True), "That is a count"),
        (share_with(3, sign=False), "the share of errors"),
    ],
    "9.2 interchange_labels": [
        (labels(whole=True), "the answer to the source"),
        (labels(whole=True, shift=0), "no class"),
        (labels(shift=0), "These are totals"),
        (labels(swapped=True), "Base and source are exchanged"),
        (lambda base, source, taken: base.sum(1) - 3, "Nothing came from the source"),
    ],
    "9.3 telling": [
        (unsorted_neighbours, "the same answer as taking nothing"),
        (against_nothing, "taking X and taking Y give the same answer"),
        (lambda base, source: (base != source).all(1), "taking X and taking Y give the same answer"),
        (only_pairs, "whether it was taken cannot be seen"),
        (lambda base, source: ~with_signs(base, source), "this row should be kept"),
    ],
    "9.4 place_columns": [
        (interleaved, "changes positions other than `places`"),
        (tied, "reach into both places at once"),
        (everything_there, "nine columns for each place are enough"),
        (not_orthonormal, "not orthonormal"),
        (first_place, "the numbers at `places` should be the source's"),
        (leading, "span all differences"),
        (lambda numbers, places, length: basis_of(numbers), "expected 80 rows"),
    ],
    "9.5 split_triples": [
        (with_replacement, "drawn with replacement"),
        (by_row, "in another order"),
        (lambda *given: by_set(*given, swapped=True), "The second part is the small one"),
        (lambda *given: by_set(*given, seeded=False), "The same seed gives another split"),
        (lambda *given: by_set(*given, lost=True), "in neither part"),
        (lambda *given: by_set(*given, masks=True), "a table of inputs"),
        (lambda inputs, share, seed: by_set(inputs, share, 0), "Every seed gives the same split"),
    ],
    "9.6 moved_and_stayed": [
        (first_batch, "only the first batch"),
        (against_before, "the label before the swap"),
        (of_batches, "Averages of batches"),
        (of_all_rows, "shares of all rows"),
        (lambda batches: counted(batches)[::-1], "The two numbers are exchanged"),
    ],
    "9.7 fair_control": [
        (lambda found, seed: drawn(found, seed, ranks={"P": 1}), "with more or fewer directions"),
        (lambda found, seed: drawn(found, seed, shape=(1, 30)), "it belongs to an activation of"),
        (not_turned, "not orthonormal"),
        (turned, "It spans what was found"),
        (lambda found, seed: drawn(found, 0), "Every seed gives the same directions"),
        (one_position, "never swapped"),
    ],
    "9.8 share_explained": [
        (lambda values, groups: 1 - by_regression(values, groups), "the share within the groups"),
        (lambda values, groups: by_regression(values, groups).sqrt(), "the square root"),
        (mean_of_columns, "You averaged the columns' shares"),
        (uncentred, "Subtract the mean of all inputs"),
        (uncounted, "Groups of different size count the same"),
    ],
}
RIGHT = {
    "9.1 accuracy": [highest_is_the_totals],
    "9.2 interchange_labels": [by_causal_model, labels()],
    "9.3 telling": [with_signs],
    "9.4 place_columns": [with_kron, with_ten],
    "9.5 split_triples": [by_set],
    "9.6 moved_and_stayed": [counted],
    "9.7 fair_control": [with_svd],
    "9.8 share_explained": [by_regression],
}
