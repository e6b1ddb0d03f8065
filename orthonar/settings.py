"""Settings: checked, made plain, and written as data and back; one clear error that names the setting."""

import math
from dataclasses import fields, is_dataclass
from inspect import isabstract
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


def checked_positive(name: str, value: float, below: float = math.inf) -> float:
    """The value as a plain float; ValueError naming the setting if it is not above 0, finite and below that."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real) or not 0 < value < below:
        wanted = "positive, finite number" if below == math.inf else f"number above 0 and below {below:g}"
        raise ValueError(f"{name} must be a {wanted}, not {value!r}")
    return float(value)


def variant_settings(variant) -> dict:
    """A variant as plain data: its class's name under "name", and its settings, variants among them too."""
    values = {f.name: getattr(variant, f.name) for f in fields(variant)}
    return {"name": type(variant).__name__} | {
        name: variant_settings(value) if is_dataclass(value) else value for name, value in values.items()
    }


def variant_from_settings(what: str, base: type, settings: dict):
    """The variant that `variant_settings` described.

    Args:
        what: what it is a variant of, for the error.
        base: the class that all variants of it derive from; they need only have been imported.
        settings: what `variant_settings` returned.

    Raises:
        ValueError: there is no such variant or setting, or there are two of that name.
    """
    settings = dict(settings)
    name = settings.pop("name", None)
    # A class that is defined anew in its place, as in a notebook, is the same variant.
    kinds = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in _subclasses(base) if not isabstract(kind)}
    named = {place: kind for place, kind in kinds.items() if kind.__name__ == name}
    if not named:
        raise ValueError(f"{what}: there is no {name!r}, only {', '.join(sorted(k.__name__ for k in kinds.values()))}")
    if len(named) > 1:
        raise ValueError(f"{what}: {name!r} may be any of {', '.join(sorted(named))}; their names must differ")
    (kind,) = named.values()
    unknown = settings.keys() - {f.name for f in fields(kind)}
    if unknown:
        raise ValueError(f"{what}: {name} has no setting {', '.join(sorted(unknown))}")
    # No setting of a variant is a dictionary, unless it is a variant.
    nested = {k: variant_from_settings(what, base, v) if isinstance(v, dict) else v for k, v in settings.items()}
    return kind(**nested)


def _subclasses(kind: type) -> list[type]:
    direct = kind.__subclasses__()
    return direct + [below for child in direct for below in _subclasses(child)]
