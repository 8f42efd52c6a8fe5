"""Averages of causal traces over facts, and their picture."""
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from utils.errors import CourseError
from utils.metrics import bootstrap
from utils.show import plots
from utils.tracing import HiddenFlow, average_indirect_effect
from utils.tracing.flows import ROLES, token_roles

FIRST, MIDDLE, LAST, AFTER, FURTHER, END = ROLES


def a_flow(scores, subject_range=(1, 3), low=0.1, high=0.9, **options):
    """A flow of two samples around `scores` [token, layer]."""
    scores = torch.as_tensor(scores, dtype=torch.float32)
    outcomes = torch.stack([scores - 0.01, scores + 0.01], -1)
    tokens, layers = tuple(f" t{i}" for i in range(len(scores))), range(scores.shape[1])
    settings = dict(kind="hidden", window=1, noise=0.3, rule="gaussian", severed=None, layers=layers) | options
    return HiddenFlow(outcomes, torch.tensor([low, low]), high, tokens, subject_range, " Rome", **settings)


@pytest.fixture(autouse=True)
def no_figure_is_left():
    plt.close("all")
    yield
    plt.close("all")


# ---------------------------------------------------------------- roles

@pytest.mark.parametrize("tokens, subject, roles", [
    (8, (1, 4), {FIRST: [1], MIDDLE: [2], LAST: [3], AFTER: [4], FURTHER: [5, 6], END: [7]}),
    (8, (0, 5), {FIRST: [0], MIDDLE: [1, 2, 3], LAST: [4], AFTER: [5], FURTHER: [6], END: [7]}),
    (6, (1, 3), {FIRST: [1], LAST: [2], AFTER: [3], FURTHER: [4], END: [5]}),
    (5, (1, 2), {LAST: [1], AFTER: [2], FURTHER: [3], END: [4]}),
    (4, (1, 2), {LAST: [1], AFTER: [2], END: [3]}), (3, (1, 2), {LAST: [1], END: [2]}),
    (3, (0, 3), {FIRST: [0], MIDDLE: [1], LAST: [2]}), (1, (0, 1), {LAST: [0]})])
def test_roles(tokens, subject, roles):
    assert {role: list(positions) for role, positions in token_roles(tokens, subject).items()} == roles


def test_averages_by_hand():
    a = torch.arange(12.0).view(6, 2) / 20          # subject 1-2: first, last, after, further, end
    b = torch.linspace(0.3, 0.9, 14).view(7, 2)     # subject 2: last, after, further x 2, end
    average = average_indirect_effect([a_flow(a), a_flow(b, (2, 3), low=0.2, high=0.8)])
    effect_a, effect_b = a.numpy() - 0.1, b.numpy() - 0.2
    assert average.facts == {FIRST: 1, LAST: 2, AFTER: 2, FURTHER: 2, END: 2}
    expected = {FIRST: effect_a[1], LAST: (effect_a[2] + effect_b[2]) / 2, AFTER: (effect_a[3] + effect_b[3]) / 2,
                FURTHER: (effect_a[4] + effect_b[4:6].mean(0)) / 2, END: (effect_a[5] + effect_b[6]) / 2}
    assert list(average.curves) == list(expected)
    for role, values in expected.items():
        assert np.allclose(average.curves[role].estimate, values, atol=1e-6), role
    assert np.isnan(average.curves[FIRST].low).all() and not np.isnan(average.curves[LAST].low).any()
    assert average.total.estimate == pytest.approx(0.7) and (average.kind, average.window) == ("hidden", 1)


def test_intervals_are_over_facts():
    generator = torch.Generator().manual_seed(0)
    flows = [a_flow(torch.rand(6, 3, generator=generator)) for _ in range(12)]
    curve = average_indirect_effect(flows, seed=3).curves[LAST]
    expected = bootstrap(torch.stack([flow.indirect_effect[2] for flow in flows], -1), seed=3)
    assert np.allclose(curve.low, expected.low, atol=1e-6) and np.allclose(curve.high, expected.high, atol=1e-6)
    assert (curve.low < curve.estimate).all() and (curve.estimate < curve.high).all()


def test_what_was_not_computed_is_not_counted():
    part = torch.full((6, 2), 0.5)
    part[3:] = float("nan")                                     # patch_subject_tokens_only
    average = average_indirect_effect([a_flow(part), a_flow(torch.full((6, 2), 0.7)), a_flow(torch.full((6, 2), 0.9))])
    assert average.facts == {FIRST: 3, LAST: 3, AFTER: 2, FURTHER: 2, END: 2}
    assert np.allclose(average.curves[END].estimate, 0.7) and np.allclose(average.curves[LAST].estimate, 0.6)
    half = torch.full((6, 2), 0.5)
    half[:, 0] = float("nan")                                   # start_layer=1
    curve = average_indirect_effect([a_flow(half)] * 2).curves[LAST]
    assert np.isnan(curve.estimate[0]) and curve.estimate[1] == pytest.approx(0.4)


@pytest.mark.parametrize("flows, sentence", [
    ([], "at least two flows, got 0"), ([a_flow(np.zeros((3, 2)))], "at least two flows, got 1"),
    ([a_flow(np.zeros((4, 2))), a_flow(np.zeros((4, 2)), kind="mlp")], "differ in kind: hidden, mlp"),
    ([a_flow(np.zeros((4, 2))), a_flow(np.zeros((4, 2)), window=3)], "differ in window: 1, 3"),
    ([a_flow(np.zeros((4, 2))), a_flow(np.zeros((4, 2)), severed="mlp")], "differ in severed: None, mlp"),
    ([a_flow(np.zeros((4, 2))), a_flow(np.zeros((4, 3)))], "different depth: [2, 3] layers")])
def test_flows_that_do_not_go_together(flows, sentence):
    with pytest.raises(CourseError) as error:
        average_indirect_effect(flows)
    assert sentence in str(error.value)


# ---------------------------------------------------------------- the picture

def colour(figure, row, column, rows, columns):
    """Colour of the middle of one cell as it is drawn, row 0 at the top, RGB in 0..1."""
    figure.canvas.draw()
    image, box = np.asarray(figure.canvas.buffer_rgba())[::-1], figure.axes[0].get_window_extent()
    x, y = box.x0 + (column + 0.5) / columns * box.width, box.y1 - (row + 0.5) / rows * box.height
    return image[int(y), int(x), :3] / 255


@pytest.mark.parametrize("kind, palette", [("hidden", "Purples"), ("mlp", "Greens"), ("attention", "Reds")])
def test_the_look_of_rome(kind, palette):
    scores = np.full((4, 3), 0.1)
    scores[2, 1], scores[3, 2] = 0.8, np.nan
    figure = plots.plot_hidden_flow_heatmap(a_flow(scores, kind=kind))
    shades = matplotlib.colormaps[palette]
    assert np.allclose(colour(figure, 2, 1, 4, 3), shades(1.0)[:3], atol=0.02)
    assert np.allclose(colour(figure, 0, 0, 4, 3), shades(0.0)[:3], atol=0.02), "the palette starts at the low score"
    assert np.allclose(colour(figure, 3, 2, 4, 3), to_rgb(plots.MISSING), atol=0.02)
    axes, bar = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [" t0", " t1*", " t2*", " t3"]
    assert bar.get_ylabel() == "p(Rome)" and axes.get_xlabel() == "layer"


def test_title_and_window():
    figure = plots.plot_hidden_flow_heatmap(a_flow(np.eye(3), kind="mlp", window=3))
    assert "MLP outputs of 3 layers" in figure.axes[0].get_title() and "centre of the 3" in figure.axes[0].get_xlabel()
    assert plots.plot_hidden_flow_heatmap(a_flow(np.eye(3)), title="mine").axes[0].get_title() == "mine"


def test_a_flat_trace_can_be_drawn():
    figure = plots.plot_hidden_flow_heatmap(a_flow(np.full((3, 2), 0.1)))
    assert np.allclose(colour(figure, 1, 1, 3, 2), matplotlib.colormaps["Purples"](0.0)[:3], atol=0.02)


@pytest.mark.parametrize("name", ["trace.png", "new/folder/trace.pdf", "trace.SVG"])
def test_saved_to_any_path(tmp_path, name, monkeypatch):
    plots.plot_hidden_flow_heatmap(a_flow(np.eye(3)), savepath=tmp_path / name)
    assert (tmp_path / name).stat().st_size > 500
    monkeypatch.chdir(tmp_path)
    plots.plot_hidden_flow_heatmap(a_flow(np.eye(3)), savepath="bare.png")
    assert (tmp_path / "bare.png").is_file()


@pytest.mark.parametrize("name", ["trace.xyz", "trace"])
def test_an_unknown_format_is_refused(tmp_path, name):
    with pytest.raises(CourseError, match=r"cannot be saved as 'trace.*its name must end in one of .*\.pdf.*\.png"):
        plots.plot_hidden_flow_heatmap(a_flow(np.eye(3)), savepath=tmp_path / "sub" / name)
    assert not (tmp_path / "sub").exists()
