"""Figures. Every function returns a matplotlib figure; `show` displays it with a text for those who cannot see it.

Maps of signed effects are centred on zero (blue negative, red positive); palettes are safe for colour-blind readers.
"""
from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from ..errors import CourseError, check_arguments
from ..metrics import Interval

if TYPE_CHECKING:
    from ..tracing import HiddenFlow

PALETTE = sns.color_palette("colorblind")
DIVERGING, SEQUENTIAL, MISSING = "RdBu_r", "viridis", "#9a9a9a"
STYLE = {"figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "font.size": 10,
         "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False}


class Figure:
    """A rendered figure with its text alternative; Jupyter shows the picture, a terminal the text."""

    def __init__(self, png: bytes, alt: str, caption: str = ""):
        self.png, self.alt, self.caption = png, alt, caption

    def _repr_mimebundle_(self, include=None, exclude=None):
        source = base64.b64encode(self.png).decode()
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>" if self.caption else ""
        picture = f'<img alt="{html.escape(self.alt, quote=True)}" src="data:image/png;base64,{source}"/>'
        return {"text/html": f"<figure>{picture}{caption}</figure>", "text/plain": self.alt}


def show(figure, alt: str, caption: str = "", dpi: int = 80) -> None:
    """Display `figure` with the text alternative `alt` (what a reader would see in it), then close it.

    Raises ValueError if `alt` is empty.
    """
    from IPython.display import display

    plt.close(figure)  # first: a refused figure must not be displayed without its text
    if not alt.strip():
        raise ValueError("a figure needs a text alternative: say in `alt` what a reader would see in it")
    display(rendered(figure, alt, caption, dpi))


def rendered(figure, alt: str, caption: str = "", dpi: int = 80) -> Figure:
    """The figure as a picture with its text alternative, and closed; `show` displays it."""
    plt.close(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    return Figure(buffer.getvalue(), " ".join(alt.split()), caption)


def _figure(width: float, height: float, **options):
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, height), **options)
    return figure, axes


def _printable(label: str) -> str:
    return label.replace("\n", "\\n").replace("<|endoftext|>", "BOS")


# ---------------------------------------------------------------- maps

def heat_map(values, rows: Sequence, columns: Sequence, *, title: str, x: str, y: str, unit: str,
             limit: float | None = None, centred: bool = True, numbers: bool = False, ax=None):
    """A map with row 0 at the bottom. values: [row, column]. `centred` uses a diverging palette around zero.

    NaN means "not computed": such cells are grey, which no palette here contains.
    """
    values = np.asarray(values, dtype=float)
    figure, axes = (ax.figure, ax) if ax is not None else _figure(0.5 * len(columns) + 2.2, 0.36 * len(rows) + 1.9)
    limit = limit or float(np.nan_to_num(np.abs(values)).max()) or 1.0
    axes.set_facecolor(MISSING)
    sns.heatmap(values, ax=axes, cmap=DIVERGING if centred else SEQUENTIAL, vmin=-limit if centred else 0, vmax=limit,
                xticklabels=[_printable(c) for c in columns], yticklabels=list(rows), cbar_kws={"label": unit},
                annot=numbers, fmt=".2f", annot_kws={"size": 7}, linewidths=0.3, linecolor="white")
    axes.invert_yaxis()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.tick_params(axis="x", rotation=60 if max(map(len, columns)) > 3 else 0)
    axes.tick_params(axis="y", rotation=0)
    return figure


def patch_map(result, title: str, *, limit: float | None = 1.0, numbers: bool = False, ax=None):
    """The effects of a `patching.PatchMap`: layers by positions or heads."""
    over_heads = result.kind in ("z", "q", "k", "v", "path")
    unit = "0 = patched run, 1 = source run"
    return heat_map(result.effect, result.rows, result.columns, title=title, x="head" if over_heads else "token and position",
                    y="layer", unit=f"share of the effect ({unit})", limit=limit, numbers=numbers, ax=ax)


def attention_map(pattern, labels: Sequence, title: str, ax=None):
    """Attention weights of one head. pattern: [query, key]; row 0 (first query) at the top."""
    figure, axes = (ax.figure, ax) if ax is not None else _figure(0.34 * len(labels) + 2.4, 0.3 * len(labels) + 1.8)
    names = [_printable(label) for label in labels]
    sns.heatmap(np.asarray(pattern), ax=axes, cmap=SEQUENTIAL, vmin=0, vmax=1, xticklabels=names, yticklabels=names,
                cbar_kws={"label": "attention weight"})
    axes.set(title=title, xlabel="attends to (key)", ylabel="token (query)")
    axes.tick_params(axis="x", rotation=60)
    axes.tick_params(axis="y", rotation=0)
    return figure


# ---------------------------------------------------------------- lines and bars

def lines(curves: dict[str, Interval], *, title: str, x: str, y: str, ticks: Sequence | None = None, ylim=None):
    """Curves with their intervals as bands. Each interval: [x]."""
    figure, axes = _figure(6.4, 3.6)
    markers = "osD^vP"
    for i, (name, curve) in enumerate(curves.items()):
        at = np.arange(len(curve.estimate))
        axes.plot(at, curve.estimate, marker=markers[i % len(markers)], color=PALETTE[i], label=name, markersize=4)
        axes.fill_between(at, curve.low, curve.high, color=PALETTE[i], alpha=0.2, linewidth=0)
    axes.set(title=title, xlabel=x, ylabel=y, ylim=ylim)
    if ticks is not None:
        axes.set_xticks(np.arange(len(ticks)), ticks)
    if len(curves) > 1:
        axes.legend(frameon=False)
    return figure


def bars(names: Sequence, values: Interval, *, title: str, x: str = "", y: str, reference: float | None = None):
    """Bars with intervals; `reference` draws a dashed line, e.g. the control. values: [bar]."""
    figure, axes = _figure(max(3.5, 0.42 * len(names) + 1.6), 3.4)
    spread = np.stack([values.estimate - values.low, values.high - values.estimate]).clip(min=0)
    axes.bar(range(len(names)), values.estimate, yerr=spread, color=PALETTE[0], error_kw={"elinewidth": 1, "capsize": 2})
    axes.axhline(0, color="black", linewidth=0.8)
    if reference is not None:
        axes.axhline(reference, color="grey", linestyle="--", linewidth=1)
    long = max(map(len, map(str, names))) > 4
    axes.set_xticks(range(len(names)), [_printable(str(n)) for n in names], rotation=60 if long else 0,
                    ha="right" if long else "center")
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure


# ---------------------------------------------------------------- a picture of the stream

def stream_picture(layers: int, title: str = "Every part reads from the residual stream and adds to it"):
    """The residual stream as a line with attention and MLP of each layer hanging on it."""
    figure, axes = _figure(1.15 * layers + 2.4, 2.7)
    axes.annotate("", (layers + 0.9, 0), (-0.9, 0), arrowprops=dict(arrowstyle="-|>", linewidth=3, color="black"))
    axes.text(-0.95, 0, "token +\nposition", ha="right", va="center")
    axes.text(layers + 0.95, 0, "norm,\nunembedding,\nlogits", ha="left", va="center")
    for layer in range(layers):
        for offset, height, name, colour in ((0.0, 0.8, "attn", PALETTE[0]), (0.42, -0.8, "MLP", PALETTE[1])):
            at = layer + offset - 0.35
            axes.annotate("", (at + 0.16, 0), (at + 0.16, height * 0.84), arrowprops=dict(arrowstyle="->", color=colour))
            axes.annotate("", (at - 0.1, height * 0.84), (at - 0.1, 0), arrowprops=dict(arrowstyle="->", color=colour, alpha=0.5))
            axes.text(at + 0.03, height, f"{name} {layer}", ha="center", va="center", fontsize=8,
                      bbox=dict(boxstyle="round", facecolor="white", edgecolor=colour))
    axes.set(title=title, xlim=(-1.9, layers + 2.1), ylim=(-1.15, 1.15))
    axes.axis("off")
    return figure


# ---------------------------------------------------------------- causal traces

FLOW_LOOKS = {"hidden": ("Purples", "hidden state"), "mlp": ("Greens", "MLP output"), "attention": ("Reds", "attention output")}


def plot_hidden_flow_heatmap(flow: HiddenFlow, savepdf: str | Path | None = None, title: str | None = None,
                             xlabel: str | None = None, show: bool = False, *, color: str | None = None,
                             savepath: str | Path | None = None):
    """A causal trace as ROME draws it: tokens downwards, those of the subject starred, layers to the right.

    Colours start at the score of the corrupted run; cells that were not computed are grey. `savepath` (savepdf in
    causal-tracer) also writes the figure there, in the format of its suffix; `show` displays it at once; `color` names a
    colour map. Returns the figure. Raises CourseError for a suffix that matplotlib does not know.
    """
    palette, name = FLOW_LOOKS[flow.kind]
    palette, savepath = color or palette, savepath or savepdf
    scores, low = flow.scores.numpy(), flow.low_score
    labels = [_printable(token) + "*" * (i in range(*flow.subject_range)) for i, token in enumerate(flow.input_tokens)]
    figure, axes = _figure(0.3 * scores.shape[1] + 3.2, 0.24 * len(labels) + 1.4)
    axes.set_facecolor(MISSING)
    top = max(np.nanmax(scores), low + 1e-6)
    cells = axes.pcolormesh(np.ma.masked_invalid(scores), cmap=palette, vmin=low, vmax=top, edgecolors="#00000010")
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(labels)) + 0.5, labels)
    step = 1 + scores.shape[1] // 16
    axes.set_xticks(np.arange(0, scores.shape[1], step) + 0.5, range(0, scores.shape[1], step))
    what = f"{name}s of {flow.window} layers" if flow.window > 1 else name
    axes.set(title=title or f"Restoring the {what} after corrupting the subject",
             xlabel=xlabel or ("layer" if flow.window == 1 else f"centre of the {flow.window} restored layers"))
    figure.colorbar(cells, ax=axes, label=f"p({_printable(flow.answer.strip())})")
    if savepath is not None:
        _save(figure, Path(savepath))
    if show:
        plt.show()
    return figure


def _save(figure, path: Path) -> None:
    """Write the figure, with the folders it needs, in the format of the suffix."""
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise CourseError(f"a figure cannot be saved as {path.name!r}: its name must end in one of "
                          f"{', '.join('.' + suffix for suffix in sorted(formats))}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")


check_arguments(globals())
