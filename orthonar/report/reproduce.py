"""Run notebooks and print what they reproduced: `python -m orthonar.reproduce 03 --scale pocket -p seeds=[0,1]`.

The parameters of every notebook are checked before anything is computed. A notebook that fails does not keep the
others from running, and what it did until then is kept. Exit status: 0 all complete, 1 a notebook failed, 2 nothing
was run, 130 interrupted.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import LocalHandler, papermill_io
from tqdm import tqdm

from .. import paths
from ..study.jsonl import write_file
from ..study.records import RunStore
from .artefacts import Artefact, rows_in, table
from .jobs import Job, ParameterError, check_devices, find_notebooks, plan, texts_by_name

#: Bytes that must be free where executed copies and figures go, for each notebook.
_ROOM = 4 << 20


class _InOnePiece(LocalHandler):
    """Saves each state of a running notebook whole or not at all: on a full disk the state before is kept."""

    scheme = "orthonar-whole:"

    def write(self, buf: str, path: str) -> None:
        write_file(Path(path.removeprefix(self.scheme)), buf.encode())

    def pretty_path(self, path: str) -> str:
        return path.removeprefix(self.scheme)


papermill_io.register(_InOnePiece.scheme, _InOnePiece())


@dataclass(frozen=True)
class Outcome:
    """What became of a job; `error` is None for a complete one."""

    job: Job
    copy: Path
    seconds: float
    error: str | None
    rows: list[Artefact] = field(default_factory=list)


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


def _figures(job: Job) -> Path:
    """Where a notebook's figures go."""
    named = job.parameters.get("figures")
    return Path(job.notebook.parent, named).resolve() if isinstance(named, str) and named else paths.figures_dir()


def _records_folder(named: str) -> Path:
    """The folder of records that is asked for, by its whole path."""
    folder = Path(named).expanduser().resolve()
    if not folder.is_dir():
        raise ParameterError(f"results: there is no folder {folder}; make it if runs are to be recorded there")
    return folder


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
    where = "where figures go; default: figures/, or with records of another folder (-p results=) figures/ in build"
    parser.add_argument("--figures", metavar="DIR", type=Path, help=where)
    args = parser.parse_args(argv)
    build = (args.build or paths.build_dir()).resolve()
    figures = args.figures.resolve() if args.figures else None

    try:
        texts = texts_by_name(args.parameter)
        if texts.get("results"):  # from where the command is called; a notebook runs in its own folder
            texts["results"] = str(_records_folder(texts["results"]))
        if figures is None and texts.get("results"):
            figures = build / "figures"  # those in figures/ show the project's own records
        notebooks = find_notebooks(*args.names, *filter(None, [args.notebooks]))
        jobs = plan(notebooks, args.scale, figures, texts)
        for folder in dict.fromkeys([build, *map(_figures, jobs)]):
            _check_room(folder, len(jobs))
        check_devices(jobs)
        store = RunStore(texts.get("results") or paths.results_dir())
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


if __name__ == "__main__":
    sys.exit(main())
