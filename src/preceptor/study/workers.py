"""Jobs of a study in processes side by side, which end with the study and can be interrupted together."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from preceptor.errors import InputError

Key = TypeVar("Key")
Result = TypeVar("Result")


def side_by_side(
    function: Callable[..., Result], jobs: Mapping[Key, tuple[Any, ...]], workers: int
) -> Iterator[tuple[Key, Result]]:
    """Call a function for every job, and hand out each result as soon as it is there.

    Args:
        function: of a module, as another process has to find it.
        jobs: the arguments of each call. They are pickled if there are several workers.
        workers: processes, which share this one's CPU threads; 1 calls the function here.

    Raises:
        InputError: a process has died.
    """
    if workers == 1:
        for key, arguments in jobs.items():
            yield key, function(*arguments)
        return
    threads = max(1, torch.get_num_threads() // workers)
    # Spawned, not forked: torch's thread pools do not survive a fork.
    context = multiprocessing.get_context("spawn")
    interrupted = context.Event()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(interrupted, threads)) as pool:
        futures = {pool.submit(_call, function, arguments): key for key, arguments in jobs.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            if interrupted.is_set():  # Ctrl-C, of which the workers were told first
                raise KeyboardInterrupt from None
            raise InputError(
                "a process that worked for the study has died, perhaps for want of memory; start the same command "
                f"again, which goes on, with workers below {workers} if need be"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_interrupted: Any = None  # in a worker: the event by which it tells that it was stopped


def _begin(interrupted: Any, threads: int) -> None:
    """Let no worker outlive a study that was killed: it would go on writing into the study's folders."""
    global _interrupted
    _interrupted = interrupted
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(function: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    """One job, in a process of its own."""
    try:
        return function(*arguments)
    except KeyboardInterrupt:  # saved; were it handed back as a result, this process would take the next job
        _interrupted.set()
        os._exit(130)
