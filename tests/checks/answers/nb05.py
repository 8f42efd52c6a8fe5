"""Answers to the exercises of lesson 05, see the top of tests/checks/test_exercises.py."""
import torch

from utils.engine import Do, LayerConfig, Site, read, run

# ---------------------------------------------------------------- 5.1


def noise_by_hand(embeddings, subject, level, draws):
    rows = []
    for numbers in draws:
        row = embeddings.clone()
        for i, position in enumerate(range(*subject)):
            row[position] = row[position] + level * numbers[i]
        rows.append(row)
    return torch.stack(rows)


def padded_noise(embeddings, subject, level, draws):
    before, after = subject[0], len(embeddings) - subject[1]
    return embeddings + level * torch.nn.functional.pad(draws, (0, 0, before, after))


def noisy(shift=0, same=False, write="add", first=None, default=None):
    """The corruption with one flaw at a time."""
    def corrupt(embeddings, subject, level, draws):
        level = level or default if default else level
        found, start = embeddings.repeat(len(draws), 1, 1), (subject[0] if first is None else first) + shift
        chosen, numbers = slice(start, start + draws.shape[1]), level * (draws[:1] if same else draws)
        found[:, chosen] = {"add": found[:, chosen] + numbers, "replace": numbers.expand_as(found[:, chosen]),
                            "times": found[:, chosen] * (1 + numbers), "nothing": found[:, chosen],
                            "level": found[:, chosen] + draws}[write]
        return found
    return corrupt


def in_place(embeddings, subject, level, draws):
    embeddings[subject[0]:subject[1]] += level * draws[0]
    return embeddings.repeat(len(draws), 1, 1)


# ---------------------------------------------------------------- 5.2 and 5.4

def restorer(kind="resid_post", corrupted=True, every=False, shift=0, read_at=-1, logits=False, average=False, mend=True):
    def restore(model, prompts, corrupt, clean_states, layer, position, answer):
        values = clean_states[layer] if every else clean_states[layer, position + shift]
        plan = [corrupt] * corrupted + [Do(Site(kind, layer, None if every else position + shift), values)] * mend
        found = run(model, prompts, plan)[:, read_at]
        found = found[:, answer] if logits else found.softmax(-1)[:, answer]
        return found.mean() if average else found
    return restore


def with_hooks(model, prompts, corrupt, clean_states, layer, position, answer):
    """With TransformerLens instead of the engine."""
    def spoil(embeddings, hook):
        embeddings = embeddings.clone()
        embeddings[:, list(corrupt.site.position)] = corrupt.value
        return embeddings

    def mend(stream, hook):
        stream = stream.clone()
        stream[:, position] = clean_states[layer, position]
        return stream
    hooks = [("hook_embed", spoil), (f"blocks.{layer}.hook_resid_post", mend)]
    return model.run_with_hooks(prompts.tokens, fwd_hooks=hooks)[:, -1].log_softmax(-1)[:, answer].exp()


def window(kind_of=lambda kind: kind, layers=lambda w: w, corrupted=True, mend=True, join=None, logits=False):
    def restore(model, prompts, corrupt, clean_outputs, kind, chosen, position, answer):
        writes = [Do(Site(kind_of(kind), i, position), clean_outputs[i, position]) for i in layers(chosen)] if mend else []

        def score(*plan):
            end = run(model, prompts, [corrupt] * corrupted + list(plan))[:, -1]
            return end[:, answer] if logits else end.softmax(-1)[:, answer]
        return score(*writes) if join is None else join(torch.stack([score(write) for write in writes]), score())
    return restore


def as_function(model, prompts, corrupt, clean_outputs, kind, window, position, answer):
    """A function writes the value; whole activations, not one position."""
    def at(layer):
        def put(current):
            current = current.clone()
            current[:, position] = clean_outputs[layer, position]
            return current
        return Do(Site(kind, layer), put)
    plan = [corrupt] + [at(layer) for layer in window]
    return torch.stack([row.softmax(-1)[answer] for row in run(model, prompts, plan)[:, -1]])


other_kind = {"mlp_out": "attn_out", "attn_out": "mlp_out"}.get


# ---------------------------------------------------------------- 5.3, 5.5, 5.6

def three(total=lambda low, clean: clean - low.mean().item(), effect=lambda r, low, clean: (r - low).mean(-1),
          error=lambda r, low: (r - low).std(-1) / r.shape[-1] ** 0.5):
    return lambda restored, corrupted, clean: (total(corrupted, clean), effect(restored, corrupted, clean),
                                               error(restored, corrupted))


def by_sums(restored, corrupted, clean):
    n = restored.shape[-1]
    gain = restored - corrupted[None]
    mean = gain.sum(-1) / n
    return (torch.tensor(clean) - corrupted).mean(), mean, ((gain - mean[..., None]).square().sum(-1) / (n - 1) / n).sqrt()


def mapper(zero=True, fill=float("nan"), chosen=None, more=0, scores=False, cut=False):
    """The map with one flaw at a time."""
    def trace(restore, spoil, shape, start, stop, level=None, default=0.3):
        level = (default if level is None else level) if zero else (level or default)
        low, found = spoil(level).mean(), torch.full(shape, fill)
        for layer in range(start, stop + more):
            for position in range(shape[0]):
                score = restore(level, layer, position)
                found[position, layer] = (score.mean() if chosen is None else score[chosen]) - (0 if scores else low)
        return found[:, start:stop] if cut else found
    return trace


def stacked_map(restore, spoil, shape, start, stop, level=None, default=0.3):
    if level is None:
        level = default
    columns = []
    for layer in range(shape[1]):
        computed = [(restore(level, layer, p) - spoil(level)).mean() for p in range(shape[0])]
        columns.append(torch.stack(computed) if start <= layer < stop else torch.full((shape[0],), torch.nan))
    return torch.stack(columns, 1)


def errors(within=lambda e: e.std(1) / e.shape[1] ** 0.5, across=lambda e: e.mean(1).std() / len(e) ** 0.5):
    return lambda effects: (within(effects), across(effects))


# ---------------------------------------------------------------- 5.7

def severed(held="corrupted", kind_of=lambda part: part, start=1, count=None, corrupted=True, mend=True, everywhere=False):
    def restore(model, prompts, corrupt, clean_states, layer, position, answer, part="mlp_out"):
        later = list(range(layer + start, len(clean_states)))[:count]
        sites = [Site(kind_of(part), i, None if everywhere else position) for i in later]
        back = [Do(Site("resid_post", layer, position), clean_states[layer, position])] * mend
        plans = {"corrupted": [corrupt], "clean": [], "mended": [corrupt, *back], "zero": [corrupt]}
        _, kept = read(model, prompts, sites, plans[held])
        writes = [Do(site, 0.0 if held == "zero" else kept[site]) for site in sites] if mend else []
        return run(model, prompts, [corrupt] * corrupted + back + writes)[:, -1].softmax(-1)[:, answer]
    return restore


def severed_with_hooks(model, prompts, corrupt, clean_states, layer, position, answer, part="mlp_out"):
    """With TransformerLens instead of the engine; the names of both parts are those of the sites."""
    def spoil(embeddings, hook):
        embeddings = embeddings.clone()
        embeddings[:, list(corrupt.site.position)] = corrupt.value
        return embeddings

    def put(value):
        def hook(activation, hook):
            activation = activation.clone()
            activation[:, position] = value
            return activation
        return hook
    names = [f"blocks.{i}.hook_{part}" for i in range(layer + 1, model.cfg.n_layers)]
    kept = {}
    keep = lambda name: lambda activation, hook: kept.__setitem__(name, activation[:, position].clone())
    model.run_with_hooks(prompts.tokens, fwd_hooks=[("hook_embed", spoil), *((name, keep(name)) for name in names)])
    hooks = [("hook_embed", spoil), (f"blocks.{layer}.hook_resid_post", put(clean_states[layer, position]))]
    hooks += [(name, put(kept[name])) for name in names]
    return model.run_with_hooks(prompts.tokens, fwd_hooks=hooks)[:, -1].softmax(-1)[:, answer]


def config(blocks="model.layers.{num}", attention="model.layers.{num}.self_attn", mlp="model.layers.{num}.mlp",
           embedding="model.embed_tokens"):
    return LayerConfig(blocks, attention, mlp, embedding)


WRONG = {
    "5.1 corrupt_subject": [
        (noisy(same=True), "every sample got the same noise"),
        (noisy(shift=1), "one position too late"),
        (noisy(first=0), "on the first tokens of the sentence"),
        (noisy(write="level"), "the level is ignored"),
        (noisy(write="replace"), "replaced by noise"),
        (noisy(write="times"), "multiplied with the embeddings"),
        (noisy(write="nothing"), "nothing is corrupted"),
        (noisy(shift=-1), "all other positions as they were"),
        (noisy(default=0.3), "is 0 taken for 'no level given'"),
        (in_place, "changed its argument `embeddings`"),
        (lambda embeddings, subject, level, draws: level * draws, "expected [sample 3, position 6, width 4]")],
    "5.2 restore_one": [
        (restorer(corrupted=False), "that is the clean run"),
        (restorer(mend=False), "nothing came back"),
        (restorer("resid_pre"), "off by one layer"),
        (restorer("mlp_out"), "not the state of the stream"),
        (restorer(every=True), "that is the clean run"),
        (restorer(shift=1), "the next one was restored"),
        (restorer(read_at=4), "read at another position"),
        (restorer(logits=True), "these are logits"),
        (restorer(average=True), "do not average")],
    "5.3 effects": [
        (three(total=lambda low, clean: low.mean() - clean), "sign of the total effect"),
        (three(total=lambda low, clean: (clean - low.mean()) / clean), "nothing is divided"),
        (three(total=lambda low, clean: clean), "that is the clean probability"),
        (three(effect=lambda r, low, clean: (r - low).mean(-1) / (clean - low.mean())), "divided by nothing"),
        (three(effect=lambda r, low, clean: clean - r.mean(-1)), "still missing"),
        (three(effect=lambda r, low, clean: (low - r).mean(-1)), "sign of the indirect effect"),
        (three(effect=lambda r, low, clean: (r - low).mean(-1).abs()), "keeps its sign"),
        (three(effect=lambda r, low, clean: r.mean(-1)), "subtract the corrupted probability"),
        (three(effect=lambda r, low, clean: r - low), "expected [layer 2, position 2]"),
        (three(error=lambda r, low: r.std(-1) / 2), "share their noise"),
        (three(error=lambda r, low: (r.var(-1) / 4 + low.var() / 4).sqrt()), "taken as independent"),
        (three(error=lambda r, low: (r - low).std(-1)), "divide it by the square root"),
        (three(error=lambda r, low: (r - low).std(-1) / 4), "not by the number"),
        (three(error=lambda r, low: (r - low).std(-1, correction=0) / 2), "needs n - 1"),
        (lambda restored, corrupted, clean: (restored - corrupted).mean(-1), "three things are asked for")],
    "5.4 restore_window": [
        (window(join=lambda singles, low: singles.mean(0)), "average of single restores"),
        (window(join=lambda singles, low: low + (singles - low).sum(0)), "added up"),
        (window(layers=lambda w: w[:1]), "only the first layer"),
        (window(layers=lambda w: w[-1:]), "only the last layer"),
        (window(layers=lambda w: w[:-1]), "last layer of the window is missing"),
        (window(mend=False), "nothing came back"),
        (window(corrupted=False), "`corrupt` must act as well"),
        (window(other_kind), "not the probabilities of one run"),
        (window(logits=True), "these are logits"),
        (window(join=lambda singles, low: singles), "expected [sample 3]")],
    "5.5 trace_map": [
        (mapper(zero=False), "ask whether it is None"),
        (mapper(chosen=0), "only the first sample"),
        (mapper(chosen=-1), "only the last sample"),
        (mapper(fill=0.0), "reported as 0"),
        (mapper(more=1), "one layer too many"),
        (mapper(scores=True), "these are the scores"),
        (mapper(cut=True), "keeps all positions and layers"),
        (lambda restore, spoil, shape, start, stop, level=None, default=0.3:
            mapper()(restore, spoil, shape, start, stop, level, 0.3), "must be that of `default`")],
    "5.6 two_errors": [
        (errors(across=lambda e: e.std() / e.numel() ** 0.5), "still one pot"),
        (errors(across=lambda e: (e.std(1) / e.shape[1] ** 0.5).mean()), "typical error over samples"),
        (errors(across=lambda e: e.mean(1).std()), "over facts is no standard error"),
        (errors(across=lambda e: e.mean(1).std() / e.numel() ** 0.5), "the samples are no facts"),
        (errors(across=lambda e: e.mean(1).std(correction=0) / len(e) ** 0.5), "needs n - 1"),
        (errors(within=lambda e: e.std(1)), "over samples is no standard error"),
        (errors(within=lambda e: e.std(1) / e.shape[1]), "not by the number"),
        (errors(within=lambda e: e.std(0) / len(e) ** 0.5), "the axes are [fact, sample]"),
        (lambda effects: errors()(effects)[::-1], "exchanged"),
        (lambda effects: effects.std() / effects.numel() ** 0.5, "two errors are asked for")],
    "5.7 severed_restore": [
        (severed(held="mended"), "nothing is severed"),
        (severed(count=0), "nothing is severed"),
        (severed(held="clean"), "held at their *clean* values"),
        (severed(held="zero"), "set to zero"),
        (severed(count=1), "only the next layer"),
        (severed(start=2), "next layer itself is left out"),
        (severed(kind_of=other_kind), "use `part`"),
        (severed(mend=False), "nothing was restored"),
        (severed(corrupted=False), "must act in both runs"),
        (severed(everywhere=True), "severed at every position")],
    "5.8 llama_layers": [
        (config("layers.{num}", "layers.{num}.self_attn", "layers.{num}.mlp", "embed_tokens"), "begin at the model that has the head"),
        (config(embedding="embed_tokens"), "begin at the model that has the head"),
        (config("h.{num}", "h.{num}.attn", "h.{num}.mlp", "wte"), "not the module whose output is the state"),
        (config(attention="model.layers.{num}.mlp", mlp="model.layers.{num}.self_attn"), "is what attention adds"),
        (config(mlp="model.layers.{num}.mlp.up_proj"), "is what the MLP adds"),
        (config(embedding="lm_head"), "is the token embeddings"),
        ("model.layers.{num}", "expected a LayerConfig")],
}
RIGHT = {
    "5.1 corrupt_subject": [noise_by_hand, padded_noise],
    "5.2 restore_one": [with_hooks, restorer()],
    "5.3 effects": [by_sums],
    "5.4 restore_window": [as_function],
    "5.5 trace_map": [stacked_map],
    "5.6 two_errors": [errors(), lambda effects: ((effects.var(1) / effects.shape[1]).sqrt(),
                                                  float((effects.mean(1).var() / len(effects)) ** 0.5))],
    "5.7 severed_restore": [severed_with_hooks],
    "5.8 llama_layers": [config("model.layers.{num}", lambda num: f"model.layers.{num}.self_attn.o_proj",
                                "model.layers.{num}.mlp.down_proj")],
}
