"""Kill a sweep with SIGKILL at random moments, with its disk filling up in half of them, and see what is lost.

    python -m benchmarks.kill_sweep --kills 20 --seed 0

In turns one worker, the sweep's process alone or its whole group is killed, between 0 and 2 seconds after its first
new record (or before it, one time in four). In every second round the disk that the records lie on is filled at a
random moment before: a real file system of 1 MB where this may mount one, as root may, else a limit to the size of the
sweep's files. Records that the sweep then keeps elsewhere are adopted when there is room again. At the end the sweep
runs to its end.

Exits with 1 if a run that was reported as recorded or kept is not there, a line that was there is gone or changed, a
run is recorded twice, a line is damaged, or a run is missing.
"""

import argparse
import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from orthonar import paths
from orthonar.study.executors import local_executor
from orthonar.study.presets import Study
from orthonar.study.records import RunStore
from orthonar.study.rescue import adopt
from orthonar.study.runs import describe
from orthonar.study.sweep import Sweep
from orthonar.sweep import summary

STUDY = Study(
    "tiny",
    ({"vocab_size": 16, "seq_len": 16, "noise_vocab_size": 4},),
    {"embedding_dim": 8, "num_heads": 2, "batch_size": 2, "steps": 20, "eval_every": 5, "validation_sequences": 2},
    rates=(1e-3, 1e-2),
    rate_seeds=(1000, 1001),
    seeds=tuple(range(80)),
)
_ENDS = ("worker", "parent", "group")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a file system of 1 MB at a folder; whether that is allowed."""
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Round:
    """The sweep in a process group of its own, and what it says.

    Args:
        results: folder of its records.
        elsewhere: folder of its temporary files.
        limit: bytes that none of its files can grow beyond; 0 for no limit.
    """

    def __init__(self, results: Path, elsewhere: Path, limit: int = 0):
        command = [sys.executable, "-m", "benchmarks.kill_sweep", "--run-in", str(results), "--limit", str(limit)]
        root = str(paths.project_root())
        environment = os.environ | {"PYTHONPATH": root, "TMPDIR": str(elsewhere), "OMP_NUM_THREADS": "1"}
        options = {"cwd": root, "env": environment, "text": True, "start_new_session": True}
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, **options, **quiet)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)

    def reported(self) -> set[str]:
        """The runs, in words, that it said are finished: recorded, or kept elsewhere."""
        return {line.split(": accuracy")[0] for line in self.lines if ": accuracy" in line and line.endswith("\n")}

    def kill(self, what: str, rng: random.Random) -> bool:
        """Kill something of it; whether it was there."""
        if self.process.poll() is not None:
            return False
        try:
            if what == "group":
                os.killpg(self.process.pid, signal.SIGKILL)
            elif what == "parent":
                self.process.kill()
            else:
                children = psutil.Process(self.process.pid).children()
                workers = [c for c in children if "spawn_main" in " ".join(c.cmdline())]
                if not workers:
                    return False
                rng.choice(workers).kill()
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False
        return True

    def wait(self) -> int:
        """Wait for its end; its exit status."""
        status = self.process.wait()
        self._reader.join()
        return status


def run_here(results: Path, limit: int) -> int:
    """Run the sweep in this process."""
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        text, status = summary(Sweep(STUDY, "tiny", RunStore(results), lambda: local_executor(2), 2, say=say).run())
    except OSError as error:
        text, status = f"nothing was run: {error}", 2
    say(text)
    return status


def fill(folder: Path, rng: random.Random) -> None:
    """Fill a disk, leaving room for no record or a few."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        while file.write(bytes(1 << 12)) == 1 << 12:
            pass
    os.truncate(filler, max(0, filler.stat().st_size - rng.choice((0, 1 << 12, 1 << 13))))


def main() -> int:
    """Parse the command line, kill, count, print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--run-in", type=Path, help="used by this script itself: run the sweep in this folder")
    parser.add_argument("--limit", type=int, default=0, help="used by this script itself: bytes a file may have")
    args = parser.parse_args()
    if args.run_in:
        return run_here(args.run_in, args.limit)
    with tempfile.TemporaryDirectory() as name, small_disk_in(Path(name)) as (results, mounted):
        problems = kill_and_count(results, Path(name) / "elsewhere", mounted, args.kills, random.Random(args.seed))
    print("\n".join(problems) or "nothing lost, nothing repeated, nothing damaged")
    return bool(problems)


@contextlib.contextmanager
def small_disk_in(folder: Path) -> Iterator[tuple[Path, bool]]:
    """A folder for results, on a disk of its own if that may be, and one for what is kept elsewhere."""
    (folder / "elsewhere").mkdir()
    (folder / "results").mkdir()
    with small_disk(folder / "results") as mounted:
        yield folder / "results", mounted


def kill_and_count(results: Path, elsewhere: Path, mounted: bool, kills: int, rng: random.Random) -> list[str]:
    """Kill so often, then run to the end; returns what went wrong."""
    problems = []
    file = results / "tiny.jsonl"
    kept: list[bytes] = []
    in_words: set[str] = set()  # runs that were reported
    counts = dict.fromkeys((*_ENDS, "full", "adopted"), 0)
    for number in range(1, kills + 1):
        what, filling, early = _ENDS[number % 3], number % 2 == 0, rng.random() < 0.25
        size = file.stat().st_size if file.exists() else 0
        # Room for the trial before the first run, and then for a few records or a dozen.
        limit = max(1 << 15, size) + rng.randrange(1, 1 << 13) if filling and not mounted else 0
        going = Round(results, elsewhere, limit)
        while not early and len(lines_of(file)) <= len(kept) and going.process.poll() is None:
            time.sleep(0.005)
        if filling:
            time.sleep(rng.uniform(0, 2))
            if mounted:
                fill(results, rng)
        time.sleep(rng.uniform(0, 8 if early else 2))
        killed = going.kill(what, rng)
        if what == "worker":  # the sweep goes on; it is ended some time later, if it does not end by itself
            time.sleep(rng.uniform(0, 6))
            going.kill("parent", rng)
        status = going.wait()
        (results / "filler").unlink(missing_ok=True)
        lines = lines_of(file)
        if lines[: len(kept)] != kept:
            problems.append(f"round {number}: recorded lines changed")
        adopted = [adopt(path, RunStore(results)) for path in sorted(elsewhere.glob("orthonar-*/*.jsonl"))]
        new = sum(a.added for a in adopted)
        kept = lines_of(file)
        in_words |= going.reported()
        problems += [f"round {number}: {lost} was reported and is gone" for lost in sorted(in_words - found(results))]
        counts[what] += killed
        counts["full"] += status == 3 or new > 0
        counts["adopted"] += new
        full = f", disk filled, {new} adopted" if filling else ""
        how = f"{what} killed" if killed else f"ended by itself before its {what} was killed, status {status}"
        print(f"round {number} ({how}{full}): {len(kept)} runs recorded, {len(in_words)} reported", flush=True)
    going = Round(results, elsewhere)
    if status := going.wait():
        problems.append(f"the last, undisturbed sweep ended with status {status}")
    in_words |= going.reported()
    problems += [f"{lost} was reported and is gone" for lost in sorted(in_words - found(results))]
    store = RunStore(results)
    records, lines = store.records(), lines_of(file)
    if lines[: len(kept)] != kept:
        problems.append("recorded lines changed")
    problems += [f"damaged: {damage}" for damage in store.damaged]
    if len(lines) != len(records):
        problems.append(f"{len(lines) - len(records)} lines are repeats or damaged")
    if len(records) != STUDY.size():
        problems.append(f"{STUDY.size() - len(records)} runs are missing")
    print(
        f"{len(records)} of {STUDY.size()} runs recorded, in {len(lines)} lines, after "
        + ", ".join(f"{counts[end]} kills of the {end}" for end in _ENDS)
        + f"; the {'disk' if mounted else 'file'} was full for the sweep in {counts['full']} rounds, "
        + f"{counts['adopted']} runs were kept elsewhere and adopted"
    )
    return problems


def found(results: Path) -> set[str]:
    """The recorded runs, in words."""
    records = {r.identity: r for r in RunStore(results).records()}
    return {describe(c) for c in STUDY.runs(records.values()) if c.identity in records}


def lines_of(file: Path) -> list[bytes]:
    """The file's lines so far."""
    return file.read_bytes().splitlines() if file.exists() else []


if __name__ == "__main__":
    sys.exit(main())
