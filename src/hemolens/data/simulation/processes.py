"""Independent pieces of work in several processes, with a progress bar. Free of torch, so that they start quickly."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

from hemolens.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

# Pieces a process should have to do before starting it pays.
JOBS_PER_WORKER = 2
MAX_WORKERS = 8


def in_processes(
    work: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int | None, job_bytes: int, words: str
) -> Iterator[Result]:
    """Results of ``work(job)`` as they come, in any order.

    Args:
        work: picklable; errors that it raises are raised here.
        jobs: what to do.
        workers: processes; None takes the available cores, up to eight, where there is work and memory enough for them.
        job_bytes: memory that one piece takes.
        words: of the progress bar, which shows on terminals.

    Raises:
        UserError: a process died.
    """
    console = Console(stderr=True)
    shown = console.is_terminal or console.is_jupyter
    count = _worker_count(len(jobs), job_bytes) if workers is None else workers
    with Progress(console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task(words, total=len(jobs))
        for result in _each(work, jobs, count):
            progress.advance(task)
            yield result


def _each(work: Callable[[Job], Result], jobs: Sequence[Job], count: int) -> Iterator[Result]:
    if count <= 1 or multiprocessing.current_process().daemon:  # daemons may not have children
        yield from map(work, jobs)
        return
    # spawn: a fork would copy a process in which torch's threads may hold locks
    pool = ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context("spawn"), initializer=_leave_interrupts_to_parent
    )
    try:
        for future in as_completed([pool.submit(work, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a simulation process died (out of memory, or a script without `if __name__ == '__main__':`): "
            "set simulation_workers=1 (workers=1 of hemolens simulate)",
            exit_code=1,
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
    """Ctrl-C reaches all processes of a terminal: let the parent alone stop, after the fields under way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _worker_count(jobs: int, job_bytes: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, MAX_WORKERS, jobs // JOBS_PER_WORKER, _free_bytes() // job_bytes))


def _free_bytes() -> int:
    """Memory that can be had without swapping; plenty where the system does not tell."""
    try:
        stated = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(stated["MemAvailable"].split()[0])  # what is cached counts too
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**40
