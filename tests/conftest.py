"""What all tests of this folder share."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """One thread: sums come out the same on every run, and small tensors are not slowed down by more."""
    torch.set_num_threads(1)
