"""What lesson 05 says in words about the shipped model."""
import torch


def curve(lesson, name, role):
    return lesson["averages"][name].curves[role].estimate


def test_samples_of_one_sentence_differ_widely(lesson):
    assert lesson["low"].min() < 0.1 and lesson["low"].max() > 0.9 and lesson["clean_score"] > 0.99


def test_mlps_do_most_early_and_attention_late(lesson):
    for name, kind in ((name, kind) for name in lesson["early"] for kind in ("mlp", "attention")):
        best = lesson["windows"][name, kind].curves[f"{lesson['early'][name]} subject token"].estimate.max()
        assert best > 0.5 if kind == "mlp" else best < 0.25
    late = lesson["tracer"].calculate_hidden_flow(lesson["prompt"], lesson["subject"], kind="attention", window=3)
    assert late.indirect_effect[-1].max() > 0.9 * late.total_effect


def test_without_layer_0_mlp_windows_matter_for_invented_landmarks_only(lesson):
    true, invented = (lesson["windows"][name, "mlp"].curves[f"{which} subject token"].estimate[2:].max()
                      for name, which in lesson["early"].items())
    assert true < 0.25 < 0.4 < invented


def test_the_early_site_depends_on_the_subjects(lesson):
    first, last = "first subject token", "last subject token"
    assert curve(lesson, "true landmarks", first)[2] > curve(lesson, "true landmarks", last)[2] + 0.2
    assert curve(lesson, "invented landmarks", last)[2] > curve(lesson, "invented landmarks", first)[2] + 0.4
    assert curve(lesson, "invented people", first)[0] > curve(lesson, "invented people", last)[0] + 0.1
    assert curve(lesson, "invented people", last)[3] > curve(lesson, "invented people", first)[3] + 0.1
    assert curve(lesson, "true landmarks", first)[3] < 0.1 and curve(lesson, "invented landmarks", last)[4] > 0.4


def test_the_site_moves_with_the_word_that_decides(lesson):
    last = [cell.estimate for cell in lesson["cells"][1::2]]
    assert len(last) == 3 and last[0] < last[1] < last[2]


def test_controls(lesson):
    own, next_word, wrong_place, other_sentence, other, random, others_answer = lesson["gains"].estimate
    assert own > 0.5 and other_sentence > 0.8 * own and abs(next_word) < 0.02 and max(other, random) < 0.05
    assert wrong_place > 0.5 * own and others_answer > 0.4


def test_noise_levels_and_rules(lesson):
    for total, site in lesson["measured"].values():
        zero, little, usual, much, uniform, swap = site.mean(1)
        assert abs(zero) < 1e-5 and little < 0.5 * usual and much < 0.6 * usual and total[3].mean() > 0.95
        assert swap > usual and abs(uniform - usual) < 0.15


def test_severed_traces_tell_the_two_sets_apart(lesson):
    lost = {name: (curves["uncut"] - curves["without later mlp"]).mean(1) for name, curves in lesson["cuts"].items()}
    assert lost["invented landmarks"][2] > 0.3 and lost["true landmarks"][2].abs() < 0.05 and lost["true landmarks"][0] > 0.15
    assert all((c["uncut"] - c["without later attention"]).mean(1).max() < 0.2 for c in lesson["cuts"].values())


def test_the_end_needs_its_mlps_a_little_for_true_landmarks_only(lesson):
    lost = []
    for name in lesson["early"]:
        free, held = torch.stack([lesson["at_the_end"](fact, i) for i, fact in enumerate(lesson["sets"][name])], 1)
        lost.append((free - held).mean() / free.mean())
    assert 0.03 < lost[0] < 0.3 and lost[1] < 0.03


def test_the_relation_arrives_before_the_name(lesson):
    name, relation = (int(curve.estimate.argmax()) for curve in lesson["arriving"].values())
    assert relation < name


def test_editing_is_not_told_by_tracing(lesson):
    traced, success, kept = (lesson[name].mean(1) for name in ("traced", "success", "kept_city"))
    assert success[5:].max() < 0.05 and traced[5:].abs().max() < 0.05 and lesson["random_city"].mean(1).max() < 0.05
    assert traced[2] < 0.4 * traced[0] and success[2] > 0.8 * success[0] and kept[2] > 0.8
    interval = lesson["bootstrap"]((lesson["traced"][:5], lesson["success"][:5]), lesson["correlation"])
    assert interval.low < 0 < interval.high
