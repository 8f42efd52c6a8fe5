"""Answers to the exercises of lesson 00, see the top of tests/checks/test_exercises.py."""
import torch

from utils.models import encode


def tokenize(model, text):
    return len(model.tokenizer.tokenize(text))


def through_encode(model, text):
    return int(encode(model, text, warn=False).mask.sum()) - 1


def by_definition(logits, token):
    odds = logits[:, -1, :].exp()
    return odds[:, token] / odds.sum(dim=1)


def loop_over_prompts(logits, token):
    return torch.stack([torch.softmax(prompt[-1], dim=0)[token] for prompt in logits])


def swapped_axes(logits, token):
    return logits[:, -1].softmax(0)[:, token]


# ---------------------------------------------------------------- 0.3

def reader(keep=lambda inputs, output: output.clone(), answer=None, always=True, swallow=False):
    """A reading function with one flaw at a time."""
    def read(module, forward):
        kept = []

        def hook(module, inputs, output):
            kept.append(keep(inputs, output))
            return answer and answer(output)

        handle = module.register_forward_hook(hook)
        try:
            forward()
        except Exception:
            if always:
                handle.remove()
            if not swallow:
                raise
        handle.remove()
        return kept[0]
    return read


def leaves_its_hook(module, forward):
    kept = []
    module.register_forward_hook(lambda module, inputs, output: kept.append(output.clone()))
    forward()
    return kept[0]


def with_finally(module, forward):
    found = {}

    def hook(module, inputs, output):
        found["value"] = output.detach().clone()

    handle = module.register_forward_hook(hook)
    try:
        forward()
    finally:
        handle.remove()
    return found["value"]


def whole_run(module, forward):
    kept = []
    hook = lambda module, inputs, output: kept.append(output.clone())
    with torch.nn.modules.module.register_module_forward_hook(hook):
        forward()
    return kept[-1]


def never_runs(module, forward):
    return torch.tensor([[1.0, -2], [3, 4]])


# ---------------------------------------------------------------- 0.4

def hooked(name="blocks.{layer}.hook_mlp_out", shift=0, change=torch.zeros_like):
    def without(model, tokens, layer):
        place = name.format(layer=layer + shift)
        return model.run_with_hooks(tokens, fwd_hooks=[(place, lambda value, hook: change(value))])
    return without


def zero_at(*index):
    def change(value):
        value = value.clone()
        value[index] = 0
        return value
    return change


def stays_hooked(model, tokens, layer):
    model.blocks[layer].mlp.register_forward_hook(lambda module, inputs, output: output * 0)
    return model(tokens)


def native(model, tokens, layer):
    with model.blocks[layer].mlp.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output)):
        return model(tokens)


WRONG = {
    "0.1 count_tokens": [
        (lambda model, text: len(text), "counted characters"),
        (lambda model, text: len(text.split()), "counted words"),
        (lambda model, text: len(encode(model, text).labels[0]), "is BOS, which stands"),
        (lambda model, text: model.tokenizer.tokenize(text), "a list came back"),
        (lambda model, text: 5, "twice as many")],
    "0.2 next_token_probability": [
        (lambda logits, token: logits[:, -1, token], "that is the logit"),
        (lambda logits, token: logits.log_softmax(-1)[:, -1, token], "logarithm"),
        (lambda logits, token: logits.softmax(1)[:, -1, token], "over the positions"),
        (swapped_axes, "over the prompts"),
        (lambda logits, token: logits.softmax(-1)[:, 0, token], "the first position"),
        (lambda logits, token: logits.softmax(-1)[:, -2, token], "off by one"),
        (lambda logits, token: logits[:, -1, token].sigmoid(), "a sigmoid looks"),
        (lambda logits, token: logits.softmax(-1)[:, :, token], "one axis too many"),
        (lambda logits, token: logits[0, -1].softmax(-1)[token], "axis prompt is missing")],
    "0.3 read_output": [
        (leaves_its_hook, "left 1 hook"),
        (reader(always=False), "when `forward` raises"),
        (reader(swallow=True), "was swallowed"),
        (reader(keep=lambda inputs, output: output), "overwritten by a later module"),
        (reader(keep=lambda inputs, output: inputs[0].clone()), "the input of the module"),
        (reader(keep=lambda inputs, output: output[0].clone()), "axis batch is missing"),
        (reader(answer=lambda output: output * 0), "must return None"),
        (whole_run, "result of the whole run"),
        (never_runs, "never called")],
    "0.4 without_mlp": [
        (hooked(change=lambda value: None), "nothing changed"),
        (hooked(shift=1), "one layer later"),
        (hooked(shift=-1), "one layer earlier"),
        (hooked("blocks.{layer}.hook_attn_out"), "switched off attention"),
        (hooked("blocks.{layer}.hook_resid_post"), "whole residual stream"),
        (hooked(change=zero_at(slice(None), -1)), "last position only"),
        (hooked(change=zero_at(0)), "only the first prompt"),
        (hooked(change=lambda value: value / 2), "not the logits of a run"),
        (stays_hooked, "left 1 hook")],
    "0.5 logits_at_end": [
        (lambda logits, ends: logits[:, -1], "padded row"),
        (lambda logits, ends: logits[:, ends], "every end from every prompt"),
        (lambda logits, ends: logits[0, ends], "from the first prompt"),
        (lambda logits, ends: logits[torch.arange(len(ends)), ends - 1], "off by one"),
        (lambda logits, ends: logits[:, ends.min()], "cut to the shortest")],
}
RIGHT = {
    "0.1 count_tokens": [tokenize, through_encode],
    "0.2 next_token_probability": [by_definition, loop_over_prompts],
    "0.3 read_output": [with_finally, reader()],
    "0.4 without_mlp": [hooked(), hooked(change=zero_at()), native],
    "0.5 logits_at_end": [
        lambda logits, ends: torch.stack([row[end] for row, end in zip(logits, ends)]),
        lambda logits, ends: logits.gather(1, ends[:, None, None].expand(-1, 1, logits.shape[-1])).squeeze(1)],
}
