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
    """Which learning rate is best for each side of a study's first task, and of which it is not known, in a sentence.

    Args:
        study: whose rates.
        records: run records.
    """
    found = {r.identity: r for r in records}
    task, sides = study.tasks[0], study.sides
    rates = {name: study.chosen_rate(task, name, found) for name in sides}
    told = []
    for name, lr in rates.items():
        if lr is not None:
            at_best = [found[study.run(task, name, lr, seed).identity] for seed in study.rate_seeds]
            solved = sum(run.outcome == "solved" for run in at_best)
            told.append(f"{lr:g} for {sides[name].title} ({solved} of {len(at_best)} solved)")
    missing = []
    for name in (name for name, lr in rates.items() if lr is None):
        runs = study.rate_runs(task, name)
        missing.append(
            f"{sides[name].title} ({sum(c.identity in found for c in runs)} of {len(runs)} runs are recorded)"
        )
    label, seeds = study_task_label(study, task), len(study.rate_seeds)
    if not told:
        return f"{label}: not told yet of {', '.join(missing)}."
    best = f"{label}: of {len(study.rates)} rates on {seeds} seeds the best is {', '.join(told)}"
    if missing:
        return f"{best}; not told yet of {', '.join(missing)}."
    same = "the same for all" if len(set(rates.values())) == 1 else "not the same: read and rate change together"
    return f"{best}: {same}."


def _rate_text(lr: float | None) -> str:
    return "not chosen" if lr is None else f"{lr:g}"
