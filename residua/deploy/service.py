"""An engine as a web application: a page, predictions as JSON, a health check and metrics."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from torch import Tensor

from residua.data.image import decode, prepared
from residua.data.thumbnail import picture, uri
from residua.deploy.batcher import Batcher
from residua.deploy.engine import Engine
from residua.deploy.explain import COLOURS, Explainer
from residua.deploy.metrics import Metrics
from residua.deploy.similar import Album
from residua.deploy.upload import image_of, refusal
from residua.errors import ImageError
from residua.spec.text import Json

T = TypeVar("T")
POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server accepts; our choices."""

    bytes: int = 20_000_000  # of a body
    pixels: int = 50_000_000  # of an image
    queue: int = 256  # images that are accepted and not answered yet
    seconds: float = 30.0  # for a body to arrive, and for its answer


class Service:
    """Answers requests with an engine; with an explainer also where the network looks, with an album what is similar."""

    def __init__(
        self, engine: Engine, page: str, limits: Limits, explainer: Explainer | None = None, album: Album | None = None
    ) -> None:
        self.engine, self.page, self.limits, self.explainer, self.album = engine, page, limits, explainer, album
        self.metrics = Metrics()
        self.batcher = Batcher(engine, self.metrics.batches.add)
        self.decoders, self.thinker = ThreadPoolExecutor(2, "decode"), ThreadPoolExecutor(1, "explain")

    @property
    def application(self) -> Starlette:
        routes = [
            Route("/", self.show),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/health", self.health),
            Route("/metrics", self.measured),
        ]
        return Starlette(routes=routes, lifespan=self.alive, exception_handlers={HTTPException: refused})

    @asynccontextmanager
    async def alive(self, application: Starlette) -> AsyncIterator[None]:
        batches = asyncio.create_task(self.batcher.run())
        yield
        batches.cancel()
        with suppress(asyncio.CancelledError):
            await batches

    async def show(self, request: Request) -> Response:
        return HTMLResponse(self.page, headers=HEADERS)

    async def health(self, request: Request) -> Response:
        config = self.engine.config
        return JSONResponse(
            {"status": "ok", "model": config.network.name, "classes": len(config.classes), "engine": self.engine.name,
             "waiting": self.metrics.waiting}
        )  # fmt: skip

    async def measured(self, request: Request) -> Response:
        return PlainTextResponse(self.metrics.text(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    async def predict(self, request: Request) -> Response:
        """An image, as the body or as a form's only file -> its likeliest classes."""
        begun = perf_counter()
        try:
            response: Response = JSONResponse(await self.answer(request))
            self.metrics.latency.add(perf_counter() - begun)
        except HTTPException as error:
            response = await refused(request, error)
        except Exception:
            self.metrics.requests[500] += 1
            raise
        self.metrics.requests[response.status_code] += 1
        return response

    async def answer(self, request: Request) -> dict[str, Json]:
        count, explains, similar = (asked(request, *what) for what in (("top", 5, 1000), ("explain", 0, 1), ("similar", 0, 24)))
        self.refuse_when_full()
        content = await image_of(request, self.limits.bytes, self.limits.seconds)
        self.refuse_when_full()  # others came while this one arrived
        self.metrics.waiting += 1
        try:
            async with asyncio.timeout(self.limits.seconds):
                pixels = await within(self.decoders, lambda: prepared(decode(content, self.limits.pixels), self.engine.config))
                probabilities = await self.batcher(pixels)
                found = top_of(probabilities, self.engine.config.classes, count)
                if explains:
                    found["view"] = uri(picture(pixels))
                    found["heat"] = await within(self.thinker, lambda: self.heat(pixels, int(probabilities.argmax())))
                if similar:
                    found["similar"] = await within(self.thinker, lambda: self.neighbours(pixels, similar))
        except ImageError as error:
            raise refusal(status_of(error), f"the image {error.detail}") from None
        except TimeoutError:
            raise refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too busy to answer in time", retry_after="5") from None
        finally:
            self.metrics.waiting -= 1
        return found

    def refuse_when_full(self) -> None:
        if self.metrics.waiting >= self.limits.queue:
            sentence = f"{self.limits.queue} images wait already: try again in a second"
            raise refusal(HTTPStatus.SERVICE_UNAVAILABLE, sentence, retry_after="1")

    def heat(self, pixels: Tensor, which: int) -> Json:
        """Where the network looks for class `which`, to be laid over the image; null where it has no maps."""
        if self.explainer is None:
            return None
        from matplotlib import colormaps

        heat = self.explainer.heat(pixels[None], torch.tensor([which]))[0].numpy()
        colours = colormaps[COLOURS](heat)
        colours[..., 3] = heat
        return uri(Image.fromarray(np.rint(255 * colours).astype(np.uint8), "RGBA"))

    def neighbours(self, pixels: Tensor, count: int) -> Json:
        if self.album is None:
            return []
        return [
            {"class": near.name, "cosine": near.cosine, "image": uri(picture(near.pixels))}
            for near in self.album.like(pixels, count)
        ]


async def within(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """The result of `work`, done by a thread of the pool."""
    return await asyncio.get_running_loop().run_in_executor(pool, work)


async def refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def asked(request: Request, name: str, otherwise: int, most: int) -> int:
    """A whole number from the query."""
    text = request.query_params.get(name, str(otherwise))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= most):
        raise refusal(HTTPStatus.BAD_REQUEST, f"{name}={text[:40]} is impossible: give a whole number up to {most}")
    return int(text)


def status_of(error: ImageError) -> HTTPStatus:
    kinds = {"not an image": HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "too large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE}
    return kinds.get(error.kind, HTTPStatus.BAD_REQUEST)


def top_of(probabilities: Tensor, classes: tuple[str, ...], count: int) -> dict[str, Json]:
    """As `predict --json` says it."""
    best = probabilities.topk(max(1, min(count, len(classes))))
    top: list[Json] = [
        {"class": classes[i], "probability": p} for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return {"class": classes[int(best.indices[0])], "probability": best.values[0].item(), "top": top}
