"""The README holds no dead link, names every notebook, and its picture can be drawn again."""
import json
import re
from pathlib import Path

from docs.measure import fill
from docs.residual_map import PICTURE, draw

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| \[.*\]\(course/(.*?)\) \| (.*) \| (\d+) \| (\d+) \| (\d+) \|$", README, re.M)


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links and not [link for link in links if not re.match("https?:", link) and not (ROOT / link).exists()]


def test_the_table_holds_every_notebook_within_its_limits():
    assert [name for name, *_ in ROWS] == sorted(path.name for path in (ROOT / "course").glob("*.ipynb"))
    for name, question, minutes, seconds, memory in ROWS:
        source = json.loads((ROOT / "solutions" / name).read_text(encoding="utf-8"))["cells"][0]["source"]
        title = " ".join("".join(source).split())
        assert f"**{question}**" in title and f"About {minutes} minutes" in title and int(minutes) <= 45, name
        assert 0 < int(seconds) <= 60 and 0 < int(memory) <= 1024, f"{name}: run python -m docs.measure"


def test_measuring_changes_only_the_numbers_of_its_row():
    changed = fill(README, ROWS[0][0], 12345, 67890)
    assert changed.count("| 12345 | 67890 |") == 1
    assert fill(changed, ROWS[0][0], int(ROWS[0][3]), int(ROWS[0][4])) == README


def test_it_describes_the_model_that_is_shipped():
    config = json.loads((ROOT / "utils/checkpoints/course-gpt2/config.json").read_text(encoding="utf-8"))
    size = (f"{config['n_layer']} layers, {config['n_head']} heads, width {config['n_embd']} "
            f"and a vocabulary of {config['vocab_size']:,} tokens")
    assert size in " ".join(README.split())


def test_the_commands_are_those_that_are_tested():
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "python -m pip install -r requirements.txt && python -m pytest" in README
    assert re.search(r"pip install .*-r requirements\.txt", run) and "python -m pytest" in run


def test_the_picture_is_small_and_can_be_drawn_again(tmp_path):
    assert PICTURE.stat().st_size <= 60_000
    assert draw(tmp_path / "map.png", n=2).read_bytes()[:4] == b"\x89PNG"
