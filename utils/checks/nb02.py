"""Checks of notebook 02: hooks that cannot leak, the running sum, two tests of one update, direct attribution."""
from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import nn

from ..models import Prompts, encode, load_model
from . import call, close, exercise, require, student_code, tensor_like


# ---------------------------------------------------------------- what the checks run on

@lru_cache(maxsize=None)
def _model():
    """The shipped model, of which only exact arithmetic is asked. A first run lets the bridge put its own hooks on."""
    model = load_model("course-gpt2", device="cpu")
    with torch.no_grad():
        model(torch.zeros(1, 1, dtype=torch.long))
    return model


@lru_cache(maxsize=None)
def _prompts() -> Prompts:
    return encode(_model(), ["The capital of France is", "Q: What is the capital of Poland?\nA:"], warn=False)


def _numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _hook_count(modules: dict[str, nn.Module]) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules.values())


def _logits_with(name: str | None = None, change: Callable | None = None) -> torch.Tensor:
    """Logits [prompt, position, vocab] by TransformerLens' own hooks, not by the course's engine."""
    hooks = [] if name is None else [(name, lambda tensor, hook: change(tensor.clone()))]
    with torch.no_grad():
        return _model().run_with_hooks(_prompts().tokens, fwd_hooks=hooks, prepend_bos=False)


def _final_logits(final: torch.Tensor) -> torch.Tensor:
    """Final norm and unembedding written out from the weights."""
    model = _model()
    gain, bias = model.ln_final.weight, model.ln_final.bias
    normed = nn.functional.layer_norm(final, final.shape[-1:], gain, bias, model.cfg.eps)
    return normed @ model.W_U + model.b_U


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[torch.arange(2), _prompts().ends]


# ---------------------------------------------------------------- exercises

@exercise("2.1 reading", difficulty=3, minutes=7)
def _(attempt):
    modules = {"double": nn.Linear(1, 1, bias=False), "triple": nn.Linear(1, 1, bias=False)}
    for module, weight in zip(modules.values(), (2.0, 3.0)):
        nn.init.constant_(module.weight, weight)

    def run(x):
        return modules["triple"](modules["double"](torch.tensor([[x]])))

    manager = call(attempt, modules)
    require(hasattr(manager, "__enter__"), "it cannot be used after `with`: decorate it with @contextmanager.")
    try:
        with student_code():
            found = manager.__enter__()
        require(isinstance(found, dict), "`with reading(...) as found` must give a dictionary, not "
                                         f"{type(found).__name__}: write `yield found`.")
        with student_code():
            plain = run(5.0)
        require(plain.item() == 30.0, "reading changed what the model computes: let the hook return None.")
        require(list(found) != ["triple"], "only the last module has an entry: all hooks share the loop variable, bind "
                                           "each name to its own hook.")
        require(found.keys() == modules.keys(), f"after a run the dictionary must have the keys {list(modules)}, not "
                                                f"{list(found)}.")
        values = {name: tensor_like(found[name], shape=(1, 1)).item() for name in modules}
        require(values == {"double": 10.0, "triple": 30.0}, "expected the outputs 10 and 30, got "
                f"{list(values.values())}: keep the output of the module, not its input.")
        with student_code():
            manager.__exit__(None, None, None)
        left = _hook_count(modules)
        require(left == 0, f"{left} hooks are still there after the block: remove every handle.")
        run(7.0)
        require(found["triple"].item() == 30.0, "the dictionary still fills after the block.")
        _raise_inside(attempt, modules)
        again = attempt(modules)
        with student_code():
            fresh = again.__enter__()
        require(fresh is not found, "two blocks share one dictionary: make a new one in every call.")
        again.__exit__(None, None, None)
    finally:
        for module in modules.values():
            module._forward_hooks.clear()


def _raise_inside(attempt: Callable, modules: dict[str, nn.Module]) -> None:
    """The block raises: the hooks must go, and the error must come out."""
    came_out = False
    try:
        with attempt(modules):
            raise KeyError("inside the block")
    except KeyError:
        came_out = True
    require(_hook_count(modules) == 0, "after an error inside the block the hooks are still there: remove them in "
                                       "`finally`.")
    require(came_out, "an error inside the block disappeared: use `finally`, which lets it pass, not `except`.")


@exercise("2.2 kept", difficulty=2, minutes=4)
def _(attempt):
    output, ends = _numbers(3, 4, 2), torch.tensor([1, 3, 2])
    expected = torch.stack([output[0, 1], output[1, 3], output[2, 2]])
    mistakes = {"Every prompt was read at the last position: shorter ones are padded, use `ends`.": output[:, -1],
                "Prompt 0 was read three times: choose row and position together.": output[0][ends],
                "Every prompt was read at the end of the first one: pair each row with its own end.": output[:, 1]}
    for kind, value in (("MLP", output), ("attention", (output, _numbers(3, 5, 4, 4)))):
        result = call(attempt, value, ends)
        require(not isinstance(result, torch.Tensor) or result.dim() > 1,
                f"For {kind} output it keeps one prompt of the batch: [0] gives the activation only of a tuple.")
        close(tensor_like(result, shape={"prompt": 3, "width": 2}), expected, wrong=mistakes)


@exercise("2.3 rebuild", difficulty=2, minutes=4)
def _(attempt):
    embedding, attn, mlp = _numbers(3, 4), _numbers(2, 3, 4, seed=1), _numbers(2, 3, 4, seed=2)
    result = tensor_like(call(attempt, embedding, attn, mlp), shape={"step": 5, "prompt": 3, "width": 4})
    a0, a1, m0, m1 = attn[0], attn[1], mlp[0], mlp[1]

    def sums(*parts):
        return torch.stack([sum(parts[:i + 1]) for i in range(5)])

    close(result, sums(embedding, a0, m0, a1, m1), wrong={
        "The MLP of a layer was added before its attention: attention comes first.": sums(embedding, m0, a0, m1, a1),
        "All attention layers were added before the MLPs: the two alternate.": sums(embedding, a0, a1, m0, m1),
        "These are the updates alone: each step must hold everything added so far.":
            torch.stack([embedding, a0, m0, a1, m1]),
        "Each step holds the embedding and one update: earlier updates stay in the stream.":
            torch.stack([embedding, *(embedding + part for part in (a0, m0, a1, m1))])})


@exercise("2.4 first_shown", difficulty=2, minutes=5)
def _(attempt):
    # answer on top after steps: prompt 0 {2, 3}, prompt 1 {0, 2}, prompt 2 never; vocabulary of 4, answers 1, 0, 3
    winners = torch.tensor([[0, 0, 0], [2, 1, 1], [1, 0, 2], [1, 3, 0]])
    logits = torch.nn.functional.one_hot(winners, 4).float() + 0.1 * _numbers(4, 3, 4).clamp(-1, 1)
    result = tensor_like(call(attempt, logits, torch.tensor([1, 0, 3])), shape={"prompt": 3}, dtype=int)
    close(result, [2, 0, -1], wrong={
        "Where the answer never comes first, the result must be -1: argmax over all False is 0.": [2, 0, 0],
        "This is the last step that shows the answer, the first is asked for.": [3, 2, -1],
        "Steps are counted from 0, the embedding.": [3, 1, -1],
        "This is the step with the highest logit of the answer: ask when it beats all other tokens.":
            logits.gather(-1, torch.tensor([1, 0, 3]).expand(4, 3)[..., None]).squeeze(-1).argmax(0)})


@exercise("2.5 two_tests", difficulty=3, minutes=6)
def _(attempt):
    kind, layer, site = "mlp_out", 1, "blocks.1.hook_mlp_out"
    _, cache = _model().run_with_cache(_prompts().tokens, prepend_bos=False)
    last = f"blocks.{_model().cfg.n_layers - 1}.hook_resid_post"
    final, update, before = (_rows(cache[name].detach()) for name in (last, site, "blocks.1.hook_resid_mid"))
    result = call(attempt, _model(), _prompts(), final, update, kind, layer)
    require(isinstance(result, (tuple, list)) and len(result) == 2, "return two tensors: subtracted, left_out.")
    subtracted, left_out = (tensor_like(r, shape={"prompt": 2, "vocab": _model().cfg.d_vocab}) for r in result)

    def nothing_at_end(tensor):
        tensor[torch.arange(2), _prompts().ends] = 0
        return tensor

    right = _final_logits(final - update), _rows(_logits_with(site, nothing_at_end))
    close(subtracted, right[0], atol=1e-3, wrong={
        "`subtracted` shows the update left out of the run: are the two results swapped?": right[1],
        "`subtracted` decodes the state before the update, which is the circular test: subtract from the final state.":
            _final_logits(before),
        "`subtracted` holds the untouched final state: subtract the update before decoding.": _final_logits(final),
        "`subtracted` adds the update a second time: the sign is flipped.": _final_logits(final + update),
        "`subtracted` skips the final norm: use decoding.decode.": (final - update) @ _model().W_U})
    close(left_out, right[1], atol=1e-3, wrong={
        "`left_out` equals `subtracted`: later layers must run without the update.": right[0],
        "`left_out` equals the plain run: nothing was left out.": _rows(_logits_with()),
        "`left_out` removed the update at every position: only the end is asked for.":
            _rows(_logits_with(site, torch.zeros_like))})


@exercise("2.6 direct_contribution", difficulty=4, minutes=7)
def _(attempt):
    # Width 2. Both final states have variance 4, so the scale is 2, and 3 with eps 5. One complication at a time, so
    # that a mistake is named whatever comes with it.
    final, toward = torch.tensor([[4.0, 0.0], [1.0, 5.0]]), torch.tensor([[1.0, 5.0], [2.0, 1.0]])
    centred, written = torch.tensor([[1.0, -1.0], [-2.0, 2.0]]), torch.tensor([[3.0, 1.0], [0.0, 4.0]])
    ones, gain = torch.ones(2), torch.tensor([1.5, 6.0])

    def score(x, weight=gain):
        return (x * weight * toward).sum(-1)

    def ask(x, weight, eps, expected, wrong):
        result = tensor_like(call(attempt, x, final, toward, weight, eps), shape={"prompt": 2})
        close(result, torch.tensor(expected), wrong=wrong)

    ask(centred, ones, 0.0, [-4 / 2, -2 / 2], {
        "The scale is that of the written vector: the final norm divides by that of the final state.":
            score(centred, ones) / torch.tensor([1.0, 2.0]),
        "Nothing was divided by the scale of the final norm.": score(centred, ones),
        "It was divided by the variance: a norm divides by its root.": score(centred, ones) / 4,
        "The variance divides by width - 1: a layer norm divides by width, use unbiased=False.":
            score(centred, ones) / 8**0.5,
        "The mean of the final state was subtracted: centre the written vector with its own mean.":
            score(centred - final.mean(-1, keepdim=True), ones) / 2})
    ask(centred, gain, 0.0, [-28.5 / 2, 6 / 2], {
        "The gain of the final norm (its weight) is missing.": score(centred, ones) / 2})
    ask(centred, gain, 5.0, [-28.5 / 3, 6 / 3], {
        "`eps` is missing under the root.": score(centred) / 2,
        "`eps` belongs under the root, not behind it.": score(centred) / (2 + 5)})
    ask(written, gain, 5.0, [-28.5 / 3, 6 / 3], {
        "The mean is still in: a layer norm subtracts it from everything it is given.": score(written) / 3})


@exercise("2.7 transplant", difficulty=3, minutes=5)
def _(attempt):
    kind, layer, site = "attn_out", 2, "blocks.2.hook_attn_out"
    update = 3 * _numbers(2, _model().cfg.d_model, seed=4)
    result = call(attempt, _model(), update, _prompts(), kind, layer)
    result = tensor_like(result, shape={"prompt": 2, "vocab": _model().cfg.d_vocab})
    ends = _prompts().ends

    def write(rows, positions, new=update, add=False):
        def change(tensor):
            tensor[rows, positions] = new + tensor[rows, positions] if add else new
            return tensor
        return _rows(_logits_with(site, change))

    both, whole = torch.arange(2), slice(None)
    close(result, write(both, ends), atol=1e-3, wrong={
        "The update was added to the target's own: it must take its place.": write(both, ends, add=True),
        "The update was written at every position: only the end is asked for.": write(whole, whole, update[:, None]),
        "It was written at the last position: shorter ones are padded, use targets.ends.": write(both, -1),
        "The updates went to the wrong prompts: row i belongs to target i.": write(both, ends, update.flip(0)),
        "Nothing was written: the logits are those of the plain run.": _rows(_logits_with())})
