"""Runs tasks in several processes, each of which loads its own copy of the model.

`concurrent.futures` in Python 3.11 can hang for ever when a worker is killed while a large task is being sent to it.
Here a worker's end closes its own connection, which is noticed at once. loky (joblib 1.6) noticed each of 20 kills,
too, but its workers outlived a killed parent, by 37 s with its timeout at 5 s and for ever without; these end in 1 s.
"""

import os
import threading
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait


class WorkerKilled(Exception):
    """A worker process ended without an exception, as when the system runs out of memory."""


class WorkerFailed(RuntimeError):
    """The message of an exception in a worker; not every exception itself can be sent to another process."""


def run_tasks(tasks, load, function, options, workers):
    """Yields `(key, function(load(*options), *arguments))` for each `(key, arguments)`, in order of completion.

    Args:
        tasks: Iterable; no more is taken from it than there are idle workers.
        load, function: Importable by name, which is how they are sent to other processes.
        options: Arguments of `load`.
        workers: Number of processes; 1 runs everything in this one.

    Raises:
        WorkerKilled: a worker process ended.
        WorkerFailed: `load` or `function` raised an exception in another process.
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
            ours, theirs = context.Pipe()
            processes.append(context.Process(target=work, args=(theirs, load, function, options), daemon=True))
            processes[-1].start()
            theirs.close()
            idle.append(ours)
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
    """Waits for the next `(key, result)`; its worker's connection moves from `busy` to `idle`."""
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


def work(connection, load, function, options):
    """A worker process, until its connection closes: answers each `(key, arguments)` with `(key, result, error)`."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()  # no orphans when the parent is killed
    try:
        loaded, load_error = None, None
        try:
            loaded = load(*options)
        except Exception as error:
            load_error = error_message(error)
        while True:
            key, arguments = connection.recv()
            result, error = None, load_error
            if load_error is None:
                try:
                    result = function(loaded, *arguments)
                except Exception as raised:
                    error = error_message(raised)
            connection.send((key, result, error))
    except (EOFError, OSError, KeyboardInterrupt):  # the parent has ended or is about to
        return


def error_message(error):
    """Returns an exception's message, with its type unless the message was written for users."""
    return str(error) if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}"


def _exit_with_parent():
    wait([parent_process().sentinel])
    os._exit(1)
