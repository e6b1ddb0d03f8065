"""The tables of the ablation notebooks: one task, one learning rate, many variants, ours beside the published.

A run's *plateau* is its last evaluation before its escape step, or its last of all if it never escapes; a run that
escapes at its first evaluation has none. Its *end* is its last evaluation.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from ...reads.newton_schulz import NewtonSchulzRead
from ...study.presets import Study
from ...study.records import trace_table
from ...training.record import SOLVED_AT, RunRecord
from .. import stats
from ..published import DECODED, ELIMINATION, SWAPPED, PublishedSwap
from ..words import NOT_RUN, percent
from .runs import study_runs

#: What each variant changes against the baseline, in a few words.
CHANGES: Mapping[str, str] = {
    "baseline": "nothing: raw read, Cᵀ q",
    "ns5": "orthogonalized read: 5 Newton-Schulz steps",
    "ns0_normalise_only": "memory divided by its norm, no step",
    "ns1": "1 Newton-Schulz step",
    "ns2": "2 Newton-Schulz steps",
    "ns3": "3 Newton-Schulz steps",
    "ns8": "8 Newton-Schulz steps",
    "straight_through_forward_only": "reads orthogonalized, learns as if raw",
    "straight_through_backward_only": "reads raw, learns as if orthogonalized",
    "frozen_random_keys": "raw read, keys stay random",
    "qk_lr_x4": "raw read, queries and keys learn 4 times faster",
    "rls_read": "least-squares read (Mesa layer)",
    "blend_half": "half raw, half orthogonalized read",
    "ridge": "ridge regression's singular values",
    "polar": "polar factor: singular values become 1",
    "muon3": "3 of Muon's quintic steps",
    "delta_write": "raw read, delta rule: erases the old under a key",
    "write_back": "ns5, and what is read is kept, at every position",
    "write_back_each_chunk": "ns5, and what is read is kept, every 16 positions",
}

#: What a table says where a variant has runs, but none that ended so.
NO_SUCH_RUN = "no such run"

#: What probes leave in a trace, see `orthonar.training.probes` and `orthonar.training.train.SWAPS`.
PROBES = (
    "effective_rank", "log10_condition", "qk_coherence", "decoded", "decoded_wrong_key", "decoded_wrong_memory",
    "accuracy_read_raw", "accuracy_read_orthogonalized",
)  # fmt: skip
#: Reads that trained models are evaluated with, and where the accuracy stands.
EVALUATED_WITH = {"own": "accuracy", "raw": "accuracy_read_raw", "orthogonalized": "accuracy_read_orthogonalized"}


def variants(study: Study) -> list[str]:
    """The variants of a study in its order, then those that are published only."""
    return list(dict.fromkeys([*study.sides, *ELIMINATION]))


def doses(study: Study) -> dict[str, str]:
    """The variants that differ in the number of Newton-Schulz steps alone, from no step up, each with that number.

    The baseline comes first, as "raw": it does not even divide the memory by its norm.
    """
    steps = {
        name: side["read"].steps
        for name, side in study.sides.items()
        if set(side) == {"read"} and isinstance(side["read"], NewtonSchulzRead)
    }
    return {"baseline": "raw"} | {name: str(steps[name]) for name in sorted(steps, key=steps.get)}


def traces(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row an evaluation of a study's recorded runs.

    Args:
        study: which runs to look for.
        records: run records.

    Returns:
        `orthonar.study.records.trace_table` with all of `PROBES`, NaN where a run has none, and side, seed and
        escape_step.
    """
    records = list(records)
    runs = study_runs(study, records)[["identity", "side", "seed", "escape_step"]]
    lines = trace_table(records)
    return lines.reindex(columns=list(dict.fromkeys([*lines, *PROBES]))).merge(runs, on="identity")


def probed_runs(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """Run table of a study's recorded runs with what the probes saw.

    Args:
        study: which runs to look for, of one task.
        records: run records.

    Returns:
        `orthonar.report.tables.runs.study_runs` with ends ("solved" or "failed"), plateau_effective_rank,
        plateau_qk_coherence, and `PROBES` at the end of the run.
    """
    records = list(records)
    runs, lines = study_runs(study, records), traces(study, records)
    before = lines[~(lines["step"] >= lines["escape_step"])].dropna(subset="effective_rank")
    plateau = before.groupby("identity").tail(1).set_index("identity")[["effective_rank", "qk_coherence"]]
    end = lines.groupby("identity").tail(1).set_index("identity")[list(PROBES)]
    runs = runs.join(plateau.add_prefix("plateau_"), on="identity").join(end, on="identity")
    return runs.assign(ends=np.where(runs["solved"], "solved", "failed"))


def elimination(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """What becomes of each variant, as text, beside what was published of it.

    Args:
        study: a study of one task, with a side "baseline".
        records: run records.

    Returns:
        One row a variant: what it changes, seeds, solved runs with Wilson's interval, Fisher's two-sided p-value
        against the baseline, mean accuracy with its interval, median escape step, effective rank and gradient coherence
        on the plateau, the published likewise, scale and device.
    """
    runs = probed_runs(study, records)
    baseline = runs[runs["side"] == "baseline"]
    rows = []
    for name in variants(study):
        mine = runs[runs["side"] == name]
        planned = len(study.seeds) if name in study.sides else 0
        row = {"variant": name, "what it changes": CHANGES.get(name, ""), "seeds": f"{len(mine)} of {planned}"}
        row |= _outcome(mine)
        compared = len(mine) and len(baseline) and name != "baseline"
        counts = [(int(side["solved"].sum()), len(side)) for side in (mine, baseline)]
        row["Fisher p"] = f"{stats.fisher(*zip(*counts)):.2g}" if compared else ""
        row["plateau rank"] = _mean(mine["plateau_effective_rank"])
        row["plateau coherence"] = _mean(mine["plateau_qk_coherence"])
        rows.append(row | _published_variant(name) | {"scale": study.scale, "device": _devices(mine)})
    return pd.DataFrame(rows).set_index("variant")


def dose_response(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """What comes of more Newton-Schulz steps, as text: one row a number of steps, the raw read first."""
    runs = study_runs(study, records)
    rows = []
    for name, steps in doses(study).items():
        mine = runs[runs["side"] == name]
        row = {"steps": steps, "seeds": f"{len(mine)} of {len(study.seeds)}"} | _outcome(mine)
        rows.append(row | {"follow-up: solved": _published_variant(name)["follow-up: solved"]})
    return pd.DataFrame(rows).set_index("steps")


def swaps(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """Trained models evaluated at their end with their own read and with others, as text.

    Returns:
        One row a variant and end of its runs: how many, then mean accuracy and solved runs under each read, then what
        was published.
    """
    rows = []
    for first, mine, nothing in _by_end(study, probed_runs(study, records), SWAPPED):
        row = {"runs": len(mine)}
        for read, column in EVALUATED_WITH.items():
            read_so = mine.assign(accuracy=mine[column], solved=mine[column] >= SOLVED_AT)
            row[f"{read} read"] = nothing
            if len(mine):
                solved = f"{int(read_so['solved'].sum())} of {len(mine)} solved"
                row[f"{read} read"] = f"{100 * stats.accuracies(read_so).mean():.1f} % ({solved})"
        said = [f"{read}: {swap_text(SWAPPED[*first, read])}" for read in EVALUATED_WITH if (*first, read) in SWAPPED]
        rows.append(dict(zip(("trained with", "runs that"), first)) | row | {"follow-up": "; ".join(said)})
    return pd.DataFrame(rows).set_index(["trained with", "runs that"])


def decoded(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """How much of what was stored a linear decoder finds in the memory, as text, in percent.

    Returns:
        One row a variant and end of its runs: how many, accuracy of the model, share decoded, the controls, what the
        memory adds to its control (decoded less wrong memory, of the same runs), then what was published.
    """
    rows = []
    for first, mine, nothing in _by_end(study, probed_runs(study, records), DECODED):
        row = {
            "runs": len(mine),
            "behaviour": _mean(100 * mine["accuracy"], 1, nothing),
            "decoded": _mean(100 * mine["decoded"], 1, nothing),
            "wrong key": _mean(100 * mine["decoded_wrong_key"], 1, nothing),
            "wrong memory": _mean(100 * mine["decoded_wrong_memory"], 1, nothing),
            "memory adds": _mean(100 * (mine["decoded"] - mine["decoded_wrong_memory"]), 1, nothing),
        }
        other = DECODED.get(first)
        behaviour = " to ".join(f"{x:g}" for x in np.atleast_1d(other.behaviour)) if other else ""
        row |= {"follow-up: behaviour": behaviour, "follow-up: decoded": f"{other.decoded:g}" if other else ""}
        row["follow-up: wrong key"] = f"{other.wrong_key:g}" if other else ""
        rows.append(dict(zip(("trained with", "runs that"), first)) | row)
    return pd.DataFrame(rows).set_index(["trained with", "runs that"])


def _by_end(study: Study, runs: pd.DataFrame, published: Iterable[tuple]):
    """Variant and end, its runs, and what to say where there are none.

    A variant's ends are those that runs have or that something was published of; else "not run yet" stands for one.
    """
    known = {key[:2] for key in published}
    for name in variants(study):
        mine = runs[runs["side"] == name]
        ends = [end for end in ("failed", "solved") if (name, end) in known or (mine["ends"] == end).any()]
        for end in ends or [NOT_RUN]:
            yield (name, end), mine[mine["ends"] == end], NO_SUCH_RUN if len(mine) else NOT_RUN


def _outcome(runs: pd.DataFrame) -> dict[str, str]:
    """Solved runs, mean accuracy and median escape step of one variant's runs, as text."""
    if not len(runs):
        return {"solved": NOT_RUN, "accuracy (%)": NOT_RUN, "median escape": NOT_RUN}
    row = stats.summary(runs, ["side"]).iloc[0]
    share = percent(stats.Interval(*row[["solved", "solved_low", "solved_high"]]), "%")
    half = row["median_escape"]
    return {
        "solved": f"{row['solved']:.0f} of {len(runs)} ({share})",
        "accuracy (%)": percent(stats.Interval(*row[["accuracy", "accuracy_low", "accuracy_high"]])),
        "median escape": "most never" if np.isnan(half) else f"{half:.0f}",
    }


def _published_variant(name: str) -> dict[str, str]:
    other = ELIMINATION.get(name)
    values = (other.effective_rank, other.coherence) if other else (None, None)
    return {
        "follow-up: solved": f"{other.solved.solved} of {other.solved.seeds}" if other else "not published",
        "follow-up: rank": "" if values[0] is None else f"{values[0]:.1f}",
        "follow-up: coherence": "" if values[1] is None else f"{values[1]:.2f}",
    }


def swap_text(swap: PublishedSwap) -> str:
    """What was published of a swap, in a few words."""
    parts = [f"{swap.solved.solved} of {swap.solved.seeds} solved"] if swap.solved else []
    parts += [f"{swap.before:g} to {swap.after:g} %"] if swap.before is not None else []
    return ", ".join(parts + ([f"{swap.gain:+g} points"] if swap.gain is not None else []))


def _mean(values: pd.Series, digits: int = 2, nothing: str = NOT_RUN) -> str:
    """Mean with its interval over runs, those without the value left out; what to say without any run."""
    if not len(values):
        return nothing
    known = values.dropna().to_numpy(dtype=float)
    if not len(known):
        return "not known"
    value, low, high = stats.mean_interval(known)
    interval = "" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{interval}"


def _devices(runs: pd.DataFrame) -> str:
    return ", ".join(sorted(set(runs["device_name"]))) if len(runs) else ""
