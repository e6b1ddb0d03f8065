"""Checks of settings: one clear error that names the setting."""

import math
from numbers import Integral, Real

import numpy as np


def checked_integer(name: str, value: int, least: int) -> int:
    """The value as a plain int, NumPy's included; ValueError naming the setting if it is none or too small."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    return int(value)


def checked_number(name: str, value: float, least: float, most: float) -> float:
    """The value as a plain float, NumPy's included; ValueError naming the setting if it is none or out of range."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real) or not least <= value <= most:
        raise ValueError(f"{name} must be a number from {least:g} to {most:g}, not {value!r}")
    return float(value)


def checked_positive(name: str, value: float) -> float:
    """The value as a plain float, NumPy's included; ValueError naming the setting if it is not above 0."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive, finite number, not {value!r}")
    return float(value)
