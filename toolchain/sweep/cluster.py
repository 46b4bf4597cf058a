"""Jobs on a Dask cluster: one for each thread of a worker at a time, so that a death of a worker is that of its job."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

import dask
from distributed import Client, Event, KilledWorker, LocalCluster, WorkerPlugin, get_client, wait

from toolchain.errors import ToolError
from toolchain.sweep.plan import one_line
from toolchain.sweep.work import Job, Outcome, attempt

FAILURES = 1
"""Deaths of a worker that a job survives on our own cluster; it goes on from its checkpoint."""
PATIENCE = 60.0
"""Seconds without any worker after which a cluster is given up."""
POLL = 2.0

Done = Callable[[Job, Outcome], Iterable[Job]]
"""Called with each finished job; gives the jobs that it makes possible."""


class _LeaveCtrlC(WorkerPlugin):
    """A terminal sends Ctrl-C to workers too; they leave it to the command, which then ends them."""

    def setup(self, worker: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def connected(address: str | None, workers: int) -> Iterator[Client]:
    """A cluster of our own (processes of one thread, on this machine, open to it alone), or one that runs already.

    Raises:
        ToolError: there is no scheduler at the address, or it has no worker.
    """
    quiet = {
        "distributed.scheduler.allowed-failures": FAILURES,
        "distributed.logging.distributed": "critical",
        "distributed.admin.system-monitor.gil.enabled": False,
    }
    with dask.config.set(quiet), contextlib.ExitStack() as stack:
        if address is None:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                # Without an address the scheduler's pages would stand on a port that every cluster asks for.
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                silence_logs=logging.CRITICAL,
            )
            client = Client(stack.enter_context(cluster), set_as_default=False)
            stack.enter_context(client)
            client.register_plugin(_LeaveCtrlC())
        else:
            try:
                client = stack.enter_context(Client(address, timeout=PATIENCE / 4, set_as_default=False))
            except (OSError, ValueError, TimeoutError) as error:
                raise ToolError(
                    "no scheduler answers",
                    where="--scheduler",
                    got=f"{address}: {one_line(error)}",
                    remedy="start one with dask scheduler, or leave --scheduler out",
                ) from error
        with client.as_current():
            yield client


def work_off(client: Client, jobs: Iterable[Job], done: Done, waiting: Callable[[int, int], None]) -> None:
    """Do all jobs, and those that follow from them. waiting: told how many run and how many wait.

    When this is left by an exception, jobs that run end after their epoch, with a checkpoint.

    Raises:
        ToolError: the scheduler is gone, or there is no worker for long.
    """
    stop = f"snnc-sweep-{uuid.uuid4().hex}"
    queue = deque(jobs)
    running: dict[Any, Job] = {}
    seen = time.monotonic()
    try:
        while queue or running:
            threads = sum(client.nthreads().values()) if client.status == "running" else 0
            seen = time.monotonic() if threads else seen
            if time.monotonic() - seen > PATIENCE or client.status != "running":
                raise ToolError(
                    "the cluster is gone" if client.status != "running" else f"no worker for {PATIENCE:.0f} s",
                    where=str(client.scheduler and client.scheduler.address),
                    remedy="start workers; the same command then goes on from what is there",
                )
            while queue and len(running) < threads:
                job = queue.popleft()
                future = client.submit(_on_worker, job, stop, pure=False, key=f"{job.kind}-{uuid.uuid4().hex}")
                running[future] = job
            waiting(len(running), len(queue))
            if not running:
                time.sleep(POLL / 4)
                continue
            with contextlib.suppress(TimeoutError):
                wait(list(running), timeout=POLL, return_when="FIRST_COMPLETED")
            for future in [future for future in running if future.done()]:
                job = running.pop(future)
                # What follows from this comes first: points appear as soon as they can.
                queue.extendleft(reversed(list(done(job, _outcome(future)))))
    except BaseException:
        with contextlib.suppress(Exception):
            Event(stop, client=client).set()
            client.cancel(list(running))
        raise


def _outcome(future: Any) -> Outcome:
    if future.status == "finished":
        found: Outcome = future.result()
        return found
    if future.status == "cancelled":
        return Outcome(error="the cluster lost this job", details="the cluster lost this job")
    error = future.exception()
    if isinstance(error, KilledWorker):
        text = f"its worker died {error.allowed_failures + 1} times, as one does that is out of memory"
        return Outcome(error=text, details=text)
    return Outcome(error=one_line(error), details=repr(error))


def _on_worker(job: Job, stop: str) -> Outcome:
    client = get_client()
    return attempt(job, lambda: bool(Event(stop, client=client).is_set()))


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, with all that was done kept."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
