"""The sweep: one results file that survives interruptions, and the study of sums on a small random GPT-2."""
import json

import pytest
import torch
from sentences import sentence
from small_models import LAYERS, WIDTH, plain, save
from sums import study

from utils.alignment import load_subspace
from utils.alignment.__main__ import main
from utils.alignment.controls import MEANING
from utils.alignment.results import Layout, read_results, run_cells
from utils.alignment.study import sweep
from utils.models import encode_sums, load_adder

LAYOUT = Layout(("layer", "rank"), ("layer", "rank", "name", "iia", "low", "high"), 2)
CELLS = [(layer, rank) for layer in range(3) for rank in (1, 4)]
ABOUT = {"seed": 0, "ranks": [1, 4], "command": "one"}


def work(cell):
    return [{"layer": cell[0], "rank": cell[1], "name": name, "iia": 0.1 * cell[1], "low": 0.0, "high": 1.0}
            for name in ("found", "control")]


def interrupted(cell):
    if cell == CELLS[3]:
        raise KeyboardInterrupt
    return work(cell)


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "whole.jsonl"
    assert run_cells(path, ABOUT, LAYOUT, CELLS, work) == 6
    return path


def test_the_file_is_tidy_and_says_where_it_comes_from(whole):
    provenance, table = read_results(whole)
    assert provenance == ABOUT and list(table.columns) == list(LAYOUT.fields)
    assert list(zip(table.layer, table["rank"]))[::2] == CELLS and len(table) == 12


def test_an_interrupted_file_goes_on(whole, tmp_path):
    path = tmp_path / "part.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_cells(path, ABOUT, LAYOUT, CELLS, interrupted)
    assert len(read_results(path)[1]) == 6
    assert run_cells(path, ABOUT | {"command": "another"}, LAYOUT, CELLS, work) == 3
    assert path.read_bytes() == whole.read_bytes()
    assert run_cells(path, ABOUT, LAYOUT, CELLS, work) == 0 and path.read_bytes() == whole.read_bytes()


def test_wherever_it_is_cut_it_ends_the_same(whole, tmp_path):
    content, path = whole.read_bytes(), tmp_path / "cut.jsonl"
    for size in range(0, len(content), 37):
        path.write_bytes(content[:size])
        run_cells(path, ABOUT, LAYOUT, CELLS, work)
        assert path.read_bytes() == content


@pytest.mark.parametrize("line, change, says", [
    (1, lambda text: "{" + text, "no JSON"), (4, lambda text: text[:-9], "no JSON"),
    (4, lambda text: text.replace("found", "fou\\x"), "no JSON"), (5, lambda text: text.replace('"low"', '"lo"'), "the fields"),
    (3, lambda text: text.replace("0.1", "1.1"), "no share"), (3, lambda text: text.replace('"layer": 0', '"layer": 1'), "another cell"),
    (6, lambda text: '{"a": 1}', "the fields"), (2, lambda text: "7", "the fields"), (1, lambda text: '{"a": 1}', "damaged"),
    (3, lambda text: text.replace("0.1", '"0.1"'), "damaged"), (3, lambda text: "", "no JSON")])
def test_a_damaged_file_is_refused_and_left_alone(whole, line, change, says):
    lines = whole.read_text().splitlines()
    lines[line - 1] = change(lines[line - 1])
    whole.write_text("\n".join(lines) + "\n")
    before = whole.read_bytes()
    for call in (lambda: run_cells(whole, ABOUT, LAYOUT, CELLS, work), lambda: read_results(whole)):
        sentence(call, f"line {line} of whole.jsonl", says)
    assert whole.read_bytes() == before


def test_a_missing_line_and_a_cell_that_comes_twice(whole):
    lines = whole.read_text().splitlines(keepends=True)
    for content, line in ((lines[:3] + lines[4:], 5), (lines + lines[1:3], 14)):
        whole.write_text("".join(content))
        sentence(lambda: run_cells(whole, ABOUT, LAYOUT, CELLS, work), f"line {line} of")
        assert whole.read_text() == "".join(content)


def test_a_file_of_another_sweep(whole, tmp_path):
    before = whole.read_bytes()
    sentence(lambda: run_cells(whole, ABOUT | {"seed": 1}, LAYOUT, CELLS, work), "another sweep", "seed is 0 there and 1 here")
    sentence(lambda: run_cells(whole, {"seed": 0}, LAYOUT, CELLS, work), "another sweep", "ranks")
    assert whole.read_bytes() == before
    sentence(lambda: read_results(tmp_path / "none.jsonl"), "none.jsonl", "no results")


def test_several_workers_write_the_same_cells(whole, tmp_path):
    path = tmp_path / "workers.jsonl"
    run_cells(path, ABOUT, LAYOUT, CELLS, work, workers=2)
    assert read_results(path)[1].equals(read_results(whole)[1])
    assert sorted(path.read_text().splitlines()) == sorted(whole.read_text().splitlines())


# ---------------------------------------------------------------- the study of sums

def test_prompts_of_all_sums(adder):
    prompts = encode_sums(load_adder(adder), torch.tensor([[1, 10, 3]]))
    assert prompts.labels == (("1", "+", "10", "+", "3", "="),) and prompts.equal_length


def test_the_study(adder, tmp_path):
    path, keep = tmp_path / "sums.jsonl", tmp_path / "kept"
    assert sweep(study(adder), path, keep=keep, command="as typed") == 4
    provenance, table = read_results(path)
    assert provenance["command"] == "as typed" and provenance["model"] == "adder" and provenance["steps"] == 6
    assert len(provenance["checkpoint"]) == 64 and {"torch", "transformers", "python", "seed"} <= provenance.keys()
    cell = table[(table["rank"] == 3) & (table.graph == "(X+Y)+Z")]
    assert set(cell[cell.scored_on == "(X+Y)+Z"].name) == set(MEANING)
    assert list(cell[cell.scored_on == "X+(Y+Z)"].name) == ["found"] and (cell.rows == 40).all() and (cell.steps == 6).all()
    assert (cell[cell.name == "no swap"].iia <= 0.5).all()
    full = table[table["rank"] == 6 * WIDTH].set_index(["graph", "name", "scored_on"]).iia
    for graph in ("(X+Y)+Z", "X+(Y+Z)"):
        assert full[graph, "found", graph] == full[graph, "full patch", graph]
    kept = sorted(keep.iterdir())
    assert len(kept) == 4 and load_subspace(kept[0]).ranks.keys() == {"P"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "sums.jsonl"]     # no states are left
    assert sweep(study(adder), path) == 0
    again = tmp_path / "again.jsonl"
    sweep(study(adder), again)
    numbers = [column for column in table if column != "seconds"]
    assert read_results(again)[1][numbers].equals(table[numbers])


def test_an_interrupted_study_goes_on_inside_a_cell(adder, tmp_path, monkeypatch, capsys):
    path, one = tmp_path / "sums.jsonl", study(adder, ranks=(3,), graphs=("(X+Y)+Z",))

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("utils.alignment.study.control_table", stop)
        with pytest.raises(KeyboardInterrupt):
            sweep(one, path)
    state, = (tmp_path / "sums.jsonl.states").iterdir()
    assert len(read_results(path)[1]) == 0 and state.suffix == ".pt"
    with monkeypatch.context() as patch:
        patch.setattr("utils.alignment.fitting._Search._train", stop)       # the search was over: it is not trained again
        with pytest.raises(KeyboardInterrupt):                              # but the controls' searches are
            sweep(one, path)
    assert sweep(one, path) == 1 and [p.name for p in tmp_path.iterdir()] == ["sums.jsonl"]
    whole = tmp_path / "whole.jsonl"
    sweep(one, whole)
    tables = [read_results(p)[1].drop(columns="seconds") for p in (path, whole)]
    assert tables[0].equals(tables[1])
    with monkeypatch.context() as patch:
        patch.setattr("utils.alignment.__main__.sweep", stop)
        assert main(["sweep", "--out", str(path), "--layers", "0", "--ranks", "2"]) == 130
    assert "goes on" in capsys.readouterr().err


def test_what_cannot_be_studied_is_refused_before_anything_is_written(adder, tmp_path):
    path = tmp_path / "never.jsonl"
    for changes, parts in [(dict(layers=(LAYERS,)), (f"layer {LAYERS}", f"0 to {LAYERS - 1}")),
                           (dict(ranks=(0,)), ("rank 0",)), (dict(ranks=(6 * WIDTH + 1,)), (f"6 positions x {WIDTH}",)),
                           (dict(position=2, ranks=(WIDTH + 1,)), (f"1 positions x {WIDTH}",)),
                           (dict(position=6), ("position 6", "0 to 5")), (dict(graphs=("X+Y",)), ("X+Y",)),
                           (dict(layers=(1, 1)), ("layers", "once")), (dict(steps=0), ("steps",)),
                           (dict(model=str(tmp_path)), ("config.json",)), (dict(model="arithmetic-gpt3"), ("arithmetic-gpt2",))]:
        sentence(lambda: sweep(study(adder, **changes), path), *parts)
    assert not list(tmp_path.iterdir())
    other = tmp_path / "other"
    save(plain("gpt2"), other)
    sentence(lambda: load_adder(str(other)), "GPT2LMHeadModel", "GPT2ForSequenceClassification")


def test_the_command(adder, tmp_path, capsys):
    path = tmp_path / "out.jsonl"
    arguments = ["sweep", "--model", adder, "--out", str(path), "--layers", "0", "--ranks", "2", "--graphs", "(X+Y+Z)",
                 "--rows", "40", "--held-out-rows", "30", "--steps", "4", "--every", "2", "--position", "5"]
    assert main(arguments) == 0 and "1 of 1 cells" in capsys.readouterr().out
    provenance, table = read_results(path)
    assert provenance["command"].startswith("python -m utils.alignment sweep --model") and provenance["position"] == 5
    assert len(table) == len(MEANING)
    assert main([*arguments, "--seed", "1"]) == 1
    assert "another sweep" in capsys.readouterr().err and json.loads(path.read_text().splitlines()[0])["provenance"]["seed"] == 0
