"""Answers to the exercises of lesson 03, see the top of tests/checks/test_exercises.py."""
import torch

from utils.engine import Do, Each, Site, run


def ids_of_all(logits, correct, wrong):
    return logits[:, correct] - logits[:, wrong]


def with_gather(logits, correct, wrong):
    both = torch.stack([correct, wrong], 1)
    right, other = logits.gather(1, both).unbind(1)
    return right - other


def prompt_by_prompt(logits, correct, wrong):
    return torch.stack([row[c] - row[w] for row, c, w in zip(logits, correct, wrong)])


# ---------------------------------------------------------------- 3.2 and 3.6: one hook each

def patcher(write, name="blocks.{layer}.hook_resid_pre", shift=0):
    """A patching function; `write(value, clean, index)` returns what the hook writes."""
    def patch(model, tokens, clean_cache, layer, index):
        place = name.format(layer=layer + shift)
        hook = lambda value, hook: write(value, clean_cache[place], index)
        return model.run_with_hooks(tokens, fwd_hooks=[(place, hook)])
    return patch


def assign(*where):
    """Copy the clean value at `where`; "index" stands for the position or head that is asked for."""
    def write(value, clean, index):
        chosen = tuple(index if part == "index" else part for part in where)
        value = value.clone()
        value[chosen] = clean[chosen]
        return value
    return write


EVERY = slice(None)
one_position, one_head = assign(EVERY, "index"), assign(EVERY, -1, "index")
HEAD = "blocks.{layer}.attn.hook_z"


def forgets_return(value, clean, index):
    value = value.clone()
    value[:, index] = clean[:, index]


def writes_to_the_cache(value, clean, index):
    clean[:, :index], clean[:, index + 1:] = value[:, :index], value[:, index + 1:]
    return clean


def with_where(value, clean, index):
    here = torch.arange(value.shape[1])[None, :, None] == index
    return torch.where(here, clean, value)


def with_index_copy(value, clean, index):
    return value.index_copy(1, torch.tensor([index % value.shape[1]]), clean[:, index][:, None])


def native_hook(model, tokens, clean_cache, layer, position):
    """In place, with a pre-hook of PyTorch on the block."""
    def write(module, args):
        hidden = args[0].clone()
        hidden[:, position] = clean_cache[f"blocks.{layer}.hook_resid_pre"][:, position]
        return (hidden, *args[1:])
    with model.blocks[layer].register_forward_pre_hook(write):
        return model(tokens)


def leaves_its_hook(model, tokens, clean_cache, layer, position):
    model.blocks[layer].register_forward_hook(lambda module, args, output: None)
    return patcher(one_position)(model, tokens, clean_cache, layer, position)


def by_the_engine(model, tokens, clean_cache, layer, head):
    value = clean_cache[HEAD.format(layer=layer)][:, -1, head]
    return run(model, tokens, [Do(Site("z", layer, Each.of([tokens.shape[1] - 1] * len(tokens)), head), value)])


# ---------------------------------------------------------------- 3.3

def mean_of_shares(patched, corrupted, clean):
    return ((patched - corrupted) / (clean - corrupted)).mean(-1)


def difference_of_means(patched, corrupted, clean):
    low, high = corrupted.mean(), clean.mean()
    return (patched.mean(dim=-1) - low) / (high - low)


# ---------------------------------------------------------------- 3.4

def sweeper(fresh=True, own_ids=True, all_prompts=True, shared_copy=False, turned=False, sign=1):
    """The sweep with one flaw at a time; without any of its repairs it is the one of the lesson."""
    def sweep(model, tokens, clean_cache, corrupted_cache, layer, correct, wrong):
        name, found = f"blocks.{layer}.hook_resid_pre", []
        held = corrupted_cache[name].clone() if shared_copy else corrupted_cache[name]
        for position in range(tokens.shape[1]):
            def write_clean(resid, hook):
                patched = resid.clone() if fresh else held
                patched[:, position] = clean_cache[name][:, position]
                return patched
            end = model.run_with_hooks(tokens, fwd_hooks=[(name, write_clean)])[:, -1]
            rows = torch.arange(len(end))
            difference = end[rows, correct] - end[rows, wrong] if own_ids else end[:, correct[0]] - end[:, wrong[0]]
            found.append(sign * (difference if all_prompts else difference[0]))
        return torch.stack(found, 1 if turned else 0)
    return sweep


def rows_of_one_batch(model, tokens, clean_cache, corrupted_cache, layer, correct, wrong):
    """All positions at once, as rows of one batch."""
    width, name = tokens.shape[1], f"blocks.{layer}.hook_resid_pre"

    def write(resid, hook):
        resid = resid.view(width, len(tokens), width, -1).clone()
        for position in range(width):
            resid[position, :, position] = clean_cache[name][:, position]
        return resid.flatten(0, 1)
    end = model.run_with_hooks(tokens.repeat(width, 1), fwd_hooks=[(name, write)])[:, -1]
    pick = lambda ids: end.gather(1, ids.repeat(width)[:, None]).view(width, -1)
    return pick(correct) - pick(wrong)


# ---------------------------------------------------------------- 3.7

def path(hold="all", kept="clean", whole_layer=False, position=EVERY, shift=0, mlps=False):
    """One sender on the direct path. hold: "all" heads, only the "later" ones, or "none"; kept: at which value."""
    def direct(model, clean_tokens, clean_cache, corrupted_cache, sender):
        layer, head = sender[0], (sender[1] + shift) % model.cfg.n_heads
        caches = {"clean": clean_cache, "corrupted": corrupted_cache}

        def write(name, send, steady):
            def hook(z, hook):
                z = caches[kept][name].clone() if steady else z.clone()
                if send:
                    which = (EVERY, position) if whole_layer else (EVERY, position, head)
                    z[which] = corrupted_cache[name][which]
                return z
            return name, hook

        steady = {"all": lambda i: i != layer, "later": lambda i: i > layer, "none": lambda i: False}[hold]
        hooks = [write(f"blocks.{i}.attn.hook_z", i == layer, steady(i)) for i in range(model.cfg.n_layers)]
        hooks += [write(f"blocks.{i}.hook_mlp_out", False, True) for i in range(model.cfg.n_layers)] if mlps else []
        return model.run_with_hooks(clean_tokens, fwd_hooks=hooks)
    return direct


WRONG = {
    "3.1 logit_difference": [
        (ids_of_all, "every id from every prompt"),
        (lambda logits, correct, wrong: with_gather(logits, wrong, correct), "the sign is flipped"),
        (lambda logits, correct, wrong: logits[0, correct[0]] - logits[0, wrong[0]], "only the first prompt"),
        (lambda logits, correct, wrong: with_gather(logits, correct, wrong).mean(), "averaged over the prompts"),
        (lambda logits, correct, wrong: logits[0, correct] - logits[0, wrong], "taken from the first prompt"),
        (lambda logits, correct, wrong: logits[torch.arange(len(logits)), correct], "the right token alone"),
        (lambda logits, correct, wrong: with_gather(logits.softmax(-1), correct, wrong), "these are probabilities")],
    "3.2 patch_residual": [
        (patcher(lambda value, clean, index: clean), "the whole stream"),
        (patcher(forgets_return), "nothing changed"),
        (patcher(lambda value, clean, index: value), "nothing changed"),
        (patcher(assign(0, "index")), "only the first prompt"),
        (patcher(lambda value, clean, index: one_position(value, clean, index + 1)), "the next one was"),
        (patcher(lambda value, clean, index: one_position(value, clean, index - 1)), "the one before was"),
        (patcher(one_position, shift=1), "stream *entering*"),
        (patcher(one_position, "blocks.{layer}.hook_resid_post"), "stream *entering*"),
        (patcher(one_position, shift=-1), "off by one layer"),
        (patcher(assign(EVERY, -1)), "the last position was"),
        (patcher(writes_to_the_cache), "changed its argument `clean_cache`"),
        (patcher(one_position, "blocks.{layer}.hook_attn_out"), "not the logits of a run"),
        (leaves_its_hook, "left 1 hook")],
    "3.3 recovery": [
        (mean_of_shares, "mean of the shares"),
        (lambda patched, low, high: (high - patched).mean(-1) / (high - low).mean(), "baselines are swapped"),
        (lambda patched, low, high: (patched - low).mean(-1), "effect in logits"),
        (lambda patched, low, high: (patched - low).mean(-1) / high.mean(), "not by the clean outcome"),
        (lambda patched, low, high: patched.mean(-1) / (high - low).mean(), "subtract the corrupted"),
        (lambda patched, low, high: (patched - low).abs().mean(-1) / (high - low).mean(), "no absolute value"),
        (lambda patched, low, high: (patched - low) / (high - low).mean(), "average over the last axis"),
        (lambda patched, low, high: (patched - low).mean() / (high - low).mean(), "expected [layer 2, position 3]"),
        (lambda patched, low, high: difference_of_means(patched, low, high) * (patched.dim() > 1), "a single patch"),
        (lambda patched, low, high: (patched - low).mean(-1) / (high - low).mean().abs(), "absolute value taken")],
    "3.4 sweep_layer": [
        (sweeper(fresh=False, own_ids=False, all_prompts=False), "changed its argument `corrupted_cache`"),
        (sweeper(fresh=False), "changed its argument `corrupted_cache`"),
        (sweeper(fresh=False, shared_copy=True), "still remembers"),
        (sweeper(all_prompts=False), "read the first prompt only"),
        (sweeper(own_ids=False), "with the ids of the first"),
        (sweeper(turned=True), "axes in another order"),
        (sweeper(sign=-1), "the sign is flipped")],
    "3.5 backup": [
        (lambda a, b: min(a, b), "both cells are needed"),
        (lambda a, b: a * b, "both cells are needed"),
        (lambda a, b: a, "hangs on one cell"),
        (lambda a, b: b, "hangs on one cell"),
        (lambda a, b: (a + b) / 2, "must restore everything"),
        (lambda a, b: a + b, "got 0 and 2"),
        (lambda a, b: float(a != b), "got 0 and 0"),
        (lambda a, b: 1, "got 1 and 1")],
    "3.6 patch_head": [
        (patcher(lambda z, clean, head: z, HEAD), "nothing changed"),
        (patcher(assign(EVERY, -1), HEAD), "all heads of the layer"),
        (patcher(assign(EVERY, EVERY, "index"), HEAD), "at every position"),
        (patcher(lambda z, clean, head: clean, HEAD), "the whole layer"),
        (patcher(assign(EVERY, "index"), HEAD), "used as a position"),
        (patcher(lambda z, clean, head: one_head(z, clean, head + 1), HEAD), "the next head"),
        (patcher(assign(0, -1, "index"), HEAD), "only the first prompt"),
        (patcher(assign(EVERY, -1), "blocks.{layer}.hook_attn_out"), "all heads of the layer"),
        (patcher(one_head, HEAD, shift=1), "not the logits of a run")],
    "3.7 direct_path": [
        (path(hold="none"), "plain activation patching"),
        (lambda model, clean_tokens, clean_cache, corrupted_cache, sender: model(clean_tokens), "the clean run"),
        (path(kept="corrupted", hold="later"), "held at their corrupted"),
        (path(whole_layer=True), "all heads of the sender's layer"),
        (path(position=-1), "last position only"),
        (path(mlps=True), "MLPs are held"),
        (path(shift=1), "another head")],
}
RIGHT = {
    "3.1 logit_difference": [with_gather, prompt_by_prompt,
                             lambda logits, correct, wrong: (logits[:, correct] - logits[:, wrong]).diagonal()],
    "3.2 patch_residual": [patcher(with_where), patcher(with_index_copy), native_hook,
                           patcher(one_position, "blocks.{layer}.hook_resid_post", shift=-1)],
    "3.3 recovery": [difference_of_means,
                     lambda patched, corrupted, clean: (patched - corrupted).sum(-1) / (clean - corrupted).sum()],
    "3.4 sweep_layer": [sweeper(), rows_of_one_batch],
    "3.5 backup": [lambda a, b: a + b - a * b, lambda a, b: a or b, lambda a, b: min(a + b, 1)],
    "3.6 patch_head": [by_the_engine,
                       patcher(lambda z, clean, head: torch.where(
                           (torch.arange(z.shape[1])[:, None, None] == z.shape[1] - 1)
                           & (torch.arange(z.shape[2])[:, None] == head), clean, z), HEAD)],
    "3.7 direct_path": [path(), path(hold="later")],
}
