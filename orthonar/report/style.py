"""How figures look and where they go.

The colours are Okabe and Ito's, which colour-blind readers can tell apart, picked to differ in lightness too.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from .. import paths

#: How readers know the reads.
READ_LABELS = {"RawRead": "baseline", "NewtonSchulzRead": "orthogonalized"}


def save(fig: Figure, name: str, folder: Path | str | None = None) -> tuple[Path, Path]:
    """Write a figure as PNG (200 dots an inch) and as PDF, the same figure always as the same bytes.

    Args:
        fig: the figure.
        name: file name without extension.
        folder: where to, created if missing; None for `orthonar.paths.figures_dir()`.

    Returns:
        The paths of the PNG and of the PDF.
    """
    folder = paths.figures_dir() if folder is None else Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf = folder / f"{name}.png", folder / f"{name}.pdf"
    # Dates and versions are left out, so that a figure drawn again does not count as changed.
    fig.savefig(png, dpi=200, bbox_inches="tight", metadata={"Software": None})
    without = {"CreationDate": None, "Creator": None, "Producer": None}
    with plt.rc_context({"pdf.fonttype": 42}):  # text as text, not as outlines
        fig.savefig(pdf, bbox_inches="tight", metadata=without)
    return png, pdf
