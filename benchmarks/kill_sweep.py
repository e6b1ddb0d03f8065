"""Kill a sweep with SIGKILL at random moments, resume it each time, and see whether anything was lost or repeated.

    python -m benchmarks.kill_sweep --kills 20 --seed 0

Every time the sweep's process alone or its whole group is killed, between 0 and 2 seconds after its first new record
(or before it, one time in four). At the end the sweep runs to its end. Exits with 1 if a line that was there is gone or
changed, a run is recorded twice, a line is damaged, or a run is missing.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orthonar import paths
from orthonar.study.executors import local_executor
from orthonar.study.presets import Study
from orthonar.study.records import RunStore
from orthonar.study.sweep import Sweep

STUDY = Study(
    "tiny",
    ({"vocab_size": 16, "seq_len": 16, "noise_vocab_size": 4},),
    {"embedding_dim": 8, "num_heads": 2, "batch_size": 2, "steps": 20, "eval_every": 5, "validation_sequences": 2},
    rates=(1e-3, 1e-2),
    rate_seeds=(1000, 1001),
    seeds=tuple(range(80)),
)


def begin(folder: Path) -> subprocess.Popen:
    """The sweep in a process group of its own."""
    command = [sys.executable, "-m", "benchmarks.kill_sweep", "--run-in", str(folder)]
    root = str(paths.project_root())
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=root, env=os.environ | {"PYTHONPATH": root}, start_new_session=True, **quiet)


def main() -> int:
    """Parse the command line, kill, count, print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--run-in", type=Path, help="used by this script itself: run the sweep in this folder")
    args = parser.parse_args()
    if args.run_in:
        Sweep(STUDY, "tiny", RunStore(args.run_in), lambda: local_executor(2), 2).run()
        return 0
    rng = random.Random(args.seed)
    problems = []
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "tiny.jsonl"
        kept: list[bytes] = []
        for number in range(1, args.kills + 1):
            process = begin(Path(name))
            early, whole_group = rng.random() < 0.25, rng.random() < 0.5
            while not early and len(lines_of(file)) <= len(kept) and process.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 8 if early else 2))
            if process.poll() is not None:
                problems.append(f"kill {number}: the sweep had ended by itself, nothing was killed")
            elif whole_group:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
            lines = lines_of(file)
            if lines[: len(kept)] != kept:
                problems.append(f"kill {number}: recorded lines changed")
            print(f"kill {number} ({'group' if whole_group else 'parent'}): {len(lines)} runs recorded", flush=True)
            kept = lines
        begin(Path(name)).wait()
        store = RunStore(name)
        records, lines = store.records(), lines_of(file)
        if lines[: len(kept)] != kept:
            problems.append("recorded lines changed")
        problems += [f"damaged: {damage}" for damage in store.damaged]
        if len(lines) != len(records):
            problems.append(f"{len(lines) - len(records)} lines are repeats or damaged")
        if len(records) != STUDY.size():
            problems.append(f"{STUDY.size() - len(records)} runs are missing")
        print(f"{len(records)} of {STUDY.size()} runs recorded, in {len(lines)} lines, after {args.kills} kills")
    print("\n".join(problems) or "nothing lost, nothing repeated, nothing damaged")
    return bool(problems)


def lines_of(file: Path) -> list[bytes]:
    """The file's lines so far."""
    return file.read_bytes().splitlines() if file.exists() else []


if __name__ == "__main__":
    sys.exit(main())
