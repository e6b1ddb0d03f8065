"""Sides whose steps cost differently, compared in seconds: what one has reached when the other's budget is over."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from ...study.sides import BASELINE, ORTHOGONALIZED, title
from ..seeds import PICKED_ON, seeds_text
from .compared import as_tested, tested_text


class EqualTime(NamedTuple):
    """Two sides in the seconds that the whole budget of the one with the cheaper step takes."""

    seconds: float
    budget: int  #: steps of the cheaper side.
    step: int  #: that the dearer side comes to.
    cheap: pd.DataFrame  #: run table of the cheaper side, solved if it has reached 80 % by then.
    dear: pd.DataFrame  #: the same of the dearer one.


def in_equal_time(cheap: pd.DataFrame, dear: pd.DataFrame, paces: tuple[float, float]) -> EqualTime:
    """Which runs of two sides have escaped when the cheaper one's budget is over.

    Args:
        cheap: run table of the side with the cheaper step, at least one run.
        dear: run table of the other.
        paces: seconds a step of each.
    """
    budget = int(cheap["steps"].max())
    seconds = paces[0] * budget
    step = int(seconds / paces[1])
    there = [of.assign(solved=of["escape_step"] <= last) for of, last in ((cheap, budget), (dear, step))]
    return EqualTime(seconds, budget, step, *there)


def equal_time_answer(
    runs: pd.DataFrame,
    paces: Mapping[str, Mapping[str, float]],
    sides: tuple[str, str] = (BASELINE.name, ORTHOGONALIZED.name),
) -> list[str]:
    """How many runs of two sides have escaped in the seconds that the cheaper one's whole budget takes.

    Seeds on which a side was picked do not count, see `orthonar.report.seeds.PICKED_ON`.

    Args:
        runs: as of `orthonar.report.tables.runs.study_runs`, of a study with both sides and one task.
        paces: seconds a step of each side, by the processor's name and the side's, as of
            `orthonar.report.tables.pace.by_processor`.
        sides: their names; the one with the cheaper step is told of first.

    Returns:
        A sentence for each processor on which both sides are timed; none without the runs.
    """
    fresh = runs[~runs["seed"].isin({seed for name in sides for seed in PICKED_ON.get(name, ())})]
    if not set(sides) <= set(fresh["side"]):
        return []
    return [_equal_time(fresh, on, processor, sides) for processor, on in paces.items() if set(sides) <= set(on)]


def _equal_time(runs: pd.DataFrame, paces: Mapping[str, float], processor: str, sides: tuple[str, str]) -> str:
    cheap, dear = sorted(sides, key=lambda name: paces[name])
    both = as_tested(*(runs[runs["side"] == name] for name in (cheap, dear)))
    then = in_equal_time(*both, (paces[cheap], paces[dear]))
    told = tested_text(then.cheap, then.dear)
    if PICKED_ON.keys() & set(sides):
        told = f"{seeds_text(then.dear['seed'])}: {told}"
    counts = [f"{of['solved'].sum()} of {len(of)} runs" for of in (then.cheap, then.dear)]
    # A constant rate is the same wherever a run is stopped.
    cut = "" if set(then.dear["schedule"]) == {"constant"} else "; the cosine of the latter goes on after it"
    return (
        f"In the {then.seconds:.0f} seconds that {then.budget:,} steps of {title(cheap)} take ({processor}), "
        f"{title(dear)} comes to step {then.step:,}: by then {counts[0]} of {title(cheap)} and {counts[1]} of "
        f"{title(dear)} have reached 80 % ({told}{cut})."
    )
