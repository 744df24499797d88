"""Worker processes that start clean, never outlive their parent and keep the order."""

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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import TypeVar

from squeezenext.errors import RunAgain

Job = TypeVar("Job")
Result = TypeVar("Result")
_BLAS = "OPENBLAS_NUM_THREADS"
_AHEAD = 3  # jobs a worker that are prepared and not yet done; bounds the memory


def default_workers() -> int:
    """Returns the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Runs functions in `workers` processes; one worker, or a single job, in this process."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor:
            _end(self._executor, cancel=True)

    def warm(self) -> None:
        """Starts the processes, which takes a second, while this one does something else."""
        if self.workers > 1:
            for _ in range(self.workers):
                self._submitted(os.getpid)

    def run(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yields `function(job)` of every job, in their order.

        Raises:
          RunAgain: a worker process died, of a lack of memory for instance.
        """
        jobs = iter(jobs)
        first = list(itertools.islice(jobs, 2))
        if self.workers == 1 or len(first) < 2:
            yield from map(function, itertools.chain(first, jobs))
            return
        pending: collections.deque = collections.deque()
        try:
            for job in itertools.chain(first, jobs):
                pending.append(self._submitted(function, job))
                if len(pending) >= _AHEAD * self.workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise RunAgain(
                "A worker process was killed, perhaps for lack of memory; run the same command "
                "again to go on, with fewer --workers if it happens again."
            ) from error
        finally:
            for future in pending:
                future.cancel()

    def _submitted(self, function: Callable, *job: Job) -> concurrent.futures.Future:
        """Hands in a job. Ctrl-C is for this process: a worker inherits the blocked signal."""
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            with _lean_start():
                return self._started().submit(function, *job)
        resource_tracker.ensure_running()  # started later, it would unblock the signal
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _lean_start():
                return self._started().submit(function, *job)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _started(self) -> concurrent.futures.ProcessPoolExecutor:
        if self._executor is None:
            # spawn: forking a process that runs threads (TensorFlow, rich) can deadlock.
            self._executor = concurrent.futures.ProcessPoolExecutor(
                self.workers, multiprocessing.get_context("spawn"), _initialise
            )
        return self._executor


@contextlib.contextmanager
def _lean_start() -> Iterator[None]:
    """Spares a worker the import of this command's module, whose functions are no jobs: 0.2 s.

    And the threads that numpy's OpenBLAS starts, one a CPU in each worker, for products of
    matrices that nobody asks for.
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


def behind(function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
    """Yields `function(job)` of every job, in order, done by two threads as the next ones come.

    For what waits for the disk: one of them may wait while the other's turn comes. Close it
    (contextlib.closing) before what the function works on is let go: that ends the threads.
    """
    executor = concurrent.futures.ThreadPoolExecutor(2)
    pending: collections.deque = collections.deque()
    try:
        for job in jobs:
            pending.append(executor.submit(function, job))
            if len(pending) > 2:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        _end(executor, cancel=False)  # each is a shard that is written but for its rename


def _end(executor: concurrent.futures.Executor, cancel: bool) -> None:
    """Returns when nothing runs any more, however often Ctrl-C comes meanwhile.

    What runs may rename a shard, and the lock on the folder must not be let go before.
    """
    interrupted = None
    while True:
        try:
            executor.shutdown(wait=True, cancel_futures=cancel)
            break
        except KeyboardInterrupt as error:
            interrupted = error
    if interrupted:
        raise interrupted


def _initialise() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where `_submitted` could not block it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Without this a worker whose parent was killed waits for its next job for ever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
