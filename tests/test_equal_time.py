"""Sides compared in seconds: which step each has come to, which runs count, and how it reads."""

from dataclasses import replace

import numpy as np
import pandas as pd
from tiny import TINY, record_of

from orthonar.report.seeds import PICKED_ON
from orthonar.report.tables.equal_time import equal_time_answer
from orthonar.report.tables.runs import study_runs
from orthonar.study.presets import PRESETS
from orthonar.study.sides import HEADLINE
from orthonar.training.record import Evaluation

STUDY = replace(TINY, tasks=TINY.tasks[:1], rates=(1e-3,), rate_seeds=(), seeds=tuple(range(8)), sides=HEADLINE)


def test_escapes_in_equal_time():
    """Of the raw runs half escape at the last of four steps; so soon the other read, three times slower, is at 1."""
    made = []
    for config in STUDY.runs([]):
        raw = config.read == HEADLINE["baseline"].settings["read"]
        at = 4 if raw else 1 if config.seed < 3 else 2
        escaped = config.seed < 4 or not raw
        trace = [Evaluation(s, 0.9 if escaped and s >= at else 0.1, 1.0, 1.0, float(s)) for s in (1, 2, 4)]
        made.append(replace(record_of(config, trace[-1].accuracy), trace=trace))
    runs = study_runs(STUDY, made)
    on_both = {"A": {"baseline": 2.0, "orthogonalized": 4.0}, "B": {"baseline": 2.0, "orthogonalized": 5.0}}
    told, on_b = equal_time_answer(runs, on_both)
    assert told == (
        "In the 8 seconds that 4 steps of baseline take (A), orthogonalized comes to step 2: by then 4 of 8 runs of "
        "baseline and 8 of 8 runs of orthogonalized have reached 80 % (exact McNemar test in pairs, p = 0.12; the "
        "cosine of the latter goes on after it)."
    )
    constant = runs.assign(schedule="constant", side="constant " + runs["side"])
    names = tuple(f"constant {side}" for side in HEADLINE)
    [told] = equal_time_answer(constant, {"A": dict(zip(names, (2.0, 4.0)))}, names)
    assert "8 of 8 runs of constant orthogonalized" in told and told.endswith("p = 0.12)."), "nothing is cut short"
    assert "take (B), orthogonalized comes to step 1: by then 4 of 8 runs of baseline and 0 of 8" in on_b
    fewer = runs[(runs["side"] == "baseline") | (runs["seed"] >= 2)]
    [told] = equal_time_answer(fewer, {"A": on_both["A"]})
    assert "by then 2 of 6 runs of baseline and 6 of 6 runs of orthogonalized" in told, "the seeds that are tested"
    assert "(of fewer than 8 runs no test; the cosine" in told
    elsewhere = fewer.assign(device=fewer["device"].mask(fewer["side"] == "baseline", "cuda"))
    [told] = equal_time_answer(elsewhere, {"A": on_both["A"]})
    assert "by then 4 of 8 runs of baseline and 6 of 6" in told, "no pairs, all runs"
    swapped = equal_time_answer(runs, {"B": on_both["B"]}, ("orthogonalized", "baseline"))
    assert swapped == [on_b], "no run is said to go on beyond its budget"
    assert equal_time_answer(runs, {"A": {"baseline": 2.0}}) == equal_time_answer(runs[:8], {}) == []


def test_equal_time_is_not_of_seeds_that_a_side_was_picked_on():
    seeds = range(18)
    side = {"steps": 100, "schedule": "cosine", "device": "cpu", "solved": False, "seed": seeds}
    raw = pd.DataFrame(side | {"side": "baseline", "escape_step": np.nan})
    other = pd.DataFrame(side | {"side": "degree8", "escape_step": [10 if seed < 12 else np.nan for seed in seeds]})
    paces = {"A": {"baseline": 1.0, "degree8": 2.0}}
    [told] = equal_time_answer(pd.concat([raw, other]), paces, ("baseline", "degree8"))
    assert "0 of 9 runs of baseline and 3 of 9 runs of 8 products" in told
    assert "(seeds 9 to 17: exact McNemar test in pairs, p = 0.25;" in told
    only_picked = pd.concat([raw, other[other["seed"] < 9]])
    assert equal_time_answer(only_picked, paces, ("baseline", "degree8")) == []
    assert PICKED_ON.keys() <= {
        name for scales in PRESETS.values() for study in scales.values() for name in study.sides
    }
