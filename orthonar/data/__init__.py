"""Tasks: frozen settings that make sequences, exactly and fast, and validation sets."""

from .base import IGNORE_INDEX
from .key_door import KeyDoor
from .mqar import MQAR
from .noisy_recall import NoisyRecall

__all__ = ["IGNORE_INDEX", "MQAR", "KeyDoor", "NoisyRecall"]
