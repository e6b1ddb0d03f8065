"""Learning rates: what came out at each, and which is chosen."""

from collections.abc import Iterable, Mapping

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
    """What each side of a study's first task solves at each learning rate, and which is chosen for it, in a sentence.

    Args:
        study: whose rates.
        records: run records.
    """
    found = {r.identity: r for r in records}
    task, sides = study.tasks[0], study.sides
    rates = {name: study.chosen_rate(task, name, found) for name in sides}
    told = []
    for name in (name for name, lr in rates.items() if lr is not None):
        at_each = ([found[study.run(task, name, lr, seed).identity] for seed in study.rate_seeds] for lr in study.rates)
        solved = [sum(run.outcome == "solved" for run in runs) for runs in at_each]
        each = f"{', '.join(map(str, solved))} of {len(study.rate_seeds)} runs"
        told.append(
            f"{sides[name].title} solves {each if any(solved) else f'none of {len(study.rate_seeds)} runs at any'}"
        )
    missing = []
    for name in (name for name, lr in rates.items() if lr is None):
        runs = study.rate_runs(task, name)
        missing.append(
            f"{sides[name].title} ({sum(c.identity in found for c in runs)} of {len(runs)} runs are recorded)"
        )
    label = study_task_label(study, task)
    if not told:
        return f"{label}: not told yet of {', '.join(missing)}."
    said = f"{label}: at learning rates {', '.join(f'{lr:g}' for lr in study.rates)} {', '.join(told)}"
    best = list(dict.fromkeys(f"{lr:g}" for lr in rates.values() if lr is not None))
    mean = "has the highest mean accuracy"
    if missing:
        return f"{said}; {best[0]} {mean}; not told yet of {', '.join(missing)}."
    if len(best) == 1:
        none = [sides[name].title for name in sides if not _solves_any(study, task, name, found)]
        little = f"; of {' and '.join(none)}, which solves none, it says little" if none else ""
        return (
            f"{said}. No sign that the difference is one of rates: for each of them {best[0]} {mean}. But these are "
            f"{len(study.rate_seeds)} runs a rate, which were not tested against each other{little}."
        )
    ends = ", ".join(f"{lr:g} for {sides[name].title}" for name, lr in rates.items())
    return f"{said}; not one rate {mean} for all ({ends}): read and rate change together."


def _solves_any(study: Study, task: Mapping, side: str, found: Mapping[str, RunRecord]) -> bool:
    return any(found[config.identity].outcome == "solved" for config in study.rate_runs(task, side))


def _rate_text(lr: float | None) -> str:
    return "not chosen" if lr is None else f"{lr:g}"
