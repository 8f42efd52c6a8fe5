"""The map to choose from: the static part holds every number that the menus can show."""
import builtins

import pandas as pd
import pytest

from utils.errors import CourseError
from utils.show import widgets


def results(groups=6):
    rows = [(task, method, g, f"L{g // 3}H{g % 3}", t + 10 * m + 100 * g, 0.5)
            for t, task in enumerate(("a", "b")) for m, method in enumerate(("alone", "Shapley")) for g in range(groups)]
    return pd.DataFrame(rows, columns=["task", "method", "group", "label", "estimate", "standard_error"])


def test_the_table_holds_every_number():
    table = widgets.numbers(results())
    assert table.shape == (6, 4) and table.loc["L1H2", ("b", "Shapley")] == "511.00 ± 0.50"
    assert list(table.columns) == [("a", "alone"), ("a", "Shapley"), ("b", "alone"), ("b", "Shapley")]


def test_the_maps_hold_every_choice():
    figure = widgets.all_maps(results(), 3)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert sorted(titles) == ["a: Shapley", "a: alone", "b: Shapley", "b: alone"]
    cells = next(axes for axes in figure.axes if axes.get_title() == "b: Shapley").collections[0].get_array()
    assert cells.reshape(2, 3)[1, 2] == 511


def test_groups_fill_the_map_in_the_order_of_their_numbers():
    shuffled = results().sample(frac=1, random_state=0)
    assert widgets._cells(shuffled, "a", "alone", 3).tolist() == [[0, 100, 200], [300, 400, 500]]


def test_one_group():
    own = widgets.one_group(results(), "L0H1")
    assert own.loc["alone", "b"] == "101.00 ± 0.50" and own.shape == (2, 2)
    with pytest.raises(CourseError, match="no group 'L9H9'; choose one of: L0H0"):
        widgets.one_group(results(), "L9H9")


@pytest.mark.parametrize("table, columns", [(results(), 4), (results()[lambda t: (t.task == "a") | (t.method == "alone")], 3)])
def test_what_does_not_fill_a_map_is_refused(table, columns):
    with pytest.raises(CourseError, match="do not fill rows of"):
        widgets.all_maps(table, columns)


def test_menus_choose_the_map_and_the_group():
    box = widgets.menus(results(), 3)
    (task, method, group), picture = box.children[0].children, box.children[1]
    assert "Map of a by alone; L0H0 is marked: 0.00 ± 0.50." in picture.value
    task.value, method.value, group.value = "b", "Shapley", "L1H2"
    assert "Map of b by Shapley; L1H2 is marked: 511.00 ± 0.50." in picture.value and "511.00 ± 0.50</td>" in picture.value


def test_without_widgets_there_is_a_sentence_and_nothing_is_lost(monkeypatch, capsys):
    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", lambda name, *rest: (_ for _ in ()).throw(ImportError(name))
                        if name == "ipywidgets" else real(name, *rest))
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    widgets.explore(results(), 3, alt="maps")
    assert "no menus" in capsys.readouterr().out
    html = [item._repr_mimebundle_()["text/html"] if hasattr(item, "_repr_mimebundle_") else item.data for item in shown]
    assert 'alt="maps"' in html[0] and "511.00 ± 0.50" in html[1]
