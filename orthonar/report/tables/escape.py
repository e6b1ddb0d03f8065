"""What moves the hazard of escape: the runs of several studies with their covariates, and fitted models as text."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ...study.presets import Study
from ...training.config import RunConfig
from ...training.record import RunRecord
from ...training.schedules import Constant, Cosine
from .. import hazards, stats
from ..words import estimate_text, p_text
from .headline import study_runs

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

#: The hazard models of one recipe's runs, of several embeddings and of either schedule.
EMBEDDINGS = "orthogonalized + np.log(embedding_std)"
SCHEDULES = "orthogonalized + constant_rate"

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

#: The one setting beside the read in which runs of one recipe may differ too, and the values that belong to it.
_DIFFERING = {"embedding_std": None, "schedule": (Cosine.kind, Constant.kind)}

_READ, _RAW = "With the orthogonalized read the hazard of escape is", "the raw read's"
_NOT_TOLD = "What moves the hazard of escape cannot be told from the runs so far."


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

    Raises:
        ValueError: differing is another setting.
    """
    if differing not in _DIFFERING:
        raise ValueError(f"differing: there is no {differing!r}, only {', '.join(_DIFFERING)}")
    settings = RunConfig(batch_size=16, lr=3e-3).settings()
    recipe = {k: v["name"] if isinstance(v, dict) else v for k, v in settings.items() if k not in _MAY_DIFFER}
    del recipe[differing]
    same = runs[runs[list(recipe)].eq(pd.Series(recipe)).all(axis=1)]
    if (values := _DIFFERING[differing]) is not None:
        same = same[same[differing].isin(values)]
    cells = same.groupby(["orthogonalized", differing])["identity"].transform("size")
    return same[cells >= stats.LEAST_FOR_INTERVAL].reset_index(drop=True)


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
                "run-intervals": f"{row['run_intervals']:,.0f}",
                "escapes": f"{row['events']:.0f}",
            }
        )
    return pd.DataFrame(rows).set_index("term")


def answer(runs: pd.DataFrame) -> str:
    """What the hazard of escape is with the orthogonalized read and from the smallest embedding, in a sentence.

    It is that of `orthonar.report.hazards.fit`, `EMBEDDINGS`, relative to the raw read's and to that from the largest
    embedding; only these two are told of, since the hazard need not go with a power of the embedding's scale between
    and beyond them.

    Args:
        runs: as of `runs_with_covariates`.

    Returns:
        The sentence, of the read alone where all runs have one embedding; that it cannot be told, where an effect has
        no estimate.
    """
    smallest, largest = (float(of(runs["embedding_std"])) if len(runs) else 1.0 for of in (np.min, np.max))
    fitted = hazards.fit(runs, EMBEDDINGS if smallest < largest else "orthogonalized")
    if fitted["ratio"].isna().any():
        return _NOT_TOLD
    factors = fitted[["ratio", "low", "high"]].astype(float)
    effects = [f"{_READ} {_times(factors.loc['orthogonalized'], _RAW)}"]
    if smallest < largest:
        apart = np.exp(np.log(factors.loc["np.log(embedding_std)"]) * np.log(smallest / largest))
        effects.append(f"from an embedding of std {smallest:.2g} it is {_times(apart, f'that from {largest:g}')}")
    return _sentence(effects, runs)


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
    fitted = hazards.fit(runs, SCHEDULES)
    if fitted["ratio"].isna().any():
        return _NOT_TOLD
    factors = fitted[["ratio", "low", "high"]].astype(float)
    effects = [
        f"{_READ} {_times(factors.loc['orthogonalized'], _RAW)}, over both schedules together",
        f"at a constant rate it is {_times(factors.loc['constant_rate'], 'that with the cosine')}",
    ]
    return _sentence(effects, runs)


def _sentence(effects: list[str], runs: pd.DataFrame) -> str:
    """Effects with what they rest on: several on all runs, that of the read alone on the runs with it."""
    several = len(effects) > 1
    waits = hazards.run_intervals(runs if several else runs[runs["orthogonalized"] == 1])
    counted = f"{waits['escaped'].sum()} escapes in {len(waits):,} run-intervals{'' if several else ' with it'}"
    intervals = "intervals, each by itself, which take" if several else "interval, by itself, which takes"
    return f"{'; '.join(effects)} (95 % {intervals} each seed as one draw; {counted})."


def _times(factor: pd.Series, of: str) -> str:
    """So many times of what, with its interval, whichever way that lies, and that nothing is shown where it holds 1."""
    low, high = sorted(factor[["low", "high"]])
    shows = "" if low > 1 or high < 1 else " (no difference is shown)"
    return f"{estimate_text(factor['ratio'], low, high)} times {of}{shows}"
