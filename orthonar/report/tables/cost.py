"""The records of `python -m benchmarks.cost` as tables."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ...paths import project_root, results_dir
from ...study.jsonl import Damage
from ..published import COSTS
from ..words import NOT_RUN, model_name, task_label, text_table
from .benchmark_records import read_benchmark

#: Version of the records' layout; a change of meaning raises it.
SCHEMA = 1


def folder() -> Path:
    """Where `python -m benchmarks.cost` leaves its records in this project."""
    return results_dir() / "benchmarks"


def run_benchmark(device: str = "cpu", results: str | os.PathLike | None = None) -> None:
    """Run `python -m benchmarks.cost` and pass on what it prints; needs the project's checkout.

    Args:
        device: "cpu" or "cuda".
        results: folder of the records; None for `folder()`.
    """
    command = [sys.executable, "-m", "benchmarks.cost", "--device", device, "--results", str(results or folder())]
    root = project_root()
    if not (root / "benchmarks").is_dir():
        raise FileNotFoundError("the benchmark is no part of the installed package: run this from a checkout")
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        for line in run.stdout or ():
            print(line, end="", flush=True)
    if run.returncode:
        raise subprocess.CalledProcessError(run.returncode, command)


def read_records(where: str | os.PathLike, damaged: list[Damage] | None = None) -> list[dict]:
    """The records of the cost benchmark in a folder, the oldest first.

    Args:
        where: folder with files cost-*.jsonl, one run per line; none is as good as an empty one.
        damaged: takes the lines that are no such records; None warns of each instead.
    """
    files = sorted(Path(where).glob("cost-*.jsonl"))
    return read_benchmark("cost", files, lambda record: (table([record]), describe(record)), SCHEMA, damaged)


def newest(records: Iterable[dict]) -> dict[str, dict]:
    """The newest record of each kind of device, "cpu" and "cuda", where there is one."""
    return {r["device"]: r for r in sorted(records, key=lambda r: r["started"])}


def describe(record: dict) -> str:
    """What stands behind a record's numbers: device, versions, revision, settings."""
    settings = record["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    peaks = ", ".join(f"{name} {peak / 1e9:,.0f} Gflop/s" for name, peak in record["peaks"].items())
    return "\n".join(
        [
            f"{record['device']}: {record['device_name']}",
            f"    measured {record['started'][:10]}, source revision {str(record['revision'])[:12]}",
            f"    {versions}",
            f"    fastest matrix product: {peaks}",
            f"    {settings['repeats']} timings each; load of the machine before: {record['load_before']}",
        ]
    )


def table(records: Iterable[dict]) -> pd.DataFrame:
    """One row a thing measured.

    Returns:
        Columns device, device_name, what ("step", "sampling", "read"), contender, steps (of Newton-Schulz), degree,
        length, batch; ms (median), low and high (of the timings), mib (extra peak memory), gflop (by formula), gflops
        (a second), share (of the fastest float32 matrix product), left_out (the reason, empty where there is none).
    """
    rows = []
    for record in records:
        for row in record["rows"]:
            ms = 1e3 * np.array(row["seconds"] or [np.nan])
            gflop = np.nan if row["operations"] is None else row["operations"] / 1e9
            gflops = gflop / (np.median(ms) / 1e3)
            rows.append(
                {
                    "device": record["device"],
                    "device_name": record["device_name"],
                    **{name: row[name] for name in ("what", "contender", "steps", "degree", "length", "batch")},
                    "ms": np.median(ms),
                    "low": ms.min(),
                    "high": ms.max(),
                    "mib": np.nan if row["memory"] is None else row["memory"] / 2**20,
                    "gflop": gflop,
                    "gflops": gflops,
                    "share": 1e9 * gflops / record["peaks"]["float32"],
                    "left_out": row["skipped"] or "",
                }
            )
    return pd.DataFrame(rows, columns=_COLUMNS).astype({"steps": float, "degree": float})


_COLUMNS = (
    "device", "device_name", "what", "contender", "steps", "degree", "length", "batch",
    "ms", "low", "high", "mib", "gflop", "gflops", "share", "left_out",
)  # fmt: skip


def summary(records: Iterable[dict], what: str = "step") -> pd.DataFrame:
    """The same as text for readers: whole steps, or what else was measured, by length and contender.

    Args:
        records: of one device each, whose names are not in the table: `place` says them.
        what: as of `table`; of whole steps those with the study's five Newton-Schulz steps.

    Returns:
        One row a length, batch size and contender; no column that is empty throughout.
    """
    rows = []
    for row in table(records).query("what == @what").itertuples():
        contender = row.contender if isinstance(row.contender, str) and row.contender else "drawing a batch"
        if not np.isnan(row.steps) and row.steps != 5:
            if what == "step":
                continue
            contender += f", {row.steps:.0f} steps"
        text = {_LENGTH: f"{row.length:,}, {row.batch}", "contender": contender}
        if row.left_out:
            rows.append(text | {"time (ms)": f"left out: {row.left_out}"})
            continue
        text["time (ms)"] = f"{_number(row.ms)} ({_number(row.low)} to {_number(row.high)})"
        text["memory (MiB)"] = "" if np.isnan(row.mib) else f"{row.mib:,.0f}"
        if not np.isnan(row.gflop):
            text |= {
                "Gflop": f"{row.gflop:.3g}",
                "Gflop/s": f"{row.gflops:,.0f}",
                "of peak": f"{100 * row.share:.1f} %",
            }
        rows.append(text)
    columns = [_LENGTH, "contender"]
    shown = text_table(rows, [*columns, "time (ms)", "memory (MiB)", "Gflop", "Gflop/s", "of peak"], columns)
    return shown.loc[:, (shown != "").any()] if len(shown) else shown


#: How tables call a sequence's length beside how many sequences a batch has.
_LENGTH = "length, batch"


def place(record: dict) -> str:
    """What a record was measured on, in a few words for the title of a table: "CPU (Intel Xeon)"."""
    return f"{'GPU' if record['device'] == 'cuda' else 'CPU'} ({model_name(record['device_name'])})"


def _number(value: float) -> str:
    """Three digits or more, never a power of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def answer(records: Iterable[dict]) -> list[str]:
    """What the orthogonalized read costs beside the plain form and the raw read, a sentence per device.

    At the longest length at which all three were measured.
    """
    records = list(records)
    compiled = {record["device_name"]: _is_compiled(record) for record in records}
    steps = table(records).query("what == 'step' and (steps == 5 or steps.isna())")
    sentences = []
    for name, of in steps.groupby("device_name"):
        ms = of.pivot(index=["length", "batch"], columns="contender", values="ms")
        if not {"plain", "orthogonalized", "raw"} <= set(ms):
            continue
        ms = ms.dropna(subset=["plain", "orthogonalized", "raw"])
        if len(ms):
            (length, batch), of_length = list(ms.sort_index().iterrows())[-1]
            sooner = of_length["plain"] / of_length["orthogonalized"]
            dearer = of_length["orthogonalized"] / of_length["raw"]
            where = f"{model_name(name)}{', with Numba' if compiled[name] else ''}"
            sentences.append(
                f"At length {length:,}, batch {batch} ({where}) a step with the orthogonalized read is "
                f"{sooner:.0f} times faster than in the plain form and takes {dearer:.1f} times as long as a raw one."
            )
    return sentences


def _is_compiled(record: dict) -> bool:
    """Whether a CPU went through sequences position by position, in compiled code."""
    return record["device"] == "cpu" and "numba" in record["versions"]


def factors(records: Iterable[dict]) -> pd.DataFrame:
    """How many times longer one whole step takes than another, with the study's five Newton-Schulz steps, as text.

    Args:
        records: of one device.

    Returns:
        One row a length and batch size: the plain form over the chunkwise orthogonalized step, the stock layer
        over the raw step, and the orthogonalized step over the raw and the stock one; empty where one was left out.
    """
    steps = table(records).query("what == 'step' and (steps == 5 or steps.isna())")
    ms = steps.pivot(index=["length", "batch"], columns="contender", values="ms")
    ms.index = pd.Index([f"{length:,}, {batch}" for length, batch in ms.index], name=_LENGTH)
    pairs = [("plain", "orthogonalized"), ("stock", "raw"), ("orthogonalized", "raw"), ("orthogonalized", "stock")]
    ratios = pd.DataFrame({f"{a} / {b}": ms[a] / ms[b] for a, b in pairs if {a, b} <= set(ms)}, index=ms.index)
    return ratios.map(lambda ratio: "" if np.isnan(ratio) else f"{ratio:.3g}")


def several_steps(measured: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table for whole steps at lengths that were measured with several numbers of Newton-Schulz steps."""
    rows = measured[(measured["what"] == "step") & measured["steps"].notna()]
    return rows[rows.groupby(["device", "length"])["steps"].transform("nunique") > 1].sort_values("steps")


def against_newton_schulz(records: Iterable[dict]) -> pd.DataFrame:
    """The filter's products, operations and time of both forms by number of Newton-Schulz steps, as text.

    Args:
        records: of one device.
    """
    rows = several_steps(table(records)).astype({"steps": int})
    names = {"length": _LENGTH, "steps": "steps"}
    rows = rows.assign(length=[f"{length:,}, {batch}" for length, batch in zip(rows["length"], rows["batch"])])
    shown = rows.pivot(index=[*names], columns="contender", values=["degree", "gflop", "ms"]).rename_axis(index=names)
    shown = shown.dropna(axis=1, how="all").map(lambda x: "" if np.isnan(x) else _number(x))
    units = {"degree": "products", "gflop": "Gflop", "ms": "ms"}
    shown.columns = [f"{contender}: {units[what]}" for what, contender in shown.columns]
    return shown


def beside_published(records: Iterable[dict]) -> pd.DataFrame:
    """Seconds of a training run with the raw and the orthogonalized read, as published and as measured here.

    Here it is the newest median step on each device times the run's steps, at the same vocabulary, length and batch
    size; evaluations are not in it.

    Returns:
        Columns task, steps, source, device, baseline and orthogonalized (seconds; NaN where not run), recomputed (what
        the source's own runs give, as text), ratio.
    """
    rows = []
    for cell in COSTS:
        task = {"task": task_label(cell.vocab_size, cell.seq_len, cell.batch_size), "steps": cell.steps}
        rows.append(task | {"source": cell.short, "device": cell.device}
                    | {"baseline": cell.baseline, "orthogonalized": cell.orthogonalized}
                    | {"recomputed": cell.recomputed})  # fmt: skip
        found = {}
        for record in records:
            if record["settings"]["vocab_size"] == cell.vocab_size:
                steps = table([record]).query(
                    "what == 'step' and length == @cell.seq_len and batch == @cell.batch_size"
                )
                ms = steps[steps["steps"].isna() | (steps["steps"] == 5)].set_index("contender")["ms"]
                if {"raw", "orthogonalized"} <= set(ms.dropna().index):
                    found[record["device_name"]] = cell.steps * ms / 1e3
        for name, seconds in found.items():
            here = {"baseline": seconds["raw"], "orthogonalized": seconds["orthogonalized"]}
            rows.append(task | {"source": "here", "device": name, **here})
        if not found:
            rows.append(task | {"source": "here", "device": NOT_RUN, "baseline": np.nan, "orthogonalized": np.nan})
    shown = pd.DataFrame(rows)
    return shown.assign(ratio=shown["orthogonalized"] / shown["baseline"])
