"""Folders that must not be loaded, or not as they say: one sentence, before memory is taken, and no code of theirs runs."""
import builtins
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentences import sentence
from small_answerer import save_bert
from small_models import COMMON, plain, save, save_gpt2
from transformers import (AutoModelForCausalLM, BertForMaskedLM, BertForSequenceClassification, BertLMHeadModel, BertConfig,
                          RobertaConfig, RobertaForCausalLM, RobertaForMaskedLM)

from utils.models import load_bert, load_model
from utils.tracing import CausalTracer


@pytest.fixture
def folder(tmp_path):
    return save_gpt2(tmp_path / "mine")


def edit(folder, file="config.json", **changes):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def no_memory(monkeypatch):
    """Weights may be looked at on the device "meta", which holds no numbers, and never be read."""
    original = AutoModelForCausalLM.from_pretrained.__func__

    def from_pretrained(cls, *args, **options):
        assert options["device_map"] == "meta", "memory was taken"
        return original(cls, *args, **options)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", classmethod(from_pretrained))


# ---------------------------------------------------------------- weights and config

@pytest.mark.parametrize("changes, parts", [
    (dict(n_layer=1), ["'mine' do not fit its config.json: it has no place for transformer.h.1."]),
    (dict(n_layer=3), ["transformer.h.2.", "is missing"]),
    (dict(n_embd=64), ["transformer.h.0.attn.c_attn.bias has shape (96,), not (192,)"]),
    (dict(n_inner=48), ["mlp.c_fc.bias has shape (128,), not (48,)"]),
    (dict(model_type="gpt_neox", architectures=["GPTNeoXForCausalLM"]), ["gpt_neox.", "is missing"])])
def test_a_config_that_contradicts_its_weights(folder, no_memory, changes, parts):
    edit(folder, **changes)
    sentence(lambda: load_model(folder), *parts)


def test_a_family_whose_weights_are_a_part_of_anothers(tmp_path, no_memory):
    """Qwen2 is Llama with biases: as a Llama it would load, without them, and give other numbers."""
    save(plain("qwen2"), tmp_path)
    edit(tmp_path, model_type="llama", architectures=["LlamaForCausalLM"])
    sentence(lambda: load_model(tmp_path), "do not fit its config.json: it has no place for", "_proj.bias")


def test_a_bert_shallower_than_its_weights(tmp_path):
    folder = save_bert(BertForSequenceClassification, tmp_path / "mine", ["a b c"])
    edit(folder, num_hidden_layers=1)
    sentence(lambda: load_bert(folder), "it has no place for bert.encoder.layer.1.")


def test_a_head_that_is_left_over_does_no_harm(folder):
    """Outside the blocks: a head of another task changes no logit of this one."""
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"score.weight": torch.zeros(2, 32)}, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(folder).cfg.n_layers == 2


# ---------------------------------------------------------------- models that predict no next word

MASKED = {
    "BertForMaskedLM": lambda: BertForMaskedLM(BertConfig(**COMMON)),
    "RobertaForMaskedLM": lambda: RobertaForMaskedLM(RobertaConfig(**COMMON)),
    "BertLMHeadModel": lambda: BertLMHeadModel(BertConfig(**COMMON)),
    "RobertaForCausalLM": lambda: RobertaForCausalLM(RobertaConfig(**COMMON)),
}


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_language_model(tmp_path, no_memory, name):
    """Also under the name of a causal class: unless its config says is_decoder it looks at both sides."""
    save(MASKED[name](), tmp_path / "mine")
    sentence(lambda: load_model(tmp_path / "mine"), f"'mine' holds a {name}, which looks at both sides of a token",
             f"transformers.{name}.from_pretrained")


# ---------------------------------------------------------------- foreign code, pickles, quantised weights

CODE = "open({!r}, 'w').close()\nfrom transformers import GPT2Config\nclass Own(GPT2Config): model_type = 'own'\n"


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("known", [True, False])
def test_code_that_comes_with_a_model_is_never_run_and_nobody_is_asked(folder, tmp_path, monkeypatch, file, known):
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("somebody was asked"))
    (folder / "own.py").write_text(CODE.format(str(tmp_path / "was-run")))
    edit(folder, file, auto_map={"AutoConfig": "own.Own", "AutoTokenizer": ["own.Own", None]})
    if not known:
        edit(folder, model_type="own")
    sentence(lambda: load_model(folder), "'mine' brings program code of its own (auto_map), which is never run here",
             "take auto_map out")
    assert not (tmp_path / "was-run").exists()


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


def bomb(folder, name="pytorch_model.bin"):
    (folder / name).write_bytes(pickle.dumps(Bomb()))


def test_a_pickle_beside_safe_weights_is_never_read(folder):
    expected = load_model(folder).original_model.state_dict()
    bomb(folder)
    with pytest.warns(UserWarning, match="pickled weights too .pytorch_model.bin.: they are never read") as caught:
        found = load_model(folder).original_model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert caught[0].filename == __file__


def test_safe_weights_of_another_name_do_not_excuse_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "adapter.safetensors")
    bomb(folder)
    sentence(lambda: load_model(folder), "'mine' holds pickled weights (pytorch_model.bin)", "safe_serialization=True")


def test_quantised_weights(folder):
    edit(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    sentence(lambda: load_model(folder), "the weights of 'mine' are quantised", "load the model that they were made from")


# ---------------------------------------------------------------- names and devices

@pytest.mark.parametrize("name", ["../my-model", "./my-model", "/nowhere/my-model", "~/my-model", "models\\mine", "a/b/c",
                                  "some--body/gpt2"])
def test_a_folder_that_is_not_there(name):
    sentence(lambda: load_model(name), f"there is no folder {name!r}", "save_pretrained", "load_model('course-gpt2')")
    sentence(lambda: load_bert(name), f"there is no folder {name!r}", "load_bert('sentiment-bert')")


def test_a_folder_at_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_model("~/mine").cfg.n_layers == 2


@pytest.mark.parametrize("device", ["banana", "cuda:99", "meta", "cpu!"])
def test_a_device_that_is_not_here(device):
    for call in (lambda: load_model("course-gpt2", device), lambda: load_bert("sentiment-bert", device),
                 lambda: CausalTracer(load_model(), device=device)):
        sentence(call, f"there is no device {str(device)!r} here", "choose cpu")


def test_what_cannot_be_a_device():
    for load in (load_model, load_bert):
        sentence(lambda: load(device=3.5), f"{load.__name__}: `device` must be a text or a device or None, not 3.5")
    sentence(lambda: CausalTracer(load_model(), device=3.5), "3.5")


def test_a_device_by_name_or_as_torch_has_it():
    assert load_model("course-gpt2", "cpu").cfg.device == load_model("course-gpt2", torch.device("cpu")).cfg.device
