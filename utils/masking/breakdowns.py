"""Where, for which input, and in which model a group matters: importance by position, by input, and across models."""
from __future__ import annotations

from typing import Callable, Iterable

import pandas as pd
import torch

from ..engine import Places
from ..errors import CourseError
from ..metrics import Outcome
from ..models import Prompts
from .game import MaskingGame
from .groups import Groups
from .importance import Estimate, Game, leave_one_out

Positions = dict[str, Places]


def by_position(model, prompts: Prompts, outcome: Outcome, groups: Groups, *, positions: Positions | None = None,
                estimator: Callable[[Game], Estimate] = leave_one_out, **options) -> pd.DataFrame:
    """Importance of every group where it is masked at one position only; a tidy table, [position, group].

    positions: named places, such as {"subject": Each.of(...), "end": "end"} (see `engine.places`); None: every position
    of prompts of one length, one by one, named by its tokens. To the columns of an `Estimate` come `position` (0, 1, ...
    in the order given), `place` (its name) and `passes`. `options` go to `MaskingGame`. Raises CourseError for prompts of
    different length without named positions.
    """
    tables = []
    for number, (place, where) in enumerate((positions or _every_position(prompts)).items()):
        result = estimator(MaskingGame(model, prompts, outcome, groups, positions=where, **options))
        tables.append(result.table.assign(position=number, place=place, passes=result.passes))
    return pd.concat(tables, ignore_index=True)


def _every_position(prompts: Prompts) -> Positions:
    """A name for each position: the tokens that stand there, one of them if there are several."""
    if not prompts.equal_length:
        raise CourseError("prompts of different length share no positions: name some, such as positions={'end': "
                          "Each.of(prompts.ends)}, or take one template")
    names = {}
    for i in range(prompts.tokens.shape[1]):
        seen = {row[i] for row in prompts.labels if i < len(row)}
        names[f"{i} {seen.pop() if len(seen) == 1 else '*'}"] = i
    return names


def by_input(result: Estimate, names: Iterable[str] | None = None) -> pd.DataFrame:
    """The same importance on each input by itself; a tidy table, [prompt, group].

    Columns: group, label, prompt, input (one of `names`; None: its number), estimate. One input has no standard error;
    the spread over inputs is what `se_prompts` is made of. Raises CourseError for another number of names.
    """
    prompts = result.per_prompt.shape[1]
    names = [str(i) for i in range(prompts)] if names is None else list(names)
    if len(names) != prompts:
        raise CourseError(f"{len(names)} names do not fit {prompts} inputs: give one for each")
    cells = result.table[[c for c in ("group", "label", "other", "other_label") if c in result.table]]
    parts = [cells.assign(prompt=i, input=name, estimate=result.per_prompt[:, i].tolist())
             for i, name in enumerate(names)]
    return pd.concat(parts, ignore_index=True)


def compare_models(models: dict[str, object], task: Callable[[object], MaskingGame], *,
                   estimator: Callable[[Game], Estimate] = leave_one_out, level: float = 0.95) -> pd.DataFrame:
    """One task on several models; a tidy table, [model, group].

    `task` makes the game of a model: it encodes the prompts with that model's tokenizer and groups its units, for
    example into quarters of its layers, so that groups of different models can stand side by side. To the columns of an
    `Estimate` come `model`, `low` and `high` (interval of Student's t with the combined standard error, for prompts - 1
    degrees of freedom), `kept` and `masked` (the mean outcome with everything kept, and masked) and `passes`.
    A model that cannot do the task has no effect to share out: look at `kept` first. `copies.untrained` makes a
    control.
    Raises CourseError for no model at all, or a level that is not between 0 and 1.
    """
    if not models:
        raise CourseError("there is no model to compare: give at least one, {'course-gpt2': model}")
    if not 0 < level < 1:
        raise CourseError(f"the level of an interval lies between 0 and 1, not {level}")
    return pd.concat([_of_model(name, task(model), estimator, level) for name, model in models.items()],
                     ignore_index=True)


def _of_model(name: str, game: MaskingGame, estimator: Callable[[Game], Estimate], level: float) -> pd.DataFrame:
    from scipy.stats import t  # takes a moment: only when it is wanted

    result, all_or_none = estimator(game), torch.tensor([[True], [False]]).expand(2, len(game.labels))
    kept, masked = game(all_or_none).mean(1).tolist()
    table = result.table
    reach = t.ppf((1 + level) / 2, table.prompts - 1) * table.standard_error
    return table.assign(model=name, low=table.estimate - reach, high=table.estimate + reach, kept=kept, masked=masked,
                        passes=result.passes)
