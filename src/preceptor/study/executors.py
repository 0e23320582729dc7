"""Jobs of a study in processes side by side, which end with the study and can be interrupted together."""

import _thread
import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from preceptor.errors import InputError
from preceptor.interrupts import NUMBERS, Interrupted, listening
from preceptor.training.engine.progress import bars, show_elsewhere

Key = TypeVar("Key")
Result = TypeVar("Result")
_STOP, _LEAVE = 0, 1  # what a study may wish of its workers


def side_by_side(
    function: Callable[..., Result], jobs: Mapping[Key, tuple[Any, ...]], workers: int, *, progress: bool = False
) -> Iterator[tuple[Key, Result]]:
    """Call a function for every job, and hand out each result as soon as it is there.

    When a job fails, or this process or one that works for it is asked to stop, those that have not begun are given up
    and those at work are waited for: a training is told, and saves.

    Args:
        function: of a module, as another process has to find it.
        jobs: the arguments of each call. They are pickled if there are several workers.
        workers: processes, which share this one's CPU threads; 1 calls the function here.
        progress: draw a bar for each job at work. With one worker the function draws its own.

    Raises:
        InputError: a process has died, or the jobs cannot be pickled. What a job raises comes as it is.
        Interrupted: Ctrl-C, TERM or HUP.
    """
    if workers == 1:
        for key, arguments in jobs.items():
            yield key, function(*arguments)
        return
    threads = max(1, torch.get_num_threads() // workers)
    # Spawned, not forked: torch's thread pools do not survive a fork.
    context = multiprocessing.get_context("spawn")
    # Whether to stop and whether to leave; steps done and steps in all, of every job. Plain memory: `Event.set` waits
    # for ever for a process that was killed while it waited.
    wishes, steps = context.Array("b", 2, lock=False), context.Array("d", 2 * len(jobs), lock=False)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(wishes, steps, threads))
    with listening(), pool, _bars(steps, [str(key) for key in jobs], shown=progress):
        # A job is handed over when a worker is free: all at once would hold as many copies of what they share.
        waiting = ((key, _submitted(pool, n, _packed(function, jobs[key]))) for n, key in enumerate(jobs))
        running = {future: key for key, future in itertools.islice(waiting, workers)}
        try:
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    ended, result = future.result()
                    if not ended:
                        raise Interrupted
                    key = running.pop(future)
                    running |= {future: key for key, future in itertools.islice(waiting, 1)}
                    yield key, result
        except KeyboardInterrupt as stop:
            wishes[_STOP] = True
            raise Interrupted(getattr(stop, "number", signal.SIGINT), saved=_all_saved(running)) from None
        except BrokenProcessPool:
            wishes[:] = [True, True]
            raise InputError(
                "a process that worked for the study has died, for want of memory or, in a script of your own, of "
                "`if __name__ == '__main__':`; start the same command again, which goes on, with workers below "
                f"{workers} if need be"
            ) from None


def _submitted(pool: ProcessPoolExecutor, number: int, job: bytes) -> "Future[tuple[bool, Any]]":
    """Hand a job over. A process that starts for it lets signals wait until it can handle them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return pool.submit(_call, number, job)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
    try:
        return pool.submit(_call, number, job)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _all_saved(running: "Iterable[Future[tuple[bool, Any]]]") -> bool | None:
    """Whether every job at work has saved, once all have ended; None if no job had anything to save."""
    told = set()
    for future in wait(running).done:
        if future.exception() is not None:
            told.add(False)
        elif not future.result()[0]:
            told.add(future.result()[1])
    return False if False in told else True if True in told else None


def _packed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    """A job as bytes: the pool itself would move every tensor to shared memory, which is small in a container."""
    with _pickling():
        return pickle.dumps((function, arguments))


@contextlib.contextmanager
def _pickling() -> Iterator[None]:
    """One sentence for what cannot be handed to another process: a lambda, a class of a notebook..."""
    try:
        yield
    except (pickle.PicklingError, AttributeError, ImportError, TypeError, RecursionError) as error:
        raise InputError(
            f"the study's data cannot be handed to another process ({error}); give workers=1, or classes and functions "
            "of a module"
        ) from error


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
                    running = 0 < step < total
                    # Back to 0 at the end: a job may train several times, and a bar that was full tells no time.
                    bar.update(task, completed=int(step) if running else 0, total=int(total), visible=running)

        thread = threading.Thread(target=draw, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


# In a worker: what the study wishes, and the steps of all jobs.
_wishes: Any = [False, False]
_steps: Any = None


def _begin(wishes: Any, steps: Any, threads: int) -> None:
    """Let a worker hear what the study hears, and not outlive one that was killed: it would go on writing."""
    global _wishes, _steps
    _wishes, _steps = wishes, steps
    torch.set_num_threads(threads)
    # Between jobs: a process that died would have the pool end the others before they have saved.
    for number in NUMBERS:
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: _leave_if_wished())
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
    parent = multiprocessing.parent_process()

    def outlived() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    def told(wish: int) -> None:
        while not wishes[wish]:
            time.sleep(0.2)
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        else:
            _thread.interrupt_main()

    threading.Thread(target=outlived, daemon=True).start()
    for wish in (_STOP, _LEAVE):
        threading.Thread(target=told, args=(wish,), daemon=True).start()


def _leave_if_wished() -> None:
    """End this process if the study has lost another: its pool then waits for the rest, and sends no more work."""
    if _wishes[_LEAVE]:
        os._exit(1)


def _call(number: int, job: bytes) -> tuple[bool, Any]:
    """One job, in a process of its own: True and its result, or False and whether it has saved, if it was stopped."""

    def on_step(done: int, total: int, _: Mapping[str, Any]) -> None:
        _steps[2 * number : 2 * number + 2] = [done, total]

    if _wishes[_STOP]:
        return False, None
    show_elsewhere(on_step)
    try:
        with listening():
            with _pickling():
                function, arguments = pickle.loads(job)
            return True, function(*arguments)
    except KeyboardInterrupt as stop:
        _wishes[_STOP] = True  # no worker is to take another job
        return False, getattr(stop, "saved", None)
    finally:
        _leave_if_wished()
