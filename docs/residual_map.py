"""Draws the picture of the README: python -m docs.residual_map

The residual stream of the shipped model is patched at every layer and position, averaged over pairs of names that
were never seen together in training (the map of notebook 03).
"""
from dataclasses import replace
from pathlib import Path

from utils.metrics import LogitDifference
from utils.models import answer_ids, encode, load_model
from utils.patching import PatchMap, residual_map
from utils.show import plots
from utils.tasks import ioi_dataset

PICTURE = Path(__file__).with_name("residual-map.png")


def compute(n: int) -> PatchMap:
    """The map over `n` pairs of one template; the columns of the names are called IO, S1 and S2."""
    model = load_model(device="cpu")
    pairs = ioi_dataset(n, order="ABBA", opening="After {A} and {B} went to the {P},", clause="{S} gave {D} {O} to",
                        place="store", thing="bottle of milk", determiner="a")
    clean, corrupted = encode(model, [p.clean for p in pairs]), encode(model, [p.corrupted for p in pairs])
    outcome = LogitDifference(answer_ids(model, [p.answer for p in pairs]), answer_ids(model, [p.wrong for p in pairs]))
    names = iter(("S1", "S2"))
    roles = [next(names) if label == pairs[0].wrong else "IO" if label == pairs[0].answer else label
             for label in clean.labels[0]]
    return replace(residual_map(model, clean, corrupted, outcome), columns=tuple(roles))


def draw(path: Path = PICTURE, n: int = 24) -> Path:
    """Save the map over `n` pairs, with the finding as its title, to `path`."""
    result = compute(n)
    mostly = lambda column: (result.effect[:, column] > 0.5).nonzero().flatten().tolist()
    name, end = mostly(result.columns.index("S2")), mostly(-1)
    handed_over = f",\nat the last word from layer {end[0]} on" if end else ""
    figure = plots.patch_map(result, f"The answer sits at the second name (S2) entering layers {name[0]} to {name[-1]}{handed_over}")
    figure.savefig(path, dpi=90, bbox_inches="tight", metadata={"Software": None})
    return path


if __name__ == "__main__":
    print(draw())
