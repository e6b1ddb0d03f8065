"""Run notebooks and print what they reproduced: `python -m orthonar.reproduce 03 --scale pocket -p seeds=[0,1]`.

The parameters of every notebook are checked before anything is computed. A notebook that fails does not keep the
others from running, and what it did until then is kept. Exit status: 0 all complete, 1 a notebook failed, 2 nothing
was run, 130 interrupted.
"""

import argparse
import difflib
import glob
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import LocalHandler, papermill_io
from papermill.log import logger as papermill_log
from tqdm import tqdm

from .. import paths
from ..study.jsonl import write_file
from ..study.records import RunStore
from ..training.config import usable_device
from .artefacts import Artefact, rows_in, table

#: The scale without another word, and what stands in its place for notebooks that no scale is written for.
POCKET, DEFAULTS = "pocket", "defaults"
#: Bytes that must be free where executed copies and figures go, for each notebook.
_ROOM = 4 << 20

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


class _InOnePiece(LocalHandler):
    """Saves each state of a running notebook whole or not at all: on a full disk the state before is kept."""

    scheme = "orthonar-whole:"

    def write(self, buf: str, path: str) -> None:
        write_file(Path(path.removeprefix(self.scheme)), buf.encode())

    def pretty_path(self, path: str) -> str:
        return path.removeprefix(self.scheme)


papermill_io.register(_InOnePiece.scheme, _InOnePiece())


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


@dataclass(frozen=True)
class Outcome:
    """What became of a job; `error` is None for a complete one."""

    job: Job
    copy: Path
    seconds: float
    error: str | None
    rows: list[Artefact] = field(default_factory=list)


def find_notebooks(*names: str) -> list[Path]:
    """The notebooks to run, in order.

    Args:
        names: paths of notebooks, or patterns of paths; what has no slash and is no file here is the beginning or a
            pattern of names in the project's notebooks/, such as "03" or "0[1-3]*". None means all of these.

    Returns:
        Their paths, each once.

    Raises:
        ParameterError: naming what fits no notebook.
    """
    folder = paths.project_root() / "notebooks"
    found: dict[Path, None] = {}
    for name in names or ("*",):
        patterns = [str(folder / f"{name}*")] if "/" not in name else [name, f"{name}.ipynb"]
        matching = [Path(name)] if Path(name).is_file() else [Path(p) for p in sum(map(glob.glob, patterns), [])]
        matching = [path.resolve() for path in matching if path.suffix == ".ipynb"]
        if not matching:
            there = ", ".join(path.stem for path in sorted(folder.glob("*.ipynb")))
            raise ParameterError(f"no notebook fits {name!r}" + ("" if "/" in name else f"; there are: {there}"))
        found |= dict.fromkeys(matching)
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

    Where a notebook takes them, `scale` is set to the scale and `figures` to the folder asked for.

    Args:
        notebooks: their paths.
        scale: name of the scale; None for "pocket", or beside notebooks without any scale for their saved defaults.
        figures: where figures go; None for the notebooks' default.
        given: parameters as texts by name, which come before those of the scale; every notebook must take them.

    Raises:
        ParameterError: naming the notebook and the parameter that is unknown or of the wrong type.
    """
    jobs = []
    for notebook in notebooks:
        declared = declared_parameters(notebook)
        mine, values = scale or POCKET, {}
        if scale is None and not (notebook.parent / "parameters").is_dir():
            mine = DEFAULTS
        else:
            values = _entries(notebook.parent / "parameters" / f"{mine}.yml").get(notebook.stem) or {}
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


def _check_devices(jobs: Sequence[Job]) -> None:
    """What a notebook would find out only after it has begun."""
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
        raise ParameterError(f"no scale {file.stem!r} in {file.parent}; there are: {scales}") from None
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


def run(job: Job, build: Path) -> Outcome:
    """Execute one notebook; its copy bears its final name only when every cell ran.

    Ctrl-C ends the run as it does any program; what was executed by then stays in the partial copy.
    """
    copy = build / f"{job.name}.{job.scale}.ipynb"
    partial = copy.with_suffix(".partial.ipynb")
    partial.unlink(missing_ok=True)
    start = time.monotonic()
    out, err = _Lines(sys.stdout), _Lines(sys.stderr)
    error = None
    try:
        papermill.execute_notebook(
            str(job.notebook),
            f"{_InOnePiece.scheme}{partial}",
            parameters=job.parameters,
            cwd=str(job.notebook.parent),  # as in JupyterLab
            kernel_name="python3",
            progress_bar={"desc": job.name, **_bar()},
            stdout_file=out,
            stderr_file=err,
            start_timeout=180,
            extra_arguments=["--log-level=ERROR"],  # the kernel's own notices
        )
        _every_cell_ran(partial)
    except PapermillExecutionError as failure:
        error = f"In [{failure.exec_count}]: {failure.ename}: {failure.evalue}"
    except DeadKernelError:
        error = "the kernel died: killed, crashed, or out of memory"
    except OSError as failure:
        error = f"its copy cannot be saved any more ({failure.strerror or failure})"
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
    finally:
        out.close()
        err.close()
    if error is None:
        os.replace(partial, copy)
    saved = copy if error is None else partial
    return Outcome(job, saved, time.monotonic() - start, error, rows_in(saved) if saved.is_file() else [])


def _every_cell_ran(executed: Path) -> None:
    """A notebook can end early without an error: `sys.exit()` in a cell, for one."""
    cells = nbformat.read(executed, as_version=4).cells
    for number, cell in enumerate(cells, 1):
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            raise RuntimeError(f"it stopped before its cell {number} of {len(cells)}")


class _Lines:
    """Passes a notebook's output on line by line, indented, past a progress bar if one stands there."""

    def __init__(self, stream):
        self.stream, self.pending = stream, ""

    def write(self, text: str) -> None:
        *lines, self.pending = (self.pending + text).split("\n")
        for line in lines:
            tqdm.write(f"    {line.rsplit(chr(13), 1)[-1]}".rstrip(), file=self.stream)
        self.stream.flush()

    def flush(self) -> None:
        """Half a line waits for its other half."""

    def close(self) -> None:
        if self.pending:
            self.write("\n")


class _BarAsLines:
    """A progress bar's stream where there is no terminal: a line per state, not one drawn over."""

    def __init__(self, stream):
        self.stream, self.last = stream, ""

    def write(self, text: str) -> None:
        line = text.strip()
        if line and line != self.last:
            self.last = line
            print(line, file=self.stream, flush=True)

    def flush(self) -> None:
        self.stream.flush()


def _bar() -> dict:
    if sys.stderr.isatty():
        # 80 x 24 where a terminal tells no size; tqdm by itself would draw nothing there
        size = shutil.get_terminal_size()
        return {"ncols": min(size.columns, 100), "nrows": size.lines}
    return {"file": _BarAsLines(sys.stderr), "ncols": 100, "mininterval": 5.0}


def print_summary(jobs: list[Job], outcomes: list[Outcome]) -> None:
    """The final table, then a line per notebook: how long it took, or what went wrong."""
    rows = [row for outcome in outcomes if outcome.error is None for row in outcome.rows]
    print("\nWhat was reproduced\n")
    print(table(rows) if rows else "nothing")
    print()
    width = max(len(job.name) for job in jobs)
    for outcome in outcomes:
        state = "complete" if outcome.error is None else f"FAILED: {outcome.error}"
        print(f"{outcome.job.name:{width}}  {outcome.seconds:6.0f} s  {state}")
        kept = "" if outcome.error is None else "what it did until then is in "
        if outcome.copy.is_file():
            print(f"{'':{width}}            {kept}{outcome.copy}")
        if outcome.error is not None and outcome.rows:
            print(f"{'':{width}}            reported before: {len(outcome.rows)} row(s), not in the table")
    for job in jobs[len(outcomes) :]:
        print(f"{job.name:{width}}         -  not run to its end")
    sys.stdout.flush()


def _given(texts: Sequence[str]) -> dict[str, str]:
    """Parameters as they stand on the command line."""
    given = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ParameterError(f"-p {text}: not of the form name=value")
        given[name] = value
    return given


def _figures(job: Job) -> Path:
    """Where a notebook's figures go."""
    named = job.parameters.get("figures")
    return Path(job.notebook.parent, named).resolve() if isinstance(named, str) and named else paths.figures_dir()


def _check_room(folder: Path, notebooks: int) -> None:
    """Make a folder and try whether it takes what some notebooks write."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error.strerror or error})") from None
    free, needed = shutil.disk_usage(folder).free, notebooks * _ROOM
    if free < needed:
        raise OSError(f"the disk of {folder} is full: {free >> 10} KiB are free, {needed >> 10} are needed")


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m orthonar.reproduce", description=__doc__.split("\n")[0])
    what = "names in notebooks/, such as 03 or '0[1-3]*', or paths; default: all"
    parser.add_argument("names", metavar="NOTEBOOK", nargs="*", help=what)
    parser.add_argument("--scale", help="pocket (CPU, the default) or paper (GPU)")
    parser.add_argument("--notebooks", metavar="GLOB", help="the same as NOTEBOOK")
    value = "a parameter of the notebooks, as of the saved defaults; may come several times"
    parser.add_argument("-p", "--parameter", metavar="NAME=VALUE", action="append", default=[], help=value)
    parser.add_argument("--build", metavar="DIR", type=Path, help="where executed copies go; default: build/")
    parser.add_argument("--figures", metavar="DIR", type=Path, help="where figures go; default: figures/")
    args = parser.parse_args(argv)
    build = (args.build or paths.build_dir()).resolve()
    figures = args.figures.resolve() if args.figures else None

    try:
        notebooks = find_notebooks(*args.names, *filter(None, [args.notebooks]))
        jobs = plan(notebooks, args.scale, figures, _given(args.parameter))
        for folder in dict.fromkeys([build, *map(_figures, jobs)]):
            _check_room(folder, len(jobs))
        _check_devices(jobs)
        store = RunStore(paths.results_dir())
        store.records()
    except (ParameterError, OSError) as error:
        print(f"nothing was run: {error}", file=sys.stderr)
        return 2
    for damage in store.damaged:
        print(f"damaged: {damage}", file=sys.stderr)

    outcomes = []
    try:
        for number, job in enumerate(jobs, 1):
            given = ", ".join(f"{k}={v!r}" for k, v in job.parameters.items()) or "its saved defaults"
            print(f"\n[{number}/{len(jobs)}] {job.name}: {given}", flush=True)
            outcomes.append(run(job, build))
    except KeyboardInterrupt:
        print(f"\ninterrupted in {jobs[len(outcomes)].name}: no row of it is in the table", flush=True)
        print_summary(jobs, outcomes)
        return 130
    print_summary(jobs, outcomes)
    return 1 if any(outcome.error for outcome in outcomes) else 0
