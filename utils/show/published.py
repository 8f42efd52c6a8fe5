"""Numbers from the literature and from the course's sources, shown beside the student's own.

They hold for the model named with them and for no other; `compare` prints them next to a number, never instead of one.
"""
from __future__ import annotations

from dataclasses import dataclass

from ..errors import require_known


@dataclass(frozen=True)
class Published:
    value: str
    model: str
    source: str


NUMBERS = {
    "ioi clean": Published("4.276", "GPT-2 small", "course source: patching tutorial on the milk prompt"),
    "ioi corrupted": Published("-2.738", "GPT-2 small", "course source: patching tutorial on the milk prompt"),
    "ioi mean": Published("3.56", "GPT-2 small", "Wang et al. 2022, mean logit difference over their IOI prompts"),
    "ioi accuracy": Published("99.3 %", "GPT-2 small", "Wang et al. 2022, IO more probable than S"),
    "name movers": Published("9.9, 10.0, 9.6", "GPT-2 small", "Wang et al. 2022"),
    "s-inhibition": Published("7.3, 7.9, 8.6, 8.10", "GPT-2 small", "Wang et al. 2022"),
    "duplicate token": Published("0.1, 0.10, 3.0", "GPT-2 small", "Wang et al. 2022"),
    "poland": Published("layers 15 to 18", "GPT-2 medium", "Merullo et al. 2023: 'Poland' is the top token"),
    "warsaw": Published("from layer 19", "GPT-2 medium", "Merullo et al. 2023: 'Warsaw' is the top token, promoted by the MLP"),
    "repeated first half": Published("-13.898", "GPT-2 small", "course source: log-probability per token"),
    "repeated second half": Published("-0.644", "GPT-2 small", "course source: log-probability per token"),
    "repeated accuracy": Published("0.93", "GPT-2 small", "course source: second half"),
    "induction head": Published("5.5 with 0.91", "GPT-2 small", "course source: induction score"),
    "previous-token head": Published("4.11", "GPT-2 small", "course source"),
    "induction circuit": Published("0.2283", "GPT-2 small", "course source: top-1 accuracy of heads 4.11 and 5.5 by weights"),
    "rome total effect": Published("18.6 %", "GPT-2 XL", "Meng et al. 2022, average total effect over 1,000 facts"),
    "rome early site": Published("8.7 % at layer 15", "GPT-2 XL", "Meng et al. 2022, best state at the last subject token"),
    "rome early mlp": Published("6.6 %", "GPT-2 XL", "Meng et al. 2022, peak of MLP windows at the last subject token"),
    "rome early attention": Published("1.6 %", "GPT-2 XL", "Meng et al. 2022, attention windows at the last subject token"),
}


def published(key: str) -> Published:
    """Look a number up. Raises CourseError with the nearest key for an unknown one."""
    require_known(key, NUMBERS, f"no published number is called {key!r}")
    return NUMBERS[key]


def compare(key: str, own: float | str, model: str) -> None:
    """Print the published number beside the student's own: "published for GPT-2 small: 4.276 | course-gpt2: 3.97"."""
    number = published(key)
    own = f"{own:.3f}" if isinstance(own, float) else own
    print(f"published for {number.model}: {number.value} | {model}: {own}   ({key}; {number.source})")
