"""The JSON API and the page: `create_app` puts both before the functions that the command line calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from threeshnet.app.answers import About, ExplainAnswer, Fault, Health, SearchAnswer
from threeshnet.app.api import Api, Limits
from threeshnet.app.guard import Guard, Refused, refusal
from threeshnet.errors import ThreeSHNetError, shortened
from threeshnet.index.index import Index

PAGE = Path(__file__).parent / "page"
FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": Fault, "description": text}
    for status, text in {
        400: "the query cannot be answered as it is, and how it can",
        404: "no such photo in this index",
        422: "a parameter has a wrong form",
        503: "too many wait: try again in a moment",
    }.items()
}
BODY = {"requestBody": {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}}
JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}}
DEFAULT = Limits()


def create_app(
    index: Index,
    *,
    hosts: Sequence[str] | None = None,
    examples: Sequence[str] = (),
    masks: Path | None = None,
    limits: Limits = DEFAULT,
) -> ASGIApp:
    """The server of one index.

    `hosts` are the names that it answers to, None for any. `examples` are sentences that the page offers. `masks` is a
    folder of 8-bit PNGs of class numbers under the photos' paths: a model of annotated segmentation cannot explain
    without them.
    """
    api = Api(index, examples, masks, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await api.start()
        yield

    # Without FastAPI's own pages of the API: they load scripts from elsewhere.
    app = FastAPI(title="threeshnet", version="1", lifespan=lifespan, docs_url=None, redoc_url=None, responses=FAULTS)
    app.get("/api/health", response_model=Health)(api.health)
    app.get("/api/model", response_model=About)(api.about)
    app.get("/api/metrics", response_class=PlainTextResponse)(api.metrics)
    app.get("/api/search", response_model=SearchAnswer)(api.search)
    app.post("/api/search", response_model=SearchAnswer, openapi_extra=BODY)(api.search_by_photo)
    app.get("/api/explain", response_model=ExplainAnswer)(api.explain)
    app.get("/api/thumbnail/{id:path}", response_class=Response, responses=JPEG)(api.thumbnail)
    app.get("/api/photo/{id:path}", response_class=Response, responses=JPEG)(api.photo)
    app.get("/", include_in_schema=False)(page)
    app.mount("/page", StaticFiles(directory=PAGE))
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return Guard(
        app,
        hosts=None if hosts is None else frozenset(map(str.lower, hosts)),
        most_bytes=int(limits.megabytes * 1e6),
        seconds=limits.seconds,
        observe=api.counters.observe,
    )


async def page() -> FileResponse:
    """The page; it loads its style and its script from /page."""
    return FileResponse(PAGE / "index.html")


# ---- every error is a status and one sentence


async def of_suite(_: Request, error: Any) -> JSONResponse:
    return refusal(400, shortened(str(error)))


async def of_guard(_: Request, error: Any) -> JSONResponse:
    return refusal(error.status, str(error))


async def of_routes(_: Request, error: Any) -> JSONResponse:
    return refusal(error.status_code, str(error.detail))


async def of_parameters(_: Request, error: Any) -> JSONResponse:
    messages = [f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}" for fault in error.errors()]
    return refusal(422, shortened("; ".join(messages)))


async def of_server(_: Request, __: Any) -> JSONResponse:
    return refusal(500, "an error of the server; its log has the details")


HANDLERS: dict[type[Exception], Any] = {
    ThreeSHNetError: of_suite,
    Refused: of_guard,
    HTTPException: of_routes,
    RequestValidationError: of_parameters,
    Exception: of_server,
}
