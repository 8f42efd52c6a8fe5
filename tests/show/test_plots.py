"""Figures: the text alternative is never missing, signed maps are centred on zero, missing cells look missing."""
import base64
import io

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from utils.metrics import Interval
from utils.patching import PatchMap
from utils.show import plots


@pytest.fixture(autouse=True)
def no_figure_is_left():
    plt.close("all")
    yield
    plt.close("all")


@pytest.fixture
def displayed(monkeypatch):
    import IPython.display
    seen = []
    monkeypatch.setattr(IPython.display, "display", seen.append)
    return seen


def interval(values):
    values = np.array(values, dtype=float)
    return Interval(values, values - 0.1, values + 0.2)


def a_map(values, **options):
    values = np.array(values, dtype=float)
    return plots.heat_map(values, [str(i) for i in range(len(values))], [str(i) for i in range(values.shape[1])],
                          title="t", x="x", y="y", unit="u", **options)


def pixel(figure, row, column, rows, columns):
    """Colour of the middle of one cell as it is drawn, RGB in 0..1."""
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[::-1]
    box = figure.axes[0].get_window_extent()
    x, y = box.x0 + (column + 0.5) / columns * box.width, box.y0 + (row + 0.5) / rows * box.height
    return image[int(y), int(x), :3] / 255


# ---------------------------------------------------------------- show

def test_show_displays_picture_and_text_and_closes_the_figure(displayed):
    plots.show(plots.stream_picture(2), alt='A line with "boxes"\n  and <arrows>.', caption="x < y")
    assert not plt.get_fignums() and len(displayed) == 1
    bundle = displayed[0]._repr_mimebundle_()
    assert bundle["text/plain"] == 'A line with "boxes" and <arrows>.'
    page = bundle["text/html"]
    assert 'alt="A line with &quot;boxes&quot; and &lt;arrows&gt;."' in page and "<figcaption>x &lt; y</figcaption>" in page
    png = base64.b64decode(page.split("base64,")[1].split('"')[0])
    image = plt.imread(io.BytesIO(png))
    assert image.shape[0] > 50 and image.std() > 0.01 and image[..., -1].min() == 1.0   # something is drawn, opaque


@pytest.mark.parametrize("alt", ["", "   ", "\n"])
def test_show_refuses_a_figure_without_text(displayed, alt):
    with pytest.raises(ValueError, match="a figure needs a text alternative: say in `alt` what a reader would see in it"):
        plots.show(plots.stream_picture(1), alt=alt)
    assert not displayed and not plt.get_fignums()


# ---------------------------------------------------------------- maps

@pytest.mark.parametrize("values, limit, expected", [([[0.5, -2.0]], None, 2.0), ([[0.5, -2.0]], 1.0, 1.0),
                                                     ([[3.0, np.nan]], None, 3.0), ([[0.0, 0.0]], None, 1.0),
                                                     ([[np.nan, np.nan]], None, 1.0)])
def test_signed_maps_are_centred_on_zero(values, limit, expected):
    mesh = a_map(values, limit=limit).axes[0].collections[0]
    assert mesh.get_clim() == (-expected, expected) and mesh.get_cmap().name == "RdBu_r"


def test_blue_is_negative_and_red_is_positive():
    figure = a_map([[1.0, -1.0, 0.0]])
    red, blue, white = (pixel(figure, 0, c, 1, 3) for c in range(3))
    assert red[0] > red[2] + 0.2 and blue[2] > blue[0] + 0.2 and white.min() > 0.9


def test_maps_without_sign_start_at_zero():
    mesh = a_map([[0.2, 0.8]], centred=False).axes[0].collections[0]
    assert mesh.get_clim() == (0, 0.8) and mesh.get_cmap().name == "viridis"


def test_cells_that_were_not_computed_look_like_nothing_in_the_palette():
    figure = a_map([[0.0, np.nan]], numbers=True)
    assert pixel(figure, 0, 1, 1, 2) == pytest.approx(to_rgb(plots.MISSING), abs=0.01)
    for palette in (plots.DIVERGING, plots.SEQUENTIAL):
        colours = matplotlib.colormaps[palette](np.linspace(0, 1, 256))[:, :3]
        assert np.abs(colours - to_rgb(plots.MISSING)).max(1).min() > 0.1
    assert [t.get_text() for t in figure.axes[0].texts] == ["0.00"]


def test_row_0_is_at_the_bottom():
    figure = a_map([[1.0], [-1.0]])
    assert pixel(figure, 0, 0, 2, 1)[0] > pixel(figure, 0, 0, 2, 1)[2]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["0", "1"]


@pytest.mark.parametrize("kind, label", [("resid_pre", "token and position"), ("z", "head"), ("path", "head")])
def test_patch_map(kind, label):
    """Effects 0.5 and -1 of a total of 4 in one layer, and NaN where nothing was computed."""
    patched = torch.tensor([[[2.0, 2.0], [-4.0, -4.0], [float("nan")] * 2]])
    result = PatchMap(patched, torch.zeros(2), torch.full((2,), 4.0), kind, "denoise", ("0",), ("a\n 0", "b 1", "c 2"))
    axes = plots.patch_map(result, "T").axes[0]
    drawn = axes.collections[0].get_array().filled(np.nan).flatten()
    assert drawn[:2] == pytest.approx([0.5, -1.0]) and np.isnan(drawn[2])
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == (label, "layer", "T")
    assert axes.get_xticklabels()[0].get_text() == "a\\n 0"


def test_attention_map_has_the_first_query_on_top():
    figure = plots.attention_map(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), ["<|endoftext|>", "b"], "T")
    axes = figure.axes[0]
    assert axes.collections[0].get_clim() == (0, 1) and [t.get_text() for t in axes.get_yticklabels()] == ["BOS", "b"]
    assert pixel(figure, 1, 0, 2, 2).sum() > pixel(figure, 1, 1, 2, 2).sum()   # top left: weight 1, the bright end


def test_maps_draw_into_given_axes():
    figure, axes = plt.subplots()
    assert a_map([[1.0]], ax=axes) is figure and len(plt.get_fignums()) == 1


# ---------------------------------------------------------------- lines and bars

def test_lines_show_estimates_and_bands():
    figure = plots.lines({"a": interval([0, 1, 2]), "b": interval([2, 1, 0])}, title="t", x="x", y="y", ticks=["p", "q", "r"])
    axes = figure.axes[0]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0, 1, 2], [2, 1, 0]]
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(-0.1) and band[:, 1].max() == pytest.approx(2.2)
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["a", "b"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["p", "q", "r"]
    assert axes.lines[0].get_marker() != axes.lines[1].get_marker()   # not told apart by colour alone


def test_bars_show_estimates_errors_and_the_control():
    axes = plots.bars(["a", "b"], interval([1, -2]), title="t", y="y", reference=0.5).figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == [1, -2]
    ends = axes.collections[0].get_segments()
    assert [s[:, 1].tolist() for s in ends] == [pytest.approx([0.9, 1.2]), pytest.approx([-2.1, -1.8])]
    assert 0.5 in [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]


def test_stream_picture_names_every_layer():
    texts = [t.get_text() for t in plots.stream_picture(3).axes[0].texts]
    assert {"attn 0", "MLP 0", "attn 2", "MLP 2"} <= set(texts) and "attn 3" not in texts


def test_background_is_opaque_white():
    for figure in (a_map([[1.0]]), plots.stream_picture(1), plots.bars(["a"], interval([1]), title="t", y="y")):
        assert figure.get_facecolor() == (1, 1, 1, 1)
