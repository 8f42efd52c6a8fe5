"""Loading BERTs, encoding for them and reading their verdicts; every refusal is one sentence."""
import copy
import json
import shutil
import warnings

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentences import sentence
from small_answerer import CONTEXT, LAYERS, save_bert
from small_models import SHIPPED, hooks_on, save_gpt2
from transformers import AutoTokenizer, BertForQuestionAnswering, BertForSequenceClassification

from utils.engine import Do, Site, at_end, run, sweep
from utils.metrics import LogProbability
from utils.models import class_ids, classifiers, encode_texts, load_bert, load_model, verdicts
from utils.models.classifiers import SHELF, class_names

TEXTS = ["The film was not good.", "The food was slow, but wonderful!", "Who sang? a b c d e f g h i j k l m n o p q"]


@pytest.fixture
def folder(tmp_path):
    return save_bert(BertForSequenceClassification, tmp_path / "mine", TEXTS, num_labels=3)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s") / "mine"
    return load_bert(save_bert(BertForSequenceClassification, folder, TEXTS, num_labels=3))


@pytest.fixture(scope="module")
def answerer(tmp_path_factory):
    return load_bert(save_bert(BertForQuestionAnswering, tmp_path_factory.mktemp("a") / "mine", TEXTS))


# ---------------------------------------------------------------- loading

@pytest.mark.parametrize("kind", [BertForSequenceClassification, BertForQuestionAnswering])
def test_the_class_comes_from_the_folder(tmp_path, kind):
    model = load_bert(str(save_bert(kind, tmp_path / "m", TEXTS)))
    assert type(model) is kind and not model.training and model.config._attn_implementation == "eager"
    assert {(p.dtype, p.requires_grad) for p in model.parameters()} == {(torch.float32, False)}
    assert model.known_words is None and model.tokenizer("not")["input_ids"][0] == model.tokenizer.cls_token_id


def test_it_computes_what_hugging_face_computes(folder):
    model, texts = load_bert(folder), ["The film was not good.", "Wonderful!"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = plain(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    assert (at_end(model, encode_texts(model, texts)) - expected).abs().max() < 1e-5
    assert expected.std() > 0.1


def test_half_precision_weights_are_loaded_as_float32(folder):
    BertForSequenceClassification.from_pretrained(folder).half().save_pretrained(folder)
    assert {p.dtype for p in load_bert(folder).parameters()} == {torch.float32}


def test_a_folder_with_vocab_txt_only(folder):
    """Older BERTs of the hub have no tokenizer.json."""
    tokens = load_bert(folder).tokenizer.get_vocab()
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(tokens, key=tokens.get)) + "\n")
    model = load_bert(folder)
    assert encode_texts(model, "The film was not good.").labels[0][1:4] == ("the", "film", "was")


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """The small model as the hub's own cache keeps it, under the name somebody/some-bert; nothing is fetched."""
    cached = tmp_path / "hub" / "models--somebody--some-bert"
    shutil.move(folder, cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return cached / "snapshots" / "abc"


def test_a_hub_id(hub, monkeypatch):
    model = load_bert("somebody/some-bert")
    assert type(model) is BertForSequenceClassification and class_names(model) == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert torch.equal(at_end(model, encode_texts(model, TEXTS)), at_end(load_bert(hub), encode_texts(model, TEXTS)))
    monkeypatch.setattr(classifiers, "NAMELESS", {"somebody/some-bert": ("a", "b", "c")})
    assert class_names(load_bert("somebody/some-bert")) == ("a", "b", "c")


def test_a_hub_id_of_another_sort(hub):
    edit_config(hub, architectures=["BertForMaskedLM"])
    sentence(lambda: load_bert("somebody/some-bert"), "'somebody/some-bert' holds a BertForMaskedLM")


def test_a_hub_id_whose_weights_do_not_fit(hub):
    edit_config(hub, num_hidden_layers=LAYERS + 1)
    sentence(lambda: load_bert("somebody/some-bert"), "the weights in 'somebody/some-bert' do not fit", "layer.2")


def test_offline_offers_the_shipped_models():
    assert SHELF.examples == ("textattack/bert-base-uncased-SST-2", "deepset/bert-base-cased-squad2")
    for name in SHELF.examples:
        sentence(lambda: load_bert(name), f"{name!r} is on the Hugging Face hub, which cannot be reached",
                 "use a shipped model, load_bert('sentiment-bert') or load_bert('qa-bert')")


def test_unknown_names():
    sentence(lambda: load_bert("sentiment-brt"), "no model is called 'sentiment-brt' (did you mean 'sentiment-bert'?)",
             "shipped are sentiment-bert, qa-bert", "textattack/bert-base-uncased-SST-2", "local folder")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def spoil_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


FOLDERS = {
    "no config": (lambda f: (f / "config.json").unlink(), ["'mine' has no config.json"]),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["'mine' has no weights"]),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ["'mine' has no tokenizer"]),
    "pickled": (pickle, ["pickled weights (pytorch_model.bin)", "can run foreign code"]),
    "cut short": (lambda f: (f / "model.safetensors").write_bytes(b"12"), ["damaged or cut short"]),
    "a part is missing": (lambda f: spoil_weights(f, lambda t: t.pop("classifier.weight")),
                          ["do not fit its config.json", "classifier.weight is missing"]),
    "NaN": (lambda f: spoil_weights(f, lambda t: t["classifier.weight"].fill_(float("nan"))),
            ["NaN or infinite numbers", "classifier.weight"]),
    "deeper": (lambda f: edit_config(f, num_hidden_layers=LAYERS + 1), ["do not fit its config.json", "layer.2"]),
    "wider": (lambda f: edit_config(f, hidden_size=64), ["'mine' do not fit its config.json", "bert.embeddings.LayerNorm.bias", "not (64,)"]),
    "other class": (lambda f: edit_config(f, architectures=["BertForMaskedLM"]),
                    ["'mine' holds a BertForMaskedLM", "SequenceClassification or a BertForQuestion", "load_model"]),
    "no class": (lambda f: edit_config(f, architectures=None), ["a model of no named class"]),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folder(folder, case):
    spoil, parts = FOLDERS[case]
    load_bert(folder)                   # the control: it was good before
    spoil(folder)
    sentence(lambda: load_bert(folder), *parts)


def test_the_two_loaders_name_each_other(folder, tmp_path):
    sentence(lambda: load_bert(SHIPPED), "'course-gpt2' holds a GPT2LMHeadModel", "load_model")
    sentence(lambda: load_bert(save_gpt2(tmp_path / "g")), "'g' holds a GPT2LMHeadModel")
    sentence(lambda: load_model(folder), "holds a BertForSequenceClassification", "utils.models.load_bert")


# ---------------------------------------------------------------- encoding

def test_texts(small):
    prompts = encode_texts(small, ["The film was good", "not"])
    assert prompts.labels == (("[CLS]", "the", "film", "was", "good", "[SEP]"), ("[CLS]", "not", "[SEP]"))
    assert prompts.mask.sum(1).tolist() == [6, 3] and prompts.tokens[1, 3:].tolist() == [0] * 3
    assert prompts.types is None
    assert encode_texts(small, "not").tokens.tolist() == prompts.tokens[1:, :3].tolist()
    assert len(encode_texts(small, ["not", "good"])) == 2       # a list of two is two texts, a tuple a pair


def test_pairs(answerer):
    pair = ("not good", "The film was good")
    prompts = encode_texts(answerer, [pair, ("good", "film")])
    assert prompts.labels[0] == ("[CLS]", "not", "good", "[SEP]", "the", "film", "was", "good", "[SEP]")
    assert prompts.types.tolist() == [[0] * 4 + [1] * 5, [0] * 3 + [1] * 2 + [0] * 4]
    one = encode_texts(answerer, pair)
    assert torch.equal(one.tokens[0], prompts.tokens[0]) and torch.equal(one.types[0], prompts.types[0])
    assert prompts.part(1, 2).types.tolist() == [prompts.types[1].tolist()]


def test_bad_texts(small, answerer):
    sentence(lambda: encode_texts(small, []), "there is no text")
    sentence(lambda: encode_texts(small, ["good", "  "]), "a text is empty")
    sentence(lambda: encode_texts(answerer, ("who?", "")), "a question or context is empty")
    sentence(lambda: encode_texts(small, ["good", ("good", "film")]), "encode them apart")
    fits = encode_texts(small, "good " * (CONTEXT - 2))
    assert fits.tokens.shape == (1, CONTEXT)
    sentence(lambda: encode_texts(small, ["film", "good " * (CONTEXT - 1)]), f"an input has {CONTEXT + 1} tokens with",
             f"[CLS] and [SEP], but the context of this model ends at {CONTEXT}", "'good good")
    sentence(lambda: encode_texts(answerer, ("who?", "film " * CONTEXT)), "an input has", "starts with 'film film")


def test_words_a_shipped_model_never_saw(folder):
    (folder / "words.txt").write_text("good\nfilm\nthe\nwas\n")
    model = load_bert(folder)
    with pytest.warns(UserWarning, match="never saw the word zebra: "):
        encode_texts(model, ["The film was good", "Zebra"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_texts(model, "The FILM was good")        # this tokenizer does not know capitals
        encode_texts(model, "Zebra", warn=False)


# ---------------------------------------------------------------- classes and verdicts

def test_classes(small, answerer):
    assert class_names(small) == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert class_names(small, ["bad", "so-so", "good"]) == ("bad", "so-so", "good")
    assert class_ids(small, ["LABEL_2", "LABEL_0"]).tolist() == [2, 0] and class_ids(small, "LABEL_1").tolist() == [1]
    assert class_ids(small, ["good", "bad"], ["bad", "so-so", "good"]).tolist() == [2, 0]
    sentence(lambda: class_ids(small, ["good"]), "'good' is no class of this model, which has 3: LABEL_0, LABEL_1, LAB")
    sentence(lambda: class_names(small, ["bad", "good"]), "labels bad, good do not fit a model of 3 classes", "give 3")
    sentence(lambda: class_names(small, ["bad", "good", "good"]), "give 3 different ones")
    sentence(lambda: class_names(small, list("abcd")), "a, b, c, d do not fit a model of 3 classes (LABEL_0, ")
    sentence(lambda: class_names(answerer), "BertForQuestionAnswering sorts texts into no classes", "'sentiment-bert'")


def test_verdicts(small):
    logits = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    found = verdicts(small, logits, ["bad", "so-so", "good"])
    assert [v.label for v in found] == ["so-so", "bad"]
    assert found[0].confidence == pytest.approx(logits[0].softmax(0)[1].item()) and str(found[0]) == "so-so (78.7%)"
    own = at_end(small, encode_texts(small, TEXTS[:2]))
    assert [v.label for v in verdicts(small, own)] == [f"LABEL_{i}" for i in own.argmax(1).tolist()]
    sentence(lambda: verdicts(small, torch.zeros(2, 4)), "shape (2, 4) do not fit a model of 3 classes", "[prompt, 3]")
    sentence(lambda: verdicts(small, torch.zeros(2, 2), ["bad", "good"]), "the labels bad, good do not fit")


def test_the_engine_takes_it_as_it_is(small):
    """Masking one head equals zeroing its columns by hand, and nothing stays hooked."""
    prompts, before = encode_texts(small, ["The film was good", "not"]), hooks_on(small)
    outcome = LogProbability(torch.tensor([2, 0]))
    dropped = sweep(small, prompts, [[], [Do(Site("z", 1, head=3), 0.0)]], outcome)
    edited = copy.deepcopy(small)
    edited.bert.encoder.layer[1].attention.output.dense.weight[:, 24:32] = 0
    assert (outcome(at_end(edited, prompts), torch.arange(2)) - dropped[1]).abs().max() < 1e-5
    assert (dropped[1] - dropped[0]).abs().max() > 1e-3 and hooks_on(small) == before
    sentence(lambda: run(small, prompts, [Do(Site("z", 1, head=4), 0.0)]), "head 4 is out of range")
    assert hooks_on(small) == before
