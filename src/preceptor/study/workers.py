"""Jobs of a study in processes side by side, which end with the study and can be interrupted together."""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from preceptor.errors import InputError
from preceptor.training.progress import bars, show_elsewhere

Key = TypeVar("Key")
Result = TypeVar("Result")


def side_by_side(
    function: Callable[..., Result], jobs: Mapping[Key, tuple[Any, ...]], workers: int, *, progress: bool = False
) -> Iterator[tuple[Key, Result]]:
    """Call a function for every job, and hand out each result as soon as it is there.

    Args:
        function: of a module, as another process has to find it.
        jobs: the arguments of each call. They are pickled if there are several workers.
        workers: processes, which share this one's CPU threads; 1 calls the function here.
        progress: show the progress bars of all processes.

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
    # Steps done and steps in all, of every job.
    interrupted, steps = context.Event(), context.Array("d", 2 * len(jobs), lock=False)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(interrupted, steps, threads))
    with pool, _bars(steps, [str(key) for key in jobs], shown=progress):
        futures = {pool.submit(_call, n, function, jobs[key]): key for n, key in enumerate(jobs)}
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


@contextlib.contextmanager
def _bars(steps: Any, names: Sequence[str], *, shown: bool) -> Iterator[None]:
    """Draw a bar for each job that has begun, twice a second."""
    if not shown:
        yield
        return
    done = threading.Event()
    with bars() as bar:
        tasks = [bar.add_task(name, total=None, visible=False, scores="") for name in names]

        def draw() -> None:
            while not done.wait(0.5):
                for task, step, total in zip(tasks, steps[::2], steps[1::2], strict=True):
                    bar.update(task, completed=int(step), total=int(total), visible=0 < step < total)

        thread = threading.Thread(target=draw, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


# In a worker: the event by which it tells that it was stopped, and the steps of all jobs.
_interrupted: Any = None
_steps: Any = None


def _begin(interrupted: Any, steps: Any, threads: int) -> None:
    """Let no worker outlive a study that was killed: it would go on writing into the study's folders."""
    global _interrupted, _steps
    _interrupted, _steps = interrupted, steps
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(number: int, function: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    """One job, in a process of its own."""

    def on_step(done: int, total: int, _: Mapping[str, Any]) -> None:
        _steps[2 * number : 2 * number + 2] = [done, total]

    show_elsewhere(on_step)
    try:
        return function(*arguments)
    except KeyboardInterrupt:  # saved; were it handed back as a result, this process would take the next job
        _interrupted.set()
        os._exit(130)
