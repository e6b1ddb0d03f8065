"""What a task is: frozen settings that make sequences; and what all tasks do alike."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from ..settings import Settings

IGNORE_INDEX = -100
"""Target of the positions that are not scored; `torch.nn.functional.cross_entropy` ignores it by default."""

VALIDATION_SEED_OFFSET = 10_000
"""Added to a run's seed to seed its validation set."""


class Task(Settings, ABC):
    """What a model is trained and judged on. A class that derives from it is a task: nothing has to be registered."""

    #: Number of tokens V.
    vocab_size: int
    #: Nominal length of a sequence.
    seq_len: int

    @property
    @abstractmethod
    def values(self) -> range:
        """The tokens that are scored, all as likely: guessing is right once in len(values)."""

    @abstractmethod
    def sample(
        self, batch_size: int, generator: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> tuple[Tensor, Tensor]:
        """A fresh training batch on the device: inputs and the targets that training is judged by.

        Args:
            batch_size: number of sequences, B.
            generator: source of all randomness, on `device`; None for torch's global one of that device.
            device: where to draw; None as of `sampling_device`.

        Returns:
            Two int64 tensors of shape (B, S). Targets of `orthonar.NoisyRecall` are all next tokens; where a target is
            `IGNORE_INDEX`, nothing is learnt.
        """

    @abstractmethod
    def validation_set(
        self, seed: int, sequences: int, batch_size: int, device: torch.device | str | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """A run's fixed validation set.

        Args:
            seed: the run's.
            sequences: how many in all.
            batch_size: how many in a batch, B; the last may be smaller. The sequences must not depend on it.
            device: where the tensors go; None for torch's default device.

        Returns:
            Batches of inputs and targets, int64 tensors of shape (B, S); `IGNORE_INDEX` where nothing is scored.
        """


def sampling_device(device: torch.device | str | None, generator: torch.Generator | None) -> torch.device:
    """Where a batch is drawn: on the device, else on the generator's, else on torch's default one."""
    if device is not None:
        return torch.device(device)
    return generator.device if generator is not None else torch.get_default_device()


def in_batches(
    inputs: np.ndarray, targets: np.ndarray, batch_size: int, device: torch.device | str | None
) -> list[tuple[Tensor, Tensor]]:
    """A validation set as batches on a device.

    Args:
        inputs: tokens, integers of shape (N, S).
        targets: what is scored, likewise.
        batch_size: number of sequences in a batch, B.
        device: where the tensors go; None for torch's default device.

    Returns:
        A list of (inputs, targets), tensors of shape (B, S) of the arrays' dtype; the last may be smaller.
    """
    device = torch.get_default_device() if device is None else device
    pair = (torch.from_numpy(np.ascontiguousarray(x)).to(device).split(batch_size) for x in (inputs, targets))
    return list(zip(*pair, strict=True))
