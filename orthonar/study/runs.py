"""A run in a few words, and how long it may take."""

import dataclasses
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from ..data.noisy_recall import NoisyRecall
from ..mlstm.writes import AdditiveWrite
from ..training.anneals import NoAnneal
from ..training.config import RunConfig
from ..training.optimizers import AdamW
from ..training.record import RunRecord, identifying_settings
from ..training.schedules import Constant, Cosine


def describe(config: RunConfig) -> str:
    """A run in a few words: read or mixer, what else is not the study's, task, learning rate, seed."""
    model, task, mixer, optimizer = config.model, config.task, config.model.mixer, config.optimizer
    words = [_in_words(getattr(mixer, "read", mixer))]
    words += [_in_words(mixer.write)] if getattr(mixer, "write", AdditiveWrite()) != AdditiveWrite() else []
    words += [] if model.embedding_std == 1 else [f"embedding std {model.embedding_std:.2g}"]
    words += {Cosine(): [], Constant(): ["constant lr"]}.get(config.schedule, [_in_words(config.schedule)])
    words += [] if config.anneal == NoAnneal() else [_in_words(config.anneal)]
    words += [] if isinstance(optimizer, AdamW) else [_in_words(optimizer)]
    words += [f"{config.steps} steps"]
    words += ["orthogonal keys"] if config.orthogonal_keys else []
    words += ["frozen keys"] if config.frozen_keys else []
    words += [f"queries and keys lr x {config.qk_lr_factor:g}"] if config.qk_lr_factor != 1 else []
    words += [] if isinstance(task, NoisyRecall) else [_in_words(task)]
    words += [f"vocabulary {task.vocab_size}, length {task.seq_len}"]
    words += _changed(task) if isinstance(task, NoisyRecall) else []
    words += [f"batch {config.batch_size}"]
    return f"{', '.join(words)}, lr {optimizer.lr:g}, seed {config.seed}"


def describe_end(record: RunRecord) -> str:
    """What a run came to in a few words: its final accuracy, whether that is solved, and how long it took."""
    if record.accuracy is None:
        reached = "loss not finite"
    else:
        solved = "solved" if record.outcome == "solved" else "not solved"
        reached = f"accuracy {100 * record.accuracy:.1f} %, {solved}"
    return f"{reached} ({record.wall_seconds:.0f} s)"


# Settings of parts that a run's description tells in words of its own, or that all runs of a study share.
_TOLD = ("vocab_size", "seq_len", "noise_vocab_size", "num_heads", "steps", "degree")


def _changed(part: Any) -> list[str]:
    """What is not the default of a part's class, by the names of the settings."""
    words = []
    for setting in dataclasses.fields(part):
        value = getattr(part, setting.name)
        if setting.name in _TOLD or dataclasses.is_dataclass(value) or value == setting.default:
            continue
        name = setting.name.replace("_", " ")
        words.append(name if value is True else f"{name} {value}")
    return words


def _in_words(part: Any) -> str:
    """A read, a write or another part: its name, the number of its steps and products, what else is not its default."""
    name = type(part).__name__.removesuffix("Read")
    values = [getattr(part, setting.name) for setting in dataclasses.fields(part)]
    inner = [_in_words(value) for value in values if dataclasses.is_dataclass(value)]
    steps, products = getattr(part, "steps", None), getattr(part, "degree", None)
    name += "" if steps is None else f" {steps}"
    name += "" if products is None else f" of {products} product{'s'[: products != 1]}"
    inner += _changed(part)
    return name + (f" ({', '.join(inner)})" if inner else "")


class Estimates:
    """How many seconds runs will take, from finished ones, at each of which is looked once.

    Args:
        records: finished runs; those that another kind of device ran are left aside.
        device: where runs will be, as of `RunConfig`.
    """

    def __init__(self, records: Iterable[RunRecord], device: str = "cpu") -> None:
        self._same: dict[str, list[float]] = defaultdict(list)
        self._per_token: dict[str, list[float]] = defaultdict(list)
        where = device.partition(":")[0]
        for r in records:
            if r.outcome == "diverged" or r.settings.get("device", "cpu").partition(":")[0] != where:
                continue
            settings = identifying_settings(r.settings)
            self._same[_kind(settings)].append(r.wall_seconds)
            if {"steps", "batch_size", "seq_len"} <= {*r.settings}:  # some tasks have no such length
                tokens = r.settings["steps"] * r.settings["batch_size"] * r.settings["seq_len"]
                self._per_token[_alike(settings)].append(r.wall_seconds / tokens)

    def seconds(self, config: RunConfig) -> float | None:
        """The median of runs that differ in seed and learning rate alone; else of those with the same read and model,
        by the number of tokens; None if there is nothing to go by.

        Args:
            config: the run's settings.
        """
        settings = identifying_settings(config.settings())
        if same := self._same.get(_kind(settings)):
            return statistics.median(same)
        if near := self._per_token.get(_alike(settings)):
            return statistics.median(near) * config.steps * config.batch_size * config.task.seq_len
        return None


def _kind(settings: dict) -> str:
    """What runs share that differ in seed and learning rate alone."""
    return json.dumps({k: v for k, v in settings.items() if k not in ("seed", "lr")}, sort_keys=True)


def _alike(settings: dict) -> str:
    """What runs share whose time goes with their tokens."""
    names = ("mixer", "optimizer", "read", "write", "embedding_dim", "num_heads", "form")
    return json.dumps([settings.get(name) for name in names], sort_keys=True)
