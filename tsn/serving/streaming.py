"""`POST /predict/stream`: a request in each line, an answer in each line, in order, with flat memory."""

import asyncio
import json

from starlette.responses import Response

from tsn.serving.requests import Refused, internal_error
from tsn.serving.service import CallerGone, Service

AHEAD = 64  # lines that are read before the first of them is answered


class StreamedAnswers(Response):
    """Reads requests while it writes answers; it reads no further ahead than `AHEAD` lines and one body's bytes.

    A line that cannot be answered gets `{"error": message, "status": status}`. Blank lines have no answer.
    """

    media_type = "application/x-ndjson"

    def __init__(self, service: Service):
        super().__init__()
        del self.headers["content-length"]
        self._service = service
        self._held, self._room = 0, asyncio.Event()  # bytes of lines that have not been answered

    async def __call__(self, scope, receive, send):
        seconds = self._service.options.sender_timeout
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        answers: asyncio.Queue = asyncio.Queue(AHEAD)
        complete = False
        try:
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read(receive, answers, group))
                while (line := await answers.get()) is not None:
                    size, answer = line
                    content = await answer
                    async with asyncio.timeout(seconds):  # of a caller that does not read
                        await send({"type": "http.response.body", "body": content + b"\n", "more_body": True})
                    self._held -= size
                    self._room.set()
                reader.cancel()
            complete = True
        except ExceptionGroup as errors:
            _, others = errors.split((CallerGone, TimeoutError))
            if others:
                raise others from None
            self._service.metrics.cancelled.inc()
        if complete:
            await send({"type": "http.response.body", "body": b""})

    async def _read(self, receive, answers, group):
        """Puts `(size, task)` for each line, and None behind the last."""
        try:
            async for line in self._lines(receive):
                if not line.strip():
                    continue
                while self._held and self._held + len(line) > self._service.options.max_body:
                    self._room.clear()
                    await self._room.wait()
                self._held += len(line)
                await answers.put((len(line), group.create_task(self._answer(line))))
        except Refused as error:
            await answers.put((0, group.create_task(self._error(error))))
        await answers.put(None)
        while (await receive())["type"] != "http.disconnect":
            pass
        raise CallerGone

    async def _lines(self, receive):
        left, limit, more = bytearray(), self._service.options.max_body, True
        seconds = self._service.options.sender_timeout
        while more:
            arriving = asyncio.ensure_future(receive())
            stopping = asyncio.ensure_future(self._service.draining.wait())
            try:
                await asyncio.wait((arriving, stopping), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done():
                    raise Refused(503, "the server is stopping: it answers the lines up to here and reads no more")
                if not arriving.done():
                    raise Refused(408, f"nothing arrived for {seconds:g} seconds (sender_timeout)")
            finally:
                arriving.cancel()
                stopping.cancel()
            message = arriving.result()
            if message["type"] == "http.disconnect":
                raise CallerGone
            left += message.get("body", b"")
            more = message.get("more_body", False)
            *lines, rest = left.split(b"\n")
            for line in lines if more else [*lines, rest]:
                if len(line) > limit:
                    break
                yield bytes(line)
            if any(len(line) > limit for line in (*lines, rest)):
                raise Refused(413, f"a line is larger than {limit} bytes (max_body)")
            left = rest

    async def _answer(self, line):
        try:
            return await self._service.answer(self._service.parse(line), patient=True)
        except Refused as error:
            return await self._error(error)
        except Exception as error:
            return await self._error(internal_error(error))

    async def _error(self, error):
        self._service.metrics.errors.labels("/predict/stream", str(error.status)).inc()
        return json.dumps({"error": error.message, "status": error.status}).encode("ascii")
