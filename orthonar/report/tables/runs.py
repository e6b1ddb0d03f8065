"""A study's recorded runs as one table."""

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from ...data.base import IGNORE_INDEX, Task
from ...data.noisy_recall import NoisyRecall
from ...reads.base import RawRead
from ...study.presets import PRESETS, Study
from ...study.records import run_table
from ...training.config import RunConfig
from ...training.record import RunRecord
from .. import hazards, stats
from ..words import task_label

#: What a study's runs are asked for: those that rates were chosen by, or those at the chosen rates, one rate for each
#: task and read (the study's own choice) or one for each task.
STAGES = ("rates", "seeds", "seeds at one rate per task")


def study_runs(study: Study, records: Iterable[RunRecord], stage: str = "seeds") -> pd.DataFrame:
    """Run table of a study's recorded runs.

    Args:
        study: which runs to look for.
        records: run records.
        stage: one of `STAGES`.

    Returns:
        `orthonar.study.records.run_table` with columns task and side in front, and at the end ended (one of
        `orthonar.report.stats.ENDINGS`), best (the highest accuracy of any evaluation, 0 to 1), collapse_step (NaN
        where the run did not collapse) and left_step, see `orthonar.report.hazards.left_step`.
    """
    found = {r.identity: r for r in records}
    parts = []
    for task, side in study.cells():
        runs = [found[c.identity] for c in _runs(study, task, side, found, stage) if c.identity in found]
        table = run_table(runs).drop(columns="task", errors="ignore")
        table.insert(0, "side", side)
        table.insert(0, "task", study_task_label(study, task))
        best = (max((e.accuracy or 0.0 for e in r.trace), default=0.0) for r in runs)
        table["ended"] = pd.Series([_ending(r) for r in runs], dtype=object)
        table["best"] = pd.Series(list(best), dtype=float)
        table["collapse_step"] = pd.Series([stats.collapse_step(r.trace) for r in runs], dtype=float)
        table["left_step"] = pd.Series([hazards.left_step(r.outcome, r.trace) for r in runs], dtype=float)
        parts.append(table)
    filled = [part for part in parts if len(part)]
    if filled:
        return pd.concat(filled, ignore_index=True)
    return parts[0].reindex(columns=list(dict.fromkeys([*parts[0], *RunConfig().settings()])))


def searched(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row per run that a scale was looked for with: its settings, where it ended, how sharply it escaped.

    Args:
        records: run records.

    Returns:
        By task (vocabulary and length), width and recipe: read, final accuracy (percent), and how many of the
        evaluations lie between 20 and 80 %.
    """
    settings = ["task", "width", "batch, rate, schedule, steps"]
    rows = []
    for record in records:
        config = RunConfig.of_record(record)
        accuracies = [line.accuracy or 0.0 for line in record.trace]
        recipe = f"{config.batch_size}, {config.lr:g}, {record.settings['schedule']}, {config.steps:,}"
        rows.append({
            "task": f"{config.vocab_size}, {config.seq_len}",
            "width": f"{config.embedding_dim} in {config.num_heads} heads",
            "batch, rate, schedule, steps": recipe,
            "read": "baseline" if config.read == RawRead() else "orthogonalized",
            "final (%)": round(100 * accuracies[-1], 1),
            "between": f"{sum(0.2 <= a <= 0.8 for a in accuracies)} of {len(accuracies)}",
        })  # fmt: skip
    table = pd.DataFrame(rows, columns=[*settings, "read", "final (%)", "between"])
    return table.sort_values([*settings, "read"]).set_index(settings)


def with_all_seeds(study: Study, records: Iterable[RunRecord]) -> Study:
    """The same study with every seed that any record has, but those that learning rates are chosen on.

    A study asks for the seeds that it needs; of some of its cells other studies have more.

    Args:
        study: which runs to look for.
        records: run records.
    """
    choosing = {*study.rate_seeds, *(seed for of in PRESETS["learning-rate"].values() for seed in of.rate_seeds)}
    recorded = {record.settings["seed"] for record in records} - choosing
    return replace(study, seeds=tuple(sorted({*study.seeds, *recorded})))


def on_shared_seeds(sides: Sequence[pd.DataFrame], without: Collection[int] = ()) -> list[pd.DataFrame]:
    """The runs of the seeds that all of several sides have.

    Args:
        sides: their run tables.
        without: seeds that do not count.
    """
    shared = set.intersection(*(set(side["seed"]) for side in sides)) - set(without)
    return [side[side["seed"].isin(shared)] for side in sides]


def in_seconds(runs: pd.DataFrame, pace: float) -> pd.DataFrame:
    """Runs of one side with seconds in the place of steps, for `orthonar.report.survival.kaplan_meier`.

    How long the runs themselves took says more of what ran beside them than of their read.

    Args:
        runs: a run table.
        pace: seconds per step, as of `orthonar.report.tables.pace.seconds_per_step`.

    Returns:
        The same table, its escape_step and steps in seconds.
    """
    return runs.assign(escape_step=pace * runs["escape_step"], steps=pace * runs["steps"])


def independent_positions(config: RunConfig) -> float:
    """Scored positions of a run's validation set, those that share their answer counted as what they are worth.

    Where a key comes c times after its first showing in a sequence, c positions ask for one value. A constant guess is
    right at all of them or at none, so its share of right answers scatters as if there were (sum c)² / sum c² positions
    instead of sum c. Where one token of a sequence has several answers, as a key tried at several doors has, each
    position counts by itself. Both sums are taken from the first 64 sequences of the validation set with seed 0 and
    scaled to the size of the run's.

    Args:
        config: the run's settings.
    """
    return config.validation_sequences * _independent_per_sequence(config.task)


@functools.lru_cache
def _independent_per_sequence(task: Task, sequences: int = 64) -> float:
    [(tokens, targets)] = task.validation_set(0, sequences, sequences, "cpu")
    row, position = np.nonzero(targets.numpy() != IGNORE_INDEX)
    asked, answered = np.stack([row, tokens.numpy()[row, position]]), targets.numpy()[row, position]
    _, count = np.unique(asked, axis=1, return_counts=True)
    if np.unique(np.vstack([asked, answered]), axis=1).shape[1] > len(count):
        return len(row) / sequences
    return float(count.sum() ** 2 / (count**2).sum() / sequences)


def _ending(record: RunRecord) -> str:
    config = RunConfig.of_record(record)
    values = len(config.task.values)
    return stats.ending(record.outcome, record.trace, independent_positions(config), values)


def _runs(study: Study, task: Mapping, side: str, found: Mapping[str, RunRecord], stage: str) -> list[RunConfig]:
    if stage == "rates":
        return study.rate_runs(task, side)
    if stage == "seeds":
        return study.seed_runs(task, side, found)
    if stage != STAGES[2]:
        raise ValueError(f"stage: there is no {stage!r}, only {', '.join(STAGES)}")
    lr = study.chosen_rate(task, None, found)
    return [] if lr is None else [study.run(task, side, lr, seed) for seed in study.seeds]


def study_task_label(study: Study, task: Mapping) -> str:
    """A task in a few words: its sizes, and what else tells it from the study's other tasks."""
    config = study.run(task, next(iter(study.sides)), study.rates[0], 0)
    sizes = {"vocab_size": config.task.vocab_size, "seq_len": config.task.seq_len, "batch_size": config.batch_size}
    others = [f"{name.replace('_', ' ')} {value:g}" for name, value in task.items() if name not in (*sizes, "task")]
    kind = [] if isinstance(config.task, NoisyRecall) else [type(config.task).__name__]
    return ", ".join([*kind, task_label(**sizes), *others])
