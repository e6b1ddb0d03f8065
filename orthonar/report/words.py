"""What tables and figures call things."""

import numpy as np

from . import stats

#: What a table says where nothing is recorded.
NOT_RUN = "not run yet"


def task_label(vocab_size: int, seq_len: int, batch_size: int) -> str:
    """A task in a few words, the same in every table and figure."""
    return f"vocabulary {vocab_size}, length {seq_len}, batch {batch_size}"


def percent(interval: stats.Interval, unit: str = "") -> str:
    """A share and its interval in percent: "54.2 [43.0, 65.1]"; without an interval, the share alone."""
    value, low, high = (100 * x for x in interval)
    if np.isnan(low):
        return f"{value:.1f}"
    if unit:
        return f"{low:.0f} to {high:.0f} {unit}"
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"
