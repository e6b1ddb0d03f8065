"""Recall split by how often a key was shown before it is asked for: what becomes of the tail."""

import pandas as pd

from ...study.contents import OCCURRENCES
from ...study.sides import title
from ..words import NOT_RUN, text_table

#: Groups of occurrences, as readers are told of them.
GROUPS = {"once": (1,), "twice": (2,), "3 times": (3,), "4 or more": tuple(n for n in OCCURRENCES if n > 3)}


def recall(runs: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """Recall of each run whose weights were asked, by how often the key had been shown.

    Args:
        runs: as of `orthonar.report.tables.runs.study_runs`.
        kept: as of `orthonar.study.contents.answer_table`, of `orthonar.study.contents.SHOWINGS`.

    Returns:
        One row a run: side, seed, solved, and a column each of `GROUPS`, 0 to 1, NaN where nothing was scored.
    """
    asked = runs[runs["identity"].isin(kept.index)]
    table = asked[["side", "seed", "solved"]].reset_index(drop=True)
    answers = kept.loc[asked["identity"]].reset_index(drop=True)
    for name, occurrences in GROUPS.items():
        shares = sum(answers[f"share_{n}"] for n in occurrences)
        right = sum(answers[f"share_{n}"] * answers[f"recall_{n}"].fillna(0) for n in occurrences)
        table[name] = right / shares.where(shares > 0)
    return table


def recall_text(table: pd.DataFrame, sides: list[str]) -> pd.DataFrame:
    """Mean recall in percent, solved runs and others apart, as text.

    Args:
        table: as of `recall`.
        sides: which to name, also without runs.

    Returns:
        One row a side and how its runs ended: runs, and a column each of `GROUPS`.
    """
    rows = []
    for side in sides:
        of_side = table[table["side"] == side]
        if not len(of_side):
            rows.append({"read": side, "runs": NOT_RUN})
        for solved, of in sorted(of_side.groupby("solved"), reverse=True):
            row = {"read": f"{side}, {'solved' if solved else 'not solved'}", "runs": f"{len(of)}"}
            rows.append(row | {name: f"{100 * of[name].mean():.1f}" for name in GROUPS})
    return text_table(rows, ["read", "runs", *GROUPS], "read")


def answer(table: pd.DataFrame) -> list[str]:
    """How solved runs recall keys shown once and keys shown often, a sentence for each side that has any."""
    rare, often = list(GROUPS)[0], list(GROUPS)[-1]
    sentences = []
    for side, of in table[table["solved"]].groupby("side", sort=False):
        name, runs = title(side), f"{len(of)} solved run{'s'[: len(of) != 1]}"
        shares = f"{100 * of[rare].mean():.1f} % of keys shown once before"
        shares += f" and {100 * of[often].mean():.1f} % of those shown {often} times"
        sentences.append(f"{name[0].upper()}{name[1:]}, {runs}: {shares} are recalled.")
    return sentences
