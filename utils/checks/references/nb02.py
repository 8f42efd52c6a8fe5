"""Derived from the exercise cells of solutions/02_residual_stream_decoding.ipynb by python -m utils.authoring."""
from __future__ import annotations

import torch
from contextlib import contextmanager
from utils import decoding
from utils.engine import Do, Each, Site, at_end


@contextmanager
def reading(modules: dict[str, torch.nn.Module]):
    """Yield a dictionary that fills with the output of each module as the model runs; the hooks go when the block ends."""
    found, handles = {}, []
    try:
        for name, module in modules.items():
            def keep(module, inputs, output, name=name):
                found[name] = output
            handles.append(module.register_forward_hook(keep))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def kept(output, ends):
    """What stands at the end of each prompt, [prompt, width].

    output: a tensor [prompt, position, width], or a tuple whose first item is such a tensor; ends: [prompt].
    """
    tensor = output[0] if isinstance(output, tuple) else output
    return tensor[torch.arange(len(tensor), device=tensor.device), ends]


def rebuild(embedding, attn_out, mlp_out):
    """The stream after each step, [step, prompt, width].

    embedding: [prompt, width]; attn_out, mlp_out: [layer, prompt, width].
    """
    added = torch.stack([attn_out, mlp_out], 1).flatten(0, 1)
    return torch.cat([embedding[None], added]).cumsum(0)


def first_shown(logits, answers):
    """The first step after which the answer has the highest logit, [prompt]; -1 if there is none.

    logits: [step, prompt, vocab]; answers: token ids, [prompt].
    """
    top = logits.argmax(-1) == answers
    return torch.where(top.any(0), top.int().argmax(0), -1)


def two_tests(model, prompts, final, update, kind, layer):
    """(subtracted, left_out): logits at the end of each prompt, both [prompt, vocab].

    final, update: [prompt, width]; kind: "attn_out" or "mlp_out", the site of `update` together with `layer`.
    """
    subtracted = decoding.decode(model, final - update)
    left_out = at_end(model, prompts, [Do(Site(kind, layer, Each.of(prompts.ends)), 0.0)])
    return subtracted, left_out


def direct_contribution(written, final, toward, gain, eps):
    """What `written` adds to the logit difference, [prompt], with the final norm held at the scale of `final`.

    written, final, toward: [prompt, width]; gain: [width]; eps: a number.
    """
    scale = (final.var(-1, unbiased=False) + eps).sqrt()
    centred = written - written.mean(-1, keepdim=True)
    return (centred / scale[:, None] * gain * toward).sum(-1)


def transplant(model, update, targets, kind, layer):
    """Logits at the end of each target, [prompt, vocab], with `update` [prompt, width] in place of its own."""
    return at_end(model, targets, [Do(Site(kind, layer, Each.of(targets.ends)), update)])
