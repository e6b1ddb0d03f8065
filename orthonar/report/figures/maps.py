"""Maps: both reads over learning rates and one more setting."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...study.sides import Side
from ..style import GREY, WIDTH

_NOTHING = "#eeeeee"


def solved_map(table: pd.DataFrame, setting: str, sides: Mapping[str, Side], words: str, title: str) -> Figure:
    """Draw how many runs of each cell are solved.

    Args:
        table: as of `orthonar.report.tables.maps.cells`.
        setting: the table's column with the setting's values.
        sides: by name.
        words: what the setting is called.
        title: of the figure.

    Returns:
        The figure: a panel a side, learning rates from left to right, values of the setting from below to above; in
        each cell solved runs of how many, and, where there are any, how many fell back after an escape.
    """
    values, rates = sorted(set(table[setting])), sorted(set(table["lr"]))
    height = 1.1 + 0.42 * len(values)
    figure, axes = plt.subplots(
        1, len(sides), figsize=(WIDTH, height), layout="constrained", sharey=True, squeeze=False
    )
    colours = plt.get_cmap("viridis").with_extremes(bad=_NOTHING)
    for ax, (name, side) in zip(axes[0], sides.items(), strict=True):
        shares = np.full((len(values), len(rates)), np.nan)
        for _, cell in table[table["side"] == name].iterrows():
            row, column = values.index(cell[setting]), rates.index(cell["lr"])
            text, colour = "not run", GREY
            if cell["runs"]:
                share = shares[row, column] = cell["solved"] / cell["runs"]
                fallen = f"\n{cell['collapsed']} fell back" if cell["collapsed"] else ""
                text, colour = f"{cell['solved']} of {cell['runs']}{fallen}", "white" if share < 0.6 else "black"
            ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=7.5)
        drawn = ax.imshow(shares, cmap=colours, vmin=0, vmax=1, origin="lower", aspect="auto")
        ax.set_xticks(range(len(rates)), [f"{lr:g}" for lr in rates])
        ax.set_yticks(range(len(values)), [f"{at:g}" for at in values])
        ax.set(xlabel="learning rate", title=side.title)
        ax.tick_params(length=0)
    axes[0][0].set_ylabel(words)
    figure.colorbar(drawn, ax=axes, label="share solved", fraction=0.05)
    figure.suptitle(title)
    return figure
