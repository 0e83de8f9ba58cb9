"""The worker processes: each takes batches from the queue, and one that dies is replaced."""

import logging
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context

from tsn.scoring.workers import work
from tsn.serving.batching import Queue

LOAD_SECONDS = 600
PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a worker that cannot start is started again
log = logging.getLogger("tsn.serving")


class Workers:
    """Supervised processes, each with a copy of the model and a thread here that talks to it.

    Args:
        count: Number of processes.
        queue: What they take batches from.
        load, options: `load(*options)` gives what a process works with; importable by name.
        answer: `answer(loaded, *messages)` gives the replies to a batch.
        about: `about(loaded)` proves that it works, and gives what `on_ready` is called with.
        time_limit: Seconds that a batch may take; a process that takes longer is killed.
        on_ready: Called in a thread here, whenever a process is ready.
        on_failure: Called with a message when a process cannot load before any has.
        on_batch: Called with the size of each batch.
    """

    def __init__(
        self,
        count: int,
        queue: Queue,
        load: Callable,
        options: tuple,
        answer: Callable,
        about: Callable,
        time_limit: float,
        on_ready: Callable[[dict], None],
        on_failure: Callable[[str], None],
        on_batch: Callable[[int], None] = lambda size: None,
    ):
        self._queue, self._load, self._options = queue, load, options
        self._answer, self._about, self._time_limit = answer, about, time_limit
        self._on_ready, self._on_failure, self._on_batch = on_ready, on_failure, on_batch
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._supervise, daemon=True) for _ in range(count)]
        self.ready = self.replaced = 0
        self._ever_ready = False

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends the processes after what they are doing; the queue has to be closed before."""
        self._closing.set()
        for thread in self._threads:
            thread.join()

    def _supervise(self):
        pause = PAUSE
        while not self._closing.is_set():
            was_ready = threading.Event()
            try:
                self._run_worker(was_ready)
            except _LoadError as error:
                if not self._ever_ready:
                    self._on_failure(str(error))
                log.error("a worker could not load the model: %s", error)
            except Exception as error:  # as a rule EOFError: its end of the connection has closed
                if not self._closing.is_set():
                    log.warning("a worker ended unexpectedly (%s); starting another", type(error).__name__)
            if self._closing.is_set():
                return
            with self._lock:
                self.replaced += 1
            pause = PAUSE if was_ready.is_set() else min(2 * pause, LONGEST_PAUSE)
            self._closing.wait(pause)

    def _run_worker(self, was_ready):
        context = get_context("spawn")  # threads and event loops do not survive a fork
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, self._load, _call, self._options), daemon=True)
        process.start()
        theirs.close()
        try:
            self._send(ours, self._about)
            information = self._receive(ours, LOAD_SECONDS, loading=True)
            with self._lock:
                self.ready += 1
                self._ever_ready = True
            was_ready.set()
            self._on_ready(information)
            batch = []
            while batch is not None:
                if batch:
                    batch = self._exchange(ours, batch)
                elif process.is_alive():
                    batch = self._hand_over(ours, 1.0)
                else:
                    raise EOFError
        finally:
            if was_ready.is_set():
                with self._lock:
                    self.ready -= 1
            ours.close()
            process.kill()
            process.join()

    def _hand_over(self, connection, seconds):
        """Sends the worker the next batch, for which it waits so long; returns what `Queue.take` gave."""
        batch = self._queue.take(seconds)
        if batch:
            self._on_batch(len(batch))
            try:
                self._send(connection, self._answer, *(task.message() for task in batch))
            except BaseException:
                self._queue.give_back(batch)
                raise
        return batch

    def _exchange(self, connection, batch):
        """Receives the replies to a batch, and returns the next one, which the worker has already been sent."""
        try:
            replies = self._receive(connection, self._time_limit)
        except BaseException:
            self._queue.give_back(batch)
            raise
        try:
            return self._hand_over(connection, 0)  # before the callers are answered: so the worker is not idle
        finally:
            self._queue.finish(batch, replies)

    def _send(self, connection, function, *arguments):
        connection.send((None, (function, *arguments)))

    def _receive(self, connection, seconds, loading=False):
        deadline = time.monotonic() + seconds
        while not connection.poll(1.0):
            if time.monotonic() > deadline or (loading and self._closing.is_set()):
                raise OSError("the worker took too long")
        _, result, error = connection.recv()
        if error is not None:
            raise _LoadError(error)
        return result


class _LoadError(Exception):
    """The message of an exception in a worker: `load` failed, as answers have their own failures."""


def _call(loaded, function, *arguments):
    return function(loaded, *arguments)
