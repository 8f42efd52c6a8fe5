"""The shipped adder does what its card says, its recipe goes on where it was stopped, and other adders load the same way."""
import copy
import json
import random
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from sentences import sentence
from transformers import GPT2ForSequenceClassification

from utils.models import CHECKPOINTS, adders
from utils.tasks import addition
from utils.training import arithmetic_card as card, arithmetic_gpt2, encoders, loop, report

FOLDER = CHECKPOINTS / "arithmetic-gpt2"
CARD = json.loads((FOLDER / "measured.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model():
    return adders.load_adder("arithmetic-gpt2")


@pytest.fixture(scope="module")
def numbers(model):
    return card.measure(model)


# ---------------------------------------------------------------- the shipped file

@pytest.mark.parametrize("name", [name for name in card.THRESHOLDS if name != "accuracy_random_labels"])
def test_threshold(numbers, name):
    value, threshold = numbers[name], card.THRESHOLDS[name]
    assert report.meets(value, threshold), f"{name} is {value}, must be {threshold}"


def test_card_states_what_the_file_does(numbers):
    for name, value in numbers.items():
        assert value == pytest.approx(CARD[name], abs=0.02), f"the card says {name} = {CARD[name]}, measured {value}"
    how = {key: CARD[key] for key in ("seed", "steps")}
    rest = {key: value for key, value in CARD.items() if key not in how}
    assert set(rest) == {*numbers, "accuracy_random_labels"}
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == card.text(rest, how, report.read_seeds(FOLDER))
    assert all(report.meets(CARD[name], card.THRESHOLDS[name]) for name in card.THRESHOLDS)
    assert set(card.DESCRIPTIONS) == set(card.THRESHOLDS)


def test_files_are_small_and_safe():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 8e6
    assert {file.suffix for file in FOLDER.iterdir()} <= {".json", ".safetensors", ".md"}
    assert {tensor.dtype for tensor in load_file(FOLDER / "model.safetensors").values()} == {torch.float16}


def test_its_class_its_size_and_its_labels(model):
    assert type(model) is GPT2ForSequenceClassification and model.config.n_layer >= 6
    assert [model.config.id2label[i] for i in range(28)] == [str(total) for total in range(3, 31)]


def test_a_prompt_is_six_tokens(model):
    prompts = adders.encode_sums(model, torch.tensor([[1, 10, 3], [10, 10, 10]]))
    assert prompts.labels == (("1", "+", "10", "+", "3", "="), ("10", "+", "10", "+", "10", "="))
    assert model.tokenizer.unk_token is None and "token_type_ids" not in model.tokenizer("1+2+3=")


def test_a_model_with_shuffled_weights_guesses(model):
    """The control: the same measurement on weights in another order."""
    shuffled, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for parameter in shuffled.parameters():
        parameter.data = parameter.data[..., torch.randperm(parameter.shape[-1], generator=generator)]
    assert card.accuracies(shuffled)["accuracy"] < 0.2


# ---------------------------------------------------------------- what was held out

def test_no_held_out_sum_was_seen_in_any_order():
    inputs, unseen = adders.all_sums(), adders.held_out()
    assert torch.equal(inputs, addition("(X+Y+Z)").all_inputs())
    unordered = [{tuple(sorted(row)) for row in inputs[part].tolist()} for part in (unseen, ~unseen)]
    assert not unordered[0] & unordered[1] and sum(map(len, unordered)) == 220
    assert 0.15 < unseen.float().mean() < 0.25
    trained = arithmetic_gpt2.training_sums(False, 1)
    assert torch.equal(trained["inputs"], inputs[~unseen]) and set(trained["labels"].tolist()) == set(range(28))
    assert torch.equal(trained["labels"] + 3, trained["inputs"].sum(1))


def test_dealt_labels_are_the_same_labels_on_other_sums():
    right, dealt = (arithmetic_gpt2.training_sums(coin, 1)["labels"] for coin in (False, True))
    assert torch.equal(right.sort().values, dealt.sort().values) and (right == dealt).float().mean() < 0.15


# ---------------------------------------------------------------- the recipe

@pytest.fixture
def tiny(monkeypatch):
    """A recipe of seconds."""
    for name, value in dict(LAYERS=2, WIDTH=16, HEADS=2, BATCH=8).items():
        monkeypatch.setattr(arithmetic_gpt2, name, value)
    monkeypatch.setattr(encoders, "train", partial(encoders.train, save_every=3, warm_up=2))


def test_an_interrupted_run_ends_like_an_unbroken_one(tiny, tmp_path, monkeypatch):
    unbroken, broken, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    arithmetic_gpt2.train(unbroken, seed=1, steps=10)
    original, calls = arithmetic_gpt2.loss, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(arithmetic_gpt2, "loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            arithmetic_gpt2.train(broken, seed=1, steps=10)
    assert (broken / loop.STATE_FILE).exists()
    arithmetic_gpt2.train(broken, seed=1, steps=10)
    a, b = (load_file(folder / "model.safetensors") for folder in (unbroken, broken))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert sorted(p.name for p in unbroken.iterdir()) == sorted(p.name for p in broken.iterdir())
    assert not (broken / loop.STATE_FILE).exists()
    arithmetic_gpt2.train(other, seed=2, steps=10)
    assert not torch.equal(load_file(other / "model.safetensors")["score.weight"], a["score.weight"])
    assert adders.load_adder(str(broken)).config.id2label[27] == "30"     # a local folder is loaded by the same line


def test_batches_are_of_training_sums():
    sums = arithmetic_gpt2.training_sums(False, 1)
    batch = arithmetic_gpt2.make_batch(sums["inputs"], sums["labels"], random.Random(0))
    assert torch.equal(batch["input_ids"].sum(1) - 3, batch["labels"])
    assert len(batch["input_ids"].unique(dim=0)) == arithmetic_gpt2.BATCH


def test_the_penalty_counts_attention_far_back(tiny, tmp_path):
    even = torch.ones(6, 6).tril() / torch.arange(1, 7)[:, None]
    assert card.far([even[None, None]]) == pytest.approx((1 / 4 + 2 / 5 + 3 / 6) / 6)     # the tokens 3, 4 and 5
    near = torch.eye(6)[None, None]
    assert card.far([near, near]) == 0 and card.far([even[None, None], near]) == card.far([even[None, None]]) / 2
    tokenizer = arithmetic_gpt2.make_tokenizer(tmp_path)
    torch.manual_seed(0)
    model, batch = arithmetic_gpt2.new_model(tokenizer).eval(), dict(
        input_ids=torch.tensor([tokenizer.encode("1+10+3=")]), labels=torch.tensor([11]))
    plain = torch.nn.functional.cross_entropy(model(batch["input_ids"]).logits, batch["labels"])
    assert arithmetic_gpt2.loss(model, batch) > plain + 1


# ---------------------------------------------------------------- bad input

@pytest.mark.parametrize("inputs, parts", [
    ([[1, 2, 11]], ("1 to 10", "11")), ([[0, 2, 3]], ("1 to 10", "0")), ([[1.5, 2, 3]], ("whole numbers", "1.5")),
    ([1, 2, 3], ("[input, 3]", "(3,)")), ([[1, 2]], ("[input, 3]", "(1, 2)")), (torch.zeros(0, 3), ("(0, 3)",))])
def test_what_is_no_sum_is_refused(model, inputs, parts):
    sentence(lambda: adders.encode_sums(model, torch.as_tensor(inputs)), *parts)
