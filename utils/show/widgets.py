"""Importance of groups over several tasks and estimators: a map to choose from, and the same as pictures and a table.

The table has one row for each (task, method, group), with `label`, `estimate` and `standard_error`, as `Estimate.table`
gives it. Groups fill a map row by row: group 0 is row 0, column 0.
"""
from __future__ import annotations

import html

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..errors import CourseError, check_arguments
from .plots import DIVERGING, STYLE, heat_map, rendered, show


def _cells(table: pd.DataFrame, task: str, method: str, columns: int) -> np.ndarray:
    """The estimates of one choice, [row, column]. Raises CourseError if they do not fill rows of `columns` groups."""
    chosen = table[(table.task == task) & (table.method == method)].sort_values("group")
    if not len(chosen) or len(chosen) % columns:
        raise CourseError(f"{len(chosen)} groups of {task!r} by {method!r} do not fill rows of {columns}: give every "
                          "task with every method, and the number of groups in a row")
    return chosen.estimate.to_numpy().reshape(-1, columns)


def _draw(table: pd.DataFrame, task: str, method: str, columns: int, *, column: str = "head", ax=None, **options):
    values = _cells(table, task, method, columns)
    return heat_map(values, list(map(str, range(len(values)))), list(map(str, range(columns))), x=column, y="layer",
                    title=f"{task}: {method}", ax=ax, **{"unit": "effect"} | options)


def all_maps(table: pd.DataFrame, columns: int, *, column: str = "head"):
    """Every choice at once: a figure with one small map for each method (down) and task (across).

    The maps of one task share their colours, so that methods can be compared. Raises CourseError if a choice is missing.
    """
    tasks, methods = table.task.unique(), table.method.unique()
    cells = {(task, method): _cells(table, task, method, columns) for task in tasks for method in methods}
    rows = len(cells[tasks[0], methods[0]])
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(len(methods), len(tasks), squeeze=False, layout="constrained",
                                    figsize=((0.24 * columns + 1.6) * len(tasks), (0.17 * rows + 0.9) * len(methods)))
    for j, task in enumerate(tasks):
        limit = max(np.abs(cells[task, method]).max() for method in methods) or 1.0
        for i, method in enumerate(methods):
            drawn = axes[i, j].pcolormesh(cells[task, method], cmap=DIVERGING, vmin=-limit, vmax=limit)
            axes[i, j].set(title=f"{task}: {method}", xlabel=column if i == len(methods) - 1 else "",
                           ylabel="layer" if j == 0 else "")
            axes[i, j].set_xticks(np.arange(columns)[::1 + columns // 8] + 0.5, range(0, columns, 1 + columns // 8))
            axes[i, j].set_yticks(np.arange(rows)[::1 + rows // 8] + 0.5, range(0, rows, 1 + rows // 8))
        figure.colorbar(drawn, ax=axes[:, j], location="bottom", shrink=0.8, label="effect")
    return figure


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Every number as text, "estimate ± standard error": one row for each group, one column for each choice."""
    text = table.estimate.map("{:.2f}".format) + " ± " + table.standard_error.map("{:.2f}".format)
    wide = table.assign(text=text).pivot(index=["group", "label"], columns=["task", "method"], values="text")
    return wide.reindex(columns=list(dict.fromkeys(zip(table.task, table.method)))).droplevel("group")


def one_group(table: pd.DataFrame, label: str) -> pd.DataFrame:
    """What one group is worth by every method (down) in every task (across). Raises CourseError for an unknown group."""
    if label not in set(table.label):
        raise CourseError(f"there is no group {label!r}; choose one of: {', '.join(table.label.unique()[:8])}, ...")
    return numbers(table[table.label == label]).iloc[0].unstack("task")[list(table.task.unique())]


def explore(table: pd.DataFrame, columns: int, *, alt: str, column: str = "head") -> None:
    """All maps and, folded away, all numbers; then menus for task, estimator and group, where the front end has widgets.

    The static part holds all that the menus can show. Raises CourseError if a choice is missing.
    """
    from IPython.display import HTML, display

    show(all_maps(table, columns, column=column), alt=alt)
    fold = f"<details><summary>All numbers, estimate ± standard error</summary>{numbers(table).to_html()}</details>"
    display(HTML(fold))
    try:
        display(menus(table, columns, column=column))
    except ImportError:
        print("ipywidgets is not installed, so there are no menus: the maps and the table above hold the same numbers.")


def menus(table: pd.DataFrame, columns: int, *, column: str = "head"):
    """A widget: choose task, estimator and group; see the map, and the group in every task. Raises ImportError."""
    import ipywidgets  # only where a menu is wanted

    def menu(name, options):
        return ipywidgets.Dropdown(options=list(options), description=name)

    choices = {"task": menu("task", table.task.unique()), "method": menu("estimator", table.method.unique()),
               "label": menu("group", table.label.unique())}
    picture = ipywidgets.HTML()

    def draw(change=None):
        task, method, label = (choice.value for choice in choices.values())
        picture.value = _page(table, task, method, label, columns, column)

    for choice in choices.values():
        choice.observe(draw, names="value")
    draw()
    return ipywidgets.VBox([ipywidgets.HBox(list(choices.values())), picture])


def _page(table: pd.DataFrame, task: str, method: str, label: str, columns: int, column: str) -> str:
    """The map of one choice with the group marked, and the group's numbers, as HTML."""
    figure = _draw(table, task, method, columns, column=column, numbers=columns <= 8)
    group = int(table[table.label == label].group.iloc[0])
    figure.axes[0].add_patch(plt.Rectangle((group % columns, group // columns), 1, 1, fill=False, linewidth=2.5))
    own = one_group(table, label)
    alt = f"Map of {task} by {method}; {label} is marked: {own.loc[method, task]}."
    picture = rendered(figure, alt)._repr_mimebundle_()["text/html"]
    return f"{picture}<b>{html.escape(label)}</b>{own.to_html()}"


check_arguments(globals())
