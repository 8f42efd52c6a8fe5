"""Answers to the exercises of lesson 07, see the top of tests/checks/test_exercises.py."""
import copy

import numpy as np
import torch

# ---------------------------------------------------------------- 7.1


def masker(which=lambda heads, number: heads, layers=lambda layer, total: [layer], path="attention.self",
           cleanup=True, returned=lambda new, output: (new, *output[1:]), swap=False):
    """The mask with one flaw at a time."""
    def mask(model, inputs, layer, heads):
        number = model.config.num_attention_heads
        size = model.config.hidden_size // number

        def hook(module, args, output):
            vectors = output[0] if isinstance(output, tuple) else output
            turn = (lambda x: x.transpose(-1, -2)) if swap else (lambda x: x)
            cut = turn(vectors.unflatten(-1, (size, number) if swap else (number, size))).clone()
            cut[:, :, which(heads, number)] = 0
            new = turn(cut).flatten(-2)
            return returned(new, output) if isinstance(output, tuple) else new

        blocks = model.bert.encoder.layer
        handles = [blocks[i].get_submodule(path).register_forward_hook(hook) for i in layers(layer, len(blocks))]
        if not cleanup:
            logits = model(**inputs).logits
            for handle in handles:
                handle.remove()
            return logits
        try:
            return model(**inputs).logits
        finally:
            for handle in handles:
                handle.remove()
    return mask


def never_removed(model, inputs, layer, heads):
    def hook(module, args, output):
        vectors = output[0].unflatten(-1, (model.config.num_attention_heads, -1)).clone()
        vectors[:, :, heads] = 0
        return (vectors.flatten(-2), *output[1:])
    model.bert.encoder.layer[layer].attention.self.register_forward_hook(hook)
    return model(**inputs).logits


def into_the_weights(model, inputs, layer, heads):
    """Right logits, but of a model that stays damaged."""
    size = model.config.hidden_size // model.config.num_attention_heads
    for head in heads:
        model.bert.encoder.layer[layer].attention.output.dense.weight[:, head * size:(head + 1) * size] = 0
    return model(**inputs).logits


def before_the_projection(model, inputs, layer, heads):
    """A hook on what goes into the output projection; a mask by multiplication; a `with` of a copy."""
    model = copy.deepcopy(model)
    dense = model.bert.encoder.layer[layer].attention.output.dense
    keep = torch.ones(model.config.num_attention_heads)
    keep[heads] = 0
    wide = keep.repeat_interleave(model.config.hidden_size // model.config.num_attention_heads)
    dense.register_forward_pre_hook(lambda module, args: (args[0] * wide,))
    return model(**inputs).logits


def as_in_the_source(model, inputs, layer, heads):
    """The tutorial's hook: it takes the tuple for a tensor, raises, and stays."""
    def keep_head(module, input, output):
        mask = torch.ones(model.config.num_attention_heads, dtype=torch.bool)
        mask[heads] = False
        return output * mask.view(1, 1, -1, 1)
    handle = model.bert.encoder.layer[layer].attention.self.register_forward_hook(keep_head)
    outputs = model(**inputs)
    handle.remove()
    return outputs.logits


def writes_into_the_tuple(model, inputs, layer, heads):
    def hook(module, args, output):
        output[:, :, heads] = 0
    handle = model.bert.encoder.layer[layer].attention.self.register_forward_hook(hook)
    try:
        return model(**inputs).logits
    finally:
        handle.remove()


others = lambda heads, number: [h for h in range(number) if h not in heads]

# ---------------------------------------------------------------- 7.2, 7.3


def outcome(backup, team):
    return lambda kept, kind: (backup if kind == "backup" else team)(kept)


ANY, ALL = (lambda kept: kept.any(1).float()), (lambda kept: kept.all(1).float())


def chooser(choose=lambda n, p, half: n[:, :half].mean(1) - p[:, :half].mean(1),
            report=lambda n, p, half: n[half:].mean() - p[half:].mean()):
    def find(worth_negated, worth_plain):
        half = worth_plain.shape[1] // 2
        head = int(choose(worth_negated, worth_plain, half).argmax())
        return head, report(worth_negated[head], worth_plain[head], half).item()
    return find


def with_numpy(worth_negated, worth_plain):
    extra = (worth_negated - worth_plain).numpy()
    first, second = np.split(extra, 2, axis=1)
    head = np.argmax(first.sum(1)).item()
    return [torch.tensor(head), second[head].mean().item()]


# ---------------------------------------------------------------- 7.4


def keeper(path="output.dense", into=True, drop=False, layers=lambda layer, total: [layer], cleanup=True, stacked=True,
           flip=False, mask=True, nothing=False):
    """The mask over neurons with one flaw at a time."""
    def keep(model, inputs, layer, neurons):
        def change(value):
            own = [n for n in neurons if n < value.shape[-1]]
            kept = torch.zeros(value.shape[-1])
            kept[own] = 0.0 if nothing else 1.0
            return value * ((1 - kept) if drop else kept)

        blocks, handles = model.bert.encoder.layer, []
        for i in layers(layer, len(blocks)) if mask else []:
            module = blocks[i].get_submodule(path)
            handles.append(module.register_forward_pre_hook(lambda m, args: (change(args[0]),)) if into else
                           module.register_forward_hook(lambda m, args, output: change(output)))
        try:
            output = model(**inputs)
        except Exception:
            if cleanup:
                [handle.remove() for handle in handles]
            raise
        [handle.remove() for handle in handles]
        scores = [output.start_logits, output.end_logits][::-1 if flip else 1]
        return torch.stack(scores, -1) if stacked else tuple(scores)
    return keep


# ---------------------------------------------------------------- 7.5


def spanner(find):
    return lambda start, end, context, longest=12: find(start.tolist(), end.tolist(), context.tolist(), longest)


def loops(inside=True, ordered=True, limit=lambda longest: longest):
    """All pairs in turn, with one condition forgotten."""
    def find(start, end, context, longest):
        best, pair = -1e9, None
        for i in range(len(start)):
            for j in range(len(end)):
                if ordered and j < i or inside and not (context[i] and context[j]) or j - i + 1 > limit(longest):
                    continue
                if start[i] + end[j] > best:
                    best, pair = start[i] + end[j], (i, j)
        return pair
    return spanner(find)


def exchanged(start, end, context, longest=12):
    first, last = start.masked_fill(~context, -9).argmax(), end.masked_fill(~context, -9).argmax()
    return tuple(sorted((int(first), int(last))))


def end_first(start, end, context, longest=12):
    """The best last token, then the best first one before it."""
    last = int(end.masked_fill(~context, -9).argmax())
    allowed = context & (torch.arange(len(start)) <= last) & (torch.arange(len(start)) > last - longest)
    return int(start.masked_fill(~allowed, -99).argmax()), last


def as_tensor(start, end, context, longest=12):
    """The best last token for each first one, by windows; a tensor instead of a tuple."""
    places = context.nonzero().flatten()
    ends = [max((int(j) for j in places if i <= j < i + longest), key=lambda j: end[j]) for i in places.tolist()]
    best = max(range(len(places)), key=lambda n: start[places[n]] + end[ends[n]])
    return torch.tensor([int(places[best]), ends[best]])


# ---------------------------------------------------------------- 7.6


def stepper(mask=True, back=True, zero=True, turned=False, decay=None, wipe=False, train=True):
    """The step with one flaw at a time."""
    def step(layer, mark, optimiser, loss):
        before = layer.weight.detach().clone()
        own = ~mark if turned else mark
        if decay is not None:
            optimiser.param_groups[0]["weight_decay"] = decay
        if zero:
            optimiser.zero_grad()
        loss().backward()
        if mask:
            layer.weight.grad *= own
        if train:
            optimiser.step()
        with torch.no_grad():
            if back:
                layer.weight.copy_(torch.where(own, layer.weight, before))
            if wipe:
                layer.weight *= mark
        return layer.weight
    return step


def only_the_gradient(layer, mark, optimiser, loss):
    """No decay on frozen numbers, but what the optimiser remembers moves them."""
    decay, frozen = optimiser.param_groups[0]["weight_decay"], layer.weight.detach().clone()
    optimiser.zero_grad()
    loss().backward()
    layer.weight.grad *= mark
    optimiser.step()
    with torch.no_grad():
        layer.weight += ~mark * frozen * decay * optimiser.param_groups[0]["lr"]
    return layer.weight


def by_index(layer, mark, optimiser, loss):
    """Everything is trained, and what is frozen put back; the gradient of the whole weight is used."""
    frozen = layer.weight.data[~mark].clone()
    layer.weight.grad = None
    loss().backward()
    optimiser.step()
    layer.weight.data[~mark] = frozen
    return layer.weight


def a_copy(layer, mark, optimiser, loss):
    found = stepper()(layer, mark, optimiser, loss).detach().clone()
    layer.weight.data.zero_()
    return found


WRONG = {
    "7.1 mask_heads": [
        (masker(others), "the other heads were masked"),
        (masker(swap=True), "cut the wrong way"),
        (masker(lambda heads, number: list(range(number))), "all heads were masked"),
        (masker(layers=lambda layer, total: [(layer + 1) % total]), "another layer"),
        (masker(layers=lambda layer, total: range(total)), "in every layer"),
        (masker(path="attention.output.dense"), "every column mixes all heads"),
        (masker(lambda heads, number: []), "nothing is masked"),
        (masker(returned=lambda new, output: None), "nothing is masked"),
        (masker(returned=lambda new, output: new), "returned the vectors alone"),
        (as_in_the_source, "the module returns a tuple"),
        (writes_into_the_tuple, "the module returns a tuple"),
        (masker(cleanup=False), "remove it in `finally`"),
        (never_removed, "left 1 hook on the model"),
        (into_the_weights, "the model itself was changed"),
        (masker(lambda heads, number: heads[:1]), "not the logits with the outputs of these heads")],
    "7.2 two_heads": [
        (outcome(ALL, ANY), "the two are exchanged"),
        (outcome(ALL, ALL), "backup: drop-one gives"),
        (outcome(ANY, ANY), "team: drop-one gives"),
        (outcome(lambda kept: kept[:, 0].float(), ALL), "wanted is [0.0, 0.0]"),
        (outcome(lambda kept: kept.sum(1).float(), ALL), "every outcome is 0 or 1"),
        (outcome(lambda kept: kept.float(), ALL), "one outcome for each mask"),
        (outcome(lambda kept: torch.ones(len(kept)), ALL), "backup: keep-one gives")],
    "7.3 extra_for_negation": [
        (chooser(lambda n, p, half: n.mean(1) - p.mean(1), lambda n, p, half: n.mean() - p.mean()), "still the leak"),
        (chooser(lambda n, p, half: n.mean(1) - p.mean(1)), "chosen on reviews of the report"),
        (chooser(lambda n, p, half: n[:, half:].mean(1) - p[:, half:].mean(1),
                 lambda n, p, half: n[:half].mean() - p[:half].mean()), "the halves are exchanged"),
        (chooser(lambda n, p, half: n[:, :half].mean(1)), "by its fall on negated reviews alone"),
        (chooser(report=lambda n, p, half: n[:half].mean() - p[:half].mean()), "report the second half"),
        (chooser(report=lambda n, p, half: n.mean() - p.mean()), "still contains the half"),
        (chooser(report=lambda n, p, half: p[half:].mean() - n[half:].mean()), "sign is flipped"),
        (chooser(report=lambda n, p, half: n[half:].mean()), "subtract that on plain ones"),
        (lambda worth_negated, worth_plain: chooser()(worth_negated, worth_plain)[0], "two things are asked for")],
    "7.4 keep_neurons": [
        (keeper(into=False), "still columns of the stream"),
        (keeper(drop=True), "these neurons were dropped"),
        (keeper(layers=lambda layer, total: [(layer + 1) % total]), "another layer"),
        (keeper(layers=lambda layer, total: range(total)), "all layers were masked"),
        (keeper(nothing=True), "all neurons were masked"),
        (keeper(mask=False), "nothing is masked"),
        (keeper(flip=True), "first and last are exchanged"),
        (keeper(stacked=False), "stack the two scores"),
        (keeper(cleanup=False), "remove it in `finally`"),
        (keeper(path="attention.output.dense"), "not the scores with all other neurons")],
    "7.5 valid_span": [
        (loops(ordered=False), "ends before it starts"),
        (loops(inside=False), "begins in the question"),
        (loops(limit=lambda longest: 99), "has five tokens where three are allowed"),
        (loops(limit=lambda longest: longest + 1), "has four tokens where three are allowed"),
        (loops(limit=lambda longest: longest - 1), "a span of three tokens is allowed"),
        (exchanged, "exchanging first and last"),
        (end_first, "the best last token was kept"),
        (lambda start, end, context, longest=12: (int(start.argmax()), int(end.argmax())), "ends before it starts"),
        (lambda start, end, context, longest=12: int(start.argmax()), "a pair is asked for")],
    "7.6 marked_step": [
        (stepper(back=False), "weight decay still shrinks"),
        (stepper(mask=False, back=False), "the frozen numbers were trained as well"),
        (stepper(turned=True), "the mark is turned round"),
        (stepper(decay=0.0), "lost their weight decay"),
        (stepper(zero=False), "zero_grad()"),
        (stepper(wipe=True), "the frozen numbers became 0"),
        (stepper(train=False), "nothing is trained"),
        (only_the_gradient, "what the optimiser remembers"),
        (a_copy, "the weight of the layer itself must be changed")],
    "7.7 silent": [
        ([0], "is where the verdict is read"),
        (list(range(8)), "is where the verdict is read"),
        ([1, 2, 3, 6, 7], "'not' and 'dull'"),
        ([1, 2, 3, 4, 5, 6], "[SEP] is in the list"),
        ([4, 5, 7], "some are missing"),
        ([], "the list is empty"),
        ([8], "positions are 0 to 7"),
        (["not"], "the positions are numbers"),
        (7, "a list of positions")],
}
RIGHT = {
    "7.1 mask_heads": [before_the_projection, masker()],
    "7.2 two_heads": [lambda kept, kind: (kept.sum(1) >= (1 if kind == "backup" else 2)),
                      lambda kept, kind: kept.long().amax(1) if kind == "backup" else kept.long().prod(1)],
    "7.3 extra_for_negation": [with_numpy, chooser()],
    "7.4 keep_neurons": [keeper(path="intermediate", into=False), keeper()],
    "7.5 valid_span": [loops(), as_tensor],
    "7.6 marked_step": [by_index, stepper()],
    "7.7 silent": [range(1, 8), {1, 2, 3, 4, 5, 6, 7}],
}
