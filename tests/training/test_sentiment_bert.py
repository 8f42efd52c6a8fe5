"""The shipped sentiment classifier does what its card says, and its recipe goes on where it was stopped."""
import copy
import json
import random
import warnings
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertForSequenceClassification

from utils.engine import at_end
from utils.models import CHECKPOINTS, encode_texts, load_bert, verdicts
from utils.tasks import reviews
from utils.training import encoders, loop, report, sentiment_bert, sentiment_card as card

FOLDER = CHECKPOINTS / "sentiment-bert"
CARD = json.loads((FOLDER / "measured.json").read_text(encoding="utf-8"))
BY_RECIPE = ("accuracy_bag_of_words", "accuracy_random_labels")     # these train other models


@pytest.fixture(scope="module")
def model():
    return load_bert("sentiment-bert")


@pytest.fixture(scope="module")
def numbers(model):
    return card.measure(model)


# ---------------------------------------------------------------- the shipped file

@pytest.mark.parametrize("name", [name for name in card.THRESHOLDS if name not in BY_RECIPE])
def test_threshold(numbers, name):
    value, threshold = numbers[name], card.THRESHOLDS[name]
    assert report.meets(value, threshold), f"{name} is {value}, must be {threshold}"


def test_card_states_what_the_file_does(numbers):
    for name, value in numbers.items():
        assert value == pytest.approx(CARD[name], abs=0.02), f"the card says {name} = {CARD[name]}, measured {value}"
    how = {key: CARD[key] for key in ("seed", "steps")}
    rest = {key: value for key, value in CARD.items() if key not in how}
    assert set(rest) == {*numbers, *BY_RECIPE}
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == card.text(rest, how, report.read_seeds(FOLDER))


def test_every_threshold_is_on_the_card():
    assert set(card.DESCRIPTIONS) == set(card.THRESHOLDS)
    assert all(report.meets(CARD[name], card.THRESHOLDS[name]) for name in card.THRESHOLDS)


def test_files_are_small_and_safe():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 6e6
    assert {file.suffix for file in FOLDER.iterdir()} <= {".json", ".safetensors", ".md", ".txt"}
    assert {tensor.dtype for tensor in load_file(FOLDER / "model.safetensors").values()} == {torch.float16}


def test_its_class_and_its_labels(model):
    assert type(model) is BertForSequenceClassification and model.config.id2label == {0: "negative", 1: "positive"}


@pytest.mark.parametrize("text, label", [
    ("This movie was absolutely fantastic! I loved every minute of it.", "positive"),
    ("The plot was dull.", "negative"), ("The plot was not dull.", "positive"),
    ("The hotel was slow, but wonderful.", "positive"),
    ("The hotel was wonderful, but slow.", "negative"), ("The hotel was wonderful, although slow.", "positive"),
    ("The acting was slightly dull and the plot was extremely funny.", "positive")])
def test_examples_of_the_lessons(model, text, label):
    (found,) = verdicts(model, at_end(model, encode_texts(model, text)))
    assert found.label == label and found.confidence > 0.8


def test_opinion_words_are_single_tokens(model):
    """So that minimal pairs of as many words have as many tokens."""
    words = {*reviews.WORDS["positive"], *reviews.WORDS["negative"], *reviews.STRONG, "not", "never", "but"}
    assert not [word for word in words if len(model.tokenizer.tokenize(word)) > 1]
    first, second = zip(*reviews.minimal_pairs(100, 1))
    a, b = (encode_texts(model, [r.text for r in side]) for side in (first, second))
    assert torch.equal(a.mask, b.mask) and ((a.tokens != b.tokens).sum(1) == 1).all()


def test_known_words_are_those_of_the_training_text(model):
    rng = random.Random(7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompts = encode_texts(model, [reviews.training_review(rng).text for _ in range(2000)])
    assert not (prompts.tokens == model.tokenizer.unk_token_id).any()
    assert prompts.tokens.shape[1] < sentiment_bert.CONTEXT
    with pytest.warns(UserWarning, match="never saw the word zebra"):
        encode_texts(model, "The zebra was dull.")


def test_heads_of_several_layers_matter(numbers):
    """Not all happens in the first layer, and not all kinds need the same heads."""
    layers = range(sentiment_bert.LAYERS)
    sure = {(layer, kind) for layer in layers for head in range(sentiment_bert.HEADS) for kind in reviews.REVIEW_KINDS
            if numbers[f"L{layer}H{head}_{kind}"] > 3 * numbers[f"L{layer}H{head}_{kind}_error"] + 0.2}
    assert len({layer for layer, _ in sure}) >= 3
    assert all(abs(numbers[f"{kind}_without_all"] - 0.5) < 0.15 for kind in reviews.REVIEW_KINDS)
    best = {kind: max(numbers[f"{kind}_only_layer{layer}"] for layer in layers) for kind in reviews.REVIEW_KINDS[2:]}
    assert all(best[kind] < numbers[f"accuracy_{kind}"] - 0.05 for kind in best), best


def test_a_model_with_shuffled_weights_guesses(model):
    """The control: the same measurement on weights in another order."""
    shuffled, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for parameter in shuffled.parameters():
        parameter.data = parameter.data[..., torch.randperm(parameter.shape[-1], generator=generator)]
    assert 0.4 < card.accuracy(shuffled, reviews.reviews(400, 1)) < 0.6


def test_word_counts_alone_do_not_do_it(model):
    assert card.bag_of_words(model) == pytest.approx(CARD["accuracy_bag_of_words"], abs=0.02)
    assert CARD["accuracy_bag_of_words"] < CARD["accuracy"] - 0.2


# ---------------------------------------------------------------- the recipe

@pytest.fixture
def tiny(monkeypatch):
    """A recipe of seconds."""
    few = partial(sentiment_bert.texts, 300)
    for name, value in dict(LAYERS=2, WIDTH=16, HEADS=2, BATCH=4, VOCAB=700, texts=few).items():
        monkeypatch.setattr(sentiment_bert, name, value)
    monkeypatch.setattr(encoders, "train", partial(encoders.train, save_every=3, warm_up=2))


def test_an_interrupted_run_ends_like_an_unbroken_one(tiny, tmp_path, monkeypatch):
    unbroken, broken = tmp_path / "a", tmp_path / "b"
    sentiment_bert.train(unbroken, seed=1, steps=10)
    original, calls = sentiment_bert.make_batch, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(sentiment_bert, "make_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sentiment_bert.train(broken, seed=1, steps=10)
    assert (broken / loop.STATE_FILE).exists()
    calls.clear()
    calls += [None] * 100
    sentiment_bert.train(broken, seed=1, steps=10)
    assert len(calls) == 104                               # it went on after step 6
    a, b = (load_file(folder / "model.safetensors") for folder in (unbroken, broken))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    names = [sorted(path.name for path in folder.iterdir()) for folder in (unbroken, broken)]
    assert names[0] == names[1] and loop.STATE_FILE not in names[0]
    assert load_bert(unbroken).config.id2label == {0: "negative", 1: "positive"}
    other = tmp_path / "c"
    sentiment_bert.train(other, seed=2, steps=10)
    assert not torch.equal(load_file(other / "model.safetensors")["classifier.weight"], a["classifier.weight"])


def test_the_tokenizer_is_the_same_each_time(tmp_path):
    """The library's trainer alone numbers its letters by a hash table that differs between processes."""
    texts = sentiment_bert.texts(500)
    for name in "ab":
        encoders.train_tokenizer(tmp_path / name, texts, 300, lower=True, context=64)
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()
    tokenizer = encoders.train_tokenizer(tmp_path / "c", ["Ab aB"], 50, lower=False, context=64)
    assert tokenizer.tokenize("Ab aB") != tokenizer.tokenize("ab ab") and tokenizer.vocab["[PAD]"] == 0


def test_labels_by_coin_mean_nothing(model):
    rng, right = random.Random(0), {True: [], False: []}
    for coin in right:
        for _ in range(6):
            batch = sentiment_bert.make_batch(model.tokenizer, coin, rng)
            with torch.no_grad():
                said = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(1)
            right[coin] += (said == batch["labels"]).tolist()
    assert abs(sum(right[True]) / len(right[True]) - 0.5) < 0.1 and sum(right[False]) / len(right[False]) > 0.95


def test_thresholds_can_be_missed():
    good = {name: bound for name, (_, bound) in card.THRESHOLDS.items()}
    assert report.missed(good, card.THRESHOLDS) == "all thresholds reached"
    assert report.missed(good | {"accuracy": 0.9}, card.THRESHOLDS) == "missed: accuracy 0.9"
