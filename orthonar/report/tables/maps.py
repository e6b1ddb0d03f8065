"""Maps: what becomes of both reads over learning rates and one more setting, cell by cell."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ...study.presets import Study
from ...training.record import RunRecord
from .compared import tested_by_seed
from .escape import runs_with_covariates

#: The learning rate that the factors of `FORMULA` are at, the follow-up's.
RATE = 3e-3
#: The hazard model of a map but for its own setting: the read's factor is that at `RATE`. To be fitted run by run
#: (`apart`), since a map's 8 seeds are too few for errors by seed; two reads' factor has too wide an interval then.
FORMULA = f"orthogonalized * np.log(lr / {RATE:g})"


def cells(study: Study, records: Iterable[RunRecord], setting: str) -> pd.DataFrame:
    """How many runs of each cell ended how.

    Args:
        study: one whose tasks differ in a setting and whose rates are its result.
        records: run records.
        setting: a number, by its name in `RunConfig`.

    Returns:
        One row a side, value and learning rate, also without runs: side, the setting, lr; planned, and of the recorded
        runs, counts: runs, solved, escaped (reached 80 % at any evaluation) and collapsed (fell below half of their
        best after it).
    """
    rows = []
    for side, at, lr, runs in _by_cell(study, records, setting):
        counts = {
            "runs": len(runs),
            "solved": int(runs["solved"].sum()),
            "escaped": int(runs["escape_step"].notna().sum()),
            "collapsed": int((runs["ended"] == "collapsed").sum()),
        }
        rows.append({"side": side, setting: at, "lr": lr, "planned": len(study.rate_seeds), **counts})
    return pd.DataFrame(rows)


def is_compared(table: pd.DataFrame) -> bool:
    """Whether a map may be drawn and told of: half of its places or more have all their runs of every side.

    Args:
        table: as of `cells`.
    """
    _, setting, *_ = table.columns
    complete = table["runs"].eq(table["planned"]).groupby([table[setting], table["lr"]]).all()
    return bool(2 * complete.sum() >= len(complete))


def answer(study: Study, records: Iterable[RunRecord], setting: str) -> str:
    """How many runs of a map each read solves, and where runs fall back after an escape, in a sentence.

    Compared are the cells with all their runs of both reads, by `orthonar.report.tables.compared.tested_by_seed`: a
    seed comes again in every cell.

    Args:
        study: one of two sides, else as of `cells`.
        records: run records.
        setting: as of `cells`.

    Returns:
        The sentence; that nothing is compared yet, where `is_compared` says so.
    """
    records = list(records)
    by_place: dict[tuple[float, float], dict[str, pd.DataFrame]] = {}
    for side, at, lr, runs in _by_cell(study, records, setting):
        by_place.setdefault((at, lr), {})[side] = runs
    planned = len(study.rate_seeds)
    complete = [sides for sides in by_place.values() if all(len(runs) == planned for runs in sides.values())]
    if not is_compared(cells(study, records, setting)):
        return f"{len(complete)} of {len(by_place)} cells are complete: nothing is compared yet."
    first, second = (pd.concat([sides[side] for sides in complete]) for side in study.sides)
    one, other = (side.title for side in study.sides.values())
    all_there = len(complete) == len(by_place)
    which = f"all {len(complete)} cells" if all_there else f"the {len(complete)} complete cells of {len(by_place)}"
    test = tested_by_seed(first, second)
    said = (
        f"Over {which} {one} solves {first['solved'].sum()} of {len(first)} runs, {other} {second['solved'].sum()} of "
        f"{len(second)}: {test.verdict} ({test})"
    )
    back = [_fallen(title, runs) for title, runs in ((one, first), (other, second))]
    return f"{said}; after an escape fall back: {', '.join(back)}."


def _fallen(title: str, runs: pd.DataFrame) -> str:
    """Of how many runs that escaped how many collapsed, and at which rates."""
    escaped, collapsed = runs["escape_step"].notna(), runs["ended"] == "collapsed"
    at = sorted(set(runs.loc[collapsed, "lr"]))
    where = f" (at {', '.join(f'{lr:g}' for lr in at)})" if at else ""
    return f"{collapsed.sum()} of {escaped.sum()} {title}{where}"


def _by_cell(study: Study, records: Iterable[RunRecord], setting: str):
    """Side, value and rate of every cell with its run table, in the study's order."""
    runs = runs_with_covariates([study], records, ["rates"])
    for task in study.tasks:
        for lr in study.rates:
            for side in study.sides:
                at = float(getattr(study.run(task, side, lr, 0), setting))
                here = runs["side"].eq(side) & np.isclose(runs[setting].astype(float), at) & np.isclose(runs["lr"], lr)
                yield side, at, lr, runs[here]
