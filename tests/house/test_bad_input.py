"""Kind when something is wrong: one clear sentence, at once, with nothing left hooked (issue "Light, and kind")."""
import json
import socket
import time
import warnings

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from sentences import sentence
from small_models import bridge, hooks_on, plain, save, save_gpt2

from utils.checks import ExerciseError, check
from utils.engine import Do, Site, run
from utils.metrics import LogProbability
from utils.models import answer_ids, differing_positions, encode, load_model, single_token
from utils.patching import residual_map


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture
def folder(tmp_path):
    return save_gpt2(tmp_path / "mine")


# ---------------------------------------------------------------- names

@pytest.mark.parametrize("name, nearest", [("course-gpt", "course-gpt2"), ("coursegpt2", "course-gpt2"),
                                           ("gpt2-medum", "gpt2-medium"), ("GPT2", "gpt2")])
def test_unknown_model_name(name, nearest):
    sentence(lambda: load_model(name), f"no model is called {name!r}", f"did you mean {nearest!r}", "shipped is course-gpt2",
             "local folder")


def test_unknown_model_name_that_is_like_no_other():
    assert "did you mean" not in sentence(lambda: load_model("zzz"), "no model is called 'zzz'", "course-gpt2")


@pytest.mark.parametrize("name", ["gpt2", "EleutherAI/pythia-160m"])
def test_hub_id_in_offline_mode(name):
    start = time.monotonic()
    sentence(lambda: load_model(name), f"{name!r} is on the Hugging Face hub, which cannot be reached", "go online once",
             "load_model('course-gpt2')")
    assert time.monotonic() - start < 3


def no_address(*_):
    raise socket.gaierror(-2, "Name or service not known")


def silence(*_):
    time.sleep(20)


@pytest.mark.parametrize("look_up, reason", [(no_address, "Name or service not known"), (silence, "no answer within 2 seconds")])
def test_hub_id_without_network(monkeypatch, look_up, reason):
    """The address is unknown at once, or nobody answers: in both cases within three seconds."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("utils.models.shelf.getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    start = time.monotonic()
    sentence(lambda: load_model("gpt2"), "cannot be reached", reason, "load_model('course-gpt2')")
    assert time.monotonic() - start < 3


# ---------------------------------------------------------------- folders

def without(folder, *names):
    for name in names:
        (folder / name).unlink()


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:len(data) // 2])


def pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    without(folder, "model.safetensors")


def poison(folder, value):
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.h.1.attn.c_attn.weight"][0, 0] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


FOLDERS = {
    "no tokenizer": (lambda f: without(f, "tokenizer.json", "tokenizer_config.json"), ["'mine' has no tokenizer", "tokenizer.json"]),
    "no config": (lambda f: without(f, "config.json"), ["'mine' has no config.json"]),
    "no weights": (lambda f: without(f, "model.safetensors"), ["'mine' has no weights", "model.safetensors is missing"]),
    "truncated": (truncate, ["mine/model.safetensors is damaged or cut short", "again"]),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), ["damaged or cut short"]),
    "pickled": (pickle, ["pickled weights (pytorch_model.bin)", "can run foreign code", "safe_serialization=True"]),
    "NaN": (lambda f: poison(f, float("nan")), ["NaN or infinite numbers", "h.1"]),
    "infinite": (lambda f: poison(f, float("inf")), ["NaN or infinite numbers"]),
    "damaged config": (lambda f: (f / "config.json").write_text("{ oh"), ["mine/config.json is damaged"]),
    "damaged tokenizer": (lambda f: (f / "tokenizer.json").write_text("{ oh"), ["'mine' could not be loaded"]),
    "unknown type": (lambda f: edit_config(f, model_type="nosuch"), ["'mine' could not be loaded", "nosuch"]),
    "deeper than its weights": (lambda f: edit_config(f, n_layer=3), ["do not fit its config.json", "transformer.h.2", "missing"]),
    "wider than its weights": (lambda f: edit_config(f, n_embd=64), ["do not fit its config.json", "c_attn.bias has shape (96,), not (192,)"]),
    "a classifier": (lambda f: edit_config(f, architectures=["GPT2ForSequenceClassification"]),
                     ["holds a GPT2ForSequenceClassification", "predicts no words"]),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folder(folder, case):
    spoil, parts = FOLDERS[case]
    assert load_model(folder).cfg.n_layers == 2     # the control: it was good before
    spoil(folder)
    sentence(lambda: load_model(folder), *parts)


def test_a_bert_classifier_is_sent_elsewhere(tmp_path):
    save(plain("bert_classifier"), tmp_path)
    sentence(lambda: load_model(tmp_path), "BertForSequenceClassification", "load_bert")


# ---------------------------------------------------------------- prompts and answers

def test_answer_of_several_tokens(model):
    sentence(lambda: single_token(model, " Zanzibarfish"), "' Zanzibarfish' is", "tokens for this model (", " | ", "one is needed",
             "choose a word that is one token")
    sentence(lambda: answer_ids(model, [" Paris", "Paris and Rome"]), "'Paris and Rome' is", "where one is needed")
    if len(model.tokenizer.encode("Nairobi", add_special_tokens=False)) > 1:
        sentence(lambda: single_token(model, "Nairobi"), "with a leading space, ' Nairobi', it is one")
    sentence(lambda: single_token(model, ""), "the answer is empty", "' Paris'")


def test_prompts_of_different_length_say_where_they_part(model):
    clean, corrupted = encode(model, " John met Mary"), encode(model, " John and Tom met Mary")
    sentence(lambda: differing_positions(clean, corrupted), "same number of tokens, not 4 and 6",
             "they part at position 2, ' met' against ' and'")
    longer = encode(model, " John met Mary at")
    sentence(lambda: differing_positions(clean, longer), "they part at position 4, '(end)' against ' at'")
    sentence(lambda: residual_map(model, clean, corrupted, LogProbability(torch.zeros(1).long())), "they part at position 2")
    sentence(lambda: differing_positions(clean, encode(model, ["John"] * 2)), "1 clean but 2 corrupted prompts")


@pytest.mark.parametrize("prompt", ["", "   ", "\n", ["John", ""]])
def test_empty_prompt(model, prompt):
    sentence(lambda: encode(model, prompt), "a prompt is empty")


def test_no_prompt(model):
    sentence(lambda: encode(model, []), "there is no prompt")


def test_prompt_longer_than_the_context(model):
    sentence(lambda: encode(model, ["John", " John" * 128]), "a prompt has 129 tokens", "the context of this model ends at 128",
             "' John John")


def test_unknown_word_warns_and_names_it(model):
    with pytest.warns(UserWarning, match="the shipped model never saw the words Zanzibarfish, Qwop: ") as caught:
        encode(model, "John met Zanzibarfish and Qwop")
    assert caught[0].filename == __file__ and "\n" not in str(caught[0].message)
    with pytest.warns(UserWarning, match="never saw the word Qwop: "):
        encode(model, "John met Qwop")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(model, "John met Mary")
        encode(model, "John met Qwop", warn=False)
        encode(bridge("gpt_neox"), "AQ")


def test_model_without_tokenizer():
    sentence(lambda: encode(plain("gpt2"), "John"), "this model has no tokenizer", "load_model")


# ---------------------------------------------------------------- out of range

@pytest.mark.parametrize("site, message", [
    (lambda: Site("resid_pre", 8), "layer 8 is out of range: this model has layers 0 to 7"),
    (lambda: Site("z", 0, None, 5), "head 5 is out of range: each layer has heads 0 to 4"),
    (lambda: Site("resid_pre", 0, 4), "position 4 is out of range: the prompts have positions 0 to 3")])
def test_out_of_range_says_the_range_and_leaves_no_hook(model, site, message):
    before = hooks_on(model)
    good = Do(Site("mlp_out", 0), 0.0)
    sentence(lambda: run(model, encode(model, " John met Mary"), [good, Do(site(), 0.0)]), message)
    assert hooks_on(model) == before


# ---------------------------------------------------------------- a hook on a module that returns a tuple

def test_a_hook_that_takes_a_tuple_for_a_tensor_is_told_so_and_is_gone():
    """In lesson 07, where students write hooks of their own; the engine hooks such modules for everybody else."""
    models = []

    def as_in_the_source(model, inputs, layer, heads):
        models.append(model)
        attention = model.bert.encoder.layer[layer].attention.self
        attention.register_forward_hook(lambda module, args, output: output * torch.ones(1, 1, 4, 1))
        return model(**inputs).logits

    with pytest.raises(ExerciseError, match=r"the module returns a tuple, .*: the vectors are output\[0\]") as error:
        check("7.1 mask_heads", as_in_the_source)
    assert "\n" not in str(error.value) and not hooks_on(models[0])
