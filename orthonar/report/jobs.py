"""Which notebooks are to run, with which parameters: all of it checked before anything is computed."""

import difflib
import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import papermill
import yaml
from papermill.log import logger as papermill_log

from .. import paths
from ..training.config import usable_device

#: The scale without another word, and what stands in its place for notebooks that no scale is written for.
POCKET, DEFAULTS = "pocket", "defaults"

# What the values of a parameter may be, by the type written in the notebook's parameters cell.
_YAML_TYPES: dict[str, Any] = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "str": str,
    "list": list,
    "tuple": list,
    "dict": dict,
}


class ParameterError(ValueError):
    """A parameter and a notebook, or this machine, do not fit each other."""


@dataclass(frozen=True)
class Job:
    """One notebook and the parameters it is to run with."""

    notebook: Path
    parameters: dict
    scale: str

    @property
    def name(self) -> str:
        """The notebook's name without its ending."""
        return self.notebook.stem


def find_notebooks(*names: str) -> list[Path]:
    """The notebooks to run, in order.

    Args:
        names: paths of notebooks, or patterns of paths; what has no slash and is no file here is the beginning or a
            pattern of names in the project's notebooks/, such as "03" or "0[1-3]*". None means all of these.

    Returns:
        Their paths, each once.

    Raises:
        ParameterError: naming what fits no notebook, or the name that two have.
    """
    folder = paths.project_root() / "notebooks"
    found: dict[Path, None] = {}
    for name in names or ("*",):
        patterns = [f"{glob.escape(str(folder))}/{name}*"] if "/" not in name else [name, f"{name}.ipynb"]
        matching = [Path(name)] if Path(name).is_file() else [Path(p) for p in sum(map(glob.glob, patterns), [])]
        matching = [path.resolve() for path in matching if path.suffix == ".ipynb"]
        if not matching:
            there = ", ".join(path.stem for path in sorted(folder.glob("*.ipynb")))
            raise ParameterError(f"no notebook fits {name!r}" + ("" if "/" in name else f"; there are: {there}"))
        found |= dict.fromkeys(matching)
    stems = [path.stem for path in found]
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        raise ParameterError(f"two notebooks are called {twice[0]}: one executed copy would replace the other's")
    return sorted(found)


def declared_parameters(notebook: Path) -> dict[str, str]:
    """The parameters that a notebook takes, each with its type as written there ("None": none written)."""
    level = papermill_log.level
    papermill_log.setLevel("ERROR")  # a line it cannot parse leaves the parameter out, which is reported here
    try:
        return {p["name"]: p["inferred_type_name"] for p in papermill.inspect_notebook(str(notebook)).values()}
    finally:
        papermill_log.setLevel(level)


def plan(
    notebooks: Sequence[Path],
    scale: str | None = None,
    figures: Path | None = None,
    given: Mapping[str, str] | None = None,
) -> list[Job]:
    """Pair each notebook with its parameters at a scale, from `parameters/SCALE.yml` beside the notebooks.

    Where a notebook takes them, `scale` is set to the scale and nothing else, `figures` to the folder asked for.

    Args:
        notebooks: their paths.
        scale: name of the scale; None for "pocket", or beside notebooks without any scale for their saved defaults.
        figures: where figures go; None for the notebooks' default.
        given: parameters as texts by name, which come before those of the scale; every notebook must take them.

    Raises:
        ParameterError: naming the notebook and the parameter that is unknown, of the wrong type, or not to be set.
    """
    jobs = []
    for notebook in notebooks:
        declared = declared_parameters(notebook)
        mine, values = POCKET if scale is None else scale, {}
        if scale is None and not (notebook.parent / "parameters").is_dir():
            mine = DEFAULTS
        else:
            values = _entries(notebook.parent / "parameters" / f"{mine}.yml").get(notebook.stem) or {}
        if mine != DEFAULTS and "scale" in {*values, *(given or {})}:  # it would be a name for what was not run
            meant = (given or values).get("scale", "NAME")
            what = f"parameter 'scale' names the scale that is run, here {mine}"
            raise ParameterError(f"{notebook.name}: {what}; it is chosen by --scale {meant}")
        for name, value in values.items():
            _check(f"{notebook.name} at scale {mine}", name, value, declared)
        chosen = {}
        for name, text in (given or {}).items():
            chosen[name] = _value(text, declared.get(name, ""))
            _check(notebook.name, name, chosen[name], declared)
        automatic = {"scale": None if mine == DEFAULTS else mine, "figures": str(figures) if figures else None}
        automatic = {k: v for k, v in automatic.items() if k in declared and v is not None}
        jobs.append(Job(notebook, {**automatic, **values, **chosen}, mine))
    return jobs


def texts_by_name(texts: Sequence[str]) -> dict[str, str]:
    """Parameters as they stand on the command line, by name.

    Args:
        texts: each of the form name=value.

    Raises:
        ParameterError: naming what is not, or comes twice.
    """
    given: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ParameterError(f"-p {text}: not of the form name=value")
        if name in given:
            raise ParameterError(f"-p {name}: given twice, {given[name]!r} and {value!r}")
        given[name] = value
    return given


def _value(text: str, written: str) -> object:
    """A parameter's value from the command line, by its type: a text as it stands, all else as in YAML."""
    kind, optional = _type(written)
    if optional and text in ("None", "null", ""):
        return None
    if kind == "str":
        return text
    try:
        return float(text) if kind == "float" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return text


def check_devices(jobs: Sequence[Job]) -> None:
    """Whether this machine has the devices that notebooks ask for, which they would find out only when they train.

    Args:
        jobs: what is to run.

    Raises:
        ParameterError: naming the notebook and the device.
    """
    for job in jobs:
        device = job.parameters.get("device")
        if isinstance(device, str) and device:
            try:
                usable_device(device)
            except ValueError as error:
                raise ParameterError(f"{job.notebook.name}: {error}; -p device=cpu runs it on the CPU") from None


def _entries(file: Path) -> dict[str, dict]:
    """A parameter file: for each notebook, by its name without the ending, its parameters."""
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        scales = sorted(p.stem for p in file.parent.glob("*.yml"))
        raise ParameterError(
            f"no scale {file.name.removesuffix('.yml')!r} in {file.parent}; there are: {scales}"
        ) from None
    except yaml.YAMLError as error:
        raise ParameterError(f"{file}: {error}") from None
    if not isinstance(entries, dict) or not all(isinstance(e, dict | None) for e in entries.values()):
        raise ParameterError(f"{file}: not a mapping of notebook names to parameters")
    for stem in entries:
        if not (file.parent.parent / f"{stem}.ipynb").is_file():
            raise ParameterError(f"{file.name} names the notebook {stem!r}, and there is no {stem}.ipynb")
    return entries


def _check(where: str, name: str, value: object, declared: dict[str, str]) -> None:
    if name not in declared:
        [*near] = difflib.get_close_matches(name, declared, 1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise ParameterError(f"{where}: unknown parameter {name!r}; {meant}it takes: {', '.join(declared) or 'none'}")
    kind, optional = _type(declared[name])
    if not (optional and value is None) and not _fits(value, kind):
        hint = " (in YAML 1e-4 is a text, 1.0e-4 a number)" if isinstance(value, str) and "float" in kind else ""
        raise ParameterError(f"{where}: parameter {name!r} is {kind}, got {value!r}{hint}")


def _type(written: str) -> tuple[str, bool]:
    """A type as written in a parameters cell, and whether it may be None."""
    written = written.strip()
    if written.startswith("Optional[") and written.endswith("]"):
        return written[len("Optional[") : -1].strip(), True
    return written, False


def _fits(value: object, kind: str) -> bool:
    name, _, inner = kind.partition("[")
    expected = _YAML_TYPES.get(name.strip().lower())
    if expected is None:  # nothing is known of it
        return True
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        return False
    return not isinstance(value, list) or not inner or all(_fits(item, inner.rstrip("]")) for item in value)
