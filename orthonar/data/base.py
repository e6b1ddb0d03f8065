"""What a task is: frozen settings that make sequences."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..settings import Settings


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
        """A fresh training batch on the device: inputs and the targets that training is judged by, (B, S).

        Those of `orthonar.NoisyRecall` are all next tokens; where a target is `IGNORE_INDEX`, nothing is learnt.
        """

    @abstractmethod
    def validation_set(
        self, seed: int, sequences: int, batch_size: int, device: torch.device | str | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """A run's fixed validation set, batches of inputs and targets (B, S), `IGNORE_INDEX` where not scored."""
