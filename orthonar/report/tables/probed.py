"""Runs with probes: a study's run table with what its models were asked: in training, at its end, from kept weights.

A run's *end* is its last evaluation. What the follow-up calls the plateau is measured *early*, at a tenth and at three
tenths of the training, whatever becomes of the run.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ...data.noisy_recall import NoisyRecall
from ...study.presets import Study
from ...study.records import trace_table
from ...training.config import RunConfig
from ...training.evaluation import QUESTIONS
from ...training.record import RunRecord
from .runs import study_runs

#: The shares of the training at which rank and coherence are taken, and their mean is meant by "early": of the
#: follow-up's 2,000 steps, 200 and 600.
EARLY = (0.1, 0.3)

#: What probes leave in a trace, see `orthonar.training.probes` and `orthonar.training.evaluation`.
PROBES = ("effective_rank", "log10_condition", "qk_coherence", *QUESTIONS)

#: What a trained model may have been asked, and when: the values of `probed_runs`'s column asked. Older records hold
#: answers of another decoder, under names of their own, which no table shows.
ASKED_AT_END, ASKED_AFTERWARDS, ASKED_OTHERWISE, NOT_ASKED = (
    "at the end of training", "from kept weights", "in another way", "not asked",
)  # fmt: skip

_OLDER_DECODER = "decoded"

#: Reads that trained models are evaluated with, and where the accuracy stands.
EVALUATED_WITH = {"own": "accuracy", "raw": "accuracy_read_raw", "orthogonalized": "accuracy_read_orthogonalized"}


def traces(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row an evaluation of a study's recorded runs.

    Args:
        study: which runs to look for.
        records: run records.

    Returns:
        `orthonar.study.records.trace_table` with all of `PROBES`, NaN where a run has none, and side, seed, steps and
        escape_step.
    """
    records = list(records)
    return _traces(study_runs(study, records), records)


def _traces(runs: pd.DataFrame, records: Iterable[RunRecord]) -> pd.DataFrame:
    """`traces` of the runs of a run table."""
    wanted = set(runs["identity"])
    lines = trace_table(record for record in records if record.identity in wanted)
    lines = lines.reindex(columns=list(dict.fromkeys([*lines, *PROBES])))
    return lines.merge(runs[["identity", "side", "seed", "steps", "escape_step"]], on="identity")


def probed_runs(study: Study, records: Iterable[RunRecord], kept: pd.DataFrame | None = None) -> pd.DataFrame:
    """Run table of a study's recorded runs with what the probes saw.

    Args:
        study: which runs to look for, of one task.
        records: run records.
        kept: what kept weights answered, as of `orthonar.study.contents.answer_table`; it stands in for what a run's
            own trace does not say.

    Returns:
        `orthonar.report.tables.runs.study_runs` with ends ("solved" or "not solved"), early_effective_rank and
        early_qk_coherence (means of the evaluations nearest to the shares `EARLY` of the training; NaN where the run
        has no probes or diverged by then), `PROBES` at the end of the run, and asked: when the memory was decoded.
    """
    records = list(records)
    runs = study_runs(study, records)
    lines = _traces(runs, records)
    parts = []
    for share in EARLY:
        distance = (lines["step"] - share * lines["steps"]).abs()
        nearest = lines[distance == distance.groupby(lines["identity"]).transform("min")]
        parts.append(nearest.groupby("identity").head(1).set_index("identity")[["effective_rank", "qk_coherence"]])
    early = (parts[0] + parts[1]) / 2
    last = lines.groupby("identity").tail(1).set_index("identity")
    end = last[list(PROBES)].astype(float)
    older = last.get(_OLDER_DECODER, pd.Series(index=last.index, dtype=float)).notna()
    asked = pd.Series(np.where(older, ASKED_OTHERWISE, NOT_ASKED), last.index, dtype=object)
    if kept is not None:
        asked[end.index.isin(kept.index)] = ASKED_AFTERWARDS
    asked[end["decode1"].notna()] = ASKED_AT_END
    if kept is not None:
        end = end.fillna(kept.reindex(index=end.index, columns=end.columns))
    end["asked"] = asked
    runs = runs.join(early.add_prefix("early_"), on="identity").join(end, on="identity")
    return runs.assign(ends=np.where(runs["solved"], "solved", "not solved"))


def is_the_follow_ups(study: Study) -> bool:
    """Whether a study's runs are made by the recipe of its elimination, so that numbers can be compared."""
    config = study.run(study.tasks[0], next(iter(study.sides)), study.rates[0], 11)
    theirs = RunConfig(task=NoisyRecall(80, 512), batch_size=16, lr=3e-3, seed=11)
    return len(study.tasks) == 1 and config.identity == theirs.identity and study.seeds == tuple(range(11, 27))
