"""Settings: small frozen objects, checked and made plain when they are made, written as plain data and back.

A class of settings derives from `Settings` and is decorated with `settings`; `integer`, `number`, `flag`, `choice` and
`part` declare its fields. Whatever is accepted is stored as a plain Python value, so that equal settings are equal,
print alike and can be written; everything else is one ValueError that names the setting, before anything is computed.

A setting that a class does not have itself is that of the first of its parts that has it: `RunConfig(lr=0.01)` sets
the learning rate of its optimizer, and `config.lr` tells it.
"""

import collections
import dataclasses
import difflib
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any, TypeVar, dataclass_transform

import numpy as np

#: Largest whole number that every reader of JSON takes for itself.
_LARGEST = 2**53

_Kind = TypeVar("_Kind")


def checked_integer(name: str, value: int | None, least: int, most: int = _LARGEST) -> int:
    """The value as a plain int, NumPy's included; ValueError naming the setting if it is not one within the bounds."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral) or not least <= value <= most:
        too_large = isinstance(value, Integral) and value > most
        bounds = f"at least {least}" if most == _LARGEST and not too_large else f"from {least} to {most}"
        raise ValueError(f"{name} must be an integer of {bounds}, not {value!r}")
    return int(value)


def checked_number(
    name: str,
    value: float | None,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """The value as a plain, finite float, NumPy's included; ValueError naming the setting if it is out of bounds."""
    try:
        plain = math.nan if isinstance(value, bool | np.bool_) or not isinstance(value, Real) else float(value)
    except OverflowError:
        plain = math.inf
    if not (least <= plain <= most and above < plain < below and math.isfinite(plain)):
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (("at least", least), ("above", above), ("at most", most), ("below", below))
            if math.isfinite(bound)
        ]
        raise ValueError(f"{name} must be a finite number{' ' * bool(bounds)}{' and '.join(bounds)}, not {value!r}")
    return plain + 0.0  # -0.0 is 0.0, and so are their texts


def checked_kind(name: str, value: Any, kind: type[_Kind]) -> _Kind:
    """The value; ValueError naming the setting if it is not of that class."""
    if not isinstance(value, kind):
        word = re.sub("(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()
        article = "an" if word[0] in "aeiou" else "a"
        raise ValueError(
            f"{name} must be {article} {word} ({kind.__module__}.{kind.__name__}), not {described(value, kind)}"
        )
    return value


def described(value: Any, kind: type) -> str:
    """A value in an error that wants an object of a class; where it is such a class, what was meant."""
    if isinstance(value, type) and issubclass(value, kind) and not inspect.isabstract(value):
        return f"{value!r}: an object, {value.__name__}()?"
    return repr(value)


def integer(default: int | None, *, least: int, most: int = _LARGEST, optional: bool = False) -> Any:
    """A field that holds a whole number.

    Args:
        default: its default.
        least, most: its bounds, included.
        optional: whether None is a value too.
    """

    def plain(name: str, value: int | None) -> int | None:
        return None if optional and value is None else checked_integer(name, value, least, most)

    return _field(default, plain)


def number(default: float | None, *, optional: bool = False, **bounds: float) -> Any:
    """A field that holds a finite number.

    Args:
        default: its default.
        optional: whether None is a value too.
        bounds: `least` and `most` (included), `above` and `below` (excluded).
    """

    def plain(name: str, value: float | None) -> float | None:
        return None if optional and value is None else checked_number(name, value, **bounds)

    return _field(default, plain)


def flag(default: bool) -> Any:
    """A field that is True or False."""

    def plain(name: str, value: bool) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name} must be True or False, not {value!r}")
        return bool(value)

    return _field(default, plain)


def choice(default: str, options: tuple[str, ...]) -> Any:
    """A field that holds one of some words."""

    def plain(name: str, value: str) -> str:
        if not isinstance(value, str) or value not in options:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, not {value!r}")
        return str(value)

    return _field(default, plain)


def variant(default: Callable[..., Any], kind: type) -> Any:
    """A field that holds a settings object of one kind, taken whole: a read, a write.

    Args:
        default: makes its default.
        kind: class that what it holds must be of; a name or plain data stand for the one that they describe.
    """
    return dataclasses.field(default_factory=default, metadata={"plain": _of_kind(kind)})


def part(default: Callable[..., Any], kind: type) -> Any:
    """A field that holds a settings object whose own settings can be named in its owner's place.

    Args:
        default: makes its default.
        kind: class that what it holds must be of; a name or plain data stand for the one that they describe.
    """
    return dataclasses.field(default_factory=default, metadata={"plain": _of_kind(kind), "part": True})


def _field(default: Any, plain: Callable[[str, Any], Any]) -> Any:
    return dataclasses.field(default=default, metadata={"plain": plain})


def _of_kind(kind: type) -> Callable[[str, Any], Any]:
    def plain(name: str, value: Any) -> Any:
        if isinstance(value, str):
            return kind_named(name, kind, value)()
        if isinstance(value, dict):
            return variant_from_settings(name, kind, value)
        return checked_kind(name, value, kind)

    return plain


class Settings:
    """What all settings have in common; see the module."""

    def __post_init__(self):
        _check_decorated(type(self))  # type: ignore[arg-type]  # a class has a hash
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # what derives from it is a dataclass
            if (plain := field.metadata.get("plain")) is not None:
                object.__setattr__(self, field.name, plain(field.name, getattr(self, field.name)))
            else:
                _check_hashable(field.name, getattr(self, field.name))

    def __getattr__(self, name: str) -> Any:
        # Asked only for what the object has not itself.
        fields: tuple[Any, ...] = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        for field in fields:
            held = self.__dict__.get(field.name) if field.metadata.get("part") else None
            if held is not None and name in setting_names(held, {}):
                return getattr(held, name)
        raise AttributeError(f"{type(self).__name__} has no setting {name!r}")


def _check_hashable(name: str, value: Any) -> None:
    try:
        hash(value)
    except TypeError as error:
        hint = ": a tuple?" if isinstance(value, list) else ""
        raise ValueError(f"{name} must be a value that cannot change, not {value!r}{hint}") from error


@functools.cache
def _check_decorated(kind: Any) -> None:
    """Raise a TypeError where a class declares settings and is not decorated: they would be lost without a word."""
    for base in kind.__mro__:
        lost = [name for name, value in vars(base).items() if isinstance(value, dataclasses.Field)]
        if lost:
            raise TypeError(f"{base.__name__} must be decorated with orthonar.settings.settings to have {lost[0]}")


@dataclass_transform(field_specifiers=(integer, number, flag, choice, variant, part, dataclasses.field))
def settings(kind: type[_Kind]) -> type[_Kind]:
    """Make a class a frozen dataclass whose constructor takes the settings of its parts too, and names unknown ones.

    Raises:
        TypeError: a setting is called "name", which in plain data is that of the class.
    """
    made: Any = dataclasses.dataclass(frozen=True)(kind)
    if any(field.name == "name" for field in dataclasses.fields(made)):
        raise TypeError(f"{kind.__name__}: a setting must not be called 'name', which in plain data names the class")
    construct = made.__init__
    fields = {f.name: f for f in dataclasses.fields(made)}
    positional = [name for name, f in fields.items() if f.init and not f.kw_only]
    parts = [f for f in fields.values() if f.metadata.get("part")]

    @functools.wraps(construct)
    def init(self: Any, *args: Any, **given: Any) -> None:
        if len(args) <= len(positional):  # what is more, and what comes twice, the constructor refuses
            by_position = dict(zip(positional, args))
            if not by_position.keys() & given.keys():
                given, args = by_position | given, ()
        named = {name: given.pop(name) for name in list(given) if name not in fields}
        taken: dict[str, Any] = {}
        for field in parts:
            if not named:
                break
            default: Any = field.default_factory
            held = field.metadata["plain"](field.name, given.get(field.name, default()))
            names = setting_names(held, named)
            its = {name: named.pop(name) for name in list(named) if name in names}
            given[field.name] = dataclasses.replace(held, **its) if its else held
            taken |= {name: getattr(given[field.name], name) for name in its}
        for name in named:
            near = difflib.get_close_matches(name, setting_names(kind, given), n=1)
            raise ValueError(f"{name} is not a setting of {kind.__name__}" + (f": {near[0]}?" if near else ""))
        construct(self, *args, **given)
        for name, value in taken.items():
            if getattr(self, name) != value:  # one part's setting follows another's
                raise ValueError(f"{name} must be {getattr(self, name)!r} beside the other settings, not {value!r}")

    told: Any = init
    told.__signature__ = inspect.signature(construct)
    made.__init__ = told
    return made


def check_names(owner: Any, shared: Iterable[str] = ()) -> None:
    """Whether an owner and its parts have a name for every setting: one of two of a name would be lost in plain data.

    Args:
        owner: a settings object.
        shared: names that stand for one setting wherever they are.

    Raises:
        ValueError: naming the setting.
    """
    names = collections.Counter(setting_names(owner, {}))
    if twice := [name for name, count in names.items() if count > 1 and name not in shared]:
        held = [getattr(owner, field.name) for field in dataclasses.fields(owner) if field.metadata.get("part")]
        of = [type(each).__name__ for each in (owner, *held) if twice[0] in (f.name for f in dataclasses.fields(each))]
        raise ValueError(f"{twice[0]} is the name of a setting of {' and of '.join(of)}; one must be called otherwise")


def setting_names(owner: Any, given: dict[str, Any]) -> list[str]:
    """Every name of a setting: an owner's fields, and those of its parts.

    Args:
        owner: a settings object, or a class of them.
        given: parts that stand in the place of the owner's, or of the defaults of its class.
    """
    names = []
    for field in dataclasses.fields(owner):
        names.append(field.name)
        if field.metadata.get("part"):
            default: Any = field.default_factory
            held = default() if isinstance(owner, type) else getattr(owner, field.name)
            names += setting_names(field.metadata["plain"](field.name, given.get(field.name, held)), given)
    return names


# As plain data


def kind_name(kind: type) -> str:
    """What a class of settings is called in plain data: its attribute `kind`, or its own name."""
    return getattr(kind, "kind", kind.__name__)


def flat_settings(owner: Any) -> dict[str, Any]:
    """Settings as one level of plain data: a part by its kind, and beside it its settings, under their own names.

    Args:
        owner: a settings object.
    """
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        if field.metadata.get("part"):
            flat |= {field.name: kind_name(type(value))} | flat_settings(value)
        else:
            flat[field.name] = variant_settings(value) if dataclasses.is_dataclass(value) else value
    return flat


def variant_settings(of: Any) -> dict:
    """A settings object as plain data: its kind under "name", and its settings, such objects among them too."""
    values = {f.name: getattr(of, f.name) for f in dataclasses.fields(of)}
    return {"name": kind_name(type(of))} | {
        name: variant_settings(value) if dataclasses.is_dataclass(value) else value for name, value in values.items()
    }


def variant_from_settings(what: str, base: type, settings: dict):
    """The settings object that `variant_settings` described.

    Args:
        what: what it is, for the error.
        base: the class that all its kinds derive from; they need only have been imported.
        settings: what `variant_settings` returned.

    Raises:
        ValueError: there is no such kind or setting, or two kinds of that name.
    """
    if not isinstance(settings, dict):
        raise ValueError(f"{what} must be described by a name and settings, not {settings!r}")
    settings = dict(settings)
    kind = kind_named(what, base, settings.pop("name", None))
    unknown = settings.keys() - {f.name for f in dataclasses.fields(kind)}
    if unknown:
        raise ValueError(f"{what}: {kind_name(kind)} has no setting {', '.join(sorted(unknown))}")
    # A dictionary among the settings describes a settings object: of its field's kind, where that is known.
    plain = {f.name for f in dataclasses.fields(kind) if f.metadata.get("plain") is not None}
    return kind(
        **{
            name: variant_from_settings(what, base, value) if isinstance(value, dict) and name not in plain else value
            for name, value in settings.items()
        }
    )


def kind_named(what: str, base: type, name: str | None) -> type:
    """The one kind of settings of a base class that is called so.

    Args:
        what: what it is wanted for, for the error.
        base: the class that all kinds derive from; they need only have been imported.
        name: see `kind_name`.

    Raises:
        ValueError: there is no such kind, or there are two.
    """
    known = [base, *_subclasses(base)]
    kinds = [kind for kind in known if dataclasses.is_dataclass(kind) and not inspect.isabstract(kind)]
    # A class that is defined anew in its place, as in a notebook, is the same kind.
    found = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in kinds if kind_name(kind) == name}
    if not found:
        raise ValueError(f"{what}: there is no {name!r}, only {', '.join(sorted({kind_name(k) for k in kinds}))}")
    if len(found) > 1:
        raise ValueError(f"{what}: {name!r} is the name of {' and '.join(sorted(found))}; their names must differ")
    return next(iter(found.values()))


def _subclasses(kind: type) -> list[type]:
    direct: list[type] = kind.__subclasses__()
    return direct + [below for child in direct for below in _subclasses(child)]
