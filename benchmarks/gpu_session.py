"""Make the most of a GPU that is there for a short time: test, measure, then record runs, the most informative first.

    python -m benchmarks.gpu_session --results DIR --seconds 540 [--stages tests cost sweep] [--presets NAME ...]

Records go to DIR, which may be a copy of results/: what is recorded there is not run again. Each stage says what it
did; a stage that fails or is out of time does not stop the next.
"""

import argparse
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

#: Presets in the order in which their runs tell most about the published claims.
PRESETS = ("headline", "replication", "schedule", "initialisation", "ablation")
#: Whatever touches the fused kernels, CUDA graphs or a generator on the device.
_FILES = (
    "fused", "chunk_memory", "mlstm", "model", "train", "followup", "writes", "data", "precision", "transforms",
)  # fmt: skip
_TESTS = [f"tests/test_{name}.py" for name in _FILES]
STAGES = ("tests", "cost", "sweep")
_GRACE = 4  # seconds


def stage_commands(stage: str, args: argparse.Namespace) -> list[list[str]]:
    """The commands of a stage, one after the other, as arguments of this Python."""
    if stage == "tests":
        side_by_side = ["-n", "8"] if importlib.util.find_spec("xdist") else []
        chosen = ["-m", "needs_triton or needs_cuda"]
        return [["pytest", "-q", "-p", "no:cacheprovider", *side_by_side, *chosen, *_TESTS]]
    if stage == "cost":
        sizes = ["--lengths", *map(str, args.lengths), "--steps-of-newton-schulz", "5"]
        return [["benchmarks.cost", "--device", "cuda", *sizes, "--results", str(args.results / "benchmarks")]]
    options = ["--device", "cuda", "--results", str(args.results)]
    options += ["--workers", str(args.workers), "--together", str(args.together)]
    return [["orthonar.sweep", preset, *options] for preset in args.presets]


def run_for(command: list[str], seconds: float) -> int | str:
    """Run a command for at most so long, and end all that it started with it; returns its exit status.

    It is asked to end before it is made to, so that it can keep what it has.
    """
    process = subprocess.Popen([sys.executable, "-m", *command], start_new_session=True)
    try:
        return process.wait(max(1.0, seconds - _GRACE))
    except subprocess.TimeoutExpired:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        return "out of time"
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended, and all that it started
        process.wait()


def main() -> None:
    """Parse the command line and run the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder that records go to")
    parser.add_argument("--seconds", type=float, default=540, help="time for all of it")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--presets", nargs="+", default=PRESETS, help="what the stage sweep runs, in order")
    parser.add_argument("--lengths", nargs="+", type=int, default=(512, 768, 1024), help="what the stage cost measures")
    parser.add_argument("--workers", type=int, default=3, help="processes that share the GPU")
    parser.add_argument("--together", type=int, default=4, help="runs that each trains side by side")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device here")
    deadline = time.monotonic() + args.seconds
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    for stage in args.stages:
        for command in stage_commands(stage, args):
            left = deadline - time.monotonic()
            if left < 10:
                print(f"out of time before: {' '.join(command)}", flush=True)
                continue
            started = time.monotonic()
            budget = ["--time-budget", f"{left - 5:.0f}"] if stage == "sweep" else []
            status = run_for([*command, *budget], left)
            print(f"== {' '.join(command)}: {status}, {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
