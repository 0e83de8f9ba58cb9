"""What stands behind the routes: it takes requests from an event loop to the queue, and answers back."""

import asyncio
from collections.abc import Callable

from tsn.serving import analysis
from tsn.serving.batching import Queue, QueueFull, Request
from tsn.serving.metrics import Metrics
from tsn.serving.requests import Parsed, Refused, parse, unavailable
from tsn.serving.workers import Workers

BODIES = 16  # of the largest size, which may be arriving at the same time


class CallerGone(Exception):
    """The caller has closed the connection: there is nobody to answer."""


class Service:
    """A model, its workers and the requests that wait for them.

    Args:
        options: From `tsn.serving.arguments.build_parser`.
        on_failure: Called with a message in a thread of its own when the model cannot be loaded.
    """

    def __init__(self, options, on_failure: Callable[[str], None] = lambda message: None):
        self.options, self.metrics = options, Metrics()
        self._on_failure = on_failure

    async def start(self) -> None:
        """Starts the workers, and returns before they are ready."""
        options = self.options
        self._loop = asyncio.get_running_loop()
        self._answers: dict[Request, asyncio.Future] = {}
        self._chunk_words: int | None = None
        self._arriving = 0  # bytes of bodies
        self.draining = asyncio.Event()  # set when the server is about to stop
        self.queue = Queue(options.max_queue, options.max_wait_ms / 1000, options.workers, self._deliver)
        self.workers = Workers(
            options.workers,
            self.queue,
            analysis.load_analyst,
            (options.model, options.openvino_file),
            analysis.analyse,
            analysis.about,
            options.timeout,
            self._ready,
            self._on_failure,
            self.metrics.batches.observe,
        )
        self.metrics.queue.set_function(lambda: self.queue.texts)
        self.metrics.workers.set_function(lambda: self.workers.ready)
        self.metrics.replaced.set_function(lambda: self.workers.replaced)
        self.workers.start()

    def drain(self) -> None:
        """Says that the server is about to stop, from any thread: streams read no more, `/health` says so."""
        self._loop.call_soon_threadsafe(self.draining.set)

    async def stop(self) -> None:
        """Ends the workers; requests that are left fail."""
        self.draining.set()
        self.queue.close()
        await asyncio.to_thread(self.workers.close)

    @property
    def is_ready(self) -> bool:
        """Whether a worker has answered a text and still runs."""
        return bool(self.workers.ready) and not self.draining.is_set()

    def _ready(self, information):
        self._chunk_words = information["chunk_words"]

    def _deliver(self, requests):
        if requests:
            self._loop.call_soon_threadsafe(self._set_answers, requests)

    def _set_answers(self, requests):
        for request in requests:
            answer = self._answers.pop(request, None)
            if answer is not None and not answer.done():
                answer.set_result(None)

    def parse(self, body: bytes) -> Parsed:
        """See `tsn.serving.requests.parse`; before the model has answered, every request is refused."""
        if self._chunk_words is None:
            raise unavailable("the model is still being loaded; try again")
        return parse(body, self.options.max_texts, self.options.max_characters, self._chunk_words)

    async def body(self, receive: Callable, declared: int | None) -> bytes:
        """Reads the body of a request.

        Args:
            receive: Of ASGI.
            declared: The length that the request's header gives.

        Raises:
            Refused: it is too large or too slow, or there is no room for it.
            CallerGone: the connection was closed.
        """
        parts, size, limit = [], 0, self.options.max_body
        # Behind such an answer the rest of the body may still arrive: the connection is of no more use.
        large = Refused(413, f"the body is larger than {limit} bytes (max_body)", connection="close")
        if declared is not None and declared > limit:
            raise large
        try:
            async with asyncio.timeout(self.options.sender_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise CallerGone
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    self._arriving += len(parts[-1])
                    if size > limit:
                        raise large
                    if self._arriving > BODIES * limit:
                        raise unavailable("too many large requests are arriving; try again")
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            seconds = f"{self.options.sender_timeout:g} seconds (sender_timeout)"
            raise Refused(408, f"the body did not arrive within {seconds}", connection="close") from None
        finally:
            self._arriving -= size

    async def answer(self, parsed: Parsed, gone: asyncio.Future | None = None, patient: bool = False) -> bytes:
        """The JSON of the answer to a request.

        Args:
            parsed: The request.
            gone: Done when the caller has closed the connection.
            patient: Wait for room in the queue instead of refusing.

        Raises:
            Refused: the queue is full, the time is up or a text could not be analysed.
            CallerGone: the connection was closed. As whenever this is cancelled, the texts leave the queue.
        """
        if not parsed.texts:
            return b"[]"
        request = Request(parsed.texts, parsed.parameters)
        answer: asyncio.Future = self._loop.create_future()
        self._answers[request] = answer
        try:
            await self._put(request, patient)
            waits = [answer] if gone is None else [answer, gone]
            await asyncio.wait(waits, timeout=self.options.timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._answers.pop(request, None)
            self.queue.cancel(request)
        if not answer.done():
            if gone is not None and gone.done():
                self.metrics.cancelled.inc()
                raise CallerGone
            raise Refused(504, f"there was no answer within {self.options.timeout:g} seconds (timeout)")
        if request.failure is not None:
            if request.failure.status == 503:
                raise unavailable(request.failure.message)
            raise Refused(*request.failure)
        self.metrics.texts.inc(len(parsed.texts))
        return request.answers[0] if parsed.single else b"[" + b", ".join(request.answers) + b"]"

    async def _put(self, request, patient):
        while True:
            try:
                return self.queue.put(request)
            except QueueFull:
                if not patient:
                    raise unavailable("the queue is full; try again (max_queue)") from None
            await asyncio.sleep(0.02)
