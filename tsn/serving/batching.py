"""What waits to be analysed, and what is analysed next.

Short texts of all callers go in batches, the oldest first. (In batches of similar lengths some engines are a little
faster, but a text of a rare length waits for longer.) A longer text, a document, is cut into pieces of about one chunk
while it waits, and a short text waits for at most one piece: a piece goes first only if no piece has been analysed
since the oldest waiting short text arrived.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from chunking_tsn import Chunk
from tsn.serving.cutting import cut

CHUNK_CHARACTERS = 300  # of a full chunk of 50 words in most languages
SHORT_CHUNKS = 4  # a text of more is a document
BATCH_TEXTS, BATCH_CHARACTERS = 16, 2 * CHUNK_CHARACTERS * SHORT_CHUNKS
QUEUE_CHARACTERS = 50_000_000  # of all texts in the queue, which bounds its memory
ATTEMPTS = 2


class QueueFull(Exception):
    """There is no room for the texts of a request."""


class Failure(NamedTuple):
    """Why a request has no answer: an HTTP status, and what the caller is told."""

    status: int
    message: str


class Request:
    """Texts of one caller that are answered together.

    Args:
        texts: List of strings.
        parameters: Of the pipeline, checked, with `max_words` and `overlap_words`.
    """

    def __init__(self, texts: list[str], parameters: dict):
        self.texts, self.parameters = texts, parameters
        self.answers: list[Any] = [None] * len(texts)  # JSON of each text's answer
        self.failure: Failure | None = None
        self.left = len(texts)
        self.characters = sum(map(len, texts))
        self.ended = True  # or not yet in a queue; in one, until it is answered, fails or is cancelled


class Task:
    """What a worker does for one text in one go: analyse it, analyse a piece of it, or join what its pieces gave.

    Attributes:
        kind: `"text"`, `"piece"` or `"join"`.
        content: The text, the piece, or the list of what the pieces gave.
        start: Where a piece begins in its text.
    """

    def __init__(self, kind: str, request: Request, place: int, content: Any, start: int = 0, document=None):
        self.kind, self.request, self.place, self.content, self.start = kind, request, place, content, start
        self.document: _Document | None = document
        self.arrived = time.monotonic()
        self.attempts = 0

    def message(self) -> tuple:
        """What is sent to a worker."""
        text = self.request.texts[self.place] if self.kind == "join" else ""
        return self.kind, self.content, self.request.parameters, self.start, text


class _Document:
    """A text that is being cut and analysed piece by piece."""

    def __init__(self, request, place):
        self.request, self.place = request, place
        sizes = request.parameters["max_words"], request.parameters["overlap_words"]
        self._chunks: Iterator[Chunk] = cut(request.texts[place], *sizes)
        self._next = next(self._chunks, None)
        self.parts: list[Any] = []  # what each piece gave, in order
        self.unanswered = 0

    @property
    def cut_up(self) -> bool:
        return self._next is None

    def next_pieces(self) -> list[Task]:
        """The next chunks, together no longer than a full one: chunks of few words go several at a time."""
        pieces: list[Task] = []
        room = CHUNK_CHARACTERS
        while self._next and (not pieces or self._next.end - self._next.start <= room):
            content = self.request.texts[self.place][self._next.start : self._next.end]
            pieces.append(Task("piece", self.request, len(self.parts), content, self._next.start, self))
            self.parts.append(None)
            room -= len(content)
            self._next = next(self._chunks, None)
        self.unanswered += len(pieces)
        return pieces


class Queue:
    """The texts that wait. Callers put from an event loop, workers' threads take.

    Args:
        limit: Number of texts that may be waiting or being analysed.
        max_wait: Seconds that a short text waits for others to go with, if a worker is idle.
        workers: Number of workers, among which a batch is divided if there are few texts.
        deliver: Called with a list of requests that have been answered or have failed, in a worker's thread.
    """

    def __init__(self, limit: int, max_wait: float, workers: int, deliver: Callable[[list[Request]], None]):
        self._limit, self._max_wait, self._workers, self._deliver = limit, max_wait, workers, deliver
        self._changed = threading.Condition()
        self._waiting: deque[Task] = deque()  # short texts, the oldest first
        self._first: deque[Task] = deque()  # each on its own, before any other: what a dead worker left, and joins
        self._documents: deque[_Document] = deque()
        self._pieces_running, self._last_piece = 0, 0.0
        self._closed = False
        self.texts = self.characters = 0  # waiting or being analysed

    def put(self, request: Request) -> None:
        """Adds a request.

        Raises:
            QueueFull: and nothing was added.
        """
        sizes = request.parameters["max_words"]
        short = SHORT_CHUNKS * CHUNK_CHARACTERS * min(sizes, 50) // 50
        with self._changed:
            full = self.texts + len(request.texts) > self._limit
            if full or self._closed or (self.texts and self.characters + request.characters > QUEUE_CHARACTERS):
                raise QueueFull
            request.ended = False
            self.texts += len(request.texts)
            self.characters += request.characters
            for place, text in enumerate(request.texts):
                if len(text) <= short:
                    self._waiting.append(Task("text", request, place, text))
                else:
                    self._documents.append(_Document(request, place))
            self._changed.notify_all()

    def cancel(self, request: Request) -> None:
        """Takes a request out of the queue, unless it has ended; what a worker is analysing is thrown away later."""
        with self._changed:
            self._end(request)

    def close(self) -> None:
        """Lets every `take` return None, and fails what is left."""
        with self._changed:
            self._closed = True
            left = [task.request for task in (*self._first, *self._waiting)]
            left += [document.request for document in self._documents]
            ended = [request for request in left if self._fail(request, Failure(503, "the server was stopped"))]
            self._changed.notify_all()
        self._deliver(ended)

    def take(self, seconds: float = 1.0) -> list[Task] | None:
        """Waits for the next batch, at most so long: then it is empty. None once the queue is closed."""
        last = time.monotonic() + seconds
        with self._changed:
            while not self._closed:
                batch = self._next()
                left = last - time.monotonic()
                if batch or left <= 0:
                    return batch
                if self._waiting:
                    left = min(left, self._waiting[0].arrived + self._max_wait - time.monotonic())
                self._changed.wait(left)
        return None

    def _next(self) -> list[Task]:
        for tasks in (self._first, self._waiting):
            while tasks and tasks[0].request.ended:
                tasks.popleft()
        oldest = min((tasks[0].arrived for tasks in (self._first, self._waiting) if tasks), default=None)
        if self._documents and (oldest is None or (not self._pieces_running and oldest > self._last_piece)):
            pieces = self._next_pieces()
            if pieces:
                return pieces
        if self._first:
            return [self._first.popleft()]
        if self._waiting:
            wait = self._waiting[0].arrived + self._max_wait - time.monotonic()
            if wait <= 0 or len(self._waiting) >= BATCH_TEXTS or self._documents:
                return self._next_texts()
        return []

    def _next_texts(self):
        size = min(-(-len(self._waiting) // self._workers), BATCH_TEXTS)
        batch: list[Task] = []
        characters = 0
        while self._waiting and len(batch) < size:
            task = self._waiting[0]
            if not task.request.ended:
                characters += len(task.content)
                if batch and characters > BATCH_CHARACTERS:
                    break
                batch.append(task)
            self._waiting.popleft()
        return batch

    def _next_pieces(self):
        """Of the documents in turn."""
        while self._documents:
            document = self._documents.popleft()
            if document.request.ended:
                continue
            pieces = document.next_pieces()
            if not document.cut_up:
                self._documents.append(document)
            if pieces:
                self._pieces_running += 1
                return pieces
            self._join_if_done(document)
            if self._first:  # it ended in white space
                return [self._first.popleft()]
        return []

    def finish(self, tasks: list[Task], replies: list) -> None:
        """Takes a worker's replies to a batch: for each task what it gave, or a `Failure`."""
        with self._changed:
            self._piece_done(tasks)
            ended = [task.request for task, reply in zip(tasks, replies) if self._finish(task, reply)]
            if self._first or self._documents:
                self._changed.notify_all()
        self._deliver(ended)

    def give_back(self, tasks: list[Task]) -> None:
        """Takes a batch whose worker has died: each task is tried once more, on its own, and then fails."""
        with self._changed:
            self._piece_done(tasks)
            failure, ended = Failure(503, "the process that analysed the text ended; try again"), []
            for task in tasks:
                task.attempts += 1
                if task.attempts < ATTEMPTS:
                    self._first.appendleft(task)
                elif self._fail(task.request, failure):
                    ended.append(task.request)
            self._changed.notify_all()
        self._deliver(ended)

    def _piece_done(self, tasks):
        if tasks[0].kind == "piece" and not tasks[0].attempts:
            self._pieces_running -= 1
            self._last_piece = time.monotonic()

    def _finish(self, task, reply):
        """Returns whether this ended the request."""
        request, document = task.request, task.document
        if request.ended:
            return False
        if isinstance(reply, Failure):
            return self._fail(request, reply)
        if task.kind == "piece":
            document.parts[task.place] = reply
            document.unanswered -= 1
            self._join_if_done(document)
            return False
        request.answers[task.place] = reply
        request.left -= 1
        return not request.left and self._end(request)

    def _join_if_done(self, document):
        if document.cut_up and not document.unanswered:
            self._first.append(Task("join", document.request, document.place, document.parts))

    def _fail(self, request, failure):
        if request.ended:
            return False
        request.failure = failure
        return self._end(request)

    def _end(self, request):
        if request.ended:
            return False
        request.ended = True
        self.texts -= len(request.texts)
        self.characters -= request.characters
        return True
