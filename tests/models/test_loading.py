"""Loading a model, and turning text into tokens."""
import copy
import shutil

import pytest
import torch
from small_models import SHIPPED, bridge, plain, save, save_gpt2, tokenizer_of
from transformers import AutoTokenizer, GPT2LMHeadModel

from utils.models import (CHECKPOINTS, Prompts, answer_ids, differing_positions, encode, load_model, padded,
                          print_difference, single_token, unknown_words)
from utils.models.loading import SHIPPED as SHIPPED_MODELS


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(SHIPPED)


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


# ---------------------------------------------------------------- loading

def test_the_shipped_model_is_a_bridge_in_evaluation_mode_and_float32(model):
    assert type(model).__name__ == "TransformerBridge" and not model.training and not model.original_model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in model.parameters())
    assert "Paris" in model.known_words


def test_the_bridge_computes_what_hugging_face_computes(model):
    tokens = torch.randint(1, 2560, (2, 20), generator=torch.Generator().manual_seed(0))
    hf = GPT2LMHeadModel.from_pretrained(SHIPPED, dtype=torch.float32).eval()
    with torch.no_grad():
        assert (model(tokens, prepend_bos=False) - hf(tokens).logits).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "gpt_neox"])
def test_folders_of_other_families(name):
    tokens = torch.randint(1, 100, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (bridge(name)(tokens, prepend_bos=False) - plain(name)(tokens).logits).abs().max() < 1e-4
    assert bridge(name).known_words is None


def test_attention_patterns_can_be_read(model):
    tokens = encode(model, "John met Mary").tokens
    _, cache = model.run_with_cache(tokens, names_filter="blocks.0.attn.hook_pattern", prepend_bos=False)
    pattern = cache["blocks.0.attn.hook_pattern"]
    assert pattern.shape[-1] == tokens.shape[1] and torch.allclose(pattern.sum(-1), torch.tensor(1.0), atol=1e-5)


def test_a_local_folder_as_path_or_text(tmp_path):
    folder = save_gpt2(tmp_path / "mine")
    assert load_model(folder).cfg.n_layers == load_model(str(folder)).cfg.n_layers == 2


def test_half_precision_weights_are_loaded_as_float32(tmp_path):
    save(copy.deepcopy(plain("gpt2")).half(), tmp_path)
    assert {p.dtype for p in load_model(tmp_path).parameters()} == {torch.float32}


# ---------------------------------------------------------------- prompts

def test_encode_one_prompt(model, tokenizer):
    prompts = encode(model, "The capital of France is")
    assert prompts.tokens.tolist() == [[tokenizer.bos_token_id] + ids(tokenizer, "The capital of France is")]
    assert prompts.labels == (("<|endoftext|>", "The", " capital", " of", " France", " is"),)
    assert prompts.equal_length and len(prompts) == 1 and prompts.ends.tolist() == [5]


def test_encode_pads_on_the_right(model, tokenizer):
    prompts = encode(model, [" John", " John met Mary", " John met"])
    assert prompts.mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]]
    assert prompts.ends.tolist() == [1, 3, 2] and not prompts.equal_length and len(prompts) == 3
    assert prompts.tokens[2, :3].tolist() == [0] + ids(tokenizer, " John met")
    assert [len(row) for row in prompts.labels] == [2, 4, 3]


def test_no_beginning_of_text_where_the_model_uses_none():
    model = bridge("gpt_neox")
    assert not model.cfg.default_prepend_bos
    assert encode(model, " ab cd").tokens.tolist() == [ids(tokenizer_of("gpt_neox"), " ab cd")]


def test_padded_takes_rows_of_ids(model):
    prompts = padded(model, [[5, 6, 7], [8]])
    assert prompts.tokens.tolist() == [[5, 6, 7], [8, 0, 0]] and prompts.ends.tolist() == [2, 0]


def test_the_longest_prompt_that_fits(model):
    assert encode(model, " John" * 127).tokens.shape == (1, 128)


def test_answers(model, tokenizer):
    assert [single_token(model, " Paris")] == ids(tokenizer, " Paris")
    assert answer_ids(model, [" Paris", " John"]).tolist() == ids(tokenizer, " Paris") + ids(tokenizer, " John")
    assert answer_ids(model, " Paris").tolist() == ids(tokenizer, " Paris")     # a single answer is not a list of letters


def test_differing_positions(model, capsys):
    clean = encode(model, [" John met Mary", " Tom met Anna"])
    corrupted = encode(model, [" John met Anna", " Mary met Anna"])
    assert differing_positions(clean, corrupted).tolist() == [1, 3]
    print_difference(clean, corrupted)
    assert capsys.readouterr().out == "position 3: ' Mary' | ' Anna'\n"    # the first pair only


def test_unknown_words(model):
    assert unknown_words(model, "John likes Zanzibarfish and Qwop, Qwop 17") == \
        [w for w in ("likes", "Zanzibarfish", "Qwop") if w not in model.known_words]
    assert unknown_words(bridge("gpt2"), "Zanzibarfish") == []


def test_labels_join_to_the_prompt(model):
    text = "Q: What is the capital of France?\nA:"
    assert "".join(encode(model, text).labels[0][1:]) == text


def test_prompts_know_whether_they_have_one_length():
    ones = torch.ones(2, 3, dtype=torch.long)
    assert Prompts(ones, ones, torch.tensor([2, 2]), ()).equal_length
    assert CHECKPOINTS.is_dir() and set(SHIPPED_MODELS) <= {p.name for p in CHECKPOINTS.iterdir()}


def test_words_txt_is_optional(tmp_path):
    folder = save_gpt2(tmp_path / "m")
    shutil.copy(SHIPPED / "words.txt", folder)
    assert load_model(folder).known_words == load_model().known_words
