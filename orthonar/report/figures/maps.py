"""Maps: both reads over learning rates and one more setting."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ...study.sides import Side
from ..style import WIDTH

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
    height = 1.1 + 0.42 * table[setting].nunique()
    figure, axes = plt.subplots(
        1, len(sides), figsize=(WIDTH, height), layout="constrained", sharey=True, squeeze=False
    )
    # Cells without runs lie below the scale.
    colours = plt.get_cmap("viridis").with_extremes(under=_NOTHING)
    shown = table.assign(share=(table["solved"] / table["runs"]).fillna(-1.0), text=table.apply(_text, axis=1))
    for ax, (name, side) in zip(axes[0], sides.items(), strict=True):
        by_place = shown[shown["side"] == name].pivot(index=setting, columns="lr", values=["share", "text"])[::-1]
        look = {"cmap": colours, "vmin": 0, "vmax": 1, "linewidths": 0.8, "annot_kws": {"fontsize": 7.5}}
        sns.heatmap(by_place["share"].astype(float), annot=by_place["text"], fmt="", cbar=False, ax=ax, **look)
        ax.set_xticklabels([f"{lr:g}" for lr in by_place["share"].columns])
        ax.set_yticklabels([f"{at:g}" for at in by_place.index], rotation=0)
        ax.set(xlabel="learning rate", ylabel="", title=side.title)
        ax.tick_params(length=0)
    axes[0][0].set_ylabel(words)
    figure.colorbar(axes[0][-1].collections[0], ax=axes, label="share solved", fraction=0.05)
    figure.suptitle(title)
    return figure


def _text(cell: pd.Series) -> str:
    if not cell["runs"]:
        return "not run"
    fallen = f"\n{cell['collapsed']} fell back" if cell["collapsed"] else ""
    return f"{cell['solved']} of {cell['runs']}{fallen}"
