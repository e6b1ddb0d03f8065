"""A study's recorded runs as one table."""

from collections.abc import Iterable

import pandas as pd

from ...study.presets import Study
from ...study.records import run_table
from ...training.config import RunConfig
from ...training.record import RunRecord
from ..words import task_label


def study_runs(study: Study, records: Iterable[RunRecord], stage: str = "seeds") -> pd.DataFrame:
    """Run table of a study's recorded runs, with columns task and side in front.

    Args:
        study: which runs to look for.
        records: run records.
        stage: "seeds" for the runs at the chosen rates, "rates" for those that the rates were chosen by.
    """
    found = {r.identity: r for r in records}
    parts = []
    for task, side in study.cells():
        runs = study.seed_runs(task, side, found) if stage == "seeds" else study.rate_runs(task, side)
        table = run_table(found[c.identity] for c in runs if c.identity in found).drop(columns="task", errors="ignore")
        table.insert(0, "side", side)
        table.insert(0, "task", _label(study, task))
        parts.append(table)
    filled = [part for part in parts if len(part)]
    if filled:
        return pd.concat(filled, ignore_index=True)
    return parts[0].reindex(columns=list(dict.fromkeys([*parts[0], *RunConfig().settings()])))


def _label(study: Study, task) -> str:
    config = study.run(task, next(iter(study.sides)), study.rates[0], 0)
    return task_label(config.task.vocab_size, config.task.seq_len, config.batch_size)
