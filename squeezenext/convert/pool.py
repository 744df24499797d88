"""Runs jobs in worker processes.

The processes start clean, never outlive their parent and keep the order of the jobs.
"""

import collections
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import TypeVar

from squeezenext.errors import RunAgain

Job = TypeVar("Job")
Result = TypeVar("Result")
_BLAS = "OPENBLAS_NUM_THREADS"
_MOST = 61  # processes for which Windows can wait at once
_AHEAD = 3  # unfinished jobs a worker; bounds the memory


class Pool:
    """Runs functions in `workers` processes; with one worker or one job, in this process."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor:
            _end(self._executor, cancel=True)

    def warm(self) -> None:
        """Starts the processes, which takes a second, in the background."""
        if self.workers > 1:
            for _ in range(self.workers):
                self._submitted(os.getpid)

    def run(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yields `function(job)` for each job, in order.

        Raises:
          RunAgain: a worker process died, for lack of memory for instance.
        """
        jobs = iter(jobs)
        first = list(itertools.islice(jobs, 2))
        if self.workers == 1 or len(first) < 2:
            yield from map(function, itertools.chain(first, jobs))
            return
        futures = (self._submitted(function, job) for job in itertools.chain(first, jobs))
        try:
            yield from _results(futures, _AHEAD * self.workers)
        except BrokenProcessPool as error:
            raise RunAgain(
                "A worker process was killed, perhaps for lack of memory; run the same command "
                "again, with fewer --workers if it happens again."
            ) from error

    def _submitted(self, function: Callable, *job: Job) -> concurrent.futures.Future:
        if self._executor is None:
            # spawn: forking a process that runs threads (TensorFlow, rich) can deadlock.
            workers = min(self.workers, _MOST) if os.name == "nt" else self.workers
            self._executor = concurrent.futures.ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), _initialise
            )
        with _blocked_interrupt(), _lean_start():
            return self._executor.submit(function, *job)


def _results(futures: Iterator[concurrent.futures.Future], ahead: int) -> Iterator:
    """Yields the results in order; `ahead` jobs are submitted before the first is waited for."""
    pending: collections.deque = collections.deque()
    for future in futures:
        pending.append(future)
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


@contextlib.contextmanager
def _blocked_interrupt() -> Iterator[None]:
    """Ctrl-C is for this process: a worker that starts meanwhile inherits the blocked signal."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # started later, it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _lean_start() -> Iterator[None]:
    """Makes workers start faster: they do not run the main module again.

    And numpy's OpenBLAS starts one thread in each, not one a CPU: no job multiplies matrices.
    """
    main, threads = sys.modules["__main__"], os.environ.get(_BLAS)
    sys.modules["__main__"] = types.ModuleType("__main__")
    os.environ[_BLAS] = "1"
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if threads is None:
            del os.environ[_BLAS]
        else:
            os.environ[_BLAS] = threads


def behind(function: Callable[[Job], Result], jobs: Iterable[Job]) -> Generator[Result, None, None]:
    """Yields `function(job)` for each job, in order, computed by two threads in the background.

    While one waits for the disk, the other works. Close the iterator (contextlib.closing), which
    ends the threads, before the folder is unlocked.
    """
    executor = concurrent.futures.ThreadPoolExecutor(2)
    try:
        yield from _results((executor.submit(function, job) for job in jobs), ahead=3)
    finally:
        _end(executor, cancel=False)  # each is a shard that only lacks its final name


def _end(executor: concurrent.futures.Executor, cancel: bool) -> None:
    """Returns when all jobs have ended, however often Ctrl-C is pressed meanwhile.

    A job may rename a shard, so the folder must stay locked until then.
    """
    try:
        executor.shutdown(wait=True, cancel_futures=cancel)
    except KeyboardInterrupt:
        _end(executor, cancel)
        raise


def _initialise() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where `_submitted` could not block it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when its parent is killed, instead of waiting for a job for ever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
