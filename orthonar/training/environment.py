"""What a run's numbers depend on beside its settings: versions, device, source revision."""

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..engine.backends import numba_version
from ..engine.by_hand import without_autocast
from ..paths import project_root
from ..version import VERSION


@contextlib.contextmanager
def usual_defaults() -> Iterator[None]:
    """Inside, PyTorch computes as it does where nobody has told it otherwise, whatever the caller has set.

    Tensors are float32 and on the CPU where nothing else is said, matrix products are in full float32, autocast is off,
    and gradients are there: a run's settings say none of it, and its record could not.
    """
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as usual:
        if torch.get_default_device().type != "cpu":  # every call of PyTorch pays for it
            usual.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            usual.enter_context(without_autocast(torch.device(device)))
        usual.enter_context(torch.inference_mode(False))
        usual.enter_context(torch.enable_grad())
        usual.enter_context(_full_products())
        usual.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        yield


@contextlib.contextmanager
def _full_products() -> Iterator[None]:
    """Inside, products of float32 matrices are in float32, in whichever of PyTorch's two ways the caller set it."""
    by_backend: dict[Any, str] = {}
    backends: Any = torch.backends  # whose names are new to older ones
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # one backend's is set, so that there is none of all
        precision = None
        by_backend = {b: b.fp32_precision for b in (backends.cuda.matmul, backends.mkldnn.matmul)}
    if precision == "highest":  # set once more, it would be deaf to torch.backends.fp32_precision from here on
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if precision is not None:
            torch.set_float32_matmul_precision(precision)
        for backend, its_own in by_backend.items():
            backend.fp32_precision = its_own


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
    """Commit of the checkout that this package runs from, or None outside one.

    "+changes" follows if a file of the package differs from the commit's, new files too.
    """
    # What a hook or a shell says of another repository is not meant for this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(project_root()), *arguments]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30)
        return run.stdout

    try:
        if not (project_root() / "orthonar" / "training" / "environment.py").samefile(__file__):
            return None
        commit = git("rev-parse", "HEAD").strip()
        return commit + ("+changes" if git("status", "--porcelain", "--", "orthonar").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None
