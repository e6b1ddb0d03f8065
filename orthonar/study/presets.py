"""What to run: named sweeps as data, each a list of runs in a stated order, the most informative first."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from ..mlstm.parts import small_init_std
from ..training.config import RunConfig
from ..training.record import RunRecord
from ..training.schedules import Constant
from .sides import (
    BASELINE,
    CONSTANT,
    COSINE_4000,
    ELIMINATION,
    FIXED_ANNEAL,
    FRONTIER,
    GATED_ANNEAL,
    HEADLINE,
    ORTHOGONALIZED,
    ORTHOGONALIZED_CONSTANT,
    ORTHOGONALIZED_SMALL_EMBEDDING,
    SMALL_EMBEDDING,
    Side,
    by_name,
)

#: The post's four learning rates.
RATES = (3e-4, 1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Study:
    """Reads compared on one or more tasks: first a learning rate for each task and read, then seeds at that rate.

    A cell is a task with a read. Its rate is chosen on seeds of its own, which the table of results never uses:
    choosing and judging on the same seeds would flatter both.

    Args:
        scale: "paper" for the study's own sizes, "pocket" for smaller ones.
        tasks: what tells the tasks apart, settings of `RunConfig`, the most informative first.
        settings: settings that all runs share; what is not named keeps `RunConfig`'s default, the study's.
        rates: learning rates to choose from.
        rate_seeds: seeds that the rate is chosen on.
        seeds: seeds run at the chosen rate; none where the rates themselves are the result.
        sides: what is compared, by name, see `orthonar.study.sides`; the first is what the others are compared with.
        keep_weights: whether final weights are kept beside the records.
    """

    scale: str
    tasks: tuple[Mapping, ...]
    settings: Mapping = field(default_factory=dict)
    rates: tuple[float, ...] = RATES
    rate_seeds: tuple[int, ...] = (100, 101)
    seeds: tuple[int, ...] = tuple(range(24))
    sides: Mapping[str, Side] = field(default_factory=lambda: HEADLINE)
    keep_weights: bool = False

    def cells(self) -> list[tuple[Mapping, str]]:
        """Every task with every side, in order."""
        return [(task, side) for task in self.tasks for side in self.sides]

    def only(self, names: Sequence[str]) -> "Study":
        """The same study of some of its sides, in its own order.

        Args:
            names: of the sides.

        Raises:
            ValueError: naming the side that there is not.
        """
        if unknown := [name for name in names if name not in self.sides]:
            raise ValueError(f"sides: there is no {unknown[0]!r}, only {', '.join(self.sides)}")
        return replace(self, sides={name: side for name, side in self.sides.items() if name in names})

    def run(self, task: Mapping, side: str, lr: float, seed: int, device: str = "cpu") -> RunConfig:
        """One run's settings."""
        return RunConfig(**{**self.settings, **task, **self.sides[side].settings}, lr=lr, seed=seed, device=device)

    def rate_runs(self, task: Mapping, side: str, device: str = "cpu") -> list[RunConfig]:
        """The runs that a cell's learning rate is chosen by."""
        return [self.run(task, side, lr, seed, device) for seed in self.rate_seeds for lr in self.rates]

    def chosen_rate(self, task: Mapping, side: str, records: Mapping[str, RunRecord]) -> float | None:
        """The rate with the highest mean final accuracy, a diverged run counting as 0; None until all are recorded.

        Of rates that are equally good the largest: they stand at chance, and a larger one leaves chance sooner.

        Args:
            task: one of the tasks.
            side: one of the
            records: run records by identity.
        """
        means = {}
        for lr in self.rates:
            runs = [records.get(self.run(task, side, lr, seed).identity) for seed in self.rate_seeds]
            if None in runs:
                return None
            means[lr] = sum(run.accuracy or 0.0 for run in runs)
        return max(means, key=lambda lr: (means[lr], lr))

    def seed_runs(self, task: Mapping, side: str, records: Mapping[str, RunRecord], device="cpu") -> list[RunConfig]:
        """The runs at a cell's chosen rate; none while it is not chosen."""
        lr = self.chosen_rate(task, side, records)
        return [] if lr is None else [self.run(task, side, lr, seed, device) for seed in self.seeds]

    def runs(self, records: Iterable[RunRecord], device: str = "cpu") -> list[RunConfig]:
        """All runs that are known by now, in the order to run them.

        First the choice of rates, a seed at a time over tasks, rates and reads; then the seeds, one at a time over
        tasks and reads, of the cells whose rate is chosen: whenever it is stopped, every cell has about as many.
        """
        records = {record.identity: record for record in records}
        choice = _in_turns([self.rate_runs(task, side, device) for task, side in self.cells()])
        return choice + _in_turns([self.seed_runs(task, side, records, device) for task, side in self.cells()])

    def size(self) -> int:
        """Number of runs when all is done."""
        return len(self.cells()) * (len(self.rates) * len(self.rate_seeds) + len(self.seeds))


def _in_turns(lists: Sequence[list]) -> list:
    """The first of every list, then the second of every list, and so on."""
    longest = max(map(len, lists), default=0)
    return [runs[i] for i in range(longest) for runs in lists if i < len(runs)]


def _task(vocab_size: int, seq_len: int) -> Mapping:
    return MappingProxyType({"vocab_size": vocab_size, "seq_len": seq_len})


_PAPER_TASKS = (_task(80, 512), _task(96, 768), _task(96, 1024))
# The follow-up's recipe: one rate, seeds of its own, a quarter of the post's batch.
_FOLLOW_UP = MappingProxyType({"batch_size": 16, "probes": True})
_FOLLOW_UP_RATE = (3e-3,)
# The follow-up's steps at each batch size, at a constant rate.
_BATCH_AXIS = MappingProxyType({4: 6000, 8: 4000, 32: 2000, 64: 2000})


def _follow_up(vocab_size: int, seq_len: int, compared: Mapping[str, Side]) -> Study:
    task = _task(vocab_size, seq_len)
    seeds = tuple(range(11, 27))
    return Study("paper", (task,), _FOLLOW_UP, _FOLLOW_UP_RATE, (), seeds, compared, keep_weights=True)


# A model and tasks small enough for two CPU cores; its embedding is small, unlike the study's. The post's
# smallest rate is left out: in so few steps nothing would leave chance with it.
_POCKET_TASKS = (_task(28, 96), _task(30, 96), _task(32, 96))
_POCKET_RATES = RATES[1:]
_POCKET = MappingProxyType(
    {
        "embedding_dim": 32, "num_heads": 2, "embedding_std": small_init_std(32),
        "batch_size": 16, "steps": 600, "eval_every": 50, "validation_sequences": 128,
    }
)  # fmt: skip


def _pocket_at_one_rate(seeds: Iterable[int], compared: Mapping[str, Side]) -> Study:
    settings = _POCKET | {"probes": True}
    return Study("pocket", _POCKET_TASKS[1:2], settings, _FOLLOW_UP_RATE, (), tuple(seeds), compared)


#: Every preset, by name and scale.
PRESETS: Mapping[str, Mapping[str, Study]] = {
    "headline": {
        "paper": Study("paper", _PAPER_TASKS, keep_weights=True),
        "pocket": Study("pocket", _POCKET_TASKS, _POCKET, rates=_POCKET_RATES, seeds=tuple(range(12))),
    },
    # In the order in which they are worth running where an hour is dear.
    "initialisation": {
        "paper": _follow_up(80, 512, by_name(BASELINE, SMALL_EMBEDDING, ORTHOGONALIZED, ORTHOGONALIZED_SMALL_EMBEDDING))
    },
    "schedule": {"paper": _follow_up(80, 512, by_name(COSINE_4000, CONSTANT, ORTHOGONALIZED_CONSTANT))},
    "anneal": {"paper": _follow_up(80, 512, by_name(FIXED_ANNEAL, GATED_ANNEAL))},
    "batch-size": {
        "paper": Study(
            "paper",
            tuple(_task(80, 512) | {"batch_size": size, "steps": steps} for size, steps in _BATCH_AXIS.items()),
            {"schedule": Constant()},
            _FOLLOW_UP_RATE,
            (),
            tuple(range(11, 19)),
            by_name(BASELINE),
        )
    },
    "replication": {"paper": _follow_up(80, 512, HEADLINE)},
    "replication-1024": {"paper": _follow_up(80, 1024, HEADLINE)},
    "learning-rate": {
        "paper": Study("paper", _PAPER_TASKS[:1], rate_seeds=tuple(range(100, 108)), seeds=()),
        "pocket": Study(
            "pocket", _POCKET_TASKS[:1], _POCKET, rates=_POCKET_RATES, rate_seeds=tuple(range(100, 104)), seeds=()
        ),
    },
    # One rate for all, the follow-up's, and its seeds.
    "ablation": {
        "paper": _follow_up(80, 512, ELIMINATION),
        "pocket": _pocket_at_one_rate(range(11, 15), ELIMINATION),
    },
    # As the ablation, with enough seeds to compare hazards of escape.
    "frontier": {"pocket": _pocket_at_one_rate(range(24), FRONTIER)},
}


def find_study(preset: str, scale: str | None = None) -> tuple[str, Study]:
    """A preset by name and scale, and the name of its record file.

    "headline-pocket" is "headline" at the scale "pocket"; without either the scale is "paper".

    Raises:
        ValueError: naming the preset or scale that does not exist.
    """
    known = preset_names()
    if preset not in known:
        raise ValueError(f"preset: there is no {preset!r}, only {', '.join(known)}")
    name, there = known[preset]
    if scale is not None and preset != name and scale != there:
        raise ValueError(f"scale: {preset} is at the scale {there}, not {scale!r}")
    scale = scale or there
    if scale not in PRESETS[name]:
        raise ValueError(f"scale: {name} has {', '.join(PRESETS[name])}, not {scale!r}")
    return name if scale == "paper" else f"{name}-{scale}", PRESETS[name][scale]


def preset_names() -> dict[str, tuple[str, str]]:
    """All names of presets, with what each stands for: a preset and its scale."""
    return {
        name if scale == "paper" else f"{name}-{scale}": (name, scale)
        for name, scales in PRESETS.items()
        for scale in scales
    }
