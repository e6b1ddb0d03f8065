"""The memory's early rank against how soon runs escape: from simulated runs whose hazard is known."""

from dataclasses import replace

import numpy as np
import pytest
from test_frontier import escaping

from orthonar.report import hazards
from orthonar.report.tables import early_rank, slopes

STUDY = slopes.every_map()
CHOSEN = ["orthogonalized", "ns1", "degree4", "degree8"]


def with_rank(config, rank, at):
    """A run that has this effective rank at a tenth of its 3,000 steps, and rank 9 afterwards."""
    record = escaping(config, at)
    trace = [replace(e, probes={"effective_rank": rank if e.step <= 300 else 9.0}) for e in record.trace]
    return replace(record, trace=trace)


def simulated(factor, between=0.0, seeds=range(24)):
    """Runs of ranks 3 to 6 that escape with the hazard 0.01 factor^rank; ranks and hazards differ between maps too."""
    draws, made, study = np.random.default_rng(3), [], STUDY.only(CHOSEN)
    for number, side in enumerate(CHOSEN):
        for seed in seeds:
            rank = 3 + 3 * draws.random()
            at = draws.geometric(1 - np.exp(-0.01 * factor**rank * np.exp(between * number)))
            config = study.run(study.tasks[0], side, 3e-3, seed)
            made.append(with_rank(config, rank + between * number, 300 * (at + 1) if at < 10 else None))
    return made


def test_the_factor_that_runs_were_made_with_is_found():
    found = early_rank.fits(STUDY.only(CHOSEN), simulated(2.0))
    assert list(found.index) == ["alone", "beside the slope", "same map", "slope beside the rank"]
    for model in ("alone", "beside the slope", "same map"):
        assert found.loc[model, "low"] < 2 < found.loc[model, "high"] and found.loc[model, "low"] > 1.2
    assert found.loc["slope beside the rank", "low"] < 1 < found.loc["slope beside the rank", "high"]
    told = early_rank.answer(STUDY.only(CHOSEN), simulated(2.0))
    assert told.startswith("Of 96 runs with 4 maps that still wait at 10 % of the training") and "not told" not in told


def test_what_goes_with_the_map_alone_is_not_found_among_its_runs():
    """Ranks of one map say nothing; between maps rank and hazard rise together."""
    found = early_rank.fits(STUDY.only(CHOSEN), simulated(1.0, between=1.0))
    assert found.loc["alone", "low"] > 1.2
    assert found.loc["same map", "low"] < 1 < found.loc["same map", "high"]
    assert "with the same" not in (told := early_rank.answer(STUDY.only(CHOSEN), simulated(1.0, between=1.0)))
    assert told.endswith("times as high, which is not told from 1.")


def test_only_runs_that_still_wait_count_and_from_there_on():
    config = STUDY.run(STUDY.tasks[0], "ns1", 3e-3, 0)
    other = STUDY.run(STUDY.tasks[0], "ns1", 3e-3, 1)
    records = [with_rank(config, 4.0, 300), with_rank(other, 5.0, 1200)]
    table = early_rank.waiting(STUDY, records)
    assert table[["seed", "rank", "escape_step", "steps"]].values.tolist() == [[1, 5.0, 900.0, 2700.0]]
    assert table["slope"].tolist() == [pytest.approx(1.5)]
    assert early_rank.ranks(STUDY, records).tolist() == [4.0, 5.0]
    assert early_rank.answer(STUDY, records).endswith("not run yet.") and early_rank.ranks(STUDY, []).empty


def test_a_diverged_run_waits_until_it_diverged():
    """Its rank is that at a tenth of its budget, not of its life, and it counts for the evaluations that it lived."""
    early, late = (STUDY.run(STUDY.tasks[0], "ns1", 3e-3, seed) for seed in (0, 1))
    runs = [with_rank(early, 4.0, None), with_rank(late, 5.0, None)]
    lived = {early.identity: 300, late.identity: 900}
    records = []
    for run in runs:
        trace = [e for e in run.trace if e.step < lived[run.identity]]
        last = replace(run.trace[len(trace)], accuracy=None, loss=None, train_loss=None, probes=None)
        records.append(replace(run, trace=[*trace, last], outcome="diverged"))
    assert early_rank.ranks(STUDY, records).tolist() == [5.0]
    table = early_rank.waiting(STUDY, records)
    assert table[["seed", "left_step", "steps"]].values.tolist() == [[1, 600.0, 2700.0]]
    assert hazards.run_intervals(table)["evaluation"].max() == 600 / table["eval_every"].iloc[0]
