"""What is left when a read is taken down in training: runs whose anneal ended at the raw read, before and after it."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ...study.contents import STOCK
from ...study.presets import Study
from ...training.anneals import NoAnneal
from ...training.config import RunConfig
from ...training.record import SOLVED_AT, RunRecord
from .runs import study_runs

_COLUMNS = (
    "side", "seed", "identity", "begin", "end", "before", "lowest", "after", "steps", "last", *STOCK.numbers,
)  # fmt: skip


def taken_down(study: Study, records: Iterable[RunRecord], kept: pd.DataFrame) -> pd.DataFrame:
    """The recorded runs of a study whose own read was taken down to the raw one.

    Args:
        study: which runs to look for.
        records: run records.
        kept: as of `orthonar.study.contents.answer_table`, of `orthonar.study.contents.STOCK`.

    Returns:
        One row a run: side, seed, identity; begin and end (of the fall: the last step with the whole read, the first
        without); before, lowest and after (accuracy at the last evaluation with the whole read, the lowest from there
        on, and the last, 0 to 1); steps and last (its budget, and the step that it stopped at); and what its weights
        answered, NaN where they were not asked.
    """
    records = list(records)
    found = {record.identity: record for record in records}
    rows = []
    for run in study_runs(study, records).itertuples():
        record = found[run.identity]
        config = RunConfig.of_record(record)
        escaped_at = config.anneal.escape(record.trace)
        weights = np.array([config.anneal.weight(line.step, escaped_at) for line in record.trace])
        if config.anneal == NoAnneal() or weights[-1] > 0 or not (weights == 1).any():
            continue
        steps = range(record.trace[-1].step + 1)
        alphas = np.array([config.anneal.weight(step, escaped_at) for step in steps])
        reached = np.array([line.accuracy or 0.0 for line in record.trace])
        last = int(np.flatnonzero(weights == 1)[-1])
        row = {"side": run.side, "seed": run.seed, "identity": run.identity}
        row |= {"begin": int(np.flatnonzero(alphas == 1)[-1]), "end": int(np.flatnonzero(alphas == 0)[0])}
        row |= {"before": reached[last], "lowest": reached[last:].min(), "after": reached[-1]}
        row |= {"steps": config.steps, "last": record.trace[-1].step}
        rows.append(row | (kept.loc[run.identity].to_dict() if run.identity in kept.index else {}))
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype(dict.fromkeys(STOCK.numbers, float))


def as_text(table: pd.DataFrame, sides: Sequence[str]) -> pd.DataFrame:
    """The same for readers, a row a side: how many were taken down, and of those solved before, what became of them.

    Args:
        table: as of `taken_down`.
        sides: which to name, also without runs.

    Returns:
        Columns taken down; solved before; solved after (of those); before, lowest and after (mean accuracy of those,
        percent).
    """
    rows = []
    for side in sides:
        of = table[table["side"] == side]
        solved = of[of["before"] >= SOLVED_AT]
        means = {name: f"{100 * solved[name].mean():.1f}" if len(solved) else "" for name in _SHOWN}
        counts = {"taken down": f"{len(of)}", "solved before": f"{len(solved)}"}
        rows.append({"read": side, **counts, "solved after": f"{(solved['after'] >= SOLVED_AT).sum()}", **means})
    columns = ["read", "taken down", "solved before", "solved after", *_SHOWN]
    return pd.DataFrame(rows, columns=columns).set_index("read")


_SHOWN = ("before", "lowest", "after")


def answers(table: pd.DataFrame) -> list[str]:
    """What became of the runs that were solved before the fall, and of all of them in the stock layer, in sentences.

    Args:
        table: as of `taken_down`.

    Returns:
        None without such runs.
    """
    solved, asked = table[table["before"] >= SOLVED_AT], table[table["logits_apart"].notna()]
    sentences = []
    if len(solved):
        still, seeds = int((solved["after"] >= SOLVED_AT).sum()), solved["seed"].nunique()
        of_fewer = f" of {seeds} seed{'s'[: seeds != 1]}" if seeds < len(solved) else ""
        sentences.append(
            f"Of {len(solved)} run{'s'[: len(solved) != 1]}{of_fewer} solved before the read was taken down {still} "
            f"{'is' if still == 1 else 'are'} solved with the raw read afterwards: "
            f"{100 * solved['before'].mean():.1f} % before, {100 * solved['after'].mean():.1f} % after "
            "(means; training goes on in between)."
        )
    later = table[table["last"] > table["steps"]]
    if len(later):
        others = "; the others stop there" if len(later) < len(table) else ""
        sentences.append(
            f"{len(later)} of the {len(table)} runs whose read was taken down escaped so late that "
            f"{'it' if len(later) == 1 else 'they'} went on beyond step "
            f"{later['steps'].max():,} until the read was raw, to step {later['last'].max():,} at most{others}."
        )
    if len(asked):
        which = f"all {len(asked)}" if len(asked) == len(table) else f"{len(asked)} of the {len(table)}"
        apart = 100 * (asked["accuracy_stock"] - asked["accuracy_here"]).abs().max()
        sentences.append(
            f"In the layer of the package xlstm the weights of {which} runs whose read was taken down, solved "
            f"or not, recall {100 * asked['accuracy_stock'].mean():.1f} % on average, as here to {apart:.2f} points at "
            f"most; in float64 their logits are ours but for {asked['logits_apart'].max():.0e} of the largest."
        )
    return sentences
