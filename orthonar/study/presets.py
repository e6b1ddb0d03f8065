"""What to run: named sweeps as data, each a list of runs in a stated order, the most informative first."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from ..data.base import Task
from ..data.key_door import KeyDoor
from ..data.mqar import MQAR
from ..settings import checked_integer
from ..training.config import RunConfig
from ..training.record import RunRecord
from ..training.schedules import Constant
from .sides import (
    ATTENTION,
    BASELINE,
    CONSTANT,
    COSINE_4000,
    ELIMINATION,
    FIXED_ANNEAL,
    FRONTIER,
    GATED_ANNEAL,
    HEADLINE,
    MUON,
    ORTHOGONALIZED,
    ORTHOGONALIZED_CONSTANT,
    ORTHOGONALIZED_MUON,
    ORTHOGONALIZED_SMALL_EMBEDDING,
    POCKET_FIXED_ANNEAL,
    ROTARY_ATTENTION,
    SMALL_EMBEDDING,
    STEEP,
    VARIANTS,
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
    rate_seeds: tuple[int, ...] = tuple(range(100, 106))
    seeds: tuple[int, ...] = tuple(range(24))
    sides: Mapping[str, Side] = field(default_factory=lambda: HEADLINE)
    keep_weights: bool = False

    def cells(self) -> list[tuple[Mapping, str]]:
        """Every task with every side, in order."""
        return [(task, side) for task in self.tasks for side in self.sides]

    def only(self, sides: Sequence[str] | None = None, tasks: int | None = None) -> "Study":
        """The same study of some of its sides and tasks, in its own order.

        Args:
            sides: their names, at least one; None for all.
            tasks: how many, the first ones; None for all.

        Raises:
            ValueError: naming the side that there is not, or what is no list of sides or number of tasks.
        """
        if sides is not None and (isinstance(sides, str) or not isinstance(sides, Collection) or not sides):
            raise ValueError(f"sides must be a list of at least one name, not {sides!r}")
        if unknown := [name for name in sides or () if name not in self.sides]:
            raise ValueError(f"sides: there is no {unknown[0]!r}, only {', '.join(self.sides)}")
        if tasks is not None:
            tasks = checked_integer("tasks", tasks, 1, len(self.tasks))
        kept = {name: side for name, side in self.sides.items() if sides is None or name in sides}
        return replace(self, sides=kept, tasks=self.tasks[:tasks])

    def without(self, *sides: str) -> "Study":
        """The same study without some of its sides.

        Args:
            sides: their names.

        Raises:
            ValueError: naming the side that there is not; or all of them are left out.
        """
        self.only(sides or None)  # checks the names
        return self.only([name for name in self.sides if name not in sides])

    def without_seeds(self, seeds: Collection[int]) -> "Study":
        """The same study without some of its seeds.

        Args:
            seeds: which, whether it has them or not; those that rates are chosen on stay.
        """
        return replace(self, seeds=tuple(seed for seed in self.seeds if seed not in seeds))

    def beside(self, sides: Mapping[str, Side]) -> "Study":
        """The same study with further sides.

        Args:
            sides: by name, after its own; one that it has stays where it is.
        """
        return replace(self, sides=MappingProxyType({**self.sides, **sides}))

    def run(self, task: Mapping, side: str, lr: float, seed: int, device: str = "cpu") -> RunConfig:
        """One run's settings.

        Args:
            task: one of the tasks.
            side: one of the sides, by name.
            lr: peak learning rate.
            seed: of weights, batches and validation set.
            device: as of `RunConfig`.
        """
        return RunConfig(**{**self.settings, **task, **self.sides[side].settings}, lr=lr, seed=seed, device=device)

    def rate_runs(self, task: Mapping, side: str, device: str = "cpu") -> list[RunConfig]:
        """The runs that a cell's learning rate is chosen by; arguments as of `run`."""
        return [self.run(task, side, lr, seed, device) for seed in self.rate_seeds for lr in self.rates]

    def chosen_rate(self, task: Mapping, side: str | None, records: Mapping[str, RunRecord]) -> float | None:
        """The rate with the highest mean final accuracy, a diverged run counting as 0; None until all are recorded.

        Of rates that are equally good the largest: they stand at chance, and a larger one leaves chance sooner.

        Args:
            task: one of the tasks.
            side: one of the sides, by name; None for one rate over all of them.
            records: run records by identity.
        """
        means, sides = {}, self.sides if side is None else [side]
        for lr in self.rates:
            identities = [self.run(task, of, lr, seed).identity for of in sides for seed in self.rate_seeds]
            if any(identity not in records for identity in identities):
                return None
            means[lr] = sum(records[identity].accuracy or 0.0 for identity in identities)
        return max(means, key=lambda lr: (means[lr], lr))

    def seed_runs(self, task: Mapping, side: str, records: Mapping[str, RunRecord], device="cpu") -> list[RunConfig]:
        """The runs at a cell's chosen rate; none while it is not chosen.

        Args:
            task: one of the tasks.
            side: one of the sides, by name.
            records: run records by identity.
            device: as of `RunConfig`.
        """
        lr = self.chosen_rate(task, side, records)
        return [] if lr is None else [self.run(task, side, lr, seed, device) for seed in self.seeds]

    def runs(self, records: Iterable[RunRecord], device: str = "cpu") -> list[RunConfig]:
        """All runs that are known by now, in the order to run them.

        First the choice of rates, a seed at a time over tasks, rates and reads; then the seeds, one at a time over
        tasks and reads, of the cells whose rate is chosen: whenever it is stopped, every cell has about as many.

        Args:
            records: run records.
            device: as of `RunConfig`.
        """
        known = {record.identity: record for record in records}
        choice = _in_turns([self.rate_runs(task, side, device) for task, side in self.cells()])
        return choice + _in_turns([self.seed_runs(task, side, known, device) for task, side in self.cells()])

    def size(self) -> int:
        """Number of runs when all is done."""
        return len(self.cells()) * (len(self.rates) * len(self.rate_seeds) + len(self.seeds))


def _in_turns(lists: Sequence[list]) -> list:
    """The first of every list, then the second of every list, and so on."""
    longest = max(map(len, lists), default=0)
    return [runs[i] for i in range(longest) for runs in lists if i < len(runs)]


def _task(vocab_size: int, seq_len: int) -> MappingProxyType[str, Any]:
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


# A model and tasks small enough for two CPU cores that behave as the study's do from its embedding: a run stands at
# chance, then escapes within a few hundred steps, or not at all. It was looked for on seeds 200 to 202, at the
# follow-up's rate among others, see `results/search/`.
_POCKET_TASKS = (_task(56, 320), _task(64, 320))
# Standard deviations of the initial embedding: the study's, and down to half of what the layer's projections have.
_EMBEDDINGS = (1.0, 0.3, 0.1, 0.03)
# Shares of noise, from none to more than the study's 0.8.
_NOISE = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9)
# The post's smallest rate is left out: in so few steps nothing would leave chance with it.
_POCKET_RATES = RATES[1:]
_POCKET = MappingProxyType(
    {
        "embedding_dim": 64, "num_heads": 2, "batch_size": 4, "steps": 3000,
        "eval_every": 100, "validation_sequences": 128, "probes": True,
    }
)  # fmt: skip


def _pocket(
    seeds: Iterable[int], compared: Mapping[str, Side], tasks=_POCKET_TASKS[:1], keep_weights: bool = False
) -> Study:
    return Study("pocket", tasks, _POCKET, _FOLLOW_UP_RATE, (), tuple(seeds), compared, keep_weights)


def _other_task(task: Task, compared: Mapping[str, Side]) -> Study:
    settings = {**_POCKET, "batch_size": 8, "probes": False}
    return Study(
        "pocket", (MappingProxyType({"task": task}),), settings, _FOLLOW_UP_RATE, (), tuple(range(12)), compared
    )


def _map(scale: str, tasks: Iterable[Mapping], settings: Mapping[str, Any]) -> Study:
    """Both reads on several tasks at several constant rates, 8 seeds each: the rates themselves are the result."""
    rates, at_constant = _POCKET_RATES, {**settings, "schedule": Constant()}
    return Study(scale, tuple(tasks), at_constant, rates, rate_seeds=tuple(range(8)), seeds=())


#: Every preset, by name and scale.
PRESETS: Mapping[str, Mapping[str, Study]] = {
    "headline": {
        "paper": Study("paper", _PAPER_TASKS, keep_weights=True),
        "pocket": _pocket(range(24), HEADLINE, _POCKET_TASKS, keep_weights=True),
    },
    # In the order in which they are worth running where an hour is dear.
    "initialisation": {
        "paper": _follow_up(
            80, 512, by_name(BASELINE, SMALL_EMBEDDING, ORTHOGONALIZED, ORTHOGONALIZED_SMALL_EMBEDDING)
        ),
        "pocket": _pocket(range(8), HEADLINE, tuple(_POCKET_TASKS[0] | {"embedding_std": s} for s in _EMBEDDINGS)),
    },
    "schedule": {"paper": _follow_up(80, 512, by_name(COSINE_4000, CONSTANT, ORTHOGONALIZED_CONSTANT))},
    # At pocket scale beside both reads at a constant rate, which nothing else of it has.
    "anneal": {
        "paper": _follow_up(80, 512, by_name(FIXED_ANNEAL, GATED_ANNEAL)),
        "pocket": _pocket(
            range(12),
            by_name(CONSTANT, GATED_ANNEAL, POCKET_FIXED_ANNEAL, ORTHOGONALIZED_CONSTANT),
            keep_weights=True,
        ),
    },
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
    # Hazards of escape over two settings at once; the first is the follow-up's grid.
    "basin-map": {
        "paper": _map("paper", (_task(v, 768) for v in (80, 88, 96)), {"batch_size": 16, "steps": 3000}),
        "pocket": _map("pocket", (_task(v, 320) for v in (56, 64, 72)), _POCKET),
    },
    "batch-map": {
        "pocket": _map("pocket", (_POCKET_TASKS[0] | {"batch_size": size} for size in (2, 4, 8)), _POCKET),
    },
    "embedding-map": {
        "pocket": _map("pocket", (_POCKET_TASKS[0] | {"embedding_std": std} for std in _EMBEDDINGS), _POCKET),
    },
    "replication": {"paper": _follow_up(80, 512, HEADLINE)},
    "replication-1024": {"paper": _follow_up(80, 1024, HEADLINE)},
    "learning-rate": {
        "paper": Study("paper", _PAPER_TASKS[:1], rate_seeds=tuple(range(100, 108)), seeds=()),
        "pocket": Study(
            "pocket", _POCKET_TASKS[:1], _POCKET, rates=_POCKET_RATES, rate_seeds=tuple(range(100, 106)), seeds=()
        ),
    },
    # One rate for all, the follow-up's, and its seeds.
    "ablation": {
        "paper": _follow_up(80, 512, ELIMINATION),
        "pocket": _pocket(range(12), ELIMINATION),
    },
    # At pocket scale a screen, with as few seeds as carry an interval, since a run costs up to 20 times the raw read's:
    # of 8 pairs no difference is told once it is corrected for all variants, but what stands out can be run on seeds
    # that are new to it. Without the write back at every position, where each waits for the one before and a run takes
    # two hours.
    "variants": {
        "paper": _follow_up(80, 512, {**HEADLINE, **VARIANTS}),
        "pocket": _pocket(
            range(8), {**HEADLINE, **{name: side for name, side in VARIANTS.items() if name != "write_back"}}
        ),
    },
    # As the ablation, with enough seeds to compare hazards of escape. At the follow-up's recipe the one that is ahead.
    "frontier": {
        "paper": _follow_up(80, 512, by_name(*HEADLINE.values(), FRONTIER["degree8"])),
        "pocket": _pocket(range(24), FRONTIER),
    },
    # The variant that solves most of the elimination, on the headline's tasks and seeds.
    "least-squares": {
        "pocket": _pocket(
            range(24), by_name(*HEADLINE.values(), ELIMINATION["rls_read"]), _POCKET_TASKS, keep_weights=True
        )
    },
    # The further variant that solved most of the screen, on seeds that it was not picked on.
    "muon-read": {"pocket": _pocket(range(8, 24), by_name(*HEADLINE.values(), VARIANTS["muon3"]))},
    # What the headline and the frontier say, once more on seeds that nobody had looked at.
    "new-seeds": {
        "pocket": _pocket(range(24, 48), by_name(*HEADLINE.values(), FRONTIER["degree8"]), keep_weights=True)
    },
    # Does it hurt to ripple? Of two maps equally steep at 0 one ripples five times as steeply near 1.
    "steep": {"pocket": _pocket(range(24), by_name(*HEADLINE.values(), *STEEP.values()))},
    # Beside the study: attention, how much noise there is, the optimizer, and two other tasks.
    "attention": {"pocket": _pocket(range(12), by_name(*HEADLINE.values(), ATTENTION, ROTARY_ATTENTION))},
    "noise": {"pocket": _pocket(range(12), HEADLINE, tuple(_POCKET_TASKS[0] | {"frac_noise": f} for f in _NOISE))},
    # At pocket scale the headline's later seeds, whose weights are kept: recall is split by how often keys come.
    "muon": {
        "paper": _follow_up(80, 512, by_name(*HEADLINE.values(), MUON, ORTHOGONALIZED_MUON)),
        "pocket": _pocket(range(12, 24), by_name(*HEADLINE.values(), MUON, ORTHOGONALIZED_MUON), keep_weights=True),
    },
    "mqar": {
        "pocket": _other_task(MQAR(128, 192, 48, random_non_queries=False), by_name(*HEADLINE.values(), ATTENTION)),
    },
    "world": {
        "pocket": _other_task(
            KeyDoor(doors=6, keys=6),
            by_name(*HEADLINE.values(), SMALL_EMBEDDING, ORTHOGONALIZED_SMALL_EMBEDDING),
        )
    },
}


def find_study(preset: str, scale: str | None = None) -> tuple[str, Study]:
    """A preset by name and scale, and the name of its record file.

    "headline-pocket" is "headline" at the scale "pocket"; without either the scale is "paper".

    Args:
        preset: its name, with or without its scale.
        scale: "paper" or "pocket"; None for what the name says.

    Raises:
        ValueError: naming the preset or scale that does not exist.
    """
    known = preset_names()
    if preset not in known:
        raise ValueError(f"preset: there is no {preset!r}, only {', '.join(known)}")
    name, there = known[preset]
    if scale is not None and preset != name and scale != there:
        raise ValueError(f"scale: {preset} is at the scale {there}, not {scale!r}")
    scale = there if scale is None else scale
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
