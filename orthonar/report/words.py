"""What tables and figures call things, and how they write numbers."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from . import stats

#: What a table says where nothing is recorded.
NOT_RUN = "not run yet"
#: What it says where a probe saw nothing, or there was none.
NOT_KNOWN = "not known"

#: Widest line of a table, in characters, and of a sentence below one: a notebook on a page breaks longer ones anywhere.
PAGE, LINE = 120, 96
#: What it says of a median escape step where more than half of the runs never escape.
NO_MEDIAN = "none"
#: At most so many values are all shown in a narrow column.
_FEW = 4


def task_label(vocab_size: int, seq_len: int, batch_size: int) -> str:
    """A task in a few words, the same in every table and figure."""
    return f"vocabulary {vocab_size}, length {seq_len}, batch {batch_size}"


def text_table(rows: Iterable[Mapping[str, str]], columns: Sequence[str], index: str | Sequence[str]) -> pd.DataFrame:
    """Rows of texts as a table; what a row does not have is empty, and a column that none has too.

    Args:
        rows: a text by column each.
        columns: all of them, in their order.
        index: which of them name a row.
    """
    # A column that no row has would be one of numbers, which take no text.
    table = pd.DataFrame(list(rows), columns=list(columns)).astype(object)
    return table.fillna("").set_index(index if isinstance(index, str) else list(index))


def percent(interval: stats.Interval) -> str:
    """A share and its interval in percent: "54.2 [43.0, 65.1]"; without an interval, the share alone."""
    value, low, high = (100 * x for x in interval)
    return f"{value:.1f}" if np.isnan(low) else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def mean_text(
    shares: Sequence[float] | np.ndarray, enough: bool = True, most: int = stats.LEAST_FOR_INTERVAL - 1
) -> str:
    """A mean of shares in percent with its interval, or, of too few runs for one, with the runs: "39.2 (31 34 52)".

    Args:
        shares: one per run, 0 to 1; at least one.
        enough: whether they can carry an interval, see `orthonar.report.stats.LEAST_OF_EITHER`.
        most: so many runs are shown one by one, of more the least and the largest.
    """
    interval = stats.mean_interval(shares) if enough else stats.Interval(float(np.mean(shares)), np.nan, np.nan)
    text, runs = percent(interval), [f"{100 * share:.0f}" for share in sorted(shares)]
    if not np.isnan(interval.low) or len(runs) == 1:
        return text
    return f"{text} ({' '.join(runs) if len(runs) <= most else f'{runs[0]} to {runs[-1]}'})"


def median_text(step: float) -> str:
    """A median escape step."""
    return NO_MEDIAN if np.isnan(step) else f"{step:.0f}"


def values_text(values: pd.Series, digits: int, few: int = _FEW) -> str:
    """One number per run in a narrow column: a few one by one, up to seven their range, else their mean.

    Args:
        values: one per run; where one is missing, the run was not asked, and it is left out.
        digits: digits after the point.
        few: at most so many are shown one by one.
    """
    if not len(values):
        return NOT_RUN
    known = np.sort(values.dropna().to_numpy(dtype=float))
    if not len(known):
        return NOT_KNOWN
    if len(known) <= few:
        return " ".join(f"{value:.{digits}f}" for value in known)
    value, low, high = stats.mean_interval(known)
    if np.isnan(low):
        return " to ".join(dict.fromkeys(f"{value:.{digits}f}" for value in (known[0], known[-1])))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def solved_text(solved: int, runs: int) -> str:
    """Solved runs with Wilson's interval: "5 of 12 (19 to 68 %)"."""
    share = stats.solved_share(solved, runs)
    return f"{solved} of {runs} ({100 * share.low:.0f} to {100 * share.high:.0f} %)"


def significant(value: float, digits: int = 2) -> str:
    """A number to so many digits that count, a large one never as a power of ten: "0.0062", "19", "270"."""
    text = f"{value:.{digits}g}"
    return f"{float(text):,.0f}" if "e+" in text else text


def estimate_text(value: float, low: float, high: float, digits: int = 2) -> str:
    """An estimate and its interval, each to so many digits that count: "6.4 [3.5, 12]".

    A bound that would read as 1 has as many digits more as it takes, up to 6: "1.04", "1.002". Whether it lies above or
    below is what a ratio's tells.
    """
    bounds = [next((t for d in range(digits, 7) if (t := significant(x, d)) != "1"), "1") for x in (low, high)]
    return f"{significant(value, digits)} [{', '.join(bounds)}]"


def p_text(p: float, nothing: str = "") -> str:
    """A p-value; what to say where there is none."""
    return nothing if np.isnan(p) else f"{p:.2g}"


def devices(runs: pd.DataFrame) -> str:
    """What runs were made on, in a few words: "29 on a CPU (AMD EPYC, Intel Xeon), 12 on a GPU (NVIDIA H100)"."""
    if not len(runs):
        return ""
    parts = []
    for name, of_kind in runs.groupby(_kinds(runs)):
        models = ", ".join(sorted(set(of_kind["device_name"].map(model_name))))
        parts.append(f"{len(of_kind)} on a {name} ({models})")
    return ", ".join(parts)


def alone(runs: pd.DataFrame) -> pd.Series:
    """Whether each run had its device for itself: the seconds of runs that train side by side are those of all."""
    return ~runs["device_name"].str.contains(" runs at once")


def device_kinds(runs: pd.DataFrame) -> str:
    """The kinds of devices that runs were made on, such as "CPUs", "GPUs" or "CPUs and GPUs"."""
    return " and ".join(f"{kind}s" for kind in sorted(set(_kinds(runs))))


def _kinds(runs: pd.DataFrame) -> pd.Series:
    return stats.device_types(runs).map(lambda kind: {"cuda": "GPU"}.get(kind, kind.upper()))


def model_name(device_name: str) -> str:
    """A processor's name without clock, memory, number of threads and trade marks."""
    name = device_name.split("@")[0].split(",")[0]
    name = re.sub(r"\((R|TM)\)|\b(Processor|CPU|\d+GB|HBM\d\w*)\b", " ", name)
    return " ".join(name.split())
