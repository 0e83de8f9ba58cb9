"""The routes."""

import asyncio
import functools
import hmac
import json
import time
from collections.abc import Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

from tsn.serving import schema
from tsn.serving.metrics import CONTENT_TYPE_LATEST
from tsn.serving.page import MAX_FORM, page, read_form
from tsn.serving.requests import Parsed, Refused, internal_error, unavailable
from tsn.serving.service import CallerGone, Service
from tsn.serving.streaming import StreamedAnswers


def create_app(options, on_failure: Callable[[str], None] = lambda message: None) -> FastAPI:
    """The server as an ASGI application, whose lifespan starts and ends the worker processes.

    Args:
        options: From `tsn.serving.arguments.build_parser`.
        on_failure: Called with a message in a thread of its own when the model cannot be loaded.

    Returns:
        FastAPI: its `state.service` is the [`Service`].
    """
    service = Service(options, on_failure)

    @asynccontextmanager
    async def lifespan(app):
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="TSN",
        summary="Topics, sentiment and named entities of texts",
        version=schema.VERSION,
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.service = service
    app.add_exception_handler(HTTPException, _http_error)
    describe = app.openapi
    app.openapi = lambda: schema.add_key(describe())  # type: ignore[method-assign]
    route = functools.partial(_answered, service)

    @app.post("/predict", **schema.PREDICT)
    @route
    async def predict(request: Request) -> Response:
        """Analyses a text or a list of texts."""
        _check_key(options.api_key, request)
        body = await service.body(request.receive, _declared(request))
        started = time.perf_counter()
        content = await _until_gone(service, service.parse(body), request)
        service.metrics.latency.observe(time.perf_counter() - started)
        return Response(content, media_type="application/json")

    @app.post("/predict/stream", **schema.STREAM)
    @route
    async def stream(request: Request) -> Response:
        """Analyses the request in each line, and answers line by line while more are arriving."""
        _check_key(options.api_key, request)
        if not service.is_ready:
            raise unavailable("the model is still being loaded; try again")
        return StreamedAnswers(service)

    @app.get("/health", **schema.HEALTH)
    async def health() -> Response:
        """Whether the model has answered a text, and can answer more."""
        status = "ready" if service.is_ready else "stopping" if service.draining.is_set() else "loading"
        content = {"status": status, "workers": service.workers.ready}
        return _json(content) if status == "ready" else _json(content, 503, {"retry-after": "1"})

    @app.get("/metrics", **schema.METRICS)
    @route
    async def metrics(request: Request) -> Response:
        """Requests, errors, texts, queue, batches and latencies, for Prometheus."""
        _check_key(options.api_key, request)
        return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def empty_page() -> Response:
        return _html(page(options.api_key is not None))

    @app.post("/", include_in_schema=False)
    @route
    async def filled_page(request: Request) -> Response:
        body = await service.body(request.receive, _declared(request))
        form = read_form(body[:MAX_FORM])
        result, error, status = None, None, 200
        try:
            if not _same(options.api_key, form.key):
                raise Refused(401, "The key is not right.")
            parsed = form.checked(service)
            [result] = [await _until_gone(service, parsed, request)]
        except Refused as refused:
            error, status = refused.message, refused.status
        return _html(page(options.api_key is not None, form, result, error), status)

    return app


def _answered(service, route):
    """Counts a route's answers, and makes responses of what it raises."""

    @functools.wraps(route)
    async def answered(request: Request) -> Response:
        path = request.scope["route"].path
        try:
            response = await route(request)
        except CallerGone:
            return Response(status_code=499)  # which nobody receives
        except Exception as error:
            refused = error if isinstance(error, Refused) else internal_error(error)
            response = _json({"error": refused.message}, refused.status, refused.headers)
            service.metrics.errors.labels(path, str(refused.status)).inc()
        service.metrics.requests.labels(path, str(response.status_code)).inc()
        return response

    return answered


async def _until_gone(service: Service, parsed: Parsed, request: Request) -> bytes:
    async def gone():
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.ensure_future(gone())
    try:
        return await service.answer(parsed, watch)
    finally:
        watch.cancel()


def _check_key(key, request):
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if not _same(key, given.strip() if scheme.lower() == "bearer" else ""):
        raise Refused(401, "this server needs a key: Authorization: Bearer KEY", www_authenticate="Bearer")


def _same(key: str | None, given: str) -> bool:
    """Whether a key is the one asked for, in a time that does not tell how much of it is right."""
    return key is None or hmac.compare_digest(key.encode(), given.encode("utf-8", "surrogatepass"))


def _declared(request):
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None


def _json(content: dict, status: int = 200, headers=None) -> Response:
    # In ASCII, unlike JSONResponse: a message may quote lone surrogates.
    return Response(json.dumps(content), status, headers, "application/json")


def _html(content: str, status: int = 200) -> Response:
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    return HTMLResponse(content.encode("utf-8", "replace"), status, {"content-security-policy": policy})


async def _http_error(request, error):
    return _json({"error": str(error.detail)}, error.status_code, error.headers)
