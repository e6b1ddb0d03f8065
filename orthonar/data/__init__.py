"""Tasks: frozen settings that make sequences, exactly and fast, and validation sets."""

from .key_door import KeyDoor
from .mqar import MQAR
from .noisy_recall import IGNORE_INDEX, NoisyRecall

__all__ = ["IGNORE_INDEX", "MQAR", "KeyDoor", "NoisyRecall"]
