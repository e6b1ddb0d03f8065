"""The tables of the ablation notebooks: one task, one learning rate, many variants, ours beside the published.

A run's *end* is its last evaluation. What the follow-up calls the plateau is measured *early*, at a tenth and at three
tenths of the training, whatever becomes of the run.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ...data.noisy_recall import NoisyRecall
from ...reads.newton_schulz import NewtonSchulzRead
from ...study.presets import Study
from ...study.records import trace_table
from ...training.config import RunConfig
from ...training.evaluation import QUESTIONS
from ...training.record import SOLVED_AT, RunRecord
from .. import stats
from ..published import DECODED, ELIMINATION, SWAPPED, PublishedSwap
from ..words import NOT_KNOWN, NOT_RUN, mean_text, median_text, p_text, solved_text, values_text
from .runs import study_runs

#: The shares of the training at which rank and coherence are taken, and their mean is meant by "early": of the
#: follow-up's 2,000 steps, 200 and 600.
EARLY = (0.1, 0.3)

#: What a table says where a variant has runs, but none that ended so.
NO_SUCH_RUN = "no such run"

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


def variants(study: Study) -> list[str]:
    """The variants of a study in its order, then those that are published only."""
    return list(dict.fromkeys([*study.sides, *ELIMINATION]))


def in_order(study: Study, runs: pd.DataFrame) -> list[str]:
    """The variants with runs, by their mean accuracy; then those of which only a number was published, by that.

    Args:
        study: whose variants.
        runs: as of `orthonar.report.tables.runs.study_runs`.
    """
    means = {name: stats.accuracies(of).mean() for name, of in runs.groupby("side")} if len(runs) else {}
    theirs = {name: other.solved.solved / other.solved.seeds for name, other in ELIMINATION.items()}
    names = [name for name in variants(study) if name in means or name in theirs]
    return sorted(names, key=lambda name: (name not in means, means.get(name, theirs.get(name))))


def labels(study: Study) -> pd.DataFrame:
    """What each variant of a study is, in a few words, and of those that are published only what they were."""
    of_study = {name: side.label for name, side in study.sides.items()}
    rows = {name: of_study.get(name) or f"follow-up only: {ELIMINATION[name].label}" for name in variants(study)}
    return pd.DataFrame({"variant": rows.keys(), "what it is": rows.values()}).set_index("variant")


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


def traces(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row an evaluation of a study's recorded runs.

    Args:
        study: which runs to look for.
        records: run records.

    Returns:
        `orthonar.study.records.trace_table` with all of `PROBES`, NaN where a run has none, and side, seed and
        escape_step.
    """
    records = list(records)
    runs = study_runs(study, records)[["identity", "side", "seed", "escape_step"]]
    lines = trace_table(records)
    return lines.reindex(columns=list(dict.fromkeys([*lines, *PROBES]))).merge(runs, on="identity")


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
    runs, lines = study_runs(study, records), traces(study, records)
    lines = lines.merge(runs[["identity", "steps"]], on="identity")
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
    for name in variants(study):
        mine = runs[runs["side"] == name]
        row = {"variant": name} | _outcome(mine) | {"follow-up": _published_solved(name)}
        if len(mine) and len(baseline) and name != "baseline":
            counts = [(int(side["solved"].sum()), len(side)) for side in (mine, baseline)]
            alone = stats.pairs(baseline, mine)
            if sum(alone):
                row["alone, McNemar p"] = f"{alone.first_only}, {alone.second_only}; {p_text(stats.mcnemar(alone))}"
            row["Fisher p"] = p_text(stats.fisher(*zip(*counts)))
        rows.append(row)
    columns = ["variant", "solved", "follow-up", "accuracy (%)", "escape", "alone, McNemar p", "Fisher p"]
    return pd.DataFrame(rows, columns=columns).astype(object).fillna("").set_index("variant")


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
        One row per variant of the study or of which either was published: values of up to four runs, the range of up
        to seven, the mean of more with its interval.
    """
    runs = probed_runs(study, records)
    rows = []
    for name in variants(study):
        mine, other = runs[runs["side"] == name], ELIMINATION.get(name)
        rank, coherence = (other.effective_rank, other.coherence) if other else (None, None)
        if name in study.sides or rank is not None:
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
    columns = ["steps", "solved", "follow-up", "accuracy (%)", "escape"]
    return pd.DataFrame(rows, columns=columns).astype(object).fillna("").set_index("steps")


def swaps(study: Study, records: Iterable[RunRecord], kept: pd.DataFrame | None = None) -> pd.DataFrame:
    """Trained models evaluated at their end with their own read and with others, as text.

    Args:
        study, records, kept: as of `probed_runs`.

    Returns:
        One row per variant and end of its runs: mean accuracy and solved runs under each read.
    """
    rows = []
    for first, mine in _by_end(study, probed_runs(study, records, kept)):
        row = {f"{read} read": _read_so(mine, column) for read, column in EVALUATED_WITH.items()}
        rows.append(dict(zip(_FIRST, first)) | row)
    return pd.DataFrame(rows, columns=[*_FIRST, *(f"{read} read" for read in EVALUATED_WITH)]).set_index(_FIRST)


def swap_answers(study: Study, records: Iterable[RunRecord], kept: pd.DataFrame | None = None) -> list[str]:
    """Whether trained models still need the orthogonalized read, and whether it helps those that lack it: sentences.

    Args:
        study, records, kept: as of `probed_runs`.

    Returns:
        One sentence each, where there are such runs.
    """
    runs = probed_runs(study, records, kept)
    sentences = []
    for name, end, read, ending in (
        ("orthogonalized", "solved", "raw", "are still solved when they are read raw"),
        ("baseline", "not solved", "orthogonalized", "reach 80 % when they are read orthogonalized"),
    ):
        column = EVALUATED_WITH[read]
        mine = runs[(runs["side"] == name) & (runs["ends"] == end)].dropna(subset=[column])
        if len(mine):
            before, after = (100 * mine[c].mean() for c in ("accuracy", column))
            which = "solved with the orthogonalized read" if end == "solved" else "not solved with the raw read"
            solved = int((mine[column] >= SOLVED_AT).sum())
            count = f"{solved} of {len(mine)} run{'s'[: len(mine) != 1]} {which} {ending}"
            sentences.append(f"{count} (mean {before:.1f} to {after:.1f} %).")
    return sentences


def decode_answers(study: Study, records: Iterable[RunRecord], kept: pd.DataFrame | None = None) -> list[str]:
    """How much a decoder finds in memories, and how much of that it owes to the right memory: a sentence per ending.

    Args:
        study, records, kept: as of `probed_runs`.
    """
    runs = probed_runs(study, records, kept).dropna(subset=["decode1", "decode1_other_memory"])
    sentences = []
    for end in ("not solved", "solved"):
        mine = runs[runs["side"].isin(["baseline", "orthogonalized"]) & (runs["ends"] == end)]
        if len(mine):
            found, other = (100 * mine[c].mean() for c in ("decode1", "decode1_other_memory"))
            sentences.append(
                f"In the memories of {len(mine)} {end} run{'s'[: len(mine) != 1]}, raw and orthogonalized, a decoder "
                f"finds {found:.0f} % of the values, and {other:.0f} % in another sequence's memory: the right one "
                f"adds {found - other:.0f} points."
            )
    return sentences


def published_swaps(study: Study, records: Iterable[RunRecord], kept: pd.DataFrame | None = None) -> pd.DataFrame:
    """The swaps of which something was published, as text: ours before and after, the published beside.

    Args:
        study, records, kept: as of `probed_runs`.
    """
    runs = probed_runs(study, records, kept)
    rows = []
    for (name, end, read), other in SWAPPED.items():
        of_variant = runs[runs["side"] == name]
        mine = of_variant[of_variant["ends"] == end]
        nothing = NO_SUCH_RUN if len(of_variant) else NOT_RUN
        row = {"trained with": name, "ended": end, "read": read}
        row["own read"] = _read_so(mine, "accuracy") if len(mine) else nothing
        row["read so"] = _read_so(mine, EVALUATED_WITH[read]) if len(mine) else nothing
        rows.append(row | {"follow-up": swap_text(other)})
    return pd.DataFrame(rows).set_index([*_FIRST, "read"])


def asked(runs: pd.DataFrame) -> str:
    """In a few words, how many runs were asked what their memory holds, and when.

    Args:
        runs: as of `probed_runs`.
    """
    counts = runs["asked"].value_counts()
    parts = [f"{counts[how]} {how}" for how in (ASKED_AT_END, ASKED_AFTERWARDS) if how in counts]
    text = ", ".join(parts) or "none of the runs was asked so"
    if ASKED_OTHERWISE in counts:
        text += f"; {counts[ASKED_OTHERWISE]} were asked in another way (older records, not shown)"
    return text


def decoded(
    study: Study, records: Iterable[RunRecord], kept: pd.DataFrame | None = None, offset: int = 1
) -> pd.DataFrame:
    """How many of the scored values a linear decoder finds in the memory, as text, in percent.

    Args:
        study, records, kept: as of `probed_runs`.
        offset: where the key is taken from, one of `orthonar.training.decoding.OFFSETS`.

    Returns:
        One row per variant and end of its runs, where any was asked: how many were, share decoded, the controls, and
        what the right memory adds to another one (decoded less other memory, of one run).
    """
    rows = []
    runs = probed_runs(study, records, kept)
    for first, mine in _by_end(study, runs[runs[f"decode{offset}"].notna()]):
        row = {name: values_text(100 * values, 0, few=3) for name, values in _shares(mine, offset).items()}
        rows.append(dict(zip(_FIRST, first)) | row | {"runs": f"{len(mine)}"})
    columns = ["runs", *(name for name in _shares(runs, offset) if name != "answered")]
    return pd.DataFrame(rows, columns=[*_FIRST, *columns]).set_index(_FIRST)


def _shares(runs: pd.DataFrame, offset: int) -> dict[str, pd.Series]:
    share, other = runs[f"decode{offset}"], runs[f"decode{offset}_other_memory"]
    return {
        "answered": runs["accuracy"],
        "decoded": share,
        "wrong key": runs[f"decode{offset}_wrong_key"],
        "key alone": runs[f"decode{offset}_key_alone"],
        "other memory": other,
        "memory adds": share - other,
    }


def is_the_follow_ups(study: Study) -> bool:
    """Whether a study's runs are made as `orthonar.report.published.RECIPE` says, so that numbers can be compared."""
    config = study.run(study.tasks[0], next(iter(study.sides)), study.rates[0], 11)
    theirs = RunConfig(task=NoisyRecall(80, 512), batch_size=16, lr=3e-3, seed=11)
    return len(study.tasks) == 1 and config.identity == theirs.identity and study.seeds == tuple(range(11, 27))


def published_decoded(study: Study, records: Iterable[RunRecord], kept: pd.DataFrame | None = None) -> pd.DataFrame:
    """What the follow-up's decoder found, as text, in percent, and above it ours of the same experiment.

    Args:
        study: one that `is_the_follow_ups`; of another no number is shown.
        records, kept: as of `probed_runs`.

    Returns:
        Two rows per variant and end of runs that something was published of; the key at the value's position.
    """
    runs = probed_runs(study, records, kept) if is_the_follow_ups(study) else None
    rows = []
    for first, other in DECODED.items():
        if runs is not None:
            of_variant = runs[runs["side"] == first[0]]
            mine = of_variant[of_variant["ends"] == first[1]]
            known = mine[mine["decode1"].notna()]
            texts = {name: values_text(100 * values, 0, few=3) for name, values in _shares(known, 1).items()}
            texts["answered"] += f" ({len(known)} run{'s'[: len(known) != 1]})"
            if not len(known):
                texts = {"answered": NOT_ASKED if len(mine) else NO_SUCH_RUN if len(of_variant) else NOT_RUN}
            rows.append(dict(zip(_FIRST, first)) | {"whose": "here"} | texts)
        row = {
            "answered": " to ".join(f"{x:g}" for x in np.atleast_1d(other.behaviour)),
            "decoded": f"{other.decoded:g}",
            "wrong key": f"{other.wrong_key:g}",
            "other memory": f"({other.other_memory:g})",
            "recomputed": other.recomputed,
        }
        rows.append(dict(zip(_FIRST, first)) | {"whose": "follow-up"} | row)
    columns = [*_FIRST, "whose", "answered", "decoded", "wrong key", "other memory", "recomputed"]
    return pd.DataFrame(rows, columns=columns).astype(object).fillna("").set_index([*_FIRST, "whose"])


_FIRST = ["trained with", "ended"]


def _by_end(study: Study, runs: pd.DataFrame):
    """Variant and end with its runs, where there are any, in the study's order."""
    for name in study.sides:
        for end in ("not solved", "solved"):
            mine = runs[(runs["side"] == name) & (runs["ends"] == end)]
            if len(mine):
                yield (name, end), mine


def _read_so(runs: pd.DataFrame, column: str) -> str:
    """Mean accuracy in percent of runs as evaluated with some read, a diverged one as 0, and how many are solved so."""
    read_so = runs.assign(accuracy=runs[column])
    if read_so["accuracy"].isna().all() and (runs["outcome"] != "diverged").any():
        return NOT_KNOWN
    solved = int((read_so["accuracy"] >= SOLVED_AT).sum())
    return f"{100 * stats.accuracies(read_so).mean():.1f}, {solved} of {len(runs)}"


def _outcome(runs: pd.DataFrame) -> dict[str, str]:
    """Solved runs, accuracy and median escape step of one variant's runs, as text."""
    if not len(runs):
        return {"solved": NOT_RUN, "accuracy (%)": "", "escape": ""}
    return {
        "solved": solved_text(int(runs["solved"].sum()), len(runs)),
        "accuracy (%)": mean_text(stats.accuracies(runs), most=4),
        "escape": median_text(stats.median_escape(runs)),
    }


def _published_solved(name: str) -> str:
    other = ELIMINATION.get(name)
    return f"{other.solved.solved} of {other.solved.seeds}" if other else ""


def swap_text(swap: PublishedSwap) -> str:
    """What was published of a swap, in a few words."""
    parts = [f"{swap.solved.solved} of {swap.solved.seeds} solved"] if swap.solved else []
    parts += [f"{swap.before:g} to {swap.after:g} %"] if swap.before is not None else []
    parts += [f"{swap.gain:+g} points"] if swap.gain is not None else []
    return ", ".join(parts) + (f" ({swap.recomputed})" if swap.recomputed else "")
