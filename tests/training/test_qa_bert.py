"""The shipped question-answering model does what its card says, and its recipe goes on where it was stopped."""
import json
import random
from functools import partial

import pytest
import torch
from small_answerer import save_question_answerer
from small_models import hooks_on

from utils.engine import Do, Site, at_end, run, sweep
from utils.errors import CourseError
from utils.masking import Groups, MaskingGame, leave_one_out
from utils.models import CHECKPOINTS, load_bert, shape_of
from utils.tasks import SpanLogProbability, SpanMatch, ask, passages, pick_answers
from utils.training import qa_bert, qa_card as card, report

FOLDER = CHECKPOINTS / "qa-bert"
CARD = json.loads((FOLDER / "measured.json").read_text(encoding="utf-8"))
HOW = {key: CARD.pop(key) for key in ("seed", "steps")}


@pytest.fixture(scope="module")
def model():
    return load_bert("qa-bert")


@pytest.fixture(scope="module")
def numbers(model):
    return card.measure(model)


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    """Not trained, with a tokenizer that knows some of the words."""
    return load_bert(str(save_question_answerer(tmp_path_factory.mktemp("qa"), qa_bert.texts(30))))


# ---------------------------------------------------------------- what the file does

@pytest.mark.parametrize("name", card.THRESHOLDS)
def test_threshold(numbers, name):
    value, threshold = numbers[name], card.THRESHOLDS[name]
    assert report.meets(value, threshold), f"{name} is {value}, must be {threshold}"


def test_card_states_what_the_file_does(numbers):
    assert numbers == pytest.approx(CARD, abs=0.02)
    assert set(card.LABELS) == set(card.THRESHOLDS)
    shape = qa_bert.LAYERS, qa_bert.HEADS, qa_bert.WIDTH
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == card.text(CARD, HOW, shape)


def test_files_are_small_and_safe(model):
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 6e6
    assert {file.suffix for file in FOLDER.iterdir()} <= {".json", ".safetensors", ".md", ".txt"}
    assert shape_of(model) == (qa_bert.LAYERS, qa_bert.HEADS) and model.config.intermediate_size == 4 * qa_bert.WIDTH


def test_an_untrained_model_does_not_reach_the_thresholds(model):
    """The control: shuffled weights must fail, or the thresholds would prove nothing."""
    shuffled = load_bert("qa-bert")
    for parameter in shuffled.parameters():
        order = torch.randperm(parameter.shape[-1], generator=torch.Generator().manual_seed(0))
        parameter.data = parameter.data[..., order]
    records = passages.records(100, seed=5)
    assert card.exact(shuffled, records) < 0.2 < 0.9 <= card.exact(model, records)


def test_the_answer_depends_on_the_question(model):
    """Two questions on one context: both right, with different answers, far more often than chance would have it."""
    records = passages.records(200, seed=11)
    pairs = [(a, b) for a, b in zip(records[::2], records[1::2]) if a.answer != b.answer]
    answers = dict(zip(records, card.answers(model, records)))
    both = [answers[a] == a.answer and answers[b] == b.answer for a, b in pairs]
    assert len(pairs) > 80 and sum(both) / len(both) > 0.8


def test_confidence_falls_without_the_question(model):
    records = passages.records(100, seed=12)
    sure = []
    for part in (records, [record.without_question() for record in records]):
        asked = card.ask_records(model, part)
        sure.append(sum(a.confidence for a in pick_answers(asked, at_end(model, asked.prompts))) / len(part))
    assert sure[0] > 0.85 and sure[1] < sure[0] - 0.2


def test_an_answer_never_ends_before_it_starts_whatever_is_masked(model):
    """The maxima of first and last token by themselves do so when the model is hurt; the picked answer never does."""
    records = passages.records(60, seed=13)
    asked = card.ask_records(model, records)
    backwards = 0
    for layer in range(qa_bert.LAYERS):
        logits = at_end(model, asked.prompts, [Do(Site("mlp_post", layer), 0.0), Do(Site("attn_out", 2), 0.0)])
        inside = logits.masked_fill(~asked.context[..., None], -torch.inf).argmax(1)
        backwards += int((inside[:, 1] < inside[:, 0]).sum())
        for answer, record in zip(pick_answers(asked, logits), records):
            assert answer.first <= answer.last and answer.text and answer.text in record.context
    assert backwards > 0


# ---------------------------------------------------------------- the same path for any such model

def test_a_random_model_takes_the_same_path(random_model):
    records = passages.records(6, seed=1)
    pairs = [(r.question, r.context[:40]) for r in records]
    asked = ask(random_model, pairs)
    answers = pick_answers(asked, at_end(random_model, asked.prompts))
    assert all(a.text in context and a.first <= a.last for a, (_, context) in zip(answers, pairs))
    where = asked.tokens_of([(4, 9)] * 6)
    groups = Groups.contiguous(random_model, "mlp_post", 4, 1)
    for outcome in (SpanLogProbability(*where), SpanMatch(asked, *where)):
        for ablation in ("zero", "mean"):
            game = MaskingGame(random_model, asked.prompts, outcome, groups, ablation=ablation)
            found = leave_one_out(game)
            masked = lambda writes: outcome(run(random_model, asked.prompts, writes), torch.arange(6))
            falls = [masked([]) - masked(game.interventions(groups.drop(g))) for g in range(4)]
            assert torch.allclose(found.per_prompt, torch.stack(falls).double(), atol=1e-5)
    assert not hooks_on(random_model)


def test_neurons_masked_by_a_plain_hook(model):
    """Group 2 of layer 3 set to zero, against a hook on the module and one unpadded forward pass for each question."""
    records = passages.records(8, seed=2)
    asked, group = card.ask_records(model, records), tuple(range(160, 240))
    first, last = asked.tokens_of([r.span for r in records])
    zero = Do(Site("mlp_post", 3, units=group), 0.0)
    result = sweep(model, asked.prompts, [[zero]], SpanLogProbability(first, last))[0]

    def hook(module, args):
        neurons = args[0].clone()
        neurons[..., 160:240] = 0
        return neurons, *args[1:]
    handle = model.bert.encoder.layer[3].output.dense.register_forward_pre_hook(hook)
    try:
        for i, r in enumerate(records):
            output = model(**model.tokenizer(r.question, r.context, return_tensors="pt"))
            scores = torch.cat([output.start_logits, output.end_logits]).log_softmax(1)
            assert result[i].item() == pytest.approx((scores[0, first[i]] + scores[1, last[i]]).item(), abs=1e-4)
    finally:
        handle.remove()


def test_a_context_longer_than_the_positions_is_refused(model):
    record = passages.records(1)[0]
    with pytest.raises(CourseError, match="an input has .* tokens .*, but the context of this model ends at 128"):
        ask(model, (record.question, record.context * 5))


# ---------------------------------------------------------------- the recipe

@pytest.fixture
def tiny(monkeypatch):
    sorts = {"find": (0.3, (2,), 4), "plain": (0.3, (2,), 4), "full": (0.4, (2,), 4)}
    for name, value in dict(LAYERS=2, WIDTH=16, HEADS=2, FIRST=sorts, THEN=sorts, FIRST_LAYERS=1, FIRST_STEPS=6).items():
        monkeypatch.setattr(qa_bert, name, value)
    monkeypatch.setattr(qa_bert, "texts", lambda number=0, made_up=0.0: TEXTS)
    monkeypatch.setattr(qa_bert.encoders, "train", partial(qa_bert.encoders.train, save_every=3))


TEXTS = qa_bert.texts(300, made_up=0.1)


def weights(folder):
    from safetensors.torch import load_file
    return load_file(folder / "model.safetensors")


def test_an_interrupted_run_ends_like_an_unbroken_one(tiny, tmp_path, monkeypatch):
    qa_bert.train(tmp_path / "a", seed=1, steps=8)
    original, calls = qa_bert.make_batch, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 11:  # after the first stage and the checkpoint at step 3 of the second
            raise KeyboardInterrupt
        return original(*args)
    monkeypatch.setattr(qa_bert, "make_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        qa_bert.train(tmp_path / "b", seed=1, steps=8)
    assert (tmp_path / "b" / "training-state.pt").exists()
    monkeypatch.setattr(qa_bert, "make_batch", original)
    qa_bert.train(tmp_path / "b", seed=1, steps=8)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert load_bert(str(tmp_path / "b")).config.num_hidden_layers == 2


def test_batches_mark_the_answers(model):
    rng = random.Random(3)
    for _ in range(6):
        batch = qa_bert.make_batch(model.tokenizer, qa_bert.THEN, 0.1, rng)
        assert batch["input_ids"].shape[1] <= qa_bert.CONTEXT and len(batch["first"]) in [rows for *_, rows in qa_bert.THEN.values()]
        assert (batch["first"] <= batch["last"]).all()
        assert (batch["token_type_ids"].gather(1, batch["first"][:, None]) == 1).all()
    record = passages.records(1, seed=4, split="training")[0]
    batch, asked = qa_bert.tensors(model.tokenizer, [record]), card.ask_records(model, [record])
    assert (batch["first"], batch["last"]) == asked.tokens_of([record.span])
    assert torch.equal(batch["input_ids"], asked.prompts.tokens)


def test_every_word_of_the_lists_is_one_token(model):
    names = {word for part in qa_bert.NAMES for name in part for word in name.split()}
    assert not [word for word in names if len(model.tokenizer.tokenize(word)) > 1]
    longest = max(len(model.tokenizer(r.question, r.context)["input_ids"])
                  for split in passages.SPLITS for r in passages.records(400, split=split))
    assert longest <= qa_bert.CONTEXT
