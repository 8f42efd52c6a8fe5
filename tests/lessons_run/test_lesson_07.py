"""What lesson 07 says in words about the shipped models, measured by the lesson's own cells."""
import torch
from lessons import run_lesson
from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering, BertForSequenceClassification

from utils.models import CHECKPOINTS

LOWER, UPPER = slice(0, 2), slice(2, 4)          # layers


def right(lesson, curve, dropped):
    """Share of right verdicts with so many heads dropped."""
    return lesson["fewer"][curve].estimate[lesson["DROPS"].index(dropped)]


# ---------------------------------------------------------------- sections 1 to 3: heads

def test_no_single_head_is_needed_and_none_suffices(lesson):
    means, whole = lesson["means"], lesson["whole_margin"]
    assert means["drop-one"].max() < 0.1 * whole and means["keep-one"].max() < 0.25 * whole
    single = ~torch.eye(16, dtype=torch.bool)
    share = {kind: (game(single) > 0).float().mean(1) for kind, game in lesson["games"].items()}
    assert min(share[kind].min() for kind in lesson["KINDS"]) >= 0.95


def test_one_head_of_layer_0_cannot_be_spared_for_intensified_reviews(lesson):
    share = (lesson["games"]["intensified"](~torch.eye(16, dtype=torch.bool)) > 0).float().mean(1)
    assert lesson["HEADS"].labels[int(share.argmin())].startswith("L0")
    assert 0.6 < share.min() < 0.8 and share.sort().values[1] > 0.95


def test_the_mean_decides_whether_layer_0_matters_for_negation(lesson):
    no_layer_0 = {kind: curve.estimate[1] for kind, curve in lesson["shares"].items()}
    assert 0.6 < no_layer_0["negated"] < 0.8 and no_layer_0["plain"] == 1
    assert no_layer_0["negated, their own mean"] > 0.97


def test_single_layers_alone_read_words_or_take_everything_for_negated(lesson):
    alone = {kind: lesson["shares"][kind].estimate[5:9] for kind in lesson["KINDS"]}
    assert alone["plain"][3] > 0.8 and alone["negated"][3] < 0.35
    assert alone["negated"][:2].min() > 0.9 and alone["plain"][:2].max() < 0.85


def test_negation_is_worth_most_in_the_lower_layers(lesson):
    assert lesson["lower"]["negated"].low > 0.7 and lesson["lower"]["plain"].high < 0.45
    assert all(unit[0] < 2 for g in lesson["order"][:8] for unit in lesson["HEADS"].members[g])


def test_the_order_holds_on_reviews_that_took_no_part_in_the_choice(lesson):
    assert lesson["extra"] > 3 * lesson["error"]
    assert all(item.text not in lesson["seen"] for task in lesson["new"].values() for item in task.items)
    assert not {item.text for item in lesson["club"].items} & lesson["taught"]


def test_without_the_chosen_heads_not_is_passed_over(lesson):
    assert right(lesson, "negated, chosen heads", 8) < 0.4 and right(lesson, "plain, chosen heads", 8) > 0.95
    assert right(lesson, "negated, random heads", 8) > 0.8
    curves = ("negated, chosen heads", "negated, chosen, zero", "negated, chosen, mean of negated")
    chosen, zero, own = (right(lesson, curve, 8) for curve in curves)
    assert abs(zero - chosen) < 0.15 and own > chosen + 0.2
    at, drops = lesson["DROPS"].index(8), len(lesson["DROPS"])
    assert lesson["differ"][at].mean() < 0.05 and lesson["differ"][at + drops].mean() > 0.9


def test_an_honest_choice_finds_nothing_in_noise(lesson):
    assert abs(lesson["honest"].mean()) < 0.15


# ---------------------------------------------------------------- section 4: neurons

def masked_layers(lesson, dropped):
    """Logits of the answering model with the neurons of these layers masked."""
    writes = lesson["layer_game"].interventions(lesson["layer_groups"].drop(dropped))
    return lesson["at_end"](lesson["answerer"], lesson["asked"].prompts, writes)


def no_span(lesson, logits):
    """Share of the questions for which the two argmaxes mark no span of the context."""
    first, last = logits.argmax(1).unbind(1)
    inside = [lesson["asked"].context.gather(1, place[:, None])[:, 0] for place in (first, last)]
    return ((last < first) | ~inside[0] | ~inside[1]).float().mean()


def test_damaged_models_mark_no_span(lesson):
    one_layer = [no_span(lesson, masked_layers(lesson, [i])) for i in range(4)]
    assert min(one_layer[:2]) > 0.05 and no_span(lesson, masked_layers(lesson, range(4))) > max(0.25, *one_layer)


def test_a_layer_is_needed_and_none_of_its_eighths(lesson):
    whole, eighths = (lesson["square_of"](lesson[name]) for name in ("whole", "neighbours"))
    assert 5 < whole[0, 0] < 7 and whole[1, 0] > 2 and whole[2:].max() < 0.1 and eighths.max() < 0.05
    match = lesson["SpanMatch"](lesson["asked"], *lesson["where"])
    found = match(masked_layers(lesson, [0]), torch.arange(len(lesson["records"])))
    assert found.mean() < 0.4


def test_one_cluster_carries_much_of_where(lesson):
    assert lesson["best"]["where"] // lesson["PARTS"] == 0 and len(lesson["CLUSTERS"].members[0]) == 80
    answered = dict(zip(lesson["masks"], lesson["answered"].mean(2).tolist()))              # who, where, when
    who, where, when = answered[lesson["named"]["where"]]
    assert 0.6 < where < 0.8 and who == when == 1
    assert min(answered["nothing dropped"]) == 1 and min(answered["control, same layer"]) > 0.9
    assert min(answered[lesson["named"]["who"]]) > 0.9, "no cluster for who"


def test_two_sorts_agree_no_less_than_two_halves_of_one(lesson):
    agree, of_sort, rows = lesson["rank_agreement"], lesson["of_sort"], lesson["rows"]
    pairs = [agree(of_sort[one], of_sort[other], same_prompts=False).estimate
             for one, other in (("who", "where"), ("who", "when"), ("where", "when"))]
    parts = [[lesson["part_of"](lesson["together"], own[start::2]) for start in (0, 1)] for own in rows.values()]
    halves = [agree(*two, same_prompts=False).estimate for two in parts]
    assert min(pairs) > sorted(halves)[1] - 0.05


# ---------------------------------------------------------------- sections 5 to 7: training, models, positions, inputs

def test_the_important_heads_learn_more_than_random_ones_and_everything_most(lesson):
    learned = lesson["learned"]
    after = learned.groupby(["step", "choice", "examples"]).outcome.agg(["mean", "min", "max"])
    end = after.loc[28]
    assert after.loc[(14, "everything", "club"), "mean"] > 0.95 and lesson["how"]["steps"] == 28
    assert 0.4 < end.loc[("important", "club"), "mean"] < 0.7
    assert end.loc[("important", "club"), "min"] > end.loc[("random", "club"), "max"] + 0.1, "with every seed"
    lost = 50 * (1 - end.loc[("everything", "contrast")])
    assert lost["max"].round() >= 1 and lost["min"].round() <= 3
    kept = [(choice, name) for choice in ("important", "random") for name in ("plain", "contrast")]
    assert min(end.loc[one, "mean"] for one in kept) > 0.98
    trained = learned.groupby("choice").trained.first()
    assert 0.065 < trained["important"] / trained["everything"] < 0.075


def test_three_models_on_one_figure(lesson):
    curve, kept = lesson["by_model"], lesson["compared"].groupby("model").kept.first()
    loaded, club, random = (curve[name].estimate for name in ("as loaded", "trained by the club", "random weights"))
    assert loaded[LOWER].min() > 2 * loaded[UPPER].max() and abs(random).max() < 0.05 > abs(kept["random weights"])
    assert kept["trained by the club"] < -2 and club.argmin() == 3 and (abs(club[LOWER]) < 0.5 * loaded[LOWER]).all()


def test_not_gathers_at_its_own_place_in_layer_0(lesson):
    with_not, without = lesson["grids"]["with 'not'"], lesson["grids"]["without"]
    assert with_not.loc[0, 4] == with_not.to_numpy().max() > 2 and without[4].abs().max() < 0.1
    assert without.loc[3, 0] == without.to_numpy().max()


def test_ways_to_negate_differ_without_the_chosen_heads(lesson):
    table = lesson["table"].groupby("word")
    fall, random = table.estimate.mean(), table.random.mean()
    assert fall[["nobody", "nothing", "not"]].min() > 15 and 8 < fall["neither"] < 12
    assert table.estimate.min()["neither"] < 5 and table.estimate.max()["neither"] > 15
    assert table.estimate.min()["n't"] < 1 and table.estimate.max()["n't"] > 20 and (random < 0.75 * fall).all()


# ---------------------------------------------------------------- other models of these classes

def save_like(shipped, kind, folder):
    """A random model like the shipped one, but smaller and with more heads in a layer, and the shipped one's tokenizer."""
    torch.manual_seed(0)
    own = dict(hidden_size=48, num_attention_heads=6, intermediate_size=64, num_hidden_layers=2)
    config = BertConfig.from_pretrained(CHECKPOINTS / shipped, **own)
    kind(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(CHECKPOINTS / shipped).save_pretrained(folder)
    return folder


def test_the_same_cells_run_on_other_models_as_if_they_were_large(tmp_path):
    sentiment = save_like("sentiment-bert", BertForSequenceClassification, tmp_path / "sentiment")
    answers = save_like("qa-bert", BertForQuestionAnswering, tmp_path / "answers")
    names = run_lesson("07", str(sentiment), replace=[
        ("model", 'ANSWERS = "qa-bert"', f"ANSWERS = {str(answers)!r}"),
        ("model", "small = layers * model.config.hidden_size < 5000", "small = False")])
    assert len(names["HEADS"]) == 6 and len(names["by_model"]) == 3
