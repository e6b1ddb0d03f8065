"""Figures of training: accuracy over the steps."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from ...study.sides import HEADLINE, reading
from ...training.record import SOLVED_AT, RunRecord


def accuracy_curves(records: Sequence[RunRecord], ax: Axes | None = None) -> Axes:
    """Draw the accuracy of every run over its training, baseline and orthogonalized apart by colour and line.

    Args:
        records: the runs, of one task and any reads and seeds.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes: a line per run, one style per read, its last evaluation marked, and the level from which a run counts
        as solved.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for side in HEADLINE.values():
        color, marker, line = side.look.color, side.look.marker, side.look.line
        runs = [r for r in records if reading(r.settings["read"]["name"]) is side]
        for i, run in enumerate(runs):
            # None, where the loss was not finite, leaves a gap.
            trace = np.array([(e.step, 100 * (np.nan if e.accuracy is None else e.accuracy)) for e in run.trace])
            label = f"{side.title} ({len(runs)} seed{'s'[: len(runs) > 1]})" if i == 0 else None
            ax.plot(*trace.T, line, color=color, linewidth=1.4, marker=marker, markevery=[-1], label=label)
    ax.axhline(100 * SOLVED_AT, color="#555555", linestyle=":", linewidth=1, label="solved")
    ax.set(xlabel="training step", ylabel="accuracy at scored positions (%)", xlim=(0, None), ylim=(0, 102))
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
