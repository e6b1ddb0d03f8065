"""Sweeps on a Dask cluster; needs the extra orthonar[cluster]."""

from collections.abc import Callable
from concurrent.futures import Executor

_TIMEOUT = 20  # seconds


def dask_executor(address: str) -> tuple[Callable[[], Executor], int]:
    """Something that makes an executor on the cluster at this address, and how many runs it takes at a time.

    A worker that dies does not lose its run: the cluster's scheduler gives it to another one.

    Raises:
        ImportError: the extra is not installed.
        OSError: no scheduler answers there.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ImportError("--dask needs the extra: pip install 'orthonar[cluster]'") from None
    client = Client(address, timeout=_TIMEOUT, set_as_default=False)
    # Runs are pure, but must not be taken for one another's: the store tells which are done, not the cluster.
    return lambda: client.get_executor(pure=False), max(1, sum(client.ncores().values()))
