"""Answers HTTP requests with a model's predictions, without TensorFlow.

    python -m squeezenext.serve --model_dir DIR|NAME|FILE [--host 127.0.0.1] [--port 8000]

POST an image to /predict, as the body or in a form; the answer is that of `predict.py --format
json`. GET answers /health, /metrics (for Prometheus) and /openapi.json. After SIGTERM or Ctrl-C
the requests in flight are still answered.
"""

import asyncio
import concurrent.futures
import contextlib
import math
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from absl import flags

import squeezenext
from squeezenext.cli import cores, interrupt, log, run
from squeezenext.errors import InputError, needs
from squeezenext.images.decoding import MAX_BYTES
from squeezenext.predict.answers import Answer
from squeezenext.predict.predictor import Predictor

with needs("serve"):
    import prometheus_client as prometheus
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
    from uvicorn.protocols.http.h11_impl import H11Protocol

_UNNAMED = "image"  # `path` of an image that is the body itself
_MOST_WAITING = 64  # images that are predicted or wait for a thread
_MOST_HELD = 8  # bodies of the largest size


class Service:
    """Answers requests with a predictor, in `threads`.

    A body has at most `max_bytes`, and arrives within `timeout` seconds. The event loop reads it;
    only a complete one waits for a thread, so that slow clients hold none.
    """

    def __init__(self, predictor: Predictor, threads: int, max_bytes: int, timeout: float):
        self._predictor, self._max_bytes, self._timeout = predictor, max_bytes, timeout
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self._waiting = self._held = 0  # images; bytes of bodies
        self._registry = prometheus.CollectorRegistry()
        at: dict[str, Any] = {"namespace": "squeezenext", "registry": self._registry}
        self._requests = prometheus.Counter("requests", "Answers by status.", ["status"], **at)
        self._seconds = prometheus.Histogram("request_seconds", "From head to answer.", **at)
        gauge = prometheus.Gauge("in_flight", "Images that are predicted or wait for it.", **at)
        gauge.set_function(lambda: self._waiting)

    def server(self) -> uvicorn.Server:
        """Returns the server, which logs only its own faults."""
        gets = {"/health": self._health, "/metrics": self._metrics, "/openapi.json": self._openapi}
        routes = [Route(path, endpoint) for path, endpoint in gets.items()]
        app = Starlette(routes=[Route("/predict", self._predict, methods=["POST"]), *routes])
        config = uvicorn.Config(
            app, http=_Connection, ws="none", lifespan="off", log_config=None, log_level="error",
            server_header=False, timeout_keep_alive=math.ceil(self._timeout),
        )  # fmt: skip
        return uvicorn.Server(config)

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "classes": len(self._predictor.labels)})

    async def _metrics(self, _: Request) -> Response:
        text = prometheus.generate_latest(self._registry)
        return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)

    async def _openapi(self, _: Request) -> Response:
        share, text = {"type": "number", "minimum": 0, "maximum": 1}, {"type": "string"}
        row = {"index": {"type": "integer"}, "synset": text, "label": text, "probability": share}
        rows = {"type": "object", "required": [*row], "properties": row}
        answer = {"path": text, "predictions": {"type": "array", "items": rows}}
        answer |= {"error": {"type": ["string", "null"]}, "known": share}
        document = {"type": "object", "required": [*answer][:3], "properties": answer}
        image = {"type": "string", "format": "binary"}
        form = {"type": "object", "required": ["image"], "properties": {"image": image}}
        bodies = {"image/*": {"schema": image}, "multipart/form-data": {"schema": form}}
        health = {"type": "object", "properties": {"status": text, "classes": {"type": "integer"}}}
        said = {
            "200": "The most probable classes; the image is like none if `known` is below 0.5.",
            "400": "The form is wrong, or the connection ended.",
            "408": f"The request did not arrive within {self._timeout:g} s.",
            "413": f"The body is larger than {self._max_bytes} bytes.",
            "422": "The body is no image that can be read.",
            "503": "The server is busy; Retry-After has the seconds to wait.",
        }

        def response(words: str, schema: dict, kind: str = "application/json") -> dict[str, Any]:
            return {"description": words, "content": {kind: {"schema": schema}}}

        post = {
            "summary": "Names what is in an image.",
            "requestBody": {"required": True, "content": bodies},
            "responses": {status: response(words, document) for status, words in said.items()},
        }
        gets = {
            "/health": response("The server answers; the number of its classes.", health),
            "/metrics": response("Requests, latencies, images in flight.", text, "text/plain"),
        }
        paths: dict[str, Any] = {"/predict": {"post": post}}
        paths |= {path: {"get": {"responses": {"200": told}}} for path, told in gets.items()}
        about = {"title": "squeezenext", "version": squeezenext.__version__}
        return JSONResponse({"openapi": "3.1.0", "info": about, "paths": paths})

    async def _predict(self, request: Request) -> Response:
        started, status, headers = time.perf_counter(), 500, None
        try:
            answer = await self._answer(request)
            status = 422 if answer.error else 200
        except HTTPException as refused:
            answer = Answer(_UNNAMED, [], refused.detail)
            status, headers = refused.status_code, refused.headers
        finally:
            self._requests.labels(status).inc()
            self._seconds.observe(time.perf_counter() - started)
        return JSONResponse(answer.document(), status, headers)

    async def _answer(self, request: Request) -> Answer:
        async with self._image(request) as image:
            self._waiting += 1
            work = self._pool.submit(self._predictor.answer, *image)
            try:
                return await asyncio.wrap_future(work)
            finally:
                self._waiting -= 1

    @contextlib.asynccontextmanager
    async def _image(self, request: Request) -> AsyncIterator[tuple[bytes, str]]:
        """Gives a request's image and its name; its bytes count as held until the end."""
        size = 0

        async def receive() -> Any:
            nonlocal size
            message = await request.receive()
            arrived = len(message.get("body", b""))
            size, self._held = size + arrived, self._held + arrived
            if size > self._max_bytes:
                raise HTTPException(413, f"The body is larger than {self._max_bytes} bytes.")
            if self._waiting >= _MOST_WAITING or self._held > _MOST_HELD * self._max_bytes:
                raise HTTPException(503, "The server is busy; ask again.", {"Retry-After": "1"})
            return message

        try:
            async with asyncio.timeout(self._timeout):
                image = await _sent(Request(request.scope, receive))
        except TimeoutError as error:
            late = f"The image did not arrive within {self._timeout:g} s; send a smaller one."
            raise HTTPException(408, late, {"Connection": "close"}) from error
        except ClientDisconnect as error:
            raise HTTPException(400, "The connection ended before the image.") from error
        else:
            yield image
        finally:
            self._held -= size


async def _sent(request: Request) -> tuple[bytes, str]:
    """Returns the image that a request brings, and its name."""
    if not request.headers.get("Content-Type", "").lower().startswith("multipart/form-data"):
        return await request.body(), _UNNAMED
    async with request.form(max_files=1, max_fields=8) as form:
        for part in form.values():
            if not isinstance(part, str):
                return await part.read(), part.filename or _UNNAMED
    raise HTTPException(400, "The form holds no file; send one: curl -F image=@photo.jpg")


class _Connection(H11Protocol):
    """A connection that is closed when no request has come for a while, even if bytes come.

    uvicorn's own limit ends with the first byte, and each connection holds a file descriptor.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._limit = self.loop.call_later(self.timeout_keep_alive, self._end_if_idle)

    def on_response_complete(self) -> None:
        self._limit.cancel()
        self._limit = self.loop.call_later(self.timeout_keep_alive, self._end_if_idle)
        super().on_response_complete()

    def _end_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        text = f"--host {host} --port {port} cannot be used: {error.strerror}."
        raise InputError(text) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_string("model_dir", None, "Model directory, published model or file.", **at)
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0: all of them.", **at)
    flags.DEFINE_integer("port", 8000, "Port; 0 picks a free one.", 0, 65535, **at)
    flags.DEFINE_integer("threads", cores(), "Images predicted at once, up to the cores.", 1, **at)
    flags.DEFINE_integer("max_bytes", 16 << 20, "Largest body of a request.", 1, MAX_BYTES, **at)
    flags.DEFINE_float("timeout", 20.0, "Seconds in which a request must arrive.", 0.1, **at)

    def command(values: flags.FlagValues, _: list[str]) -> None:
        host = values["host"].value
        with _listen(host, values["port"].value) as listening:
            limits = [values[name].value for name in ("threads", "max_bytes", "timeout")]
            server = Service(Predictor(values["model_dir"].value), *limits).server()
            place = f"[{host}]" if ":" in host else host
            log(f"http://{place}:{listening.getsockname()[1]}/predict answers until Ctrl-C.")
            signal.signal(signal.SIGTERM, interrupt)  # the server raises it again when it has ended
            with contextlib.suppress(KeyboardInterrupt):
                server.run([listening])

    return run(command, values, __doc__, argv, required=("model_dir",))


if __name__ == "__main__":
    sys.exit(main())
