"""Run the notebooks and print what they reproduced: `python -m orthonar.reproduce --scale pocket`.

The parameters of every notebook are checked before anything is computed. A notebook that fails does not keep
the others from running. Exit status: 0 all complete, 1 a notebook failed, 2 nothing was run, 130 interrupted.
"""

import argparse
import glob
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.log import logger as papermill_log
from tqdm import tqdm

from .. import paths
from .artefacts import Artefact, rows_in, table

# What the values of a parameter file may be, by the type written in the notebook's parameters cell.
_YAML_TYPES = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "str": str,
    "list": list,
    "tuple": list,
    "dict": dict,
}


class ParameterError(ValueError):
    """A parameter file and a notebook do not fit each other."""


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


def find_notebooks(pattern: str | None = None) -> list[Path]:
    """The notebooks to run, in order; a pattern without a slash means names in the project's notebooks/."""
    if pattern is None or "/" not in pattern:
        pattern = str(paths.project_root() / "notebooks" / (pattern or "*.ipynb"))
    found = [Path(p).resolve() for p in glob.glob(pattern) + glob.glob(pattern + ".ipynb")]
    return sorted({p for p in found if p.suffix == ".ipynb"})


def declared_parameters(notebook: Path) -> dict[str, str]:
    """The parameters that a notebook takes, each with its type as written there ("None": none written)."""
    level = papermill_log.level
    papermill_log.setLevel("ERROR")  # a line it cannot parse leaves the parameter out, which is reported here
    try:
        return {p["name"]: p["inferred_type_name"] for p in papermill.inspect_notebook(str(notebook)).values()}
    finally:
        papermill_log.setLevel(level)


def plan(notebooks: list[Path], scale: str, figures: Path | None = None) -> list[Job]:
    """Pair each notebook with its parameters at a scale, from `parameters/SCALE.yml` beside the notebooks.

    Where a notebook takes them, `scale` is set to the scale and `figures` to the folder asked for.

    Raises:
        ParameterError: naming the notebook and the parameter that is unknown or of the wrong type.
    """
    jobs = []
    for notebook in notebooks:
        given = _entries(notebook.parent / "parameters" / f"{scale}.yml").get(notebook.stem) or {}
        declared = declared_parameters(notebook)
        for name, value in given.items():
            _check(f"{notebook.name} at scale {scale}", name, value, declared)
        automatic = {"scale": scale, "figures": str(figures) if figures else None}
        automatic = {k: v for k, v in automatic.items() if k in declared and v is not None}
        jobs.append(Job(notebook, {**automatic, **given}, scale))
    return jobs


def _entries(file: Path) -> dict[str, dict]:
    """A parameter file: for each notebook, by its name without the ending, its parameters."""
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        scales = sorted(p.stem for p in file.parent.glob("*.yml"))
        raise ParameterError(f"no scale {file.stem!r} here ({file}); there are: {scales}") from None
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
        takes = ", ".join(declared) or "none"
        raise ParameterError(f"{where}: unknown parameter {name!r}; it takes: {takes}")
    written = declared[name].strip()
    if written.startswith("Optional[") and written.endswith("]"):
        if value is None:
            return
        written = written[len("Optional[") : -1].strip()
    expected = _YAML_TYPES.get(written.split("[")[0].strip().lower())
    if expected is None:
        return
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        hint = " (in YAML 1e-4 is a text, 1.0e-4 a number)" if isinstance(value, str) else ""
        raise ParameterError(f"{where}: parameter {name!r} is {written}, got {value!r}{hint}")


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
            str(partial),
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
        print(f"{'':{width}}            {outcome.copy}")
        if outcome.error is not None and outcome.rows:
            print(f"{'':{width}}            reported before: {len(outcome.rows)} row(s), not in the table")
    for job in jobs[len(outcomes) :]:
        print(f"{job.name:{width}}         -  not run to its end")
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m orthonar.reproduce", description=__doc__.split("\n")[0])
    parser.add_argument("--scale", default="pocket", help="pocket (CPU, the default) or paper (GPU)")
    parser.add_argument("--notebooks", metavar="GLOB", help="names in notebooks/, such as '03*', or paths")
    parser.add_argument("--build", metavar="DIR", type=Path, help="where executed copies go; default: build/")
    parser.add_argument("--figures", metavar="DIR", type=Path, help="where figures go; default: figures/")
    args = parser.parse_args(argv)
    build = (args.build or paths.build_dir()).resolve()
    figures = args.figures.resolve() if args.figures else None

    notebooks = find_notebooks(args.notebooks)
    if not notebooks:
        print(f"no notebook fits {args.notebooks or 'notebooks/*.ipynb'}", file=sys.stderr)
        return 2
    try:
        jobs = plan(notebooks, args.scale, figures)
        for folder in filter(None, (build, figures)):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()  # can be written to
    except (ParameterError, OSError) as error:
        print(f"nothing was run: {error}", file=sys.stderr)
        return 2

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
