"""What is in trained memories, and under which reads their models still recall, ours beside the published."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ...study.presets import Study
from ...study.sides import BASELINE, HEADLINE
from ...training.decoding import OFFSETS
from ...training.record import SOLVED_AT, RunRecord
from .. import stats
from ..published import DECODED, SWAPPED, PublishedSwap
from ..words import NOT_KNOWN, NOT_RUN, text_table, values_text
from .probed import (
    ASKED_AFTERWARDS,
    ASKED_AT_END,
    ASKED_OTHERWISE,
    EVALUATED_WITH,
    NOT_ASKED,
    is_the_follow_ups,
    probed_runs,
)  # fmt: skip

#: Below this accuracy a solved run that is read otherwise is close to the line of "solved".
_HIGH = 0.9
#: What a table says where a variant has runs, but none that ended so.
NO_SUCH_RUN = "no such run"


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
        One sentence each, where there are such runs; then one for each other read with as many solved runs as an
        interval takes, whether its models need it.
    """
    runs = probed_runs(study, records, kept)
    solved = runs[runs["ends"] == "solved"]
    others = [
        name
        for name, side in study.sides.items()
        if name not in HEADLINE and side.settings.get("read", BASELINE.settings["read"]) != BASELINE.settings["read"]
    ]
    with_raw = EVALUATED_WITH["raw"]
    still_solved = "still solved when read raw"
    helped = "solved when read orthogonalized"
    candidates = [
        (solved[solved["side"] == "orthogonalized"], "solved with the orthogonalized read", with_raw, still_solved, 1),
        (
            runs[(runs["side"] == "baseline") & (runs["ends"] == "not solved")],
            "not solved with the raw read", EVALUATED_WITH["orthogonalized"], helped, 1,
        ),
        *(
            (solved[solved["side"] == name], f"solved with {study.sides[name].title}", with_raw, still_solved,
             stats.LEAST_FOR_INTERVAL)
            for name in others
        ),
    ]  # fmt: skip
    sentences = []
    for mine, which, column, ending, least in candidates:
        mine = mine.dropna(subset=[column])
        if len(mine) >= least:
            before, after = (100 * mine[c].mean() for c in ("accuracy", column))
            now = int((mine[column] >= SOLVED_AT).sum())
            count = f"{now} of {len(mine)} run{'s'[: len(mine) != 1]}"
            high = f"{int((mine[column] >= _HIGH).sum())} at {100 * _HIGH:g} % or more"
            ending = f"{'is' if now == 1 else 'are'} {ending}"
            sentences.append(f"{count} {which} {ending} (mean {before:.1f} to {after:.1f} %; {high}).")
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
        row["read swapped"] = _read_so(mine, EVALUATED_WITH[read]) if len(mine) else nothing
        rows.append(row | {"follow-up": swap_text(other)})
    return pd.DataFrame(rows).set_index([*_FIRST, "read"])


def decode_answers(study: Study, records: Iterable[RunRecord], kept: pd.DataFrame | None = None) -> list[str]:
    """How much a decoder finds in memories, and how much of that it owes to the right memory: a sentence per ending.

    Args:
        study, records, kept: as of `probed_runs`.
    """
    needed = [f"decode{offset}{control}" for offset in OFFSETS for control in ("", "_other_memory", "_key_alone")]
    runs = probed_runs(study, records, kept).dropna(subset=needed)
    sentences = []
    for end in ("not solved", "solved"):
        mine = runs[runs["side"].isin(["baseline", "orthogonalized"]) & (runs["ends"] == end)]
        if len(mine):
            found, other, alone, before, before_other = (
                100 * mine[c].mean()
                for c in ("decode1", "decode1_other_memory", "decode1_key_alone", "decode0", "decode0_other_memory")
            )
            sentences.append(
                f"In the memories of {len(mine)} {end} run{'s'[: len(mine) != 1]}, raw and orthogonalized, a decoder "
                f"finds {found:.1f} % of the values. That alone does not show that they are in there: the key that it "
                f"asks with has seen the value and without any memory gives {alone:.0f} %, and in another sequence's "
                f"memory it finds {other:.1f} %. The right memory adds {found - other:.1f} points. With the key of the "
                f"position before, which has not seen the value, it finds {before:.1f} %, in another sequence's memory "
                f"{before_other:.1f} %."
            )
    return sentences


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
    return text_table(rows, columns, [*_FIRST, "whose"])


_FIRST = ["trained with", "ended"]


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


def _by_end(study: Study, runs: pd.DataFrame):
    """Variant and end with its runs, where there are any, in the study's order."""
    for name in study.sides:
        for end in ("not solved", "solved"):
            mine = runs[(runs["side"] == name) & (runs["ends"] == end)]
            if len(mine):
                yield (name, end), mine


def _read_so(runs: pd.DataFrame, column: str) -> str:
    """Mean accuracy in percent of the runs that were evaluated with some read, and how many of them are solved so.

    A diverged one counts as 0.
    """
    read_so = runs.assign(accuracy=runs[column])[runs[column].notna() | (runs["outcome"] == "diverged")]
    if not (read_so["outcome"] != "diverged").any() and (runs["outcome"] != "diverged").any():
        return NOT_KNOWN
    solved = int((read_so["accuracy"] >= SOLVED_AT).sum())
    return f"{100 * stats.accuracies(read_so).mean():.1f}, {solved} of {len(read_so)}"


def swap_text(swap: PublishedSwap) -> str:
    """What was published of a swap, in a few words."""
    parts = [f"{swap.solved.solved} of {swap.solved.seeds} solved"] if swap.solved else []
    parts += [f"{swap.before:g} to {swap.after:g} %"] if swap.before is not None else []
    parts += [f"{swap.gain:+g} points"] if swap.gain is not None else []
    return ", ".join(parts) + (f" ({swap.recomputed})" if swap.recomputed else "")
