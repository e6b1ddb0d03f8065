"""Learning rates: what came out at each, and which is chosen."""

from collections.abc import Iterable

import pandas as pd

from ...study.presets import Study
from ...training.record import RunRecord
from .. import stats
from ..words import NOT_RUN
from .runs import study_runs, study_task_label


def by_rate(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """Mean accuracy in percent and solved runs at each learning rate, for each task and side, as text.

    Returns:
        One row per task and side, a column per rate, "80.8, 1 of 2"; a star marks the rate chosen for task and side.
    """
    records = list(records)
    found = {r.identity: r for r in records}
    table = study_runs(study, records, "rates")
    rows = []
    for task, side in study.cells():
        row = {"task": study_task_label(study, task), "read": side}
        chosen = study.chosen_rate(task, side, found)
        for lr in study.rates:
            runs = table[(table["task"] == row["task"]) & (table["side"] == side) & (table["lr"] == lr)]
            text = NOT_RUN
            if len(runs):
                solved = f"{int(runs['solved'].sum())} of {len(runs)}"
                text = f"{100 * stats.accuracies(runs).mean():.1f}, {solved}" + (" *" if lr == chosen else "")
            row[f"{lr:g}"] = text
        rows.append(row)
    return pd.DataFrame(rows).set_index(["task", "read"])


def choices(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """Which learning rate is chosen, by either meaning of "for each task": as text.

    Returns:
        One row per task and side: the rate chosen for it by itself; whether all sides of the task have that rate; the
        one rate for the whole task, that with the highest mean over all sides.
    """
    found = {r.identity: r for r in records}
    rows = []
    for task in study.tasks:
        chosen = {side: study.chosen_rate(task, side, found) for side in study.sides}
        together = _rate_text(study.chosen_rate(task, None, found))
        same = "" if None in chosen.values() else "yes" if len(set(chosen.values())) == 1 else "no: a confound"
        for side, lr in chosen.items():
            row = {
                "task": study_task_label(study, task),
                "read": side,
                "its own rate": _rate_text(lr),
                "the same for all": same,
            }
            rows.append(row | {"one rate for the task": together})
    return pd.DataFrame(rows).set_index(["task", "read"])


def answer(study: Study, records: Iterable[RunRecord]) -> str:
    """Which learning rate is best for each side of a study's first task, in a sentence.

    Args:
        study: whose rates.
        records: run records.
    """
    found = {r.identity: r for r in records}
    task, sides = study.tasks[0], study.sides
    chosen = {side.title: study.chosen_rate(task, name, found) for name, side in sides.items()}
    if None in chosen.values():
        runs = [c for name in sides for c in study.rate_runs(task, name)]
        have = sum(c.identity in found for c in runs)
        return f"{study_task_label(study, task)}: not told yet, {have} of {len(runs)} runs are recorded."
    best = ", ".join(f"{lr:g} for {name}" for name, lr in chosen.items())
    same = "the same for all" if len(set(chosen.values())) == 1 else "not the same: read and rate change together"
    seeds = len(study.rate_seeds)
    return f"{study_task_label(study, task)}: of {len(study.rates)} rates on {seeds} seeds the best is {best}: {same}."


def _rate_text(lr: float | None) -> str:
    return "not chosen" if lr is None else f"{lr:g}"
