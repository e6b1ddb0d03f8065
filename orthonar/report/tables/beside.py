"""What stands beside the study: an answer with what is missing."""

from collections.abc import Sequence

from ...study.presets import Study
from ...training.record import RunRecord
from .headline import answers
from .runs import study_runs, study_task_label


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
    if missing := study.size() - len(runs):
        labels = {study_task_label(study, task) for task in study.tasks}
        none = [
            study.sides[side].title + (f" at {label}" if len(labels) > 1 else "")
            for label in sorted(labels)
            for side in study.sides
            if not ((runs["side"] == side) & (runs["task"] == label)).any()
        ]
        which = f", among them all of {'; '.join(none)}" if len(runs) and none else ""
        sentences.append(f"Not run yet: {missing} of {study.size()} runs{which}.")
    return sentences
