"""A run in a few words, and how long it may take."""

import dataclasses
import statistics
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


def estimate(config: RunConfig, records: Iterable[RunRecord], device: str = "cpu") -> float | None:
    """Seconds that a run will take, from finished ones; None if there is nothing to go by.

    The median of runs that differ in seed and learning rate alone; else of those with the same read and model, by the
    number of tokens.

    Args:
        config: the run's settings.
        records: finished runs; those that another kind of device ran are left aside.
        device: where it will run, as of `RunConfig`.
    """

    def kind(settings: dict) -> tuple:
        return tuple(sorted((k, str(v)) for k, v in identifying_settings(settings).items() if k not in ("seed", "lr")))

    def tokens(settings: dict) -> int:
        return settings["steps"] * settings["batch_size"] * settings["seq_len"]

    mine = identifying_settings(config.settings())
    here = (r for r in records if r.settings.get("device", "cpu").partition(":")[0] == device.partition(":")[0])
    complete = [r for r in here if r.outcome != "diverged" and {"steps", "batch_size", "seq_len"} <= {*r.settings}]
    if same := [r.wall_seconds for r in complete if kind(r.settings) == kind(mine)]:
        return statistics.median(same)
    alike = ("mixer", "optimizer", "read", "write", "embedding_dim", "num_heads", "form")
    near = [r for r in complete if all(identifying_settings(r.settings).get(k) == mine.get(k) for k in alike)]
    if near:
        per_token = statistics.median(r.wall_seconds / tokens(r.settings) for r in near)
        return per_token * config.steps * config.batch_size * config.task.seq_len  # a setting of some tasks alone
    return None
