"""What the small models must give: a naive reference that reads and writes with hand-written PyTorch hooks.

It knows nothing of `utils`: one unpadded prompt at a time through the plain Hugging Face model. What each name means:

- embed: the token embedding as it joins the stream, times the constant with which the model multiplies it (Gemma,
  Granite), before positions are added, before it is normalised (Bloom, BERT) or brought to another width (OPT-350m);
- resid_pre, resid_post: what enters and what leaves a block; in BERT and OPT-350m the latter is normalised;
- resid_mid: the stream that the MLP's output is added to; there is none where attention and MLP run side by side;
- attn_out, mlp_out: what is added to the stream, so after a norm of its own (Gemma-2, OLMo-2) and times Granite's
  residual multiplier; in BERT and OPT-350m before the norm of the sum;
- z: the output of each head, before the output projection; mlp_post: what enters the MLP's last matrix;
- q, k, v: what the projections give, before any norm of the heads, scale or rotation.
"""
import torch
from small_models import HEADS, LAYERS, plain

GPT2 = {"block": "transformer.h.{}", "final": "transformer.ln_f", "attn_out": "attn", "z": "attn.c_proj",
        "mlp_out": "mlp", "mlp_post": "mlp.c_proj", "embed": "transformer.wte", "qkv": "attn.c_attn"}
LLAMA = {"block": "model.layers.{}", "final": "model.norm", "attn_out": "self_attn", "z": "self_attn.o_proj",
         "mlp_out": "mlp", "mlp_post": "mlp.down_proj", "embed": "model.embed_tokens", "q": "self_attn.q_proj",
         "k": "self_attn.k_proj", "v": "self_attn.v_proj"}
NORMED = LLAMA | {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}
NEOX = {"block": "gpt_neox.layers.{}", "final": "gpt_neox.final_layer_norm", "attn_out": "attention",
        "z": "attention.dense", "mlp_out": "mlp", "mlp_post": "mlp.dense_4h_to_h", "embed": "gpt_neox.embed_in",
        "qkv": "attention.query_key_value"}
OPT = {"block": "model.decoder.layers.{}", "final": "model.decoder.final_layer_norm", "attn_out": "self_attn",
       "z": "self_attn.out_proj", "mlp_out": "fc2", "mlp_post": "fc2", "embed": "model.decoder.embed_tokens",
       "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj"}
BLOOM = {"block": "transformer.h.{}", "final": "transformer.ln_f", "attn_out": "self_attention.dense",
         "z": "self_attention.dense", "resid_mid": "self_attention", "mlp_out": "mlp.dense_4h_to_h",
         "mlp_post": "mlp.dense_4h_to_h", "embed": "transformer.word_embeddings",
         "qkv": "self_attention.query_key_value"}
GPTJ = {"block": "transformer.h.{}", "final": "transformer.ln_f", "attn_out": "attn", "z": "attn.out_proj",
        "mlp_out": "mlp", "mlp_post": "mlp.fc_out", "embed": "transformer.wte", "q": "attn.q_proj", "k": "attn.k_proj",
        "v": "attn.v_proj"}
BERT = {"block": "bert.encoder.layer.{}", "attn_out": "attention.output.dense", "z": "attention.output.dense",
        "resid_mid": "attention.output", "mlp_out": "output.dense", "mlp_post": "output.dense",
        "embed": "bert.embeddings.word_embeddings", "q": "attention.self.query", "k": "attention.self.key",
        "v": "attention.self.value"}
ROBERTA = BERT | {key: BERT[key].replace("bert", "roberta") for key in ("block", "embed")}
PATHS = {"gpt2": GPT2, "gpt2_classifier": GPT2, "mixtral": {k: v for k, v in LLAMA.items() if k != "mlp_post"},
         "gemma2": NORMED, "gemma3": NORMED, "olmo2": NORMED, "gptj": GPTJ,
         "phi": LLAMA | {"final": "model.final_layernorm", "z": "self_attn.dense", "mlp_post": "mlp.fc2"},
         "gpt_neox": NEOX, "gpt_neox_sequential": NEOX,
         "opt": OPT, "opt_post_norm": OPT | {"resid_mid": "self_attn_layer_norm", "final": None}, "bloom": BLOOM,
         "bert": BERT, "bert_classifier": BERT, "bert_answerer": BERT, "roberta": ROBERTA, "roberta_classifier": ROBERTA}
PATHS |= dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "gemma", "cohere", "granite", "stablelm"), LLAMA)
PATHS |= {"qwen3_moe": PATHS["mixtral"], "starcoder2": LLAMA | {"mlp_post": "mlp.c_proj"}}
INPUTS = ("resid_pre", "z", "mlp_post")   # activations that are the input of a module
PARALLEL = ("gpt_neox", "gptj", "phi", "cohere")  # attention and MLP read the same stream
SCALES = {("granite", "embed"): 3.0, ("granite", "attn_out"): 0.4, ("granite", "mlp_out"): 0.4}  # of a module's output


def naive(name, tokens, edits=(), wanted=(), types=None):
    """Logits of one prompt [position, vocab] (or [class], or [position, 2] for spans) and the `wanted` activations.

    Activations are [position, width]. edits: (kind, layer, function of the whole activation); kinds and layers as in
    `utils`. types: token types, [position].
    """
    more = {} if types is None else {"token_type_ids": types[None]}
    model, handles, seen = plain(name), [], {}
    try:
        for kind, layer, change in edits:
            handles += _edit(model, name, kind, layer, change)
        for kind, layer in wanted:
            handles += _edit(model, name, kind, layer, lambda x, key=(kind, layer): seen.update({key: x.clone()}))
        with torch.no_grad():
            output = model(input_ids=tokens[None], **more)
        spans = name == "bert_answerer"
        return torch.stack([output.start_logits[0], output.end_logits[0]], -1) if spans else output.logits[0], seen
    finally:
        for handle in handles:
            handle.remove()


def at_end(name, logits):
    """What is judged: the logits at the last position, or those of the classes."""
    return logits if name.endswith("classifier") else logits[-1]


def _edit(model, name, kind, layer, change):
    paths, scale = PATHS[name], SCALES.get((name, kind), 1.0)
    if kind == "embed":
        return [_output_hook(model.get_submodule(paths["embed"]), change, scale)]
    block = model.get_submodule(paths["block"].format(layer))
    if kind == "resid_post":
        return [_output_hook(block, change)]
    if kind == "resid_mid" and kind not in paths:
        assert name not in PARALLEL, "there is no stream between attention and MLP"
        return _edit_mid(block, name, change)
    if kind in "qkv" and "qkv" in paths:
        return [_output_hook(block.get_submodule(paths["qkv"]), _inside_fused(name, kind, change))]
    module = block if kind == "resid_pre" else block.get_submodule(paths[kind])
    return [(_input_hook if kind in INPUTS else _output_hook)(module, change, scale)]


def _rewritten(tensor, change, scale=1.0):
    """The one prompt of a batch, changed; OPT's MLP has no axis for the batch."""
    batched = tensor.dim() == 3
    new = change((tensor[0] if batched else tensor) * scale)
    return None if new is None else (new[None] if batched else new) / scale


def _output_hook(module, change, scale=1.0):
    def after(module, args, output):
        new = _rewritten(output[0] if isinstance(output, tuple) else output, change, scale)
        return None if new is None else (new, *output[1:]) if isinstance(output, tuple) else new
    return module.register_forward_hook(after)


def _input_hook(module, change, scale=1.0):
    def before(module, args):
        new = _rewritten(args[0], change, scale)
        return None if new is None else (new, *args[1:])
    return module.register_forward_pre_hook(before)


def _edit_mid(block, name, change):
    """resid_mid = input of the block + what attention adds, so it is replaced by another output of attention."""
    entering = {}

    def remember(module, args):
        entering["x"] = args[0][0]

    def attention(out):
        new = change(entering["x"] + out)
        return None if new is None else new - entering["x"]
    module = block.get_submodule(PATHS[name]["attn_out"])
    return [block.register_forward_pre_hook(remember), _output_hook(module, attention, SCALES.get((name, "attn_out"), 1.0))]


def _inside_fused(name, kind, change):
    """q, k or v inside the fused projection: thirds of the width in GPT-2, thirds of every head in GPT-NeoX and Bloom."""
    part = "qkv".index(kind)

    def on_fused(x):
        fused = x.clone()
        by_head = name.startswith(("gpt_neox", "bloom"))
        view = fused.view(len(x), HEADS, 3, -1)[:, :, part] if by_head else fused.view(len(x), 3, -1)[:, part]
        new = change(view.reshape(len(x), -1))
        if new is None:
            return None
        view.copy_(new.view(view.shape))
        return fused
    return on_fused


# ---------------------------------------------------------------- what each part says to the logits

LOGIT_SCALES = {"cohere": 0.3, "granite": 1 / 2.5}
SOFTCAPS = {"gemma2": 4.0}


def contributions(name, tokens, correct, wrong):
    """(heads [layer, head], attention [layer], mlps [layer], embedding): direct contributions to a logit difference.

    The final norm, the norm of an attention's own output and the ratio by which a softcap shrinks the difference are held
    at their values in this run: what is left is linear.
    """
    kinds = ("attn_out", "mlp_out", "z", "resid_post")
    logits, seen = naive(name, tokens, wanted=[(kind, layer) for kind in (*kinds, "resid_pre") for layer in range(LAYERS)])
    seen = {key: value[-1].double() for key, value in seen.items()}
    model, logits = plain(name), at_end(name, logits).double()
    direction = _direction(name, model, logits, correct, wrong)
    read = _linear(model.get_submodule(PATHS[name]["final"]), seen["resid_post", LAYERS - 1])
    says = lambda x: read(x) @ direction
    heads = torch.stack([says(_of_heads(name, model, layer, seen["z", layer])) for layer in range(LAYERS)])
    attention, mlps = (torch.stack([says(seen[kind, layer]) for layer in range(LAYERS)]) for kind in kinds[:2])
    return heads, attention, mlps, says(seen["resid_pre", 0])


def _direction(name, model, logits, correct, wrong):
    """The vector in the normalised stream along which the logit difference grows."""
    weight = (model.score if name.endswith("classifier") else model.get_output_embeddings()).weight.double()
    cap, shrunk = SOFTCAPS.get(name), 1.0
    if cap is not None:
        before = cap * torch.atanh(logits / cap)
        shrunk = (logits[correct] - logits[wrong]) / (before[correct] - before[wrong])
    return LOGIT_SCALES.get(name, 1.0) * shrunk * (weight[correct] - weight[wrong])


def _linear(norm, at):
    """The linear part of a norm if it divides as it does at the vector `at`."""
    centred = "LayerNorm" in type(norm).__name__
    centre = (lambda x: x - x.mean(-1, keepdim=True)) if centred else (lambda x: x)
    bias = getattr(norm, "bias", None)
    gain = (norm(at.float()).double() - (0.0 if bias is None else bias.double())) / centre(at)
    return lambda x: centre(x) * gain


def _of_heads(name, model, layer, z):
    """What each head by itself adds to the stream, [head, width]."""
    block = model.get_submodule(PATHS[name]["block"].format(layer))
    project = block.get_submodule(PATHS[name]["z"])
    alone = torch.block_diag(*z.view(HEADS, -1)).float()
    out = (project(alone) - project(torch.zeros_like(alone))).double()
    if PATHS[name] is NORMED:
        out = _linear(block.get_submodule(NORMED["attn_out"]), project(z.float()).double())(out)
    return out * SCALES.get((name, "attn_out"), 1.0)
