"""Where a sweep's runs are computed: processes of this machine, or a Dask cluster (the extra orthonar[cluster])."""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor

import torch

from ..training.config import usable_device
from .worker import begin_worker

_TIMEOUT = 20  # seconds, for a scheduler to answer
_GRACE = 10  # seconds, for a process that was told to end


def local_executor(workers: int, device: str = "cpu") -> ProcessPoolExecutor:
    """Processes on this machine: on CPUs each computes with one thread, GPUs are dealt out to them in turns."""
    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(workers):
        numbers.put(number)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=begin_worker, initargs=(numbers, device))


def default_workers(device: str) -> int:
    """One process a GPU, or one a CPU core that this process may use."""
    if torch.device(device).type == "cuda":
        return torch.cuda.device_count() if torch.device(device).index is None else 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _ClusterExecutor(Executor):
    """A Dask client's executor; where the scheduler is gone, what it had in progress counts as cancelled."""

    def __init__(self, client) -> None:
        self._client = client
        # Runs are pure, but must not be taken for one another's: the store tells which are done, not the cluster.
        self._executor = client.get_executor(pure=False)

    def submit(self, function, /, *args, **named) -> Future:
        try:
            return self._executor.submit(function, *args, **named)
        except Exception as error:
            if self._client.status in ("closing", "closed"):  # it gave its scheduler up since it was last looked at
                raise CancelledError("the connection to the Dask scheduler is closed") from error
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        try:
            self._executor.shutdown(wait=wait)
        except Exception:
            if self._client.status not in ("closing", "closed"):
                raise
        self._client.close()  # an executor made later connects anew


def dask_executor(
    address: str, device: str = "cpu", most_seconds: float | None = None
) -> tuple[Callable[[], Executor], int]:
    """Something that makes an executor on the cluster at this address, and how many runs it takes at a time.

    A worker that dies does not lose its run: the cluster's scheduler gives it to another one. A scheduler that dies
    takes the runs in progress with it; an executor made later looks for one at the same address again, and raises
    OSError where none answers.

    Args:
        address: the scheduler's.
        device: what every worker is to have.
        most_seconds: how long to wait for an answer at most; None for 20.

    Raises:
        ImportError: the extra is not installed.
        OSError: no scheduler answers there.
        ValueError: the address is none, or a worker that is there cannot use the device.
    """
    try:
        from distributed import Client
        from distributed.comm.addressing import get_address_host_port, parse_address
    except ImportError:
        raise ImportError("--dask needs the extra: pip install 'orthonar[cluster]'") from None

    try:  # before a client is made, which would try to connect for long
        if parse_address(address)[0] in ("tcp", "tls", "ws", "wss", "ucx"):
            get_address_host_port(address, strict=True)
    except ValueError as error:
        raise ValueError(f"dask: {address!r} is no scheduler's address, such as tcp://host:8786 ({error})") from None

    def connect() -> Client:
        try:
            patience = _TIMEOUT if most_seconds is None else min(_TIMEOUT, most_seconds)
            return Client(address, timeout=patience, set_as_default=False)
        except OSError as error:  # TimeoutError is one
            raise OSError(f"no Dask scheduler answers at {address}") from error

    client = connect()
    if device != "cpu":
        client.run(usable_device, device)

    def make() -> Executor:
        nonlocal client
        if client.status != "running":
            # It tries to connect anew by itself, and would tell at length that it is made to stop.
            logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
            client.close(timeout=1)
            client = connect()
        return _ClusterExecutor(client)

    return make, max(1, sum(client.ncores().values()))


def lost_its_worker(error: Exception) -> bool:
    """Whether a task ended with this error since the process that ran it died, on this machine or on a cluster."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker"


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """What would interrupt this block waits for its end."""
    came: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        known = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
        handlers = {number: signal.getsignal(number) for number in known if number is not None}
        handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def end_at_once(executor: Executor) -> None:
    """End an executor, and what it has in progress if its processes are of this machine.

    Args:
        executor: of `local_executor` or `dask_executor`; its futures are the caller's to cancel.
    """
    if not isinstance(executor, ProcessPoolExecutor):
        executor.shutdown(wait=False)
        return
    processes = list((executor._processes or {}).values())
    for process in processes:
        process.kill()
    for process in processes:
        process.join(_GRACE)
    manager = getattr(executor, "_executor_manager_thread", None)
    executor.shutdown(wait=False)
    if manager is not None:
        # It closes its pipe when it sees that its processes are gone; were Python to end meanwhile, it would write
        # to the pipe just then, and complain.
        manager.join(_GRACE)
