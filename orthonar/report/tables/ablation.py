"""What becomes of each variant of the ablation: one task, one learning rate, ours beside the published."""

from collections.abc import Iterable

import pandas as pd

from ...reads.newton_schulz import NewtonSchulzRead
from ...study.presets import Study
from ...study.sides import BASELINE, ORTHOGONALIZED
from ...training.record import RunRecord
from .. import stats, survival
from ..published import ELIMINATION
from ..words import NOT_RUN, median_text, p_text, solved_text, text_table, values_text
from .compared import accuracy_text, tested
from .probed import probed_runs
from .runs import study_runs


def in_order(study: Study, runs: pd.DataFrame) -> list[str]:
    """The variants with runs, by their mean accuracy; then those of which only a number was published, by that.

    Args:
        study: whose variants.
        runs: as of `orthonar.report.tables.runs.study_runs`.
    """
    means = {name: stats.accuracies(of).mean() for name, of in runs.groupby("side")} if len(runs) else {}
    theirs = {name: other.solved.solved / other.solved.seeds for name, other in ELIMINATION.items()}
    names = [name for name in study.sides if name in means or name in theirs]
    return sorted(names, key=lambda name: (name not in means, means.get(name, theirs.get(name))))


def labels(study: Study) -> pd.DataFrame:
    """What each variant of a study is, in a few words."""
    rows = [{"variant": name, "what it is": side.label} for name, side in study.sides.items()]
    return pd.DataFrame(rows).set_index("variant")


def doses(study: Study) -> dict[str, str]:
    """The variants that differ in the number of Newton-Schulz steps alone, from no step up, each with that number.

    The baseline comes first, as "raw": it does not even divide the memory by its norm.
    """
    steps = {
        name: side.settings["read"].steps
        for name, side in study.sides.items()
        if set(side.settings) == {"read"} and isinstance(side.settings["read"], NewtonSchulzRead)
    }
    return {"baseline": "raw"} | {name: str(steps[name]) for name in sorted(steps, key=lambda name: steps[name])}


def elimination(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """What becomes of each variant, as text, beside what was published of it.

    Args:
        study: a study of one task, with a side "baseline".
        records: run records.

    Returns:
        One row per variant: solved runs with Wilson's interval; solved runs as published; mean accuracy with its
        interval or its runs; median escape step; in how many pairs of a seed the baseline and the variant alone is
        solved, with the two-sided p-value of the exact McNemar test; that of Fisher's against the baseline.
    """
    runs = study_runs(study, records)
    baseline = runs[runs["side"] == "baseline"]
    rows = []
    for name in study.sides:
        mine = runs[runs["side"] == name]
        row = {"variant": name} | _outcome(mine) | {"follow-up": _published_solved(name)}
        if len(mine) and len(baseline) and name != "baseline":
            counts = [(int(side["solved"].sum()), len(side)) for side in (mine, baseline)]
            alone = stats.pairs(baseline, mine)
            if sum(alone):
                row["alone, McNemar p"] = f"{alone.first_only}, {alone.second_only}; {p_text(stats.mcnemar(alone))}"
            row["Fisher p"] = p_text(stats.fisher(*zip(*counts)))
        rows.append(row)
    columns = ["variant", "solved", "follow-up", "accuracy (%)", "median step", "alone, McNemar p", "Fisher p"]
    return text_table(rows, columns, "variant")


def variant_answers(study: Study, records: Iterable[RunRecord]) -> list[str]:
    """Which variants solve another share of runs than the baseline and than the study's own read, and which solve most.

    Each variant is held against either by `orthonar.report.tables.compared.tested`, and told from it if the p-value is
    at most 0.05 by Holm's correction over the variants. What the study's own read does against the baseline is the
    headline's question.

    Args:
        study: a study of one task, with the sides "baseline" and "orthogonalized".
        records: run records.

    Returns:
        A sentence on the variants with at least `orthonar.report.stats.LEAST_FOR_INTERVAL` runs, if there are any and
        both sides have as many, then one that counts the others, if there are any.
    """
    records = list(records)
    runs = study_runs(study, records)
    references = [BASELINE.name, ORTHOGONALIZED.name]
    counts = runs["side"].value_counts().reindex(list(study.sides), fill_value=0)
    variants = counts.drop(references)
    few = counts < stats.LEAST_FOR_INTERVAL
    told = list(variants.index[~few[variants.index]]) if not few[references].any() else []
    sentences = [_told(study, runs, told)] if told else []
    short = [study.sides[name].title for name in references if few[name]]
    if short and not few[variants.index].all():
        least = f"fewer than {stats.LEAST_FOR_INTERVAL} runs"
        return [f"Nothing can be said of the variants yet: of {' and '.join(short)} there are {least}."]
    if others := len(variants) - len(told):
        so_far = "Nothing can be said of the others yet" if told else "Nothing can be said of the variants yet"
        none = int((variants == 0).sum())
        sentences.append(
            f"{so_far}: {others} of {len(variants)} variants have fewer than {stats.LEAST_FOR_INTERVAL} runs"
            f"{f', {none} of them none' if none else ''}."
        )
    return sentences


def _told(study: Study, runs: pd.DataFrame, variants: list[str]) -> str:
    """The sentence of `variant_answers` on variants that have enough runs.

    Args:
        study: whose variants.
        runs: run table of its seeds.
        variants: which of them.
    """

    def solved(name: str) -> str:
        of_side = runs[runs["side"] == name]
        return f"{of_side['solved'].sum()} of {len(of_side)}"

    parts, tests, apart = [], set(), set()
    for reference in (BASELINE.name, ORTHOGONALIZED.name):
        held = [tested(*(runs[runs["side"] == name] for name in (reference, variant))) for variant in variants]
        corrected = stats.holm([test.p for test in held])
        tests |= {test.name for test in held}
        others = {name: p for name, p in zip(variants, corrected) if stats.is_told(p)}
        apart |= set(others)
        named = [f"{study.sides[name].title} ({solved(name)}, p = {p_text(p)})" for name, p in others.items()]
        parts.append(f"from {study.sides[reference].title} ({solved(reference)}) {', '.join(named) or 'none'}")
    shares = {name: runs[runs["side"] == name]["solved"].mean() for name in variants}
    best = [name for name in variants if shares[name] == max(shares.values())]
    most = (
        f" The most runs are solved by {' and '.join(f'{study.sides[name].title} ({solved(name)})' for name in best)}."
    )
    if max(shares.values()) == 0:
        most = " None solves a run."
    elif apart.issuperset(best):
        most = ""
    return (
        f"Of {len(variants)} variants with at least {stats.LEAST_FOR_INTERVAL} runs, these differ in their "
        f"solved runs: {'; '.join(parts)} ({' or '.join(sorted(tests))}, Holm's correction over the variants).{most}"
    )


def endings(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """How many runs of each variant that has any ended how, a column for each of `orthonar.report.stats.ENDINGS`."""
    runs = study_runs(study, records)
    counts = pd.crosstab(runs["side"], runs["ended"]) if len(runs) else pd.DataFrame()
    present = [name for name in study.sides if name in counts.index]
    shown = counts.reindex(index=present, columns=list(stats.ENDINGS), fill_value=0)
    return shown.rename_axis(index="variant", columns=None)


def early(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """Effective rank of the memory and gradient coherence early in training, as text, beside what was published.

    Returns:
        One row per variant: values of up to four runs, the range of up to seven, the mean of more with its interval.
    """
    runs = probed_runs(study, records)
    rows = []
    for name in study.sides:
        mine, other = runs[runs["side"] == name], ELIMINATION.get(name)
        rank, coherence = (other.effective_rank, other.coherence) if other else (None, None)
        rows.append({
            "variant": name,
            "rank": values_text(mine["early_effective_rank"], 1),
            "follow-up: rank": "" if rank is None else f"{rank:.1f}",
            "coherence": values_text(mine["early_qk_coherence"], 2),
            "follow-up: coherence": "" if coherence is None else f"{coherence:.2f}",
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("variant")


def dose_response(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """What comes of more Newton-Schulz steps, as text: one row per number of steps, the raw read first."""
    runs = study_runs(study, records)
    rows = []
    for name, steps in doses(study).items():
        rows.append({"steps": steps} | _outcome(runs[runs["side"] == name]) | {"follow-up": _published_solved(name)})
    columns = ["steps", "solved", "follow-up", "accuracy (%)", "median step"]
    return text_table(rows, columns, "steps")


def _outcome(runs: pd.DataFrame) -> dict[str, str]:
    """Solved runs, accuracy and median escape step of one variant's runs, as text."""
    if not len(runs):
        return {"solved": NOT_RUN, "accuracy (%)": "", "median step": ""}
    return {
        "solved": solved_text(int(runs["solved"].sum()), len(runs)),
        "accuracy (%)": accuracy_text(runs, most=4),
        "median step": median_text(survival.median_escape(runs)),
    }


def _published_solved(name: str) -> str:
    other = ELIMINATION.get(name)
    return f"{other.solved.solved} of {other.solved.seeds}" if other else ""
