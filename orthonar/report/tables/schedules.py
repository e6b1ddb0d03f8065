"""Schedules of the learning rate at the follow-up's recipe: studies that differ in them; what a longer cosine does."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ...study.presets import PRESETS, Study
from ...study.sides import BASELINE, CONSTANT, COSINE_4000, ORTHOGONALIZED_CONSTANT, by_name
from ...training.record import RunRecord
from .. import survival
from ..published import MEDIAN_ESCAPE_4000, REACHED_BY_2000
from .headline import answers, study_runs


def longer_schedule() -> Study:
    """The raw read at the follow-up's recipe, with its cosine over 2,000 steps and over 4,000."""
    return replace(PRESETS["schedule"]["paper"], sides=by_name(BASELINE, COSINE_4000))


def constant_rate() -> Study:
    """The raw read at the follow-up's recipe, with its cosine and at a constant rate, both over 2,000 steps."""
    return replace(PRESETS["schedule"]["paper"], sides=by_name(BASELINE, CONSTANT))


def reads_at_constant_rate() -> Study:
    """Both reads at the follow-up's recipe but for a constant rate over its 2,000 steps."""
    return PRESETS["schedule"]["paper"].only([CONSTANT.name, ORTHOGONALIZED_CONSTANT.name])


def longer_answers(records: Iterable[RunRecord]) -> list[str]:
    """What a cosine over twice the steps does for the raw read, and when its runs escape, in sentences.

    Args:
        records: run records.

    Returns:
        None, where no run over 4,000 steps is recorded.
    """
    study, records = longer_schedule(), list(records)
    runs = study_runs(study, records)
    longer = runs[runs["side"] == COSINE_4000.name]
    if not len(longer):
        return []
    half, by_then = survival.median_escape(longer), int((longer["escape_step"] <= 2000).sum())
    when = f"half of the {len(longer)} " + ("never" if np.isnan(half) else f"by step {half:,.0f}")
    theirs = f"{REACHED_BY_2000.solved} of {REACHED_BY_2000.seeds}, half by step {MEDIAN_ESCAPE_4000:,}"
    reached = f"{by_then} of the {len(longer)} runs over 4,000 steps reach 80 % by step 2,000, {when}"
    return [*answers(study, records), f"{reached} (the follow-up's: {theirs})."]
