"""Figures of training: accuracy over the steps."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...study.sides import Side
from ...training.record import SOLVED_AT, RunRecord
from ..style import GREY, WIDTH, panel_grid, write_in_the_middle


def accuracy_curves(
    runs: Mapping[str, Sequence[RunRecord]], sides: Mapping[str, Side], of_what: str, axes=None
) -> Figure:
    """Draw the accuracy of every run over its training, a panel for each side.

    Args:
        runs: side -> its runs, of one task and any seeds.
        sides: by name.
        of_what: the scale, for the title.
        axes: one for each side, of one figure with constrained layout; None for new ones.

    Returns:
        The figure: a line per run, its last evaluation marked, and the level from which a run counts as solved. The
        title of a panel says how many are.
    """
    if axes is None:
        lines, columns = panel_grid(len(runs))
        size = (WIDTH, 2.3 * lines + 0.3)
        figure, axes = plt.subplots(
            lines, columns, figsize=size, sharex=True, sharey=True, layout="constrained", squeeze=False
        )
        figure.suptitle(f"Accuracy over training, a line a run; solved ends above the dots: {of_what}")
    axes = np.ravel(axes)
    for ax, (name, of_side) in zip(axes, runs.items()):
        look = sides[name].look
        for run in of_side:
            # None, where the loss was not finite, leaves a gap.
            trace = np.array([(e.step, 100 * (np.nan if e.accuracy is None else e.accuracy)) for e in run.trace])
            style = {"color": look.color, "linewidth": 0.9, "alpha": 0.75, "marker": look.marker, "markersize": 4}
            ax.plot(*trace.T, "-", **style, markevery=[-1])
        solved = sum(run.outcome == "solved" for run in of_side)
        ax.set_title(f"{sides[name].title}: {solved} of {len(of_side)} solved" if of_side else sides[name].title)
        if not of_side:
            write_in_the_middle(ax)
        ax.axhline(100 * SOLVED_AT, color=GREY, linestyle=":", linewidth=1)
        ax.set(xlabel="training step", ylim=(0, 102))
        ax.set_xlim(left=0)
        ax.tick_params(labelbottom=True)
    for ax in axes[len(runs) :]:
        ax.set_visible(False)
    axes[0].set_ylabel("accuracy at scored positions (%)")
    return axes[0].figure


def around_the_fall(table: pd.DataFrame, records: Iterable[RunRecord], sides: Mapping[str, Side], title: str) -> Figure:
    """Draw the accuracy of runs whose read was taken down, over the steps from the begin of that on.

    Args:
        table: as of `orthonar.report.tables.taken_down.taken_down`.
        records: run records.
        sides: by name.
        title: of the figure.

    Returns:
        The figure, axes for each side: a line per run, in the band the longest of its falls, and the level from which a
        run counts as solved.
    """
    found = {record.identity: record for record in records}
    names = list(dict.fromkeys(table["side"]))
    count, size = max(1, len(names)), (5.4 if len(names) < 2 else WIDTH, 3.0)
    figure, axes = plt.subplots(1, count, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for name, ax in zip(names, axes[0]):
        look, of = sides[name].look, table[table["side"] == name]
        for run in of.itertuples():
            line = [(e.step - run.begin, 100 * (e.accuracy or 0.0)) for e in found[run.identity].trace]
            style: dict[str, Any] = {"color": look.color, "linewidth": 0.9, "alpha": 0.75, "marker": look.marker}
            ax.plot(*np.array(line).T, "-", **style, markersize=4, markevery=[-1])
        ax.axvspan(0, (of["end"] - of["begin"]).max(), color="#bbbbbb", alpha=0.3, linewidth=0)
        ax.set_title(f"{name} ({len(of)} run{'s'[: len(of) != 1]})")
    if not names:
        write_in_the_middle(axes[0, 0])
    for ax in axes[0]:
        ax.axhline(100 * SOLVED_AT, color=GREY, linestyle=":", linewidth=1)
        ax.set(xlabel="training steps since the read began to fall", ylim=(0, 102))
    axes[0, 0].set_ylabel("accuracy (%)")
    figure.suptitle(title)
    return figure
