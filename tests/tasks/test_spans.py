"""Spans: the best one, from characters to tokens and back, and the outcomes for the engine."""
import pytest
import torch
from small_answerer import save_question_answerer

from utils.engine import Do, Site, at_end, run, sweep
from utils.errors import CourseError
from utils.models import Prompts, encode_texts, load_bert
from utils.tasks import Asked, SpanLogProbability, SpanMatch, ask, best_span, exact_match, pick_answers
from utils.tasks.spans import LONGEST

PAIRS = [("Where does the Ivory Tower stand?", "The Ivory Tower stands in New York. It was built by Anna Baker."),
         ("Who built it?", "Anna Baker built the tower."),
         ("When was Ivan born?", "Ivan was born in 1889, and he lives in Rome. He is a baker, and works in Oslo.")]
SPANS = [(26, 34), (0, 10), (17, 21)]
TEXTS = ["New York", "Anna Baker", "1889"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    words = [part for pair in PAIRS for part in pair]
    return load_bert(str(save_question_answerer(tmp_path_factory.mktemp("qa"), words)))


@pytest.fixture(scope="module")
def asked(model):
    return ask(model, PAIRS)


# ---------------------------------------------------------------- the best span

def best_by_hand(start, end, context, longest):
    """Every span, one by one: (first, last, probability)."""
    scores = {(i, j): start[i] + end[j] for i in range(len(start)) for j in range(i, min(i + longest, len(start)))
              if all(context[i:j + 1])}
    best = max(scores, key=scores.get)
    return *best, (torch.tensor(scores[best]) - torch.tensor(list(scores.values())).logsumexp(0)).exp().item()


@pytest.mark.parametrize("seed", range(200))
def test_fuzz_the_best_span_is_the_best_of_all_that_are_allowed(seed):
    generator = torch.Generator().manual_seed(seed)
    width = int(torch.randint(1, 12, (1,), generator=generator))
    longest = int(torch.randint(1, 6, (1,), generator=generator))
    start, end = 3 * torch.randn(2, 4, width, generator=generator)
    context = torch.rand(4, width, generator=generator) < 0.6
    context[torch.arange(4), torch.randint(width, (4,), generator=generator)] = True
    first, last, confidence = best_span(start, end, context, longest)
    assert (first <= last).all() and (last - first < longest).all()
    for row in range(4):
        expected = best_by_hand(start[row].tolist(), end[row].tolist(), context[row].tolist(), longest)
        assert (first[row].item(), last[row].item()) == expected[:2]
        assert confidence[row].item() == pytest.approx(expected[2], abs=1e-5)


def test_first_and_last_token_by_themselves_would_end_before_they_start():
    """The control: on random scores the two separate maxima are no span about half of the time."""
    start, end = torch.randn(2, 500, 20, generator=torch.Generator().manual_seed(0))
    assert 0.3 < (end.argmax(-1) < start.argmax(-1)).float().mean() < 0.7
    first, last, _ = best_span(start, end, torch.ones(500, 20, dtype=torch.bool))
    assert (first <= last).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_still_give_a_span_inside_the_context(bad):
    start, end = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    start[0], end[1], start[2, 4:], end[2, 4:] = bad, bad, bad, bad
    context = torch.zeros(3, 9, dtype=torch.bool)
    context[:, 4:8] = True
    first, last, _ = best_span(start, end, context, 2)
    assert (first >= 4).all() and (last < 8).all() and (first <= last).all() and (last - first < 2).all()


def test_what_best_span_refuses():
    zeros = torch.zeros(2, 3)
    with pytest.raises(CourseError, match="the mask of the context marks no token of a row"):
        best_span(zeros, zeros, torch.tensor([[True, True, True], [False, False, False]]))
    with pytest.raises(CourseError, match="longest must be 1 or more, not 0"):
        best_span(zeros, zeros, zeros == 0, 0)


# ---------------------------------------------------------------- asking

def test_tokens_types_and_the_mask_of_the_context(model, asked):
    prompts = encode_texts(model, PAIRS)
    assert torch.equal(asked.prompts.tokens, prompts.tokens) and torch.equal(asked.prompts.types, prompts.types)
    special = (prompts.tokens == model.tokenizer.sep_token_id) | (prompts.mask == 0)
    assert torch.equal(asked.context, (prompts.types == 1) & ~special)
    assert not prompts.equal_length


def test_characters_to_tokens_and_back(asked):
    def texts(spans):
        return [asked.text(i, first, last) for i, (first, last) in enumerate(zip(*asked.tokens_of(spans)))]
    assert texts(SPANS) == TEXTS
    assert texts([(5, 6)] * 3) == ["Ivory", "Baker", "was"]  # one letter inside a word


@pytest.mark.parametrize("span", [(3, 3), (900, 905), (8, 5)])
def test_a_span_without_a_token_is_refused(asked, span):
    with pytest.raises(CourseError, match=rf"the span \({span[0]}, {span[1]}\) holds no token .*, which has 27"):
        asked.tokens_of([(0, 5), span, (0, 5)])


def test_what_ask_refuses(model, asked):
    with pytest.raises(CourseError, match=r"`pairs` must be .* a list of tuples \(a text, a text\), not \['Who built it\?'\]"):
        ask(model, ["Who built it?"])
    with pytest.raises(CourseError, match="an input has .* tokens .*, but the context of this model ends at 64"):
        ask(model, [("Who?", "Anna Baker built it. " * 30)])
    with pytest.raises(CourseError, match="a question or context is empty"):
        ask(model, [("", "Anna Baker built it.")])
    with pytest.raises(CourseError, match="2 spans for 3 questions"):
        asked.tokens_of(SPANS[:2])


def test_picked_answers_are_pieces_of_the_context(model, asked):
    answers = pick_answers(asked, at_end(model, asked.prompts))
    for answer, (_, context) in zip(answers, PAIRS):
        assert answer.text and answer.text in context and answer.first <= answer.last < answer.first + LONGEST
        assert 0 < answer.confidence <= 1 and str(answer) == f"{answer.text} ({answer.confidence:.1%})"
    with pytest.raises(CourseError, match=r"logits of shape \(3, 5, 2\) are no scores of spans: give \[3 prompts"):
        pick_answers(asked, torch.zeros(3, 5, 2))
    with pytest.raises(CourseError, match=r"`logits` must be .* axes \[prompt position two\], not .* shape \[3, 5\]"):
        pick_answers(asked, torch.zeros(3, 5))


def test_one_pair_is_the_same_alone_and_in_a_padded_batch(model, asked):
    together = pick_answers(asked, at_end(model, asked.prompts))
    for pair, answer in zip(PAIRS, together):
        alone = ask(model, pair)
        single = pick_answers(alone, at_end(model, alone.prompts))[0]
        assert (single.text, single.first, single.last) == (answer.text, answer.first, answer.last)
        assert single.confidence == pytest.approx(answer.confidence, abs=1e-5)


@pytest.mark.parametrize("answer, right, same", [("the Ivory Tower", "Ivory Tower", True), ("paris.", "Paris", True),
                                                 ("Anna", "Anna Baker", False), ("in 1889", "1889", False)])
def test_exact_match(answer, right, same):
    assert exact_match(answer, right) == same


# ---------------------------------------------------------------- outcomes

def test_log_probability_of_the_right_span(model, asked):
    first, last = asked.tokens_of(SPANS)
    result = sweep(model, asked.prompts, [[]], SpanLogProbability(first, last))[0]
    for i, pair in enumerate(PAIRS):
        output = model(**model.tokenizer(*pair, return_tensors="pt"))
        expected = output.start_logits[0].log_softmax(0)[first[i]] + output.end_logits[0].log_softmax(0)[last[i]]
        assert result[i].item() == pytest.approx(expected.item(), abs=1e-5)


def test_match_counts_the_same_words_at_another_place(model):
    text = "Anna Baker built it. It was built by Anna Baker."
    asked = ask(model, [("Who built it?", text)] * 3)
    (first, *_), (last, *_) = asked.tokens_of([(0, 10)] * 3)
    second = asked.tokens_of([(37, 47)] * 3)
    match = SpanMatch(asked, *second)
    logits = torch.zeros(3, asked.context.shape[1], 2)
    logits[0, first, 0], logits[0, last, 1] = 9, 9           # the words, where they stand first
    logits[1, second[0][1], 0], logits[1, second[1][1], 1] = 9, 9
    logits[2, first, 0], logits[2, first, 1] = 9, 9          # only the first name
    assert match(logits, torch.arange(3)).tolist() == [1, 1, 0]
    assert match(logits[[2, 0]], torch.tensor([2, 0])).tolist() == [0, 1]


def test_match_looks_into_the_context_of_its_own_prompt():
    """The best scores lie in what is the context of the other one."""
    context = torch.tensor([[False, True, True, False, False], [False, False, False, True, True]])
    tokens = torch.arange(10).view(2, 5)
    prompts = Prompts(tokens, torch.ones_like(tokens), torch.tensor([4, 4]), ())
    asked = Asked(prompts, ("", ""), context, torch.zeros(2, 5, 2))
    match = SpanMatch(asked, torch.tensor([1, 4]), torch.tensor([2, 4]))
    logits = torch.tensor([[[0., 0], [5, 0], [0, 5], [9, 0], [0, 9]], [[0, 0], [9, 0], [0, 9], [0, 0], [5, 5]]])
    assert match(logits, torch.tensor([0, 1])).tolist() == [1, 1]
    assert match(logits[[1, 0]], torch.tensor([1, 0])).tolist() == [1, 1]


def test_outcomes_follow_the_engine_in_batches_of_any_size(model, asked):
    rows = [[], [Do(Site("mlp_post", 1, units=range(8)), 0.0)], [Do(Site("z", 0, None, 1), 0.0)]]
    outcome = SpanLogProbability(*asked.tokens_of(SPANS))
    whole = sweep(model, asked.prompts, rows, outcome)
    for r, row in enumerate(rows):
        logits = run(model, asked.prompts, row)
        assert whole[r].tolist() == pytest.approx(outcome(logits, torch.arange(3)).tolist(), abs=1e-5)
    assert (whole[1:] - whole[0]).abs().min() > 1e-4
    for size in (1, 2):
        assert torch.allclose(sweep(model, asked.prompts, rows, outcome, batch_size=size), whole, atol=1e-5)
