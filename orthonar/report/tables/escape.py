"""What moves the hazard of escape: the runs of several studies with their covariates, and fitted models as text."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from ...study.presets import PRESETS, Study
from ...study.sides import BASELINE, CONSTANT, COSINE_4000, ORTHOGONALIZED, ORTHOGONALIZED_CONSTANT, by_name, title
from ...training.config import RunConfig
from ...training.record import RunRecord
from ...training.schedules import Constant, Cosine
from .. import hazards, stats
from ..published import MEDIAN_ESCAPE_4000, REACHED_BY_2000
from ..seeds import PICKED_ON, seeds_text
from ..words import estimate_text, p_text
from .compared import as_tested, tested_text
from .headline import answers, study_runs

#: What the models' terms are called for readers.
TERMS = {
    "orthogonalized": "orthogonalized read",
    "np.log(lr)": "log learning rate",
    "np.log(lr / 0.003)": "log learning rate",
    "np.log(batch_size)": "log batch size",
    "np.log(embedding_std)": "log embedding std",
    "vocab_size": "vocabulary, per token",
    "constant_rate": "constant rate",
}


#: Settings in which runs of one recipe may differ: the read, what is only looked at, and what names the task once more
#: (a table's task is a label; the task's own settings are compared).
_MAY_DIFFER = frozenset(
    {
        "read",
        "seed",
        "device",
        "engine",
        "form",
        "probes",
        "validation_sequences",
        "task",
    }
)


def runs_with_covariates(
    studies: Iterable[Study], records: Iterable[RunRecord], stages: Iterable[str] = ("rates", "seeds")
) -> pd.DataFrame:
    """The recorded runs of several studies, each once, with what a hazard model takes.

    Args:
        studies: which runs to look for.
        records: run records.
        stages: of `orthonar.report.tables.runs.STAGES`.

    Returns:
        `orthonar.report.tables.runs.study_runs` with orthogonalized: 1 for five Newton-Schulz steps, 0 for the raw
        read; other reads are left out; and with constant_rate: 1 where the learning rate does not change, else 0.
    """
    records = list(records)
    tables = [study_runs(study, records, stage) for study in studies for stage in stages]
    found = [table for table in tables if len(table)]
    runs = pd.concat(found or tables[:1], ignore_index=True).drop_duplicates("identity").reset_index(drop=True)
    five = runs["read"].eq("NewtonSchulzRead") & runs.get("read.steps", pd.Series(np.nan, runs.index)).eq(5)
    runs = runs[five | runs["read"].eq("RawRead")].reset_index(drop=True)
    five_steps, constant = runs["read"].eq("NewtonSchulzRead"), runs["schedule"].eq(Constant.kind)
    return runs.assign(orthogonalized=five_steps.astype(float), constant_rate=constant.astype(float))


def same_recipe(runs: pd.DataFrame, differing: str = "embedding_std") -> pd.DataFrame:
    """Of several studies' runs those of the follow-up's recipe, which differ in read and one setting alone.

    A read with a value of that setting of which there are fewer than `orthonar.report.stats.LEAST_FOR_INTERVAL` runs is
    left out: one early escape in a cell of one run would carry a whole model.

    Args:
        runs: as of `runs_with_covariates`.
        differing: the setting, "embedding_std" or "schedule"; of schedules these are the cosine and the constant rate.
    """
    settings = RunConfig(batch_size=16, lr=3e-3).settings()
    recipe = {k: v["name"] if isinstance(v, dict) else v for k, v in settings.items() if k not in _MAY_DIFFER}
    del recipe[differing]
    same = runs[runs[list(recipe)].eq(pd.Series(recipe)).all(axis=1)]
    if differing == "schedule":
        same = same[same["schedule"].isin([Cosine.kind, Constant.kind])]
    cells = same.groupby(["orthogonalized", differing])["identity"].transform("size")
    return same[cells >= stats.LEAST_FOR_INTERVAL].reset_index(drop=True)


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


def hazard_text(fitted: pd.DataFrame) -> pd.DataFrame:
    """A fitted model of `orthonar.report.hazards.fit` as text, a row per term.

    A term that is a logarithm is shown as an elasticity (the power of the setting that the hazard goes with), another
    one as the factor that it multiplies the hazard by.
    """
    rows = []
    for term, row in fitted.iterrows():
        power = "np.log" in term
        value, low, high = (
            np.log(row[["ratio", "low", "high"]].astype(float)) if power else row[["ratio", "low", "high"]]
        )
        names = [TERMS.get(part, part) for part in term.split(":")]
        rows.append(
            {
                "term": " x ".join(names),
                "is a": "power" if power else "factor",
                "estimate": "cannot be told" if np.isnan(row["ratio"]) else estimate_text(value, low, high),
                "p": p_text(row["p"]),
                "run-intervals": f"{row['run_intervals']:.0f}",
                "escapes": f"{row['events']:.0f}",
            }
        )
    return pd.DataFrame(rows).set_index("term")


_RAW = "the raw read's"
_NOT_TOLD = "What moves the hazard of escape cannot be told from the runs so far."


def answer(runs: pd.DataFrame) -> str:
    """What the hazard of escape is with the orthogonalized read and from the smallest embedding, in a sentence.

    It is that of `orthonar.report.hazards.fit`, relative to the raw read's and to that from the largest embedding; only
    these two are told of, since the hazard need not go with a power of the embedding's scale between and beyond them.

    Args:
        runs: as of `runs_with_covariates`.

    Returns:
        The sentence, of the read alone where all runs have one embedding; that it cannot be told, where an effect has
        no estimate.
    """
    smallest, largest = (float(of(runs["embedding_std"])) if len(runs) else 1.0 for of in (np.min, np.max))
    both = smallest < largest
    fitted = hazards.fit(runs, "orthogonalized + np.log(embedding_std)" if both else "orthogonalized")
    if fitted["ratio"].isna().any():
        return _NOT_TOLD
    bounds = fitted[["ratio", "low", "high"]].astype(float)
    of_read = _times(bounds.loc["orthogonalized"], _RAW)
    said = f"With the orthogonalized read the hazard of escape is {of_read}"
    if both:
        apart = np.exp(np.log(bounds.loc["np.log(embedding_std)"]) * np.log(smallest / largest))
        said += f"; from an embedding of std {smallest:.2g} it is {_times(apart, f'that from {largest:g}')}"
    events, waited = (int(fitted[name].max()) for name in ("events", "run_intervals"))
    counted = f"{events} escapes in {waited} run-intervals{'' if both else ' with it'}"
    return f"{said} (95 % {'intervals, each by itself' if both else 'interval, by itself'}; {counted})."


#: The hazard model of runs at either schedule: by seed, since one seed's runs with one read start alike at both.
SCHEDULES = {"formula": "orthogonalized + constant_rate", "groups": "seed"}


def schedules_answer(runs: pd.DataFrame) -> str:
    """What the hazard of escape is with the orthogonalized read and at a constant rate, over both schedules together.

    It is that of `orthonar.report.hazards.fit`, `SCHEDULES`, relative to the raw read's and to that with the cosine.

    Args:
        runs: as of `same_recipe`, differing in their schedule.

    Returns:
        The sentence; an empty one where a read is not recorded at both schedules; that it cannot be told, where an
        effect has no estimate.
    """
    if runs.groupby("orthogonalized")["schedule"].nunique().tolist() != [2, 2]:
        return ""
    fitted = hazards.fit(runs, **SCHEDULES)
    if fitted["ratio"].isna().any():
        return _NOT_TOLD
    bounds = fitted[["ratio", "low", "high"]].astype(float)
    counted = f"{runs['escape_step'].notna().sum()} escapes in {len(hazards.run_intervals(runs))} run-intervals"
    return (
        f"With the orthogonalized read the hazard of escape is {_times(bounds.loc['orthogonalized'], _RAW)}, over both "
        f"schedules together; at a constant rate it is {_times(bounds.loc['constant_rate'], 'that with the cosine')} "
        f"(95 % intervals, each by itself, which take each seed as one draw; {counted})."
    )


def _times(factor: pd.Series, of: str) -> str:
    """So many times of what, with its interval, whichever way that lies, and that nothing is shown where it holds 1."""
    low, high = sorted(factor[["low", "high"]])
    shows = "" if low > 1 or high < 1 else " (no difference is shown)"
    return f"{estimate_text(factor['ratio'], low, high)} times {of}{shows}"


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
    half, by_then = stats.median_escape(longer), int((longer["escape_step"] <= 2000).sum())
    when = f"half of the {len(longer)} " + ("never" if np.isnan(half) else f"by step {half:,.0f}")
    theirs = f"{REACHED_BY_2000.solved} of {REACHED_BY_2000.seeds}, half by step {MEDIAN_ESCAPE_4000:,}"
    reached = f"{by_then} of the {len(longer)} runs over 4,000 steps reach 80 % by step 2,000, {when}"
    return [*answers(study, records), f"{reached} (the follow-up's: {theirs})."]
