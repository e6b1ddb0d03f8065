"""What a sweep's worker does: begin, and train the runs that it is given."""

import multiprocessing
import os
import signal
import threading
import warnings

import torch

from ..training.config import RunConfig
from ..training.environment import revision
from ..training.record import RunRecord
from ..training.train import train_models
from .weights import packed


def begin_worker(numbers, device: str) -> None:
    """Make a new process of this machine a worker, which ends with the process that began it.

    Args:
        numbers: a queue of as many numbers as there are workers, by which GPUs are dealt out.
        device: device that its runs are asked to use.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    asked = torch.device(device)
    if asked.type == "cuda":
        mine = numbers.get() % torch.cuda.device_count() if asked.index is None else asked.index
        torch.cuda.set_device(mine)
    else:
        torch.set_num_threads(1)
    revision()  # of the code as it was loaded, whatever becomes of the files while this process works
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)


def train_group(configs: list[RunConfig], keep_weights: bool) -> list[tuple[RunRecord, bytes | None]]:
    """What a worker does: train some runs side by side.

    Args:
        configs: their settings.
        keep_weights: whether their final weights are wanted too.

    Returns:
        For each run its record and its weights, see `orthonar.study.weights.packed`; None for a run that diverged, and
        where they do not fit, with a warning: the record is worth more than they are.
    """
    trained = []
    for record, model in train_models(configs):
        weights = None
        if keep_weights and record.outcome != "diverged":
            try:
                weights = packed(model)
            except ValueError as error:
                warnings.warn(f"run {record.identity}: {error}; its weights are not kept", stacklevel=2)
        trained.append((record, weights))
    return trained
