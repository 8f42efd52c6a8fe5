"""The recipe of the shipped model: growing changes nothing at first, and an interrupted run ends like an unbroken one."""
import random
import shutil

import pytest
import torch

from utils.models import CHECKPOINTS
from utils.training import corpus, course_gpt2


@pytest.fixture
def tiny(monkeypatch):
    """A recipe of seconds: two narrow layers, then three."""
    for name, value in dict(LAYERS=3, WIDTH=20, HEADS=2, BATCH=2, WARM_UP=2, SAVE_EVERY=3, WINDOWS=(2,),
                            STAGES=((0.0, 2, corpus.SHORT), (0.5, 3, corpus.FULL))).items():
        monkeypatch.setattr(course_gpt2, name, value)
    with torch.compiler.set_stance("force_eager"):
        yield


def folder_with_tokenizer(path):
    path.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(CHECKPOINTS / "course-gpt2" / name, path)
    return path


def weights(folder):
    from safetensors.torch import load_file
    return load_file(folder / "model.safetensors")


def test_an_interrupted_run_ends_like_an_unbroken_one(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(course_gpt2, "write_known_words", lambda folder: None)
    unbroken, broken = folder_with_tokenizer(tmp_path / "a"), folder_with_tokenizer(tmp_path / "b")
    course_gpt2.train(unbroken, seed=1, steps=10)
    original, calls = course_gpt2.batch, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 8:  # after the checkpoint at step 6, in the second stage
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(course_gpt2, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        course_gpt2.train(broken, seed=1, steps=10)
    monkeypatch.setattr(course_gpt2, "batch", original)
    course_gpt2.train(broken, seed=1, steps=10)
    a, b = weights(unbroken), weights(broken)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_grown_layers_add_nothing_at_first(tiny):
    small = course_gpt2.new_model(0, 2).eval()
    large = course_gpt2.grown(small, 3, seed=1).eval()
    tokens = torch.randint(0, course_gpt2.VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(small(tokens).logits, large(tokens).logits)
    assert large.config.n_layer == 3


def test_the_penalty_counts_exactly_the_far_attention(tiny):
    mask = course_gpt2.far_masks()[0]
    assert mask[5].nonzero().flatten().tolist() == [1, 2]  # distances 4 and 3 are beyond 2; position 0 is exempt


def test_stages_and_learning_rate():
    assert [course_gpt2.stage(step, 1000) for step in (0, 299, 300, 699, 700, 999)] == [0, 0, 1, 1, 2, 2]
    rates = [course_gpt2.learning_rate(step, 1000) for step in range(1000)]
    assert max(rates) <= course_gpt2.LEARNING_RATE and rates[-1] < 0.05 * course_gpt2.LEARNING_RATE


def test_rows_of_documents_and_repetitions():
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(CHECKPOINTS / "course-gpt2" / "tokenizer.json"))
    rows = course_gpt2.batch(tokenizer, random.Random(0), corpus.FULL)
    again = course_gpt2.batch(tokenizer, random.Random(0), corpus.FULL)
    assert rows.shape == (course_gpt2.BATCH, course_gpt2.CONTEXT) and torch.equal(rows, again)
    repeated = corpus.repeated_rows(50, 128, course_gpt2.VOCAB, random.Random(1))
    assert all(len(set(row.tolist())) < 100 for row in repeated)
