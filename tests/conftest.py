"""What all tests of this folder share."""

import importlib.util
import os

import pytest
import torch

# Without a GPU, Triton's interpreter runs the fused programs; it must be told before they are first imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items):
    """Tests of the fused programs, marked by `needs_triton`, are skipped where Triton cannot be installed."""
    if importlib.util.find_spec("triton") is None:
        skip = pytest.mark.skip(reason="Triton is not installed")
        for item in items:
            if "needs_triton" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """One thread: sums come out the same on every run, and small tensors are not slowed down by more."""
    torch.set_num_threads(1)
