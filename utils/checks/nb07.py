"""Checks of notebook 07: heads and neurons of BERT masked by hand, two effects of a head, choice, spans, training."""
from __future__ import annotations

import copy
from contextlib import suppress
from functools import lru_cache
from typing import Callable

import torch
from torch import Tensor

from ..masking import keep_one, leave_one_out
from . import ExerciseError, call, close, exercise, require, tensor_like
from .references.nb07 import silent


# ---------------------------------------------------------------- what the checks run on

HEADS, WIDTH, NEURONS, VOCAB, CONTEXT = 4, 32, 48, 60, 16
CHANGED = "the model itself was changed: after the run it must be as before."


@lru_cache(maxsize=None)
def _bert(kind: str):
    """A small BERT with random weights, large enough that every part of it changes the logits."""
    import transformers  # takes a second: only when a check needs it

    config = transformers.BertConfig(
        vocab_size=VOCAB, num_hidden_layers=3, num_attention_heads=HEADS, hidden_size=WIDTH, intermediate_size=NEURONS,
        max_position_embeddings=CONTEXT, attn_implementation="eager")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, kind)(config).eval().requires_grad_(False)
        for weights in model.parameters():
            weights += 0.2 * torch.randn(weights.shape)
    return model


def _inputs() -> dict[str, Tensor]:
    tokens = torch.randint(1, VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def _without(kind: str, path: str, columns: list[int], layers: list[int], rows: bool = False) -> Tensor:
    """Scores without the weights of some columns of what goes into a module (which masks them), or (rows) comes out."""
    model = copy.deepcopy(_bert(kind))
    for layer in layers:
        module = model.bert.encoder.layer[layer].get_submodule(path)
        module.weight[columns if rows else (slice(None), columns)] = 0
        if rows:
            module.bias[columns] = 0
    return _scores(model)


def _vectors_alone(layer: int, heads: list[int]) -> Tensor:
    """Scores if the hook returns no tuple: the two prompts are taken for the two parts of one, and nothing raises."""
    model = copy.deepcopy(_bert("BertForSequenceClassification"))
    attention = model.bert.encoder.layer[layer].attention.self

    def silence(module, args, output):
        vectors = output[0].unflatten(-1, (HEADS, -1)).clone()
        vectors[:, :, heads] = 0
        return vectors.flatten(-2)

    attention.register_forward_hook(silence)
    return _scores(model)


def _scores(model) -> Tensor:
    output = model(**_inputs())
    return output.logits if hasattr(output, "logits") else torch.stack([output.start_logits, output.end_logits], -1)


def _leaves_nothing(attempt, model, *args) -> None:
    """The attempt once more on tokens that the model cannot read: its hook must be gone nevertheless."""
    def hooks():
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())

    before, unreadable = hooks(), {name: torch.full_like(value, VOCAB + 5) for name, value in _inputs().items()}
    with suppress(Exception):  # that it raises is what this is about
        attempt(model, unreadable, *args)
    require(hooks() == before, "when the model raises, the hook stays for every later run: remove it in `finally`.")


def _with_tuples(attempt, *args) -> Tensor:
    """`call`, and one sentence for a hook that takes the tuple for a tensor."""
    try:
        return call(attempt, *args)
    except (TypeError, AttributeError) as error:
        if "tuple" not in str(error) and "converted to an index" not in str(error):        # tuple * tensor says that
            raise
    raise ExerciseError("the module returns a tuple, and the hook took it for a tensor: the vectors are output[0].")


# ---------------------------------------------------------------- exercises

@exercise("7.1 mask_heads", difficulty=3, minutes=6)
def _(attempt):
    kind, path, size = "BertForSequenceClassification", "attention.output.dense", WIDTH // HEADS
    model = copy.deepcopy(_bert(kind))
    plain, everyone = _scores(model), range(HEADS)
    for layer, heads in ((1, [0]), (2, [1, 3])):
        columns = [head * size + i for head in heads for i in range(size)]
        spread = [i * HEADS + head for head in heads for i in range(size)]
        expected = _without(kind, path, columns, [layer])
        result = _with_tuples(attempt, model, _inputs(), layer, heads)
        require(torch.equal(_scores(model), plain), CHANGED)
        close(tensor_like(result, shape={"prompt": 2, "class": 2}), expected, wrong={
            "the hook returned the vectors alone: in place of a tuple it must return one, (new, *output[1:]).":
                _vectors_alone(layer, heads),
            "nothing is masked: does the hook return the new tuple, and is it registered while the model runs?": plain,
            "the other heads were masked: `heads` are those to be set to zero.":
                _without(kind, path, [h * size + i for h in everyone if h not in heads for i in range(size)], [layer]),
            "the width was cut the wrong way: the numbers of one head lie side by side, unflatten(-1, (heads, size)).":
                _without(kind, path, spread, [layer]),
            "all heads were masked.": _without(kind, path, list(range(WIDTH)), [layer]),
            "another layer was masked.": _without(kind, path, columns, [(layer + 1) % 3]),
            "the heads were masked in every layer.": _without(kind, path, columns, [0, 1, 2]),
            "behind the output projection every column mixes all heads: hook attention.self.":
                _without(kind, path, columns, [layer], rows=True)},
            message="these are not the logits with the outputs of these heads at zero.")
    _leaves_nothing(attempt, model, 1, [0])


class _Two:
    labels = ("head A", "head B")

    def __init__(self, attempt, kind: str):
        self.attempt, self.kind = attempt, kind

    def __call__(self, kept):
        found = call(self.attempt, kept, self.kind)
        require(getattr(found, "ndim", 1) == 1, "one outcome for each mask is asked for: reduce the axis of the heads.")
        found = tensor_like(found, shape={"mask": len(kept)}, dtype=None).float()
        require(((found == 0) | (found == 1)).all(), "every outcome is 0 or 1.")
        return found[:, None]


@exercise("7.2 two_heads", difficulty=2, minutes=4)
def _(attempt):
    effects = {kind: [estimate(_Two(attempt, kind)).table.estimate.tolist() for estimate in (leave_one_out, keep_one)]
               for kind in ("backup", "team")}
    backup, team = [[0.0, 0.0], [1.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]]
    require(effects != {"backup": team, "team": backup}, "the two are exchanged: a backup does alone what both do.")
    for kind, wanted in (("backup", backup), ("team", team)):
        for way, found, right in zip(("drop-one", "keep-one"), effects[kind], wanted):
            require(found == right, f"{kind}: {way} gives {found}, wanted is {right}.")


@exercise("7.3 extra_for_negation", difficulty=3, minutes=5)
def _(attempt):
    # Differences, first half, second half, all: head 0: .5, 5, 2.75; head 1: 2.5, .5, 1.5; head 2: 1, -5, -2
    plain = torch.tensor([[0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.5, 0.0], [2.0, 4.0, 5.0, 5.0]])
    negated = torch.tensor([[1.0, 1.0, 5.0, 6.0], [3.0, 4.0, 1.0, 0.5], [5.0, 3.0, 0.0, 0.0]])
    result = call(attempt, negated, plain)
    require(isinstance(result, (tuple, list)) and len(result) == 2, "two things are asked for: head and difference.")
    head, extra = (tensor_like(part, shape=(), dtype=None) for part in result)
    head, found = int(head), (int(head), round(extra.item(), 4))
    require(found != (0, 2.75), "that is still the leak: head and difference come from the same reviews.")
    require(found != (0, 0.5), "the halves are exchanged: choose on the first, report on the second.")
    require(head != 0, "the head was chosen on reviews of the report too: only the first half may choose.")
    require(head != 2, "the head was chosen by its fall on negated reviews alone: the difference to plain ones counts.")
    require(head == 1, "the head with the largest difference on the first half is 1.")
    close(extra, 0.5, wrong={
        "that is the difference on the reviews by which the head was chosen: report the second half.": 2.5,
        "the report still contains the half by which the head was chosen.": 1.5,
        "the sign is flipped: negated minus plain.": -0.5,
        "that is the fall on negated reviews: subtract that on plain ones.": 0.75})


@exercise("7.4 keep_neurons", difficulty=3, minutes=5)
def _(attempt):
    kind, path = "BertForQuestionAnswering", "output.dense"
    model = copy.deepcopy(_bert(kind))
    plain = _scores(model)
    for layer, kept in ((1, list(range(8, 16))), (2, [0, 3, 30])):
        others = [n for n in range(NEURONS) if n not in kept]
        expected = _without(kind, path, others, [layer])
        wrong = {
            "nothing is masked: is the hook registered while the model runs, and does it return its new value?": plain,
            "these neurons were dropped: they are the ones to keep.": _without(kind, path, kept, [layer]),
            "another layer was masked.": _without(kind, path, others, [(layer + 1) % 3]),
            "all layers were masked.": _without(kind, path, others, [0, 1, 2]),
            "all neurons were masked.": _without(kind, path, list(range(NEURONS)), [layer]),
            "first and last are exchanged: start_logits come first.": expected.flip(-1),
            "these are still columns of the stream: the neurons are what goes into output.dense.":
                _without(kind, path, [n for n in range(WIDTH) if n not in kept], [layer], rows=True)}
        result = call(attempt, model, _inputs(), layer, kept)
        require(torch.equal(_scores(model), plain), CHANGED)
        require(not isinstance(result, (tuple, list)), "stack the two scores to one tensor: [prompt, position, 2].")
        close(tensor_like(result, shape={"prompt": 2, "position": 9, "two": 2}), expected, wrong=wrong,
              message="these are not the scores with all other neurons of the layer at zero.")
    _leaves_nothing(attempt, model, 1, [0, 1])


def _scored(**places: float) -> Tensor:
    """Scores of nine tokens, -3 where nothing is said: _scored(t2=1.0)."""
    scores = torch.full((9,), -3.0)
    for place, value in places.items():
        scores[int(place[1:])] = value
    return scores


@exercise("7.5 valid_span", difficulty=3, minutes=5)
def _(attempt):
    context = torch.tensor([False] * 3 + [True] * 5 + [False])                    # tokens 3 to 7
    cases = [
        (_scored(t4=2.0), _scored(t6=2.0), 12, (4, 6), {}),
        (_scored(t6=4.0, t4=2.0), _scored(t5=4.0, t6=2.5), 12, (6, 6),
         {(6, 5): "that span ends before it starts: the two argmaxes do not belong together.",
          (5, 6): "exchanging first and last makes another answer: look for the best pair.",
          (4, 5): "the best last token was kept and the first chosen for it: another pair has a larger sum."}),
        (_scored(t1=5.0, t4=1.0), _scored(t5=1.0), 12, (4, 5),
         {(1, 5): "that span begins in the question: both tokens must lie in the context."}),
        (_scored(t4=1.0), _scored(t8=5.0, t7=1.0), 12, (4, 7),
         {(4, 8): "that span ends behind the context: both tokens must lie in the context."}),
        (_scored(t3=4.0, t5=2.0), _scored(t7=4.0, t4=-1.0, t6=1.5), 3, (5, 7),
         {(3, 7): "that span has five tokens where three are allowed: `longest` counts tokens.",
          (5, 6): "a span of three tokens is allowed where longest is 3."}),
        (_scored(t3=4.0, t5=3.0), _scored(t6=4.0), 3, (5, 6),
         {(3, 6): "that span has four tokens where three are allowed: `longest` counts tokens."}),
    ]
    for start, end, longest, right, wrong in cases:
        result = call(attempt, start, end, context, longest)
        require(isinstance(result, (tuple, list, Tensor)) and len(result) == 2, "a pair is asked for: first, last.")
        found = tuple(int(part) for part in result)
        require(found not in wrong, wrong.get(found, ""))
        require(found[0] <= found[1], f"the span {found} ends before it starts.")
        require(context[list(found)].all(), f"the span {found} does not lie in the context.")
        require(found == right, f"the best span is {right}, got {found}.")


START = torch.tensor([[1.0, -2.0, 3.0], [0.5, 1.5, -1.0]])


def _training(decay: float = 0.1) -> tuple[torch.nn.Linear, torch.optim.Optimizer, Callable[[], Tensor]]:
    """A layer whose weight is START, its optimiser and its loss."""
    layer = torch.nn.Linear(3, 2, bias=False)
    layer.weight.data.copy_(START)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=decay)
    return layer, optimiser, lambda: (layer.weight ** 2).sum()


def _trained(marks: list[Tensor], decay: float = 0.1) -> Tensor:
    """The weights when the gradient is multiplied with each of these in turn, and nothing is written back."""
    layer, optimiser, loss = _training(decay)
    for mark in marks:
        optimiser.zero_grad()
        loss().backward()
        layer.weight.grad *= mark
        optimiser.step()
    return layer.weight.detach()


@exercise("7.6 marked_step", difficulty=3, minutes=5)
def _(attempt):
    mark = torch.tensor([[True, False, True], [False, False, True]])

    def tried(steps, warm=False):
        layer, optimiser, loss = _training()
        if warm:                                            # the optimiser remembers a gradient of every number
            loss().backward()
            optimiser.step()
        begin = layer.weight.detach().clone()
        for _ in range(steps):
            found = tensor_like(call(attempt, layer, mark, optimiser, loss), shape={"row": 2, "column": 3})
            require(torch.equal(found, layer.weight), "the weight of the layer itself must be changed, and returned.")
        return begin, layer.weight.detach()

    moved = (once := tried(1)[1]) != START
    require(not moved[~mark].all() or moved[mark].any(), "the mark is turned round: unmarked numbers were trained.")
    close(once[mark], _trained([mark])[mark], wrong={
        "nothing is trained: the marked numbers are as before.": START[mark],
        "the marked numbers lost their weight decay: they are to be what AdamW makes of them.":
            _trained([mark], decay=0.0)[mark]},
        message="the marked numbers are not what one step of AdamW makes of them.")
    close(once[~mark], START[~mark], 0.0, wrong={
        "weight decay still shrinks the frozen numbers: write them back after the step.": _trained([mark])[~mark],
        "the frozen numbers were trained as well.": _trained([~mark])[~mark],
        "the frozen numbers became 0.": 0 * START[~mark]},
        message="the frozen numbers must be exactly what they were before the step.")
    close(tried(2)[1][mark], _trained([mark, mark])[mark],
          message="after a second step the marked numbers are wrong: are the old gradients still there? zero_grad().")
    begin, warm = tried(2, warm=True)
    require(torch.equal(warm[~mark], begin[~mark]), "what the optimiser remembers moves frozen numbers: put them back.")


@exercise("7.7 silent", difficulty=2, minutes=2)
def _(attempt):
    require(isinstance(attempt, (list, tuple, set, range)), "a list of positions is asked for, such as [3, 4].")
    require(all(isinstance(position, int) for position in attempt), "the positions are numbers, such as [3, 4].")
    require(found := set(attempt), "there are such positions: the list is empty.")
    require(found <= set(range(8)), "the positions are 0 to 7.")
    require(0 not in found, "position 0, [CLS], is where the verdict is read: masking there can change it.")
    require(found & {4, 5}, "what 'not' and 'dull' get in the *last* layer is read by nobody: they belong to the list.")
    require(7 in found, "[SEP] is in the list as well: after the last layer no attention follows.")
    require(found == set(silent), "some are missing: after the last layer only one position is still read.")
