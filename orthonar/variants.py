"""Small frozen objects that say which variant of a thing is meant, reads and writes, as plain data and back."""

from dataclasses import fields, is_dataclass
from inspect import isabstract


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
        ValueError: there is no such variant or setting.
    """
    settings = dict(settings)
    name = settings.pop("name", None)
    kinds = {kind.__name__: kind for kind in _subclasses(base) if not isabstract(kind)}
    if name not in kinds:
        raise ValueError(f"{what}: there is no {name!r}, only {', '.join(sorted(kinds))}")
    unknown = settings.keys() - {f.name for f in fields(kinds[name])}
    if unknown:
        raise ValueError(f"{what}: {name} has no setting {', '.join(sorted(unknown))}")
    # No setting of a variant is a dictionary, unless it is a variant.
    nested = {k: variant_from_settings(what, base, v) if isinstance(v, dict) else v for k, v in settings.items()}
    return kinds[name](**nested)


def _subclasses(kind: type) -> list[type]:
    direct = kind.__subclasses__()
    return direct + [below for child in direct for below in _subclasses(child)]
