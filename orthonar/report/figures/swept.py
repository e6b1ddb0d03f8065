"""Solved runs along one setting of a study's tasks."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from ...study.sides import Side
from ..style import write_in_the_middle


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
            fewest, most = of["runs"].min(), of["runs"].max()
            label = f"{side.title} ({most if fewest == most else f'{fewest} to {most}'} runs each)"
            ax.errorbar(
                at, 100 * of["value"], bars, **side.look.of_line, markersize=5, capsize=2, elinewidth=1, label=label
            )
    if log:
        ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{at:g}" for at in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(ylabel="solved runs (%), with 95 % interval", ylim=(-3, 103), title=title)
    if len(ran):
        ax.legend()
    else:
        write_in_the_middle(ax)
    return ax


def escapes_along(table: pd.DataFrame, setting: str, sides: Mapping[str, Side], title: str, ax: Axes) -> Axes:
    """Draw when each run escaped against a setting.

    Args:
        table: as of `orthonar.report.tables.swept.escapes_along`, at least one run.
        setting: the table's column with its values.
        sides: by name.
        title: of the axes.
        ax: the axes to draw on.

    Returns:
        The axes: a mark a run, sides side by side at each value; runs that never escape are above the line, hollow.
    """
    values = sorted(set(table[setting]))
    budget = float(table["steps"].max())
    for number, (name, side) in enumerate(sides.items()):
        of = table[table["side"] == name]
        if not len(of):
            continue
        # Runs of one value stand beside each other in the order of their seeds.
        within = of.groupby(setting)["seed"].rank() - 0.5
        share = within / of.groupby(setting)["seed"].transform("size")
        # A tenth of the room between sides stays free.
        at = of[setting].map(values.index) + 0.8 * (number - len(sides) / 2 + 0.1 + 0.8 * share) / len(sides)
        escaped = of["escape_step"].notna()
        look: dict[str, Any] = {
            "color": side.look.color,
            "marker": side.look.marker,
            "linestyle": "none",
            "markersize": 3,
            "markeredgewidth": 0.7,
        }
        ax.plot(at[escaped], of.loc[escaped, "escape_step"], label=side.title, **look)
        ax.plot(at[~escaped], np.full((~escaped).sum(), 1.08 * budget), markerfacecolor="none", **look)
    ax.axhline(1.03 * budget, color="#999999", linewidth=0.6)
    ticks = [tick for tick in ax.get_yticks() if 0 <= tick <= budget]
    ax.set_yticks([*ticks, 1.08 * budget], [*(f"{tick:,.0f}" for tick in ticks), "never"])
    ax.set_xticks(range(len(values)), [f"{at:g}" for at in values])
    ax.set(ylabel="first evaluation at 80 % (step)", ylim=(0, 1.13 * budget), title=title)
    ax.legend()
    return ax
