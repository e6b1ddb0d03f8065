"""What all tests of this folder share."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from packaging.version import Version

# Without a GPU, Triton's interpreter runs the fused kernels; it must be told before they are first imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def figures_closed():
    """Closes all figures after a test."""
    yield
    sys.modules["matplotlib.pyplot"].close("all")  # of those that draw


def why_no_triton() -> str | None:
    """Why the fused kernels cannot run here, if they cannot."""
    try:
        triton = Version(version("triton"))
    except PackageNotFoundError:
        return "Triton is not installed"
    if triton < Version("3.6"):
        return "the fused kernels want Triton 3.6 or newer"
    if not torch.cuda.is_available() and triton < Version("3.7") and Version(version("numpy")) >= Version("2.4"):
        return "the interpreter of Triton before 3.7 wants NumPy before 2.4"
    return None


def pytest_collection_modifyitems(items):
    """What is marked as needing something is skipped with a reason where that is missing."""
    reasons = {
        "needs_triton": why_no_triton(),
        "needs_cuda": None if torch.cuda.is_available() else "needs a CUDA device",
    }
    for item in items:
        for mark, reason in reasons.items():
            if reason is not None and mark in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """One thread: sums come out the same on every run, and small tensors are not slowed down by more."""
    torch.set_num_threads(1)


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 96 KB; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
