"""All pairs of inputs at one cell, kept in one file: equal to what is computed again, and safe against interruptions."""
import json

import numpy as np
import pytest
import torch
from sentences import sentence
from small_models import LAYERS
from sums import study

from utils.alignment import Pairs, graphs, make_graphs, predict_pairs, random_subspace, read_graphs
from utils.alignment.__main__ import main
from utils.engine import Site, freeze
from utils.models import encode_sums, load_adder
from utils.tasks import addition, pair_labels

NAMES = ("(X+Y)+Z", "X+(Y+Z)")
INPUTS = addition(NAMES[0]).all_inputs()


@pytest.fixture
def quick(monkeypatch):
    """Pairs that cost nothing: every swap gives the total of the base. The list of calls."""
    calls = []

    def constant(frozen, subspace, **_):
        calls.append(subspace)
        if len(calls) == 3:
            raise KeyboardInterrupt
        predicted = (INPUTS.sum(1) - 3)[:, None].expand(1000, 1000)
        return Pairs(predicted, torch.arange(1000), 0.5)

    monkeypatch.setattr(graphs, "predict_pairs", constant)
    return calls


def one_cell(folder, **changes):
    return study(folder, **dict(layers=(LAYERS - 1,), ranks=(3,)) | changes)


def test_the_file_holds_what_is_computed_again(adder, tmp_path):
    path = tmp_path / "graphs.npz"
    made = make_graphs(one_cell(adder, graphs=NAMES[:1]), path, command="as typed")
    model, rows = load_adder(adder), torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:60]
    frozen = freeze(model, encode_sums(model, INPUTS), Site("resid_post", LAYERS - 1))
    labels = pair_labels(addition(NAMES[0]), "P")[rows][:, rows]
    for kept, subspace in ((made.success, made.subspace), (made.control, random_subspace(made.subspace.shape, {"P": 3}))):
        assert list(kept) == [NAMES[0]] and kept[NAMES[0]].shape == (1000, 1000)
        assert (kept[NAMES[0]][rows][:, rows] == predict_pairs(frozen, subspace, rows).success(labels)).float().mean() > 0.999
    assert made.subspace.error < 1e-5 and made.about["command"] == "as typed" and made.about["ranks"] == [3]
    score = made.about["scores"][NAMES[0]]
    assert 0 <= score["low"] <= score["iia"] <= score["high"] <= 1 and score["pairs_seconds"] > 0
    assert path.stat().st_size < 2 ** 20 and [p.name for p in tmp_path.iterdir()] == ["graphs.npz"]


def test_it_goes_on_with_the_next_causal_model(adder, tmp_path, quick):
    path, cell = tmp_path / "graphs.npz", one_cell(adder, graphs=NAMES)
    with pytest.raises(KeyboardInterrupt):
        make_graphs(cell, path)
    sentence(lambda: read_graphs(path), "graphs.npz", NAMES[1])
    made = make_graphs(cell, path, command="another")
    assert len(quick) == 4 and list(made.success) == list(made.about["scores"]) == list(NAMES)
    for name in NAMES:
        p = addition(name).run_batch(INPUTS)["P"]
        assert (made.success[name] == (p[:, None] == p)).all() and (made.control[name] == made.success[name]).all()
    make_graphs(cell, path)
    assert len(quick) == 4


def test_other_studies_and_damaged_files_are_refused(adder, tmp_path, quick):
    path = tmp_path / "graphs.npz"
    sentence(lambda: read_graphs(path), "graphs.npz", "make them")
    sentence(lambda: make_graphs(study(adder), path), "one layer and one rank")
    sentence(lambda: make_graphs(one_cell(adder, layers=(LAYERS,)), path), f"layer {LAYERS}")
    make_graphs(one_cell(adder, graphs=NAMES[:1]), path)
    before = path.read_bytes()
    sentence(lambda: make_graphs(one_cell(adder, ranks=(4,)), path), "another study", "ranks")
    for content in (before[:len(before) // 2], b"", b"no graphs"):
        path.write_bytes(content)
        sentence(lambda: read_graphs(path), "graphs.npz", "read")
        sentence(lambda: make_graphs(one_cell(adder), path), "graphs.npz", "read")
        assert path.read_bytes() == content
    np.savez(path.with_suffix(""), about=np.array(json.dumps({"graphs": []})))
    sentence(lambda: read_graphs(path), "graphs.npz", "read")


def test_the_command(adder, tmp_path, quick, capsys):
    path = tmp_path / "graphs.npz"
    arguments = ["graphs", "--model", adder, "--out", str(path), "--layers", "0", "--ranks", "2", "--graphs", NAMES[1],
                 "--rows", "40", "--held-out-rows", "30", "--steps", "4", "--every", "2"]
    assert main(arguments) == 0 and "1 graphs" in capsys.readouterr().out
    assert read_graphs(path).about["command"] == "python -m utils.alignment " + " ".join(
        part if part != NAMES[1] else f"'{part}'" for part in arguments)
    assert main([*arguments[:-1], "3"]) == 1 and "another study" in capsys.readouterr().err
