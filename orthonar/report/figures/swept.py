"""Solved runs along one setting of a study's tasks."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from ...study.sides import Side
from ..words import NOT_RUN


def solved_along(
    table: pd.DataFrame, setting: str, sides: Mapping[str, Side], title: str, ax: Axes | None = None, log: bool = False
) -> Axes:
    """Draw the share of solved runs against a setting.

    Args:
        table: as of `orthonar.report.tables.swept.solved_along`.
        setting: the table's column with its values.
        sides: by name.
        title: of the axes.
        ax: the axes to draw on; None for new ones.
        log: whether the setting's axis is logarithmic.

    Returns:
        The axes: shares in percent with Wilson's 95 % intervals, sides side by side.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(4.6, 3.0), layout="constrained")
    ran, ticks = table[table["runs"] > 0], sorted(set(table[setting]))
    # Bars of equal values stand side by side, a hundredth of the axis apart.
    apart = np.log(ticks[-1] / ticks[0]) if log else ticks[-1] - ticks[0]
    for place, (name, side) in zip(0.012 * apart * (np.arange(len(sides)) - (len(sides) - 1) / 2), sides.items()):
        of = ran[ran["side"] == name]
        if len(of):
            at = of[setting] * np.exp(place) if log else of[setting] + place
            bars = 100 * np.maximum([of["value"] - of["low"], of["high"] - of["value"]], 0)
            label = f"{side.title} ({of['runs'].sum()} runs)"
            ax.errorbar(
                at, 100 * of["value"], bars, **side.look.of_line, markersize=5, capsize=2, elinewidth=1, label=label
            )
    if log:
        ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{at:g}" for at in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(ylabel="solved runs (%), with 95 % interval", ylim=(-3, 103), title=title)
    ax.spines[["top", "right"]].set_visible(False)
    if len(ran):
        ax.legend(frameon=False)
    else:
        ax.text(0.5, 0.5, NOT_RUN, transform=ax.transAxes, ha="center", color="#555555")
    return ax
