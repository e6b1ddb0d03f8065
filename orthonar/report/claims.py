"""Every published number beside what is recorded of it, and whether the two agree.

Counts of solved runs are compared by Fisher's exact test, two-sided: they differ where p is at most 0.05. Means cannot
be compared: no source gives the spread behind one. Of fewer than `orthonar.report.stats.LEAST_FOR_INTERVAL` runs
nothing is said, since a test of so few hardly ever differs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..data.base import IGNORE_INDEX
from ..data.noisy_recall import NoisyRecall
from ..study.presets import PRESETS, Study
from ..study.sides import HEADLINE
from ..training.record import SOLVED_AT, RunRecord
from . import hazards, stats
from .published import (
    ANNEALED_96,
    BASIN_HAZARD_RATIO,
    BASIN_MAP,
    CONSTANT_12000,
    COSTS,
    DECODED,
    ELIMINATION,
    HEAT_ELASTICITY,
    MEDIAN_ORTHOGONALIZED_4000,
    NOISE_ELASTICITY,
    ORTHOGONALIZED_4000,
    POOLED_FISHER_P,
    SWAPPED,
    PublishedCount,
)
from .tables.compared import tested
from .tables.escape import runs_with_covariates
from .tables.headline import cells
from .tables.probed import EVALUATED_WITH, probed_runs
from .tables.runs import study_runs
from .words import alone, devices, estimate_text, mean_text, p_text, values_text

AGREES, DIFFERS, NOT_RUN = "agrees", "differs", "not run"
#: What else may be said of a number: that its runs are too few to judge, that it cannot be compared, that nobody
#: published it.
TOO_FEW, NO_TEST, UNPUBLISHED = "too few runs", "no test", "unpublished"

_FISHER = "Fisher"
#: Digits of an estimate and its interval: as many as the follow-up's have.
_DIGITS = 3
#: The presets whose cells have published numbers, in the order of publication.
_WITH_CELLS = ("headline", "replication", "replication-1024", "schedule", "anneal")


@dataclass(frozen=True)
class Claim:
    """One published number, or one that is recorded without any.

    Args:
        group: what experiment it is of, in a few words.
        what: which number of it.
        published: as published, as text; empty where nothing was.
        source: where it was published, in two words.
        study: the preset whose runs answer it; empty where there is none.
        scale: of those runs.
        here: what is recorded, as text, with its interval; empty without runs.
        runs: how many runs are recorded.
        planned: how many the preset asks for.
        device: names of the devices that they were made on.
        test: the test's name; empty where there is none.
        p: its p-value; None likewise.
        verdict: "agrees", "differs" or "not run"; or "too few runs", "no test", "unpublished".
    """

    group: str
    what: str
    published: str
    source: str
    study: str
    scale: str
    here: str = ""
    runs: int = 0
    planned: int = 0
    device: str = ""
    test: str = ""
    p: float | None = None
    verdict: str = NOT_RUN


def worked_example() -> Claim:
    """The token that is scored in the post's worked example: made again here, so it is exact on every machine."""
    example = NoisyRecall(vocab_size=16, seq_len=14, noise_vocab_size=4, frac_noise=0.4)
    targets = example.evaluation_targets(np.array([0, 9, 3, 10, 12, 13, 15, 14, 0, 9, 5, 8, 2, 9]))
    scored = " ".join(str(target) for target in targets if target != IGNORE_INDEX)
    verdict = AGREES if scored == "9" else DIFFERS
    return Claim("the task", "token scored in the worked example", "9", "post", "", "any", scored,
                 device="this machine", test="equality", verdict=verdict)  # fmt: skip


def claims(records: Iterable[RunRecord], kept: pd.DataFrame | None = None) -> list[Claim]:
    """Every published number, then what is recorded and was never published.

    Args:
        records: run records.
        kept: what kept weights answered, as of `orthonar.study.contents.answer_table`.

    Returns:
        In the order of publication; those of one group together.
    """
    records = list(records)
    ablation = PRESETS["ablation"]["paper"]
    probed = probed_runs(ablation, records, kept)
    return [
        worked_example(),
        *(claim for name in _WITH_CELLS for claim in _of_cells(name, records)),
        *_pooled(records),
        *_of_the_map(records),
        *_without_runs(),
        *_of_variants(ablation, probed),
        *_of_swaps(probed),
        *_of_contents(probed),
        *_of_costs(records),
        *_unpublished("headline", "pocket", records),
        *_unpublished("initialisation", "paper", records),
        *_unpublished("muon", "paper", records),
        *_unpublished("muon", "pocket", records),
    ]


def _solved(claim: dict, solved: int, runs: int, published: tuple[int, int]) -> Claim:
    """A count of solved runs against a published one."""
    claim |= {"published": f"{published[0]} of {published[1]}", "runs": runs}
    if not runs:
        return Claim(**claim)
    p = stats.fisher((solved, published[0]), (runs, published[1]))
    few = runs < stats.LEAST_FOR_INTERVAL
    verdict = TOO_FEW if few else DIFFERS if stats.is_told(p) else AGREES
    return Claim(**claim, here=_share(solved, runs), test=_FISHER, p=p, verdict=verdict)


def _mean(claim: dict, values: pd.Series, published: str, digits: int, factor: float = 1, unit: str = "") -> Claim:
    """A mean against a published one, which no test can compare."""
    known = factor * values.dropna()
    claim |= {"published": f"{published} {unit}".rstrip(), "runs": len(known)}
    if not len(known):
        return Claim(**claim)
    return Claim(**claim, here=f"{values_text(known, digits)} {unit}".rstrip(), verdict=NO_TEST)


def _share(solved: int, runs: int) -> str:
    _, low, high = stats.solved_share(solved, runs)
    return f"{solved} of {runs} [{100 * low:.0f}, {100 * high:.0f} %]"


def _of_cells(name: str, records: list[RunRecord]) -> Iterator[Claim]:
    study = PRESETS[name]["paper"]
    for cell in cells(study, records):
        common = {"group": f"{name}: {cell.task}", "study": name, "scale": study.scale, "planned": cell.planned}
        common["device"] = cell.device
        for other in cell.published:
            claim = common | {"source": other.short}
            accuracy, solved = other.accuracy(cell.side), other.solved(cell.side)
            if accuracy is not None:
                hand = {"source": f"{other.short}, second-hand"} if other.second_hand else {}
                reached = stats.accuracies(cell.runs)
                what = {"what": f"accuracy, {cell.side}"}
                made: dict[str, Any] = (
                    claim | hand | what | {"published": f"{_range(accuracy)} %", "runs": len(reached)}
                )
                if len(reached):
                    mean = mean_text(reached, stats.enough_of_either(reached))
                    made |= {"here": f"{mean} %", "verdict": NO_TEST}
                yield Claim(**made)
            if solved is not None:
                claim |= {"what": f"solved, {cell.side}"}
                yield _solved(claim, cell.solved, len(cell.runs), (solved, other.seeds))


def _pooled(records: list[RunRecord]) -> Iterator[Claim]:
    """The p-value of the follow-up's two tasks together."""
    names = ("replication", "replication-1024")
    found = [cell for name in names for cell in cells(PRESETS[name]["paper"], records)]
    sides = [[cell for cell in found if cell.side == side] for side in HEADLINE]
    solved, runs = zip(*((sum(cell.solved for cell in of), sum(len(cell.runs) for cell in of)) for of in sides))
    whole = all(len(cell.runs) >= stats.LEAST_FOR_INTERVAL for cell in found)
    yield Claim(
        group="replication: lengths 512 and 1024 together",
        what="Fisher p of solved runs",
        published=f"{POOLED_FISHER_P:g}",
        source="follow-up",
        study="replication-1024",
        scale="paper",
        here=p_text(stats.fisher(solved, runs)) if whole else "",
        runs=sum(runs) if whole else 0,
        planned=sum(cell.planned for cell in found),
        verdict=NO_TEST if whole else NOT_RUN,
    )


def _range(value: float | tuple[float, float]) -> str:
    return " to ".join(f"{x:g}" for x in np.atleast_1d(value))


def _of_the_map(records: list[RunRecord]) -> Iterator[Claim]:
    """The follow-up's map over vocabularies and constant rates."""
    study = PRESETS["basin-map"]["paper"]
    runs = study_runs(study, records, "rates")
    common: dict = {"group": "basin-map: vocabularies 80 to 96, length 768, batch 16, constant rates"}
    common |= {"source": "follow-up", "study": "basin-map", "scale": study.scale}
    for part in BASIN_MAP:
        mine = runs[(runs["side"] == part.side) & np.isclose(runs["lr"].astype(float), part.lr)]
        mine = mine if part.vocab_size is None else mine[mine["vocab_size"] == part.vocab_size]
        where = f"rate {part.lr:g}" + ("" if part.vocab_size is None else f", vocabulary {part.vocab_size}")
        claim = common | {"what": f"{part.ended}, {part.side}, {where}", "device": devices(mine)}
        ended = mine["solved"] if part.ended == "solved" else mine["ended"] == part.ended
        counts = int(ended.sum()), len(mine), (part.count.solved, part.count.seeds)
        yield _solved(claim | {"planned": part.count.seeds}, *counts)
    mine, here = runs_with_covariates([study], records, ["rates"]), ""
    if len(mine):
        ratio = hazards.fit(mine, "orthogonalized + np.log(lr) + vocab_size", apart=True).loc["orthogonalized"]
        here = (
            "cannot be told" if np.isnan(ratio["ratio"]) else estimate_text(*ratio[["ratio", "low", "high"]], _DIGITS)
        )
    yield Claim(
        **common,
        what="hazard ratio, orthogonalized",
        published=estimate_text(*BASIN_HAZARD_RATIO, _DIGITS),
        planned=study.size(),
        here=here,
        runs=len(mine),
        device=devices(mine),
        verdict=NO_TEST if here else NOT_RUN,
    )


def _without_runs() -> Iterator[Claim]:
    """What the follow-up publishes of experiments that no preset asks for."""
    recipe = "vocabulary 80, length 512, batch 16, other schedules"
    annealed = "vocabulary 96, length 768, 4,000 steps"
    axis = "batch sizes 4 to 64 and constant rates, vocabulary 80, length 512"
    for group, what, value in (
        (recipe, "solved, orthogonalized, cosine over 4,000 steps", ORTHOGONALIZED_4000),
        (recipe, "their median escape step", f"{MEDIAN_ORTHOGONALIZED_4000:,}"),
        (recipe, "solved, baseline, constant rate over 12,000 steps", CONSTANT_12000),
        (annealed, "solved, taken down after the escape", ANNEALED_96),
        (axis, "elasticity of the hazard to heat, baseline", estimate_text(*HEAT_ELASTICITY, _DIGITS)),
        (axis, "elasticity of the hazard to gradient noise, baseline", estimate_text(*NOISE_ELASTICITY, _DIGITS)),
    ):
        planned = value.seeds if isinstance(value, PublishedCount) else 0
        published = f"{value.solved} of {value.seeds}" if isinstance(value, PublishedCount) else value
        yield Claim(group, what, published, "follow-up", "", "paper", planned=planned)


def _of_variants(study: Study, probed: pd.DataFrame) -> Iterator[Claim]:
    """The elimination; its baseline and orthogonalized read are the replication's runs, counted there."""
    for name, other in ELIMINATION.items():
        mine = probed[probed["side"] == name]
        claim = _ablation(mine, len(study.seeds))
        if name not in ("baseline", "orthogonalized"):
            count = other.solved.solved, other.solved.seeds
            yield _solved(claim | {"what": f"solved, {_title(name)}"}, int(mine["solved"].sum()), len(mine), count)
        if other.effective_rank is not None:
            what = {"what": f"early rank, {_title(name)}"}
            yield _mean(claim | what, mine["early_effective_rank"], f"{other.effective_rank:.1f}", 1)
        if other.coherence is not None:
            what = {"what": f"early coherence, {_title(name)}"}
            yield _mean(claim | what, mine["early_qk_coherence"], f"{other.coherence:.2f}", 2)


def _ablation(runs: pd.DataFrame, planned: int) -> dict:
    group = "ablation: vocabulary 80, length 512, batch 16"
    common = {"group": group, "study": "ablation", "scale": "paper", "source": "follow-up"}
    return common | {"planned": planned, "device": devices(runs)}


def _title(name: str) -> str:
    return name.replace("_", " ")


def _ended(probed: pd.DataFrame, name: str, end: str) -> pd.DataFrame:
    return probed[(probed["side"] == name) & (probed["ends"] == end)]


def _ended_so(name: str, end: str) -> str:
    return f"{'unsolved' if end == 'not solved' else end} {name}"


def _of_swaps(probed: pd.DataFrame) -> Iterator[Claim]:
    for (name, end, read), other in SWAPPED.items():
        mine, column = _ended(probed, name, end), EVALUATED_WITH[read]
        mine = mine[mine[column].notna()]
        claim = _ablation(mine, 0)
        what = f"{_ended_so(name, end)}, read {read}"
        if other.solved is not None:
            count = other.solved.solved, other.solved.seeds
            solved = int((mine[column] >= SOLVED_AT).sum())
            yield _solved(claim | {"what": f"solved, {what}"}, solved, len(mine), count)
        if other.after is not None:
            yield _mean(claim | {"what": f"accuracy, {what}"}, mine[column], f"{other.after:g}", 0, 100, "%")
        if other.gain is not None:
            gain = mine[column] - mine["accuracy"]
            yield _mean(claim | {"what": f"gain, {what}"}, gain, f"{other.gain:+g}", 1, 100, "points")


def _of_contents(probed: pd.DataFrame) -> Iterator[Claim]:
    for (name, end), other in DECODED.items():
        mine = _ended(probed, name, end)
        claim = _ablation(mine, 0)
        for what, column, value in (
            ("decoded", "decode1", other.decoded),
            ("wrong key", "decode1_wrong_key", other.wrong_key),
        ):
            claim |= {"what": f"{what}, {_ended_so(name, end)}"}
            yield _mean(claim, mine[column], f"{value:g}", 0, 100, "%")


def _of_costs(records: list[RunRecord]) -> Iterator[Claim]:
    """Seconds of a run, which say nothing on another device."""
    for other, name in zip(COSTS, ("replication", "headline"), strict=True):
        study = PRESETS[name]["paper"]
        wanted = f"vocabulary {other.vocab_size}, length {other.seq_len}, batch {other.batch_size}"
        for cell in cells(study, records):
            if cell.task != wanted:
                continue
            mine = cell.runs[cell.runs["device_name"].str.contains(rf"\b{other.device}\b") & alone(cell.runs)]
            claim = {"group": f"{name}: {cell.task}", "study": name, "scale": study.scale, "source": other.short}
            claim |= {"what": f"a run on one {other.device}, {cell.side}", "device": devices(mine)}
            value = f"{getattr(other, cell.side):g}"
            yield _mean(claim | {"planned": cell.planned}, mine["wall_seconds"], value, 0, unit="s")


def _unpublished(name: str, scale: str, records: list[RunRecord]) -> Iterator[Claim]:
    """What is recorded and has no published number; each other side's row holds its comparison with the first."""
    study = PRESETS[name][scale]
    start = study.run(study.tasks[0], next(iter(study.sides)), study.rates[0], 0).embedding_std
    unlike = "" if start == 1 else f", embedding std {start:.3g}"
    first: dict[str, pd.DataFrame] = {}
    for cell in cells(study, records):
        baseline = first.setdefault(cell.task, cell.runs)
        if any(cell.side in {**other.accuracies, **other.solved_runs} for other in cell.published):
            continue
        enough = min(len(baseline), len(cell.runs)) >= stats.LEAST_FOR_INTERVAL
        test = tested(baseline, cell.runs) if enough and cell.side != next(iter(study.sides)) else None
        preset = name if scale == "paper" else f"{name}-{scale}"
        yield Claim(
            group=f"{preset}: {cell.task}{unlike}",
            what=f"solved, {cell.side}",
            published="",
            source="",
            study=preset,
            scale=scale,
            here=_share(cell.solved, len(cell.runs)) if len(cell.runs) else "",
            runs=len(cell.runs),
            planned=cell.planned,
            device=cell.device,
            test="" if test is None else "McNemar" if test.paired else _FISHER,
            p=None if test is None else test.p,
            verdict=UNPUBLISHED if len(cell.runs) else NOT_RUN,
        )
