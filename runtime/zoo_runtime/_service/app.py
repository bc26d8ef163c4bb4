"""The paths of the service, and what connects its parts."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import resources

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from . import answers, inference
from .access import Guard, Hosts
from .body import Held, media_type, picture_in
from .edge import Edge
from .limits import Limits, Refused
from .metrics import CONTENT_TYPE, Metrics
from .models import Model, return_memory
from .openapi import document
from .output import say
from .workers import Workers

_PAGE = {
    "index.html": "text/html; charset=utf-8",
    "app.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_LOOK_SECONDS = 1.0


@dataclass
class State:
    """What changes while the service runs.

    Attributes:
        draining: Whether it is about to end: running requests end, new ones are refused.
        requests: The number of requests that are being answered.
        look_again: Whether every file shall be opened again, because a signal asked for it.
    """

    draining: bool = False
    requests: int = 0
    look_again: bool = False


@dataclass(frozen=True)
class Access:
    """Who may use the service.

    Args:
        token: The token that clients must send. None lets everybody ask.
        origins: Origins whose pages may use the service.
        hosts: Names of hosts besides those of the machine. "*" accepts all.
    """

    token: str | None = None
    origins: Sequence[str] = ()
    hosts: Sequence[str] = ()


@dataclass
class Service:
    """The service: `app` is an ASGI application.

    Args:
        models: The models by name, at least one.
        limits: What clients can take of the machine.
        access: Who may use it.
        log: Called with one line per request. None logs nothing.
        watch: Whether files are opened again when they change on the disk.
    """

    models: Mapping[str, Model]
    limits: Limits
    access: Access = field(default_factory=Access)
    log: Callable[[str], None] | None = None
    watch: bool = True

    def __post_init__(self) -> None:
        self.state = State()
        self.metrics = Metrics()
        self.workers = Workers(self.limits, self.metrics)
        self.held = Held(self.limits, self.workers)
        self.metrics.watch("zoo_queue", "Requests that wait for a thread.", self.workers.waiting)
        self.metrics.watch("zoo_held_bytes", "Requests being received or waiting, in bytes.", lambda: self.held.bytes)
        for model in self.models.values():
            self._measure(model)
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="opener")
        self._page = {name: _file(name) for name in _PAGE}
        self.app = self._app()

    def _app(self) -> ASGIApp:
        get, post = ["GET"], ["POST"]
        routes = [
            Route("/", self._static, methods=get),
            Route("/static/{file}", self._static, methods=get),
            Route("/predict", self._predict, methods=post),
            Route("/predict/{name}", self._predict, methods=post),
            Route("/models", self._models, methods=get),
            Route("/metrics", self._metrics, methods=get),
            Route("/openapi.json", self._openapi, methods=get),
            Route("/v2", self._server, methods=get),
            Route("/v2/health/live", self._live, methods=get),
            Route("/v2/health/ready", self._ready, methods=get),
            Route("/v2/models/{name}", self._model, methods=get),
            Route("/v2/models/{name}/ready", self._model_ready, methods=get),
            Route("/v2/models/{name}/infer", self._infer, methods=post),
            Route("/v2/models/{name}/versions/{version}", self._model, methods=get),
            Route("/v2/models/{name}/versions/{version}/ready", self._model_ready, methods=get),
            Route("/v2/models/{name}/versions/{version}/infer", self._infer, methods=post),
        ]
        open_paths = ["/", *(f"/static/{name}" for name in _PAGE)]
        origins = list(self.access.origins)
        middleware = [
            Middleware(Edge, state=self.state, limits=self.limits, metrics=self.metrics, log=self.log, routes=routes),
            Middleware(Hosts, names=self.access.hosts),
            Middleware(Guard, token=self.access.token, origins=origins, open_paths=open_paths),
        ]
        if origins:
            headers = ["Authorization", "Content-Type"]
            cors = Middleware(
                CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=headers
            )
            middleware.insert(0, cors)
        # Errors pass through Starlette, so that `Edge` turns all of them into JSON.
        handlers = {404: self._not_found, 405: self._wrong_method}
        return Starlette(
            routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lambda _: self._lifespan()
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            self.workers.close()
            self._opener.shutdown(wait=False)

    # The page

    async def _static(self, request: Request) -> Response:
        content, tag = self._page.get(request.path_params.get("file", "index.html"), (b"", ""))
        if not tag:
            await self._not_found(request, None)
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=_PAGE[request.path_params.get("file", "index.html")], headers=headers)

    # Paths of our own

    async def _predict(self, request: Request) -> Response:
        model = self._named(request)
        top, coverage = _query(request)
        _, boundary = media_type(request)
        self.workers.check_room()
        with self.held.reading(request) as reading:
            body = await reading.body()

            def job(alone: bool) -> bytes:
                picture = picture_in(body, boundary)
                return answers.predict(model, picture, top=top, coverage=coverage, alone=alone, metrics=self.metrics)

            return _json(await self.workers.run(job, request.receive))

    async def _models(self, request: Request) -> Response:
        limits = {"body": self.limits.body, "seconds": self.limits.seconds}
        models = [answers.describe(model) for model in self.models.values()]
        return _json(answers.dump({"models": models, "limits": limits}))

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(document(list(self.models), secured=self.access.token is not None))

    # The Open Inference Protocol

    async def _server(self, request: Request) -> Response:
        return JSONResponse(inference.server_metadata())

    async def _live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def _ready(self, request: Request) -> Response:
        return JSONResponse({"ready": True})

    async def _model(self, request: Request) -> Response:
        return JSONResponse(inference.model_metadata(self._named(request)))

    async def _model_ready(self, request: Request) -> Response:
        return JSONResponse({"name": self._named(request).name, "ready": True})

    async def _infer(self, request: Request) -> Response:
        model = self._named(request)
        if "inference-header-content-length" in request.headers:
            raise Refused(400, "BadRequest", "This service does not offer the extension for binary data; send JSON.")
        self.workers.check_room()
        with self.held.reading(request) as reading:
            body = await reading.body()

            def job(alone: bool) -> bytes:
                return inference.infer(model, body, limits=self.limits, alone=alone, metrics=self.metrics)

            return _json(await self.workers.run(job, request.receive))

    # What paths share

    def _named(self, request: Request) -> Model:
        """Return the model of a request."""
        name, version = request.path_params.get("name"), request.path_params.get("version")
        known = ", ".join(self.models)
        if name is None:
            if len(self.models) > 1:
                raise Refused(400, "NoModel", f"Name a model in the path, /predict/NAME. The models are: {known}.")
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Refused(404, "UnknownModel", f"There is no model {name[:100]!r}. The models are: {known}.")
        model = self.models[name]
        if version is not None and version != model.current.version:
            raise Refused(
                404,
                "UnknownVersion",
                f"The version of {name!r} is {model.current.version}; there are no others. Received: {version[:99]!r}.",
            )
        return model

    async def _not_found(self, request: Request, _: Exception | None) -> Response:
        raise Refused(
            404,
            "UnknownPath",
            f"There is nothing at {request.url.path[:200]!r}. Send a picture to /predict/NAME; /openapi.json lists all "
            "paths.",
        )

    async def _wrong_method(self, request: Request, error: Exception) -> Response:
        headers = dict(getattr(error, "headers", None) or {})
        allowed = ", ".join(sorted(headers.get("Allow", "").split(", ")))
        raise Refused(405, "WrongMethod", f"Allowed here: {allowed}. Received: {request.method[:20]}.", headers)

    # Files that change

    def _measure(self, model: Model) -> None:
        self.metrics.opened.labels(model.name).set(model.current.opened_at)
        self.metrics.stale.labels(model.name).set(model.problem is not None)

    async def _watch(self) -> None:
        """Take up files that have changed, until the service ends."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            again, self.state.look_again = self.state.look_again, False
            if self.held.forgotten > self.limits.body:
                self.held.forgotten = 0
                await loop.run_in_executor(self._opener, return_memory)
            for model in self.models.values():
                try:
                    await loop.run_in_executor(self._opener, self._look, model, again)
                except Exception as error:
                    # The files that are open go on answering, whatever is wrong with the disk.
                    say(f"warning: {model.name}: {type(error).__name__}: {error}", sys.stderr)

    def _look(self, model: Model, again: bool) -> None:
        before, classes = model.problem, model.current.alone.info.classes
        if (model.changed() and self.watch) or again:
            outcome = model.take_up()
            return_memory()
            if outcome == "taken":
                say(f"{model.name}: a new file answers now, version {model.current.version}")
                now = model.current.alone.info.classes
                if now != classes:
                    say(
                        f"warning: {model.name}: the new file has other classes: {len(now)} ({len(classes)} before)",
                        sys.stderr,
                    )
            if outcome in ("taken", "refused"):
                self.metrics.reloads.labels(model.name, outcome).inc()
        if model.problem is not None and model.problem != before:
            say(f"warning: {model.name}: {model.problem}", sys.stderr)
        self._measure(model)


def _query(request: Request) -> tuple[int | None, float | None]:
    """Return the values of ?top= and ?coverage=."""
    top: int | None = None
    coverage: float | None = None
    for name, text in request.query_params.multi_items():
        if name == "top":
            if not (text.isdecimal() and text.isascii() and len(text) < 10 and int(text) > 0):
                raise Refused(
                    400,
                    "BadQuery",
                    f"top must be a whole number of 1 or more, such as top=3. Received: {text[:100]!r}.",
                )
            top = int(text)
        elif name == "coverage":
            try:
                coverage = float(text)
            except ValueError:
                raise Refused(
                    400, "BadQuery", f"coverage must be a number, such as coverage=0.95. Received: {text[:100]!r}."
                ) from None
        else:
            raise Refused(400, "BadQuery", f"The options are top and coverage. Received: {name[:100]!r}.")
    return top, coverage


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _file(name: str) -> tuple[bytes, str]:
    """Return a file of the page, and its entity tag."""
    content = resources.files(__package__).joinpath("page", name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:16]}"'
