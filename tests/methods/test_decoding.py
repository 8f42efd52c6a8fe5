"""Early decoding against the model's own logits, teacher forcing by hand and sums written out from plain weights."""
import pytest
import torch
from reference import naive
from small_models import HEADS, LAYERS, SHIPPED, WIDTH, bridge, plain, random_prompts, save_gpt2

from utils import decoding
from utils.engine import at_end
from utils.errors import CourseError
from utils.metrics import LogitDifference
from utils.models import encode, load_model

OUTCOME = LogitDifference(torch.tensor([3, 50, 7]), torch.tensor([9, 4, 60]))
PADDED = (7, 4, 2)


def rows_of(prompts):
    return [row[mask == 1] for row, mask in zip(prompts.tokens, prompts.mask)]


def ids_of(model, text):
    return model.tokenizer.encode(text, add_special_tokens=False)


def close(a, b, tolerance=1e-4):
    assert a.shape == b.shape and (a - b).abs().max() < tolerance, (a - b).abs().max()


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A random GPT-2 that reads words, with weights large enough to have opinions."""
    model = load_model(str(save_gpt2(tmp_path_factory.mktemp("words"))), bos=True)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.original_model.parameters():
        parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


# ---------------------------------------------------------------- states

@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "gpt_neox"])
def test_states_and_their_decoding(name):
    """State l is what enters block l; decoded by hand with the model's own norm and unembedding."""
    prompts, model, hf = random_prompts(PADDED), bridge(name), plain(name)
    states, decoded = decoding.stream(model, prompts), decoding.decode_layers(model, prompts)
    assert states.shape == (LAYERS + 1, 3, WIDTH)
    norm = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}.get(name, "model.norm")
    for i, row in enumerate(rows_of(prompts)):
        wanted = [("resid_pre", layer) for layer in range(LAYERS)] + [("resid_post", LAYERS - 1)]
        logits, seen = naive(name, row, wanted=wanted)
        for state, key in enumerate(wanted):
            close(states[state, i], seen[key][-1])
            close(decoded[state, i], hf.get_output_embeddings()(hf.get_submodule(norm)(seen[key][-1])))
        close(decoded[-1, i], logits[-1])
    assert (decoded[0] - decoded[-1]).abs().max() > 0.1


def test_decode_takes_any_batch_and_a_slice_decodes_like_the_whole():
    states = decoding.stream(bridge("gpt2"), random_prompts())
    whole = decoding.decode(bridge("gpt2"), states)
    close(decoding.decode(bridge("gpt2"), states[1:3, 1]), whole[1:3, 1])
    close(decoding.decode(bridge("gpt2"), states[2, 0]), whole[2, 0])


def test_top_tokens(words):
    logits = torch.full((2, 2560), -100.0)
    paris, rome = (ids_of(words, w)[0] for w in (" Paris", " Rome"))
    logits[0, paris], logits[0, rome] = torch.log(torch.tensor([0.75, 0.25]))
    logits[1, rome] = 0.0
    first, second = decoding.top_tokens(words, logits, k=2)
    assert [t for t, _ in first] == [" Paris", " Rome"] and second[0] == (" Rome", pytest.approx(1.0))
    assert [p for _, p in first] == pytest.approx([0.75, 0.25])


# ---------------------------------------------------------------- trajectories

def test_trajectories_equal_teacher_forcing_by_hand(words):
    """Answers of one, two and three tokens, prompts of unequal length, any batch size."""
    hf = words.original_model
    prompts = ["The capital of France is", "Tom", "Then, John and Mary went to the store. John gave"]
    answers = [" Paris", " Mary Tom", " the red book"]
    ids = [ids_of(words, a) for a in answers]
    assert [len(i) for i in ids] == [1, 2, 3]
    result = decoding.trajectories(words, prompts, answers, batch_size=2)
    assert result.probability.shape == result.rank.shape == (3, 3)
    for p, (prompt, answer) in enumerate(zip(prompts, ids)):
        start = [words.tokenizer.bos_token_id] + ids_of(words, prompt)
        with torch.no_grad():
            logits = hf(torch.tensor([start + answer])).logits[0]
        steps = [logits[len(start) - 1 + j] for j in range(len(answer))]
        product = torch.stack([s.softmax(-1)[t] for s, t in zip(steps, answer)]).prod()
        worst = max(int((s > s[t]).sum()) + 1 for s, t in zip(steps, answer))
        assert result.probability[-1, p].item() == pytest.approx(product.item(), rel=1e-3)
        assert result.rank[-1, p] == worst
    alone = decoding.trajectories(words, prompts[:1], answers[:1])
    close(alone.probability[:, 0], result.probability[:, 0], 1e-6)


def test_an_answer_is_never_merged_with_the_prompt(words):
    """Read together, "Par" + "is" would be other tokens than the prompt ends with."""
    prompt, answer = "A: Par", "is"
    own, start = ids_of(words, answer), ids_of(words, prompt)
    rows = [words.tokenizer.bos_token_id, *start, *own]
    assert ids_of(words, prompt + answer) != rows[1:]
    with torch.no_grad():
        logits = words.original_model(torch.tensor([rows])).logits[0]
    expected = torch.stack([logits[len(start) + j].softmax(-1)[t] for j, t in enumerate(own)]).prod()
    assert decoding.trajectories(words, [prompt], [answer]).probability[-1, 0].item() == pytest.approx(expected.item(), rel=1e-3)


def test_first_top_and_reciprocal_rank():
    rank = torch.tensor([[5, 1, 3], [1, 2, 2], [1, 1, 4]])
    result = decoding.Trajectory(torch.zeros(3, 3), rank)
    assert result.first_top.tolist() == [1, 0, -1]
    assert result.reciprocal_rank[0].tolist() == pytest.approx([0.2, 1.0, 1 / 3])


@pytest.mark.parametrize("prompts, answers, message", [
    (["Tom", "Anna"], [" Paris"], "2 prompts but 1 answers: give one answer for each prompt"),
    (["Tom"], [""], "an answer is empty: write a word with its leading space"),
    (["Tom " * 20], [" Paris" * 9], "prompt and answer together are longer than the context of 24 tokens")])
def test_trajectories_refuse(words, prompts, answers, message):
    with pytest.raises(CourseError, match=message):
        decoding.trajectories(words, prompts, answers)


# ---------------------------------------------------------------- updates

@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_steps_add_up_to_the_stream(name):
    prompts, model = random_prompts(PADDED), bridge(name)
    track, states = decoding.steps(model, prompts), decoding.stream(model, prompts)
    assert track.residual.shape == (1 + 2 * LAYERS, 3, WIDTH)
    close(track.residual[::2], states)
    assert track.labels == ("embed", "attn 0", "MLP 0", "attn 1", "MLP 1", "attn 2", "MLP 2")
    assert [track.site(i) for i in (1, 2, 5)] == [("attn_out", 0), ("mlp_out", 0), ("attn_out", 2)]
    with pytest.raises(CourseError, match="no update leads to step 0"):
        track.site(0)


def test_steps_pass_through_resid_mid():
    prompts = random_prompts(PADDED)
    residual = decoding.steps(bridge("gpt2"), prompts).residual
    for i, row in enumerate(rows_of(prompts)):
        close(residual[3, i], naive("gpt2", row, wanted=[("resid_mid", 1)])[1]["resid_mid", 1][-1])


def test_first_shown_is_the_first_step_that_decodes_to_the_answer():
    prompts, model, hf = random_prompts(), bridge("gpt2"), plain("gpt2")
    final = at_end(model, prompts).argmax(-1)
    tops = hf.lm_head(hf.transformer.ln_f(decoding.steps(model, prompts).residual)).argmax(-1)
    expected = [next(i for i in range(len(tops)) if tops[i, p] == final[p]) for p in range(3)]
    assert decoding.first_shown(model, prompts, final).tolist() == expected
    never = next(t for t in range(101) if not (tops == t).any())
    assert decoding.first_shown(model, prompts, torch.full((3,), never)).tolist() == [-1] * 3


def test_leaving_out_and_subtracting_an_update_differ_as_they_should():
    prompts, model, hf = random_prompts(PADDED), bridge("gpt2"), plain("gpt2")
    without = decoding.without_update(model, prompts, "mlp_out", 1)
    subtracted = decoding.subtract_update(model, prompts, "mlp_out", 1)
    for i, row in enumerate(rows_of(prompts)):
        def silence(x):
            x = x.clone()
            x[-1] = 0
            return x
        close(without[i], naive("gpt2", row, [("mlp_out", 1, silence)])[0][-1])
        _, seen = naive("gpt2", row, wanted=[("mlp_out", 1), ("resid_post", LAYERS - 1)])
        rest = seen["resid_post", LAYERS - 1][-1] - seen["mlp_out", 1][-1]
        close(subtracted[i], hf.lm_head(hf.transformer.ln_f(rest)))
    assert (without - subtracted).abs().max() > 0.1
    with pytest.raises(CourseError, match="layer 3 is out of range: this model has layers 0 to 2"):
        decoding.subtract_update(model, prompts, "mlp_out", 3)


@pytest.mark.parametrize("add", [False, True])
def test_transplant(add):
    targets, model = random_prompts(PADDED), bridge("gpt2")
    update = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(3))
    result = decoding.transplant(model, update, targets, "attn_out", 1, add=add)
    for i, row in enumerate(rows_of(targets)):
        def replace(x, i=i):
            x = x.clone()
            x[-1] = update[i] + (x[-1] if add else 0)
            return x
        close(result[i], naive("gpt2", row, [("attn_out", 1, replace)])[0][-1])


# ---------------------------------------------------------------- direct logit attribution

@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "gpt_neox"])
def test_attribution_sums_to_the_logit_difference(name):
    prompts = random_prompts(PADDED)
    parts = decoding.direct_attribution(bridge(name), prompts, OUTCOME)
    assert parts.heads.shape == (LAYERS, HEADS, 3) and parts.mlps.shape == (LAYERS, 3)
    for i, row in enumerate(rows_of(prompts)):
        logits = naive(name, row)[0][-1]
        assert parts.total[i].item() == pytest.approx((logits[OUTCOME.correct[i]] - logits[OUTCOME.wrong[i]]).item(), abs=1e-4)


def by_hand(name, row, correct, wrong):
    """Every part from plain weights: (heads [layer, head], mlps [layer], what is left: embeddings and biases)."""
    hf, size = plain(name), WIDTH // HEADS
    gpt2 = name == "gpt2"
    keys = [(kind, layer) for kind in ("z", "mlp_out") for layer in range(LAYERS)] + [("resid_pre", 0), ("resid_post", LAYERS - 1)]
    _, seen = naive(name, row, wanted=keys)
    final = seen["resid_post", LAYERS - 1][-1]
    norm = hf.transformer.ln_f if gpt2 else hf.model.norm
    centre = (lambda x: x - x.mean()) if gpt2 else (lambda x: x)
    deviation = (centre(final).pow(2).mean() + (norm.eps if gpt2 else norm.variance_epsilon)).sqrt()
    unembed = hf.get_output_embeddings().weight[correct] - hf.get_output_embeddings().weight[wrong]
    worth = lambda x: ((centre(x) / deviation * norm.weight) @ unembed).item()
    heads, rest = torch.zeros(LAYERS, HEADS), worth(seen["resid_pre", 0][-1])
    for layer in range(LAYERS):
        z = seen["z", layer][-1]
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            weight = hf.transformer.h[layer].attn.c_proj.weight[part] if gpt2 else hf.model.layers[layer].self_attn.o_proj.weight[:, part].T
            heads[layer, head] = worth(z[part] @ weight)
        rest += worth(hf.transformer.h[layer].attn.c_proj.bias) if gpt2 else 0
    rest += (norm.bias @ unembed).item() if gpt2 else 0
    return heads, torch.tensor([worth(seen["mlp_out", layer][-1]) for layer in range(LAYERS)]), rest


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_each_part_of_the_attribution(name):
    """Layer norm with biases (GPT-2), and RMS norm with shared key / value heads (Llama)."""
    prompts = random_prompts(PADDED)
    parts = decoding.direct_attribution(bridge(name), prompts, OUTCOME)
    for i, row in enumerate(rows_of(prompts)):
        heads, mlps, rest = by_hand(name, row, OUTCOME.correct[i], OUTCOME.wrong[i])
        close(parts.heads[..., i], heads)
        close(parts.mlps[:, i], mlps)
        assert parts.rest[i].item() == pytest.approx(rest, abs=1e-4)


def test_the_shipped_model_can_be_decoded():
    model = load_model(str(SHIPPED))
    prompts = encode(model, ["The capital of France is", "John"])
    close(decoding.decode_layers(model, prompts)[-1], at_end(model, prompts), 1e-3)
