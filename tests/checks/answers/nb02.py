"""Answers to the exercises of notebook 02 that must be rejected by name, and right ones written differently."""
from contextlib import ExitStack, contextmanager

import torch

from utils.decoding import decode
from utils.engine import Do, Each, Site, at_end, read, run


# ---------------------------------------------------------------- 2.1

def _reading(hook_of, cleanup=True, store=dict):
    @contextmanager
    def reading(modules):
        found, handles = store(), []
        handles += [module.register_forward_hook(hook_of(found, name)) for name, module in modules.items()]
        yield found
        for handle in handles if cleanup else []:
            handle.remove()
    return reading


def keep(found, name):
    return lambda module, inputs, output: found.update({name: output})


def keep_input(found, name):
    return lambda module, inputs, output: found.update({name: inputs[0]})


def double(found, name):
    def hook(module, inputs, output):
        found[name] = output
        return 2 * output
    return hook


_SHARED = {}


@contextmanager
def late_binding(modules):
    found, handles = {}, []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(lambda module, inputs, output: found.update({name: output})))
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def swallows(modules):
    found = {}
    handles = [module.register_forward_hook(keep(found, name)) for name, module in modules.items()]
    try:
        yield found
    except Exception:
        pass
    for handle in handles:
        handle.remove()


@contextmanager
def one_dictionary(modules):
    with reading_with_stack(modules, _SHARED) as found:
        yield found


@contextmanager
def yields_nothing(modules):
    with reading_with_stack(modules):
        yield


def undecorated(modules):
    found = {}
    yield found


class reading_with_stack:
    """Right: a class, and the handles themselves as context managers."""

    def __init__(self, modules, found=None):
        self.modules, self.found, self.stack = modules, {} if found is None else found, ExitStack()

    def __enter__(self):
        for name, module in self.modules.items():
            self.stack.enter_context(module.register_forward_hook(keep(self.found, name)))
        return self.found

    def __exit__(self, *error):
        self.stack.close()


# ---------------------------------------------------------------- 2.2

def tensor_of(output):
    return output if isinstance(output, torch.Tensor) else output[0]


def item_0_of_a_tensor(output, ends):
    if isinstance(output, tuple):
        return output[0][torch.arange(len(ends)), ends]
    return output[0][len(output[0]) - 1]


def last_position(output, ends):
    return tensor_of(output)[:, -1]


def prompt_0_for_all(output, ends):
    return tensor_of(output)[0][ends]


def one_end_for_all(output, ends):
    return tensor_of(output)[:, ends[0]]


def all_pairs(output, ends):
    return tensor_of(output)[:, ends]


def with_gather(output, ends):
    tensor = tensor_of(output)
    return tensor.gather(1, ends[:, None, None].expand(-1, 1, tensor.shape[-1])).squeeze(1)


# ---------------------------------------------------------------- 2.3

def alternating(embedding, attn_out, mlp_out):
    return [part for pair in zip(attn_out, mlp_out) for part in pair]


def mlp_first(embedding, attn_out, mlp_out):
    return torch.stack([embedding, *alternating(embedding, mlp_out, attn_out)]).cumsum(0)


def kinds_in_a_row(embedding, attn_out, mlp_out):
    return torch.cat([embedding[None], attn_out, mlp_out]).cumsum(0)


def updates_alone(embedding, attn_out, mlp_out):
    return torch.stack([embedding, *alternating(embedding, attn_out, mlp_out)])


def forgets_earlier(embedding, attn_out, mlp_out):
    return torch.stack([embedding, *(embedding + part for part in alternating(embedding, attn_out, mlp_out))])


def no_embedding(embedding, attn_out, mlp_out):
    return torch.stack(alternating(embedding, attn_out, mlp_out)).cumsum(0)


def in_place(embedding, attn_out, mlp_out):
    states = [embedding.clone()]
    for part in alternating(embedding, attn_out, mlp_out):
        embedding += part
        states.append(embedding.clone())
    return torch.stack(states)


def by_loop(embedding, attn_out, mlp_out):
    states = [embedding]
    for layer in range(len(attn_out)):
        states.append(states[-1] + attn_out[layer])
        states.append(states[-1] + mlp_out[layer])
    return torch.stack(states)


# ---------------------------------------------------------------- 2.4

def zero_if_never(logits, answers):
    return (logits.argmax(-1) == answers).int().argmax(0)


def last_shown(logits, answers):
    top = logits.argmax(-1) == answers
    last = len(top) - 1 - top.flip(0).int().argmax(0)
    return torch.where(top.any(0), last, -1)


def from_one(logits, answers):
    top = logits.argmax(-1) == answers
    return torch.where(top.any(0), top.int().argmax(0) + 1, -1)


def strongest(logits, answers):
    return logits.gather(-1, answers.expand(len(logits), -1)[..., None]).squeeze(-1).argmax(0)


def by_search(logits, answers):
    def first(prompt):
        hits = [s for s in range(len(logits)) if int(logits[s, prompt].argmax()) == int(answers[prompt])]
        return hits[0] if hits else -1
    return torch.tensor([first(prompt) for prompt in range(len(answers))])


# ---------------------------------------------------------------- 2.5

def at_the_ends(prompts):
    return Each.of(prompts.ends)


def everywhere(prompts):
    return None


def _two(at_the_end, position=at_the_ends):
    """An answer with `at_the_end(model, final, update)` first; the update is left out at `position(prompts)`."""
    def two_tests(model, prompts, final, update, kind, layer):
        return at_the_end(model, final, update), at_end(model, prompts, [Do(Site(kind, layer, position(prompts)), 0.0)])
    return two_tests


def subtracted(model, final, update):
    return decode(model, final - update)


def swapped(model, prompts, final, update, kind, layer):
    return _two(subtracted)(model, prompts, final, update, kind, layer)[::-1]


def circular(model, prompts, final, update, kind, layer):
    after = Site("resid_post", layer, Each.of(prompts.ends))
    state = read(model, prompts, [after])[1][after]
    return _two(lambda model, final, update: decode(model, state - update))(model, prompts, final, update, kind, layer)


def same_twice(model, prompts, final, update, kind, layer):
    return subtracted(model, final, update), subtracted(model, final, update)


def plain_run(model, prompts, final, update, kind, layer):
    return subtracted(model, final, update), at_end(model, prompts)


def one_only(model, prompts, final, update, kind, layer):
    return subtracted(model, final, update)


def with_subtraction(model, prompts, final, update, kind, layer):
    """Right: the update is subtracted from the stream right behind it, which leaves it out as well."""
    after = {"attn_out": "resid_mid", "mlp_out": "resid_post"}[kind]
    logits = run(model, prompts, [Do(Site(after, layer, Each.of(prompts.ends)), lambda state: state - update[:, None])])
    return model.unembed(model.ln_final((final - update)[None]))[0], logits[torch.arange(len(prompts)), prompts.ends]


# ---------------------------------------------------------------- 2.6

def _score(centre=True, scale_of="final", gain_on=True, eps_at="under", unbiased=False, divide=True, root=True):
    def direct_contribution(written, final, toward, gain, eps):
        x = written - written.mean(-1, keepdim=True) if centre else written
        variance = (final if scale_of == "final" else written).var(-1, unbiased=unbiased)
        scale = {"under": (variance + eps).sqrt(), "behind": variance.sqrt() + eps, "none": variance.sqrt()}[eps_at]
        scale = scale if root else variance + eps
        x = x / scale[:, None] if divide else x
        return ((x * gain if gain_on else x) * toward).sum(-1)
    return direct_contribution


def centred_by_final(written, final, toward, gain, eps):
    scale = (final.var(-1, unbiased=False) + eps).sqrt()
    return ((written - final.mean(-1, keepdim=True)) / scale[:, None] * gain * toward).sum(-1)


def by_direction(written, final, toward, gain, eps):
    """Right: the norm is moved to the other side, into the direction that is read."""
    direction = gain * toward
    direction = direction - direction.mean(-1, keepdim=True)
    spread = final - final.mean(-1, keepdim=True)
    return torch.einsum("pw,pw->p", written, direction) / torch.sqrt(spread.square().mean(-1) + eps)


# ---------------------------------------------------------------- 2.7

def _written(position=at_the_ends, value=lambda update: update):
    def transplant(model, update, targets, kind, layer):
        return at_end(model, targets, [Do(Site(kind, layer, position(targets)), value(update))])
    return transplant


def forgets_to_write(model, update, targets, kind, layer):
    return at_end(model, targets)


def with_transformer_lens(model, update, targets, kind, layer):
    rows = torch.arange(len(targets))

    def hook(tensor, hook):
        tensor = tensor.clone()
        tensor[rows, targets.ends] = update
        return tensor

    hooks = [(f"blocks.{layer}.hook_{kind}", hook)]
    return model.run_with_hooks(targets.tokens, fwd_hooks=hooks, prepend_bos=False)[rows, targets.ends]


WRONG = {
    "2.1 reading": [(_reading(keep, cleanup=False), "still there after the block"),
                    (_reading(keep), "remove them in `finally`"),
                    (late_binding, "loop variable"), (swallows, "disappeared"),
                    (_reading(keep_input), "not its input"), (_reading(double), "changed what the model computes"),
                    (one_dictionary, "share one dictionary"), (yields_nothing, "must give a dictionary"),
                    (undecorated, "decorate it with @contextmanager")],
    "2.2 kept": [(item_0_of_a_tensor, "keeps one prompt of the batch"), (last_position, "shorter ones are padded"),
                 (prompt_0_for_all, "Prompt 0 was read three times"),
                 (one_end_for_all, "pair each row with its own end"),
                 (all_pairs, "one axis too many")],
    "2.3 rebuild": [(mlp_first, "attention comes first"), (kinds_in_a_row, "the two alternate"),
                    (updates_alone, "updates alone"), (forgets_earlier, "earlier updates stay"),
                    (no_embedding, "expected [step 5"), (in_place, "changed its argument `embedding`")],
    "2.4 first_shown": [(zero_if_never, "argmax over all False"), (last_shown, "last step that shows"),
                        (from_one, "counted from 0"), (strongest, "beats all other tokens")],
    "2.5 two_tests": [(swapped, "are the two results swapped"), (circular, "circular test"),
                      (same_twice, "later layers must run"), (plain_run, "nothing was left out"),
                      (one_only, "return two tensors"),
                      (_two(lambda model, final, update: decode(model, final)), "untouched final state"),
                      (_two(lambda model, final, update: decode(model, final + update)), "sign is flipped"),
                      (_two(lambda model, final, update: (final - update) @ model.W_U), "skips the final norm"),
                      (_two(subtracted, everywhere), "every position")],
    "2.6 direct_contribution": [(_score(scale_of="own"), "scale is that of the written"),
                                (_score(centre=False), "mean is still in"),
                                (_score(divide=False), "Nothing was divided"),
                                (_score(gain_on=False), "gain of the final norm"),
                                (_score(eps_at="none"), "`eps` is missing"), (_score(eps_at="behind"), "not behind it"),
                                (_score(unbiased=True), "unbiased=False"), (_score(root=False), "divides by its root"),
                                (_score(centre=False, eps_at="none", unbiased=True), "unbiased=False"),
                                (centred_by_final, "its own mean")],
    "2.7 transplant": [(_written(value=lambda update: lambda own: own + update[:, None]), "take its place"),
                       (_written(everywhere, lambda update: update[:, None]), "every position"),
                       (_written(lambda targets: targets.tokens.shape[1] - 1), "use targets.ends"),
                       (_written(value=lambda update: update.flip(0)), "wrong prompts"),
                       (forgets_to_write, "Nothing was written")],
}
RIGHT = {
    "2.1 reading": [reading_with_stack],
    "2.2 kept": [with_gather],
    "2.3 rebuild": [by_loop],
    "2.4 first_shown": [by_search],
    "2.5 two_tests": [with_subtraction],
    "2.6 direct_contribution": [by_direction],
    "2.7 transplant": [with_transformer_lens],
}
