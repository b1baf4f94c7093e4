"""The HTTP interface: routes, what they take, and errors as JSON of one line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from headwater._words import without_folders
from headwater.errors import HeadwaterError
from headwater.serve.batches import Ended
from headwater.serve.guard import Guard, Timed, Timings
from headwater.serve.service import LARGE, MOST_TEXT, THUMBNAIL, Question, Service
from headwater.serve.uploads import Busy, Gone

STATIC = Path(__file__).with_name("static")
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
FILES = {path.name: path for path in sorted(STATIC.iterdir()) if path.suffix in TYPES}
Share = Annotated[float, Field(ge=0, le=1)]
Reference = Annotated[str, Field(max_length=64)]
Name = Annotated[str, Field(max_length=500)]


class Strict(BaseModel):
    """Part of a request, without unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Query(Strict):
    """What is asked with: a stored case or an upload, a sentence, or an image and a sentence."""

    case: Reference | None = None
    upload: Reference | None = None
    text: Annotated[str, Field(max_length=MOST_TEXT)] | None = None
    region: Annotated[list[Share], Field(min_length=4, max_length=4)] | None = None
    weight: Share = 0.5
    more: Annotated[list[Reference], Field(max_length=50)] = []
    less: Annotated[list[Reference], Field(max_length=50)] = []

    def question(self) -> Question:
        """Return what the service takes."""
        given = self.model_dump()
        corners = None
        if (region := given.pop("region")) is not None:
            (left, right), (top, bottom) = sorted(region[::2]), sorted(region[1::2])
            corners = (left, top, right, bottom)
        return Question(**given, region=corners)


class Search(Strict):
    """A search for similar cases."""

    query: Query
    features: Name | None = None
    k: Annotated[int, Field(ge=1, le=200)] = 20
    filters: dict[Name, Annotated[list[Name], Field(max_length=100)]] = {}
    one_per_patient: bool = True
    exclude_own_patient: bool = True


class Find(Strict):
    """A question to the runs."""

    query: Query
    run: Name | None = None


class HeatMap(Strict):
    """A question which parts of an image support a class."""

    query: Query
    run: Name
    target: Name | None = None


class Call(Strict):
    """A reader's own call, and what they made of the findings."""

    query: Query
    own_call: Annotated[str, Field(min_length=1, max_length=500)]
    reader: Annotated[str, Field(max_length=100)] | None = None
    run: Name | None = None
    finding: Name | None = None
    probability: Share | None = None
    agreement: Literal["agree", "disagree", "unsure"] | None = None


def make_app(service: Service, *, token: str | None, timings: Timings | None = None) -> Any:
    """Return the server as an ASGI application.

    Parameters
    ----------
    service
        What answers.
    token
        What requests must bring; None for none.
    """
    timed = Timings() if timings is None else timings
    options = service.options

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.neighbours.measure()
        yield
        service.close()

    app = FastAPI(
        title="headwater",
        version=version("headwater"),
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
    )
    _handle_errors(app)

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return _file("index.html")

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        return _file(name)

    @app.get("/api/info")
    def info() -> dict[str, Any]:
        """What is served: features, columns, filters with counts, and runs."""
        return service.described()

    @app.post(
        "/api/uploads",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def upload(request: Request) -> dict[str, Any]:
        """Keep an image for a while. Its bytes are the body; the answer holds a handle to ask with."""
        data = await request.body()
        handle, made = await run_in_threadpool(service.uploads.add, data)
        return {"upload": handle, "width": made.width, "height": made.height}

    @app.get("/api/uploads/{handle}")
    def preview(handle: Reference) -> Response:
        """Return a JPEG file of an uploaded image."""
        return Response(service.uploads.get(handle).preview, media_type="image/jpeg")

    @app.get("/api/cases/{case}")
    def case(case: Reference) -> dict[str, Any]:
        """Return what is shown of a stored case."""
        return service.case(service.gallery.row_of(case))

    @app.get("/api/cases/{case}/image")
    def picture(case: Reference, size: Literal["small", "large"] = "small") -> Response:
        """Return a JPEG file of a stored case."""
        data = service.picture(case, THUMBNAIL if size == "small" else LARGE)
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    @app.post("/api/search")
    def search(asked: Search) -> Response:
        """Return the most similar cases, labels among the nearest beside their base rates, and warnings."""
        found = service.search(
            asked.query.question(),
            features=asked.features,
            k=asked.k,
            filters=asked.filters,
            one_per_patient=asked.one_per_patient,
            own_patient=asked.exclude_own_patient,
        )
        return JSONResponse(found)  # plain values already

    @app.post("/api/findings")
    def findings(asked: Find) -> list[dict[str, Any]]:
        """Return what the runs find: probabilities, prediction set, and how unlike the training data the case is."""
        return service.findings(asked.query.question(), asked.run)

    @app.post("/api/heat-map")
    def heat_map(asked: HeatMap) -> dict[str, Any]:
        """Return which parts of an image support a class, as a small transparent picture."""
        return service.heat_map(asked.query.question(), asked.run, asked.target)

    @app.post("/api/calls", status_code=201)
    def calls(asked: Call) -> dict[str, str]:
        """Write down a reader's call."""
        given = asked.model_dump(exclude={"query"})
        service.record(asked.query.question(), given)
        return {"recorded": "yes"}

    @app.get("/metrics")
    async def metrics() -> dict[str, Any]:
        """Return counts, median and 99th percentile of seconds, by route."""
        return {"routes": timed.to_dict(), "uploads": len(service.uploads)}

    return Guard(
        Timed(app, timed),
        hosts=options.hosts,
        token=token,
        max_bytes=options.max_bytes,
        secure=options.certificate is not None or options.behind_proxy,
    )


def _file(name: str) -> Response:
    path = FILES.get(name)
    if path is None:
        raise HTTPException(404, "there is no such file.")
    return Response(path.read_bytes(), media_type=TYPES[path.suffix])


def _handle_errors(app: FastAPI) -> None:
    """Answer every error with JSON of one line, without paths of this machine where they tell nothing."""

    def refused(status: int, words: str) -> JSONResponse:
        return JSONResponse({"error": " ".join(words.split())}, status)

    @app.exception_handler(Gone)
    async def gone(_: Request, error: Gone) -> JSONResponse:
        return refused(404, str(error))

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Busy) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 503, {"retry-after": "2"})

    @app.exception_handler(Ended)
    async def ended(_: Request, error: Ended) -> JSONResponse:
        return refused(503, str(error))

    @app.exception_handler(HeadwaterError)
    async def known(_: Request, error: HeadwaterError) -> JSONResponse:
        return refused(422, without_folders(str(error)))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return refused(422, f"{where}: {first['msg']}" if where else str(first["msg"]))

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        return refused(error.status_code, str(error.detail))
