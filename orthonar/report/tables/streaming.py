"""Long streams as tables: the records of `python -m benchmarks.streaming`, and recall after long delays."""

import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ...study.contents import DELAYS
from ...study.jsonl import Damage
from ...study.sides import title
from .. import stats
from ..words import model_name, text_table
from .benchmark_records import read_benchmark

#: The file of the benchmark's records.
FILE = "streaming.jsonl"
#: How a stream was read, in words.
FORMS = {"blocks": "in blocks of {block:,}", "steps": "token by token"}
#: The bound that memory is held against: that until the last number of tokens over that until the first.
FLAT = 1.01


def read_records(where: str | os.PathLike, damaged: list[Damage] | None = None) -> list[dict]:
    """The records of the benchmark in a folder, the oldest first; none where there is no file.

    Args:
        where: the folder.
        damaged: takes the lines that are no such records; None warns of each instead.
    """
    return read_benchmark("streaming", [Path(where) / FILE], lambda record: table([record]), damaged=damaged)


def table(records: Iterable[dict]) -> pd.DataFrame:
    """One row a number of tokens, of the newest run of each form and read that came furthest.

    Args:
        records: the oldest first.

    Returns:
        Columns form ("blocks", "steps"), read, block (tokens of a block), tokens, seconds, cpu_seconds, mib (the most
        resident memory until then), state (bytes), difference (of the logits beside blocks of 1,000, the largest at any
        number of tokens noted, relative; NaN where not compared), device, started and revision.
    """
    runs: dict[tuple[str, str], list[dict]] = {}
    for record in records:
        for form, read in dict.fromkeys((row["form"], row["read"]) for row in record["rows"]):
            of_run = [row for row in record["rows"] if (row["form"], row["read"]) == (form, read)]
            found = [_line(record, row) | {"difference": of_run[-1].get("difference")} for row in of_run]
            before = runs.get((form, read))
            if before is None or found[-1]["tokens"] >= before[-1]["tokens"]:
                runs[form, read] = found
    rows = [row for of_run in runs.values() for row in of_run]
    return pd.DataFrame(rows, columns=_COLUMNS).astype({"difference": float})


_COLUMNS = (
    "form", "read", "block", "tokens", "seconds", "cpu_seconds", "mib", "state", "difference", "device", "started",
    "revision",
)  # fmt: skip


def _line(record: dict, row: dict) -> dict:
    line = {name: row[name] for name in ("form", "read", "tokens", "seconds", "cpu_seconds", "state")}
    where = f"{model_name(record['device'])}, {record['settings']['threads']} thread"
    return line | {
        "block": record["settings"]["block_size"], "mib": row["peak"] / 2**20, "device": where,
        "started": record["started"][:10], "revision": str(record["revision"])[:12],
    }  # fmt: skip


def growth(measured: pd.DataFrame) -> pd.DataFrame:
    """How much more memory each run needed at its end than at the first number of tokens noted.

    Args:
        measured: as of `table`.

    Returns:
        One row a form and read: block, first, last (tokens), mib (at the last), ratio, cpu_seconds (at the last) and
        difference.
    """
    rows = []
    for (form, read), of in measured.groupby(["form", "read"], sort=False):
        first, last = of.iloc[0], of.iloc[-1]
        row = {"form": form, "read": read, "block": last["block"], "first": first["tokens"], "last": last["tokens"]}
        row |= {"mib": last["mib"], "ratio": last["mib"] / first["mib"], "cpu_seconds": last["cpu_seconds"]}
        rows.append(row | {"difference": last["difference"]})
    columns = ["form", "read", "block", "first", "last", "mib", "ratio", "cpu_seconds", "difference"]
    return pd.DataFrame(rows, columns=columns)


def growth_text(grown: pd.DataFrame) -> pd.DataFrame:
    """The numbers of `growth` as text, a row a form and read."""
    rows = []
    for row in grown.itertuples():
        shown = {"read": f"{row.read}, {FORMS[row.form].format(block=row.block)}", "tokens": f"{row.last:,}"}
        shown |= {"CPU seconds": f"{row.cpu_seconds:,.0f}", "most MiB": f"{row.mib:.1f}"}
        shown[f"over that of {row.first:,}"] = f"{row.ratio:.3f}"
        shown["logits differ by"] = "" if pd.isna(row.difference) else f"{row.difference:.0e}"
        rows.append(shown)
    return text_table(rows, list(dict.fromkeys(name for row in rows for name in row)) or ["read"], "read")


def stream_answers(grown: pd.DataFrame) -> list[str]:
    """What a long stream costs, a sentence a form and read; none where nothing is measured.

    Args:
        grown: as of `growth`.
    """
    sentences = []
    for row in grown.itertuples():
        how = f"The {row.read} read takes {row.cpu_seconds:,.0f} CPU seconds for {row.last:,} tokens"
        flat = "no more than 1 % above" if row.ratio <= FLAT else f"{100 * (row.ratio - 1):.1f} % above"
        memory = f"at most {row.mib:.0f} MiB, {flat} what {row.first:,} took"
        known = not pd.isna(row.difference)
        same = f"; read in another way its logits differ by {row.difference:.0e} of the largest" if known else ""
        sentences.append(f"{how} {FORMS[row.form].format(block=row.block)}, and {memory}{same}.")
    return sentences


def delays(runs: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """Recall of each run that was asked after long delays.

    Args:
        runs: as of `orthonar.report.tables.runs.study_runs`.
        kept: as of `orthonar.study.contents.answer_table`, of `orthonar.study.contents.DELAYED`.

    Returns:
        One row a run: side, seed, of (how many runs of its side are solved), and a column each of
        `orthonar.study.contents.DELAYS`, 0 to 1.
    """
    runs = runs.assign(of=runs.groupby("side")["solved"].transform("sum")) if len(runs) else runs.assign(of=0)
    asked = runs[runs["identity"].isin(kept.index)]
    answers = kept.loc[asked["identity"], [f"delay_{delay}" for delay in DELAYS]].set_axis(list(DELAYS), axis=1)
    return asked[["side", "seed", "of"]].reset_index(drop=True).join(answers.reset_index(drop=True))


def delays_text(table: pd.DataFrame) -> pd.DataFrame:
    """The shares of `delays` in percent as text, a row a run, a column a delay."""
    rows = [{"run": f"{row['side']}, seed {row['seed']}"} | {f"{d:,}": f"{100 * row[d]:.0f}" for d in DELAYS}
            for _, row in table.iterrows()]  # fmt: skip
    return pd.DataFrame(rows, columns=["run", *(f"{d:,}" for d in DELAYS)]).set_index("run")


def delay_answer(table: pd.DataFrame, chance: float) -> str:
    """How much solved models recall after each of the longest delays, in a sentence.

    It is their mean, with the lowest and the highest of fewer than `orthonar.report.stats.LEAST_FOR_INTERVAL` models.

    Args:
        table: as of `delays`.
        chance: share of right answers of a guess, 0 to 1.
    """
    if not len(table):
        return "Recall after long delays: no solved run was asked yet."
    far, parts = DELAYS[2:], []
    for side, of in table.groupby("side", sort=False):
        shares = ", ".join(_share(of[delay]) for delay in far)
        solved = int(of["of"].iloc[0])
        which = f"{len(of)} of its {solved} solved run{'s'[: solved != 1]} asked"
        parts.append(f"{title(side)} ({which}) {shares} %")
    after = f"{', '.join(f'{delay:,}' for delay in far[:-1])} and {far[-1]:,} distractors"
    return f"Recalled after {after}: {'; '.join(parts)} (guessing: {100 * chance:.0f} %)."


def _share(recalled: pd.Series) -> str:
    mean, low, high = (f"{100 * share:.0f}" for share in (recalled.mean(), recalled.min(), recalled.max()))
    few = len(recalled) < stats.LEAST_FOR_INTERVAL and low != high
    return f"{mean} ({low} to {high})" if few else mean
