"""What a run's numbers depend on beside its settings: versions, device, source revision."""

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ..engine.backends import numba_version
from ..paths import project_root
from ..version import VERSION


@contextlib.contextmanager
def usual_defaults() -> Iterator[None]:
    """Inside, tensors are float32 and on the CPU where nothing else is said, whatever the caller has set.

    A run's settings say neither, and its record could not.
    """
    dtype = torch.get_default_dtype()
    elsewhere = torch.get_default_device().type != "cpu"
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu") if elsewhere else contextlib.nullcontext():  # every call of PyTorch pays for it
            yield
    finally:
        torch.set_default_dtype(dtype)


def versions() -> dict[str, str]:
    """Versions of what a run's numbers depend on."""
    numba = numba_version()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        **({} if numba is None else {"numba": numba}),
        "orthonar": VERSION,
    }


def device_name(device: torch.device) -> str:
    """A device as a reader would name it: the GPU's or the processor's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"{_processor()}, {threads} thread{'s'[: threads > 1]}"
    return str(device)


@lru_cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "CPU"


@lru_cache
def revision() -> str | None:
    """Commit of the checkout that this package runs from, or None outside one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(project_root()), *arguments]
        # Git's hooks name their own repository so, which need not be this one.
        here = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, env=here).stdout

    try:
        if not (project_root() / "orthonar" / "training" / "environment.py").samefile(__file__):
            return None
        commit = git("rev-parse", "HEAD").strip()
        return commit + ("+changes" if git("status", "--porcelain", "--", "orthonar").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None
