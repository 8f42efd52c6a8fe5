"""Prompts and answers are the ids that the model's own tokenizer gives: BOS, EOS, and the space in front of a word."""
import shutil

import huggingface_hub
import pytest
import torch
from sentences import sentence
from small_models import SHIPPED, bridge, plain, save, save_gpt2
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformer_lens.model_bridge import TransformerBridge

from utils.decoding import trajectories
from utils.models import (answer_ids, continuation_ids, encode, like, load_model, loading, one_token, plain_copy,
                          single_token, token_ids, untrained)
from utils.tracing import CausalTracer

TEXTS = ["The capital of France is Paris.", "The capital of Italy is Rome.", "The Louvre is in Paris : Rome Berlin"] * 9
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['role'] }} {{ m['content'] }}{% endfor %}"


def _trained(model, trainer, front, *, normalizer=None, pre_tokenizer=None, decoder=None, behind=""):
    """A tokenizer trained on TEXTS that puts <s> in front of a text (or not), and `behind` behind it."""
    own = Tokenizer(model)
    own.pre_tokenizer, own.decoder = pre_tokenizer or pre_tokenizers.Metaspace(prepend_scheme="always"), decoder
    own.train_from_iterator(TEXTS, trainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
                                           **({"unk_token": "<unk>"} if trainer is trainers.UnigramTrainer else {})))
    own.pre_tokenizer = pre_tokenizer       # SentencePiece learns word by word, and then reads the text as a whole
    if normalizer:
        own.normalizer = normalizer
    single = f"{'<s> ' if front else ''}$A{behind}"
    own.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(s, own.token_to_id(s)) for s in ("<s>", "</s>") if s in single])
    return PreTrainedTokenizerFast(tokenizer_object=own, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                                   chat_template=TEMPLATE)


SPACED = dict(normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
              decoder=decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]))
ALWAYS = dict(pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="always"), decoder=decoders.Metaspace())
NEVER = dict(pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="never"), decoder=decoders.Metaspace())
BYTES = dict(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False), decoder=decoders.ByteLevel())
# name: (BOS in front, the tokenizer). "llama 2" writes the space of a SentencePiece model into the text itself.
BUILD = {
    "llama 2": (True, lambda: _trained(models.BPE(), trainers.BpeTrainer, True, **SPACED)),
    "unigram": (True, lambda: _trained(models.Unigram(), trainers.UnigramTrainer, True, **SPACED)),
    "metaspace": (True, lambda: _trained(models.BPE(), trainers.BpeTrainer, True, **ALWAYS)),
    "gemma": (True, lambda: _trained(models.BPE(), trainers.BpeTrainer, True, **NEVER)),
    "smollm": (False, lambda: _trained(models.BPE(), trainers.BpeTrainer, False, **BYTES)),
    "with eos": (True, lambda: _trained(models.BPE(), trainers.BpeTrainer, True, **BYTES, behind=" </s>")),
    "eos only": (False, lambda: _trained(models.BPE(), trainers.BpeTrainer, False, **SPACED, behind=" </s>")),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A small random Llama with each tokenizer, saved as a student would find it."""
    torch.manual_seed(0)
    model, found = LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, num_attention_heads=2, hidden_size=16, vocab_size=500,
                                                intermediate_size=24, max_position_embeddings=64, bos_token_id=1,
                                                eos_token_id=2)), {}
    for name, (_, build) in BUILD.items():
        found[name] = tmp_path_factory.mktemp("models") / name.replace(" ", "-")
        model.save_pretrained(found[name])
        build().save_pretrained(found[name])
    return found


@pytest.fixture(scope="module")
def loaded(folders):
    """name: (what load_model gives, the tokenizer as it lies in the folder)."""
    return {name: (load_model(folder), AutoTokenizer.from_pretrained(folder)) for name, folder in folders.items()}


TEXT = "The capital of France is"


@pytest.mark.parametrize("name", BUILD)
def test_a_prompt_has_the_ids_of_its_own_tokenizer(loaded, name):
    """All of them but the end of text that some put behind: the answer stands there."""
    model, tokenizer = loaded[name]
    own, front = tokenizer(TEXT)["input_ids"], BUILD[name][0]
    assert (own[0] == tokenizer.bos_token_id) == front == model.prepends_bos
    assert (own[-1] == tokenizer.eos_token_id) == ("eos" in name)
    own = own[:-1] if "eos" in name else own
    assert encode(model, TEXT).tokens.tolist() == [own] and token_ids(tokenizer, TEXT) == own
    assert (encode(model, TEXT).labels[0][0] == "<s>") == front


@pytest.mark.parametrize("name", BUILD)
def test_bos_can_be_demanded_or_left_out_and_is_never_there_twice(loaded, folders, name):
    model, tokenizer = loaded[name]
    bare = tokenizer.encode(TEXT, add_special_tokens=False)
    for bos, expected in ((True, [1, *bare]), (False, bare)):
        assert encode(model, TEXT, bos=bos).tokens.tolist() == [expected] == [token_ids(tokenizer, TEXT, bos)]
    other = load_model(folders[name], bos=not BUILD[name][0])
    assert encode(other, TEXT).tokens.tolist() == encode(model, TEXT, bos=not BUILD[name][0]).tokens.tolist()
    chat = tokenizer.apply_chat_template([{"role": "The", "content": "capital of France is"}], tokenize=False)
    assert chat == "<s>" + TEXT
    for bos in (None, True, False):
        for row in (encode(model, chat, bos=bos).tokens[0].tolist(), token_ids(tokenizer, chat, bos)):
            assert row.count(1) == 1 and row[0] == 1 and row[-1] != tokenizer.eos_token_id


def test_copies_and_untrained_models_keep_the_habit(folders):
    model = load_model(folders["smollm"], bos=True)
    assert like(model, plain_copy(model)).prepends_bos and untrained(model).prepends_bos


def test_the_shipped_model_was_trained_with_bos(tmp_path):
    """Its tokenizer puts none in front, and its config.json says so; a copy in another folder keeps it."""
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    assert tokenizer(TEXT)["input_ids"] == tokenizer.encode(TEXT, add_special_tokens=False)
    shutil.copytree(SHIPPED, tmp_path / "copy")
    for name in ("course-gpt2", tmp_path / "copy"):
        assert encode(load_model(name), TEXT).labels[0][:2] == ("<|endoftext|>", "The")
    assert encode(load_model("course-gpt2", bos=False), TEXT).labels[0][:2] == ("The", " capital")


def test_gpt2_of_the_hub_keeps_the_bos_of_its_published_numbers(tmp_path, monkeypatch):
    """By its name alone: the same files under another name, and in a folder of one's own, follow their tokenizer."""
    assert {"gpt2", "gpt2-xl", "openai-community/gpt2", "distilbert/distilgpt2"} <= loading.PUBLISHED_WITH_BOS
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("gpt2", "somebody/gpt2"):
        cached = tmp_path / f"models--{name.replace('/', '--')}"
        folder = save_gpt2(cached / "snapshots" / "abc")
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("abc")
        assert load_model(name).prepends_bos == (name == "gpt2") and not load_model(folder).prepends_bos
        assert encode(load_model(name), TEXT, bos=False).labels == encode(load_model(folder), TEXT).labels
    assert not load_model("gpt2", bos=False).prepends_bos


def test_a_bridge_made_elsewhere_follows_transformer_lens():
    made = TransformerBridge.boot_transformers(str(SHIPPED), device="cpu")
    assert encode(made, TEXT, warn=False).labels[0][0] == "<|endoftext|>"
    made.cfg.default_prepend_bos = False
    assert encode(made, TEXT, warn=False).labels[0][0] == "The"


def test_a_tokenizer_without_bos_cannot_put_it_in_front(loaded):
    _, tokenizer = loaded["smollm"]
    without = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    assert token_ids(without, TEXT) == tokenizer.encode(TEXT)
    sentence(lambda: token_ids(without, TEXT, True), "no beginning-of-text token", "leave bos=True out")


def test_a_tokenizer_that_encloses_a_text_is_for_other_models():
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED.parent / "qa-bert")
    sentence(lambda: token_ids(tokenizer, "who is it"), "closes a text with '[SEP]'", "utils.models.encode_texts")


# ---------------------------------------------------------------- the space in front of an answer

@pytest.mark.parametrize("name", BUILD)
def test_an_answer_is_what_it_adds_to_a_text(loaded, name):
    model, tokenizer = loaded[name]
    before, both = (tokenizer.encode(text, add_special_tokens=False) for text in (TEXT, TEXT + " Paris"))
    assert both[:-1] == before
    assert single_token(model, " Paris") == both[-1] == answer_ids(model, [" Rome", " Paris"])[1]
    assert one_token(model, " Paris") and not one_token(model, " Madrid") and not one_token(model, " Paris Rome")
    assert continuation_ids(tokenizer, TEXT, " Paris Rome") == tokenizer.encode(TEXT + " Paris Rome",
                                                                               add_special_tokens=False)[len(before):]


@pytest.mark.parametrize("name", ["llama 2", "unigram"])
def test_where_by_itself_it_has_a_space_too_many(loaded, name):
    """The control: these tokenizers give " Paris" by itself two tokens, and "Paris" the one that follows a text."""
    model, tokenizer = loaded[name]
    assert len(tokenizer.encode(" Paris", add_special_tokens=False)) == 2
    assert single_token(model, "Paris") == single_token(model, " Paris")
    sentence(lambda: single_token(model, " Madrid"), "tokens for this model", "choose a word that is one token")


@pytest.mark.parametrize("name", BUILD)
def test_trajectories_follow_the_tokens_of_the_answer(loaded, name):
    """Rank and probability of " Paris" and of " Paris Rome", by hand, from the ids of the whole text."""
    model, tokenizer = loaded[name]
    for answer in (" Paris", " Paris Rome"):
        prompt = encode(model, TEXT).tokens[0].tolist()
        both = prompt + tokenizer.encode(TEXT + answer, add_special_tokens=False)[len(prompt) - model.prepends_bos:]
        with torch.no_grad():
            scores = model.original_model(torch.tensor([both])).logits[0].log_softmax(-1)
        own = [scores[i - 1, both[i]] for i in range(len(prompt), len(both))]
        rank = max(int((scores[i - 1] > value).sum()) + 1 for i, value in zip(range(len(prompt), len(both)), own))
        found = trajectories(model, [TEXT], [answer])
        assert found.rank[-1, 0] == rank
        assert found.probability[-1, 0].item() == pytest.approx(sum(own).exp().item(), rel=1e-4)


# ---------------------------------------------------------------- what stands behind a text

@pytest.mark.parametrize("name", ["with eos", "eos only"])
def test_a_tracer_never_reads_the_answer_after_the_end_of_text(folders, name):
    """The clean probability is the one at the last word, as by hand; after </s> it would be another."""
    model, tokenizer = LlamaForCausalLM.from_pretrained(folders[name]), AutoTokenizer.from_pretrained(folders[name])
    row = tokenizer(TEXT)["input_ids"]
    with torch.no_grad():
        after_end, at_end = model(torch.tensor([row])).logits[0, [-1, -2]].softmax(-1)
    answer = int(at_end.argmax())
    flow = CausalTracer(model, tokenizer).calculate_hidden_flow(TEXT, "France", answer=answer, samples=2)
    assert flow.high_score == pytest.approx(at_end[answer].item(), rel=1e-4)
    assert flow.high_score != pytest.approx(after_end[answer].item(), rel=1e-2)


def test_the_small_models_of_the_tests_have_no_bos(tmp_path):
    save(plain("gpt2"), tmp_path)
    assert not bridge("gpt2").prepends_bos and bridge("gpt2").cfg.default_prepend_bos
