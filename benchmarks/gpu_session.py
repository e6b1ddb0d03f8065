"""Make the most of a GPU that is there for a short time: test, measure, then record runs, the most informative first.

    python -m benchmarks.gpu_session --results DIR --seconds 540 [--stages tests cost sweep] [--together 4]

Records go to DIR, which may be a copy of results/: what is recorded there is not run again. Each stage says what it
did; a stage that fails does not stop the next.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

#: Presets in the order in which their runs tell most about the published claims.
PRESETS = ("headline", "replication", "schedule", "initialisation", "ablation")
_TESTS = ["tests/test_fused.py", "tests/test_chunk_memory.py", "tests/test_mlstm.py", "tests/test_train.py"]
STAGES = {
    "tests": [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *_TESTS, "-k", "fused or graph or trial"],
    "cost": [sys.executable, "-m", "benchmarks.cost", "--device", "cuda", "--lengths", "512", "768", "1024"],
}


def main() -> None:
    """Parse the command line and run the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder that records go to")
    parser.add_argument("--seconds", type=float, default=540, help="time for all of it")
    parser.add_argument("--stages", nargs="+", choices=[*STAGES, "sweep"], default=[*STAGES, "sweep"])
    parser.add_argument("--together", type=int, default=4, help="runs side by side on the GPU")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device here")
    deadline = time.monotonic() + args.seconds
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    for stage in args.stages:
        if stage == "sweep":
            commands = [[sys.executable, "-m", "orthonar.sweep", preset, "--device", "cuda"] for preset in PRESETS]
            commands = [[*c, "--results", str(args.results), "--together", str(args.together)] for c in commands]
        else:
            commands = [STAGES[stage] + (["--results", str(args.results)] if stage == "cost" else [])]
        for command in commands:
            left = deadline - time.monotonic()
            if left < 10:
                print(f"out of time before: {' '.join(command[2:])}", flush=True)
                continue
            started = time.monotonic()
            budget = ["--time-budget", f"{left - 5:.0f}"] if stage == "sweep" else []
            try:
                status = subprocess.run([*command, *budget], timeout=left).returncode
            except subprocess.TimeoutExpired:
                status = "out of time"
            took = time.monotonic() - started
            print(f"== {' '.join(command[2:])}: {status}, {took:.0f} s", flush=True)


if __name__ == "__main__":
    main()
