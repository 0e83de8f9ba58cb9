"""Tasks spread over processes, each of which loads a model of its own.

`concurrent.futures` would do, but that in Python 3.11 the pool can hang for ever when a worker is killed while a large
task is on its way to it; here, a worker's end is the end of its own connection.
"""

import os
import threading
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait


class WorkerKilled(Exception):
    """A worker's process ended without a word, as when memory runs out."""


class WorkerFailed(RuntimeError):
    """What a worker's function raised, as text: not every exception can travel between processes."""


def run_tasks(tasks, load, function, options, workers):
    """Yields `(key, function(load(*options), *arguments))` for each `(key, arguments)`, in the order of completion.

    Args:
        tasks: Iterable; no more is taken from it than there are idle workers.
        load, function: Of a module, as they go by name to other processes.
        workers: Processes; with 1, all is done in this one.

    Raises:
        WorkerKilled: a worker ended.
        WorkerFailed: the function raised something, in a process of its own.
    """
    if workers == 1:
        loaded = load(*options)
        for key, arguments in tasks:
            yield key, function(loaded, *arguments)
        return
    context = get_context("spawn")  # torch's threads do not survive a fork
    processes, idle, busy = [], [], []
    try:
        for _ in range(workers):
            here, there = context.Pipe()
            processes.append(context.Process(target=_work, args=(there, load, function, options), daemon=True))
            processes[-1].start()
            there.close()
            idle.append(here)
        for task in tasks:
            if not idle:
                yield _receive(busy, idle)
            try:
                idle[-1].send(task)
            except OSError as error:
                raise WorkerKilled from error
            busy.append(idle.pop())
        while busy:
            yield _receive(busy, idle)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _receive(busy, idle):
    connection = wait(busy)[0]
    try:
        key, result, error = connection.recv()
    except (EOFError, OSError) as ended:
        raise WorkerKilled from ended
    if error is not None:
        raise WorkerFailed(error)
    busy.remove(connection)
    idle.append(connection)
    return key, result


def _work(connection, load, function, options):
    # A parent that is killed must not leave a worker behind that still writes.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        loaded, failed = None, None
        try:
            loaded = load(*options)
        except Exception as error:
            failed = told(error)
        while True:
            key, arguments = connection.recv()
            result, error = None, failed
            if failed is None:
                try:
                    result = function(loaded, *arguments)
                except Exception as raised:
                    error = told(raised)
            connection.send((key, result, error))
    except (EOFError, OSError, KeyboardInterrupt):  # the parent has ended, or is about to
        return


def told(error):
    """An exception as text."""
    return str(error) if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}"


def _end_with_parent():
    wait([parent_process().sentinel])
    os._exit(1)
