"""What stands beside the study: an answer with what is missing."""

from collections.abc import Sequence

import pandas as pd

from ...study.presets import Study
from ...training.record import RunRecord
from .headline import answers
from .runs import study_runs


def told(study: Study, records: Sequence[RunRecord]) -> list[str]:
    """What came out of each side of a study against its first, and what is missing of it, a sentence each.

    Args:
        study: which runs to look for.
        records: run records.

    Returns:
        Those of `orthonar.report.tables.headline.answers`, and one more where runs are missing.
    """
    runs = study_runs(study, records)
    sentences = answers(study, records)
    if len(runs) < study.size():
        none = [side.title for name, side in study.sides.items() if name not in set(runs["side"])]
        of = f", none of {'; '.join(none)}" if len(runs) and none else ""
        sentences.append(f"{'Still missing' if sentences else 'Not told yet'}: {_count(study, runs)}{of}.")
    return sentences


def _count(study: Study, runs: pd.DataFrame) -> str:
    return f"{len(runs)} of {study.size()} runs are recorded"
