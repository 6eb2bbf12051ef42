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

from residua.config.serialize import Json
from residua.data.decode import decode_image, preprocess_image
from residua.data.thumbnails import encode_data_uri, pixels_to_image
from residua.deploy.batcher import RequestBatcher
from residua.deploy.engine import InferenceEngine
from residua.deploy.explain import HEAT_COLORMAP, GradCamExplainer
from residua.deploy.metrics import ServerMetrics
from residua.deploy.similar import SimilarImageIndex
from residua.deploy.upload import make_http_error, read_uploaded_image
from residua.errors import ImageError

PoolResult = TypeVar("PoolResult")
CONTENT_SECURITY_POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a server accepts; our choices."""

    max_body_bytes: int = 20_000_000  # of a body
    max_image_pixels: int = 50_000_000  # of an image
    max_waiting_images: int = 256  # images that are accepted and not answered yet
    timeout_seconds: float = 30.0  # for a body to arrive, and for its answer


class PredictionService:
    """Answers requests with an engine; with an explainer also where the network looks, with an album what is similar."""

    def __init__(
        self,
        engine: InferenceEngine,
        page_html: str,
        limits: ServerLimits,
        explainer: GradCamExplainer | None = None,
        similar_images: SimilarImageIndex | None = None,
    ) -> None:
        self.engine, self.page_html, self.limits, self.explainer, self.similar_images = (
            engine,
            page_html,
            limits,
            explainer,
            similar_images,
        )
        self.metrics = ServerMetrics()
        self.batcher = RequestBatcher(engine, self.metrics.batch_sizes.observe_value)
        self.decode_pool, self.explain_pool = (
            ThreadPoolExecutor(2, "decode"),
            ThreadPoolExecutor(1, "explain"),
        )

    @property
    def application(self) -> Starlette:
        routes = [
            Route("/", self.handle_page),
            Route("/predict", self.handle_prediction, methods=["POST"]),
            Route("/health", self.handle_health),
            Route("/metrics", self.handle_metrics),
        ]
        return Starlette(
            routes=routes,
            lifespan=self.lifespan,
            exception_handlers={HTTPException: make_error_response},
        )

    @asynccontextmanager
    async def lifespan(self, application: Starlette) -> AsyncIterator[None]:
        batcher_task = asyncio.create_task(self.batcher.run_forever())
        yield
        batcher_task.cancel()
        with suppress(asyncio.CancelledError):
            await batcher_task

    async def handle_page(self, request: Request) -> Response:
        return HTMLResponse(self.page_html, headers=SECURITY_HEADERS)

    async def handle_health(self, request: Request) -> Response:
        config = self.engine.config
        return JSONResponse(
            {
                "status": "ok",
                "model": config.network.name,
                "classes": len(config.classes),
                "engine": self.engine.description,
                "waiting": self.metrics.waiting_images,
            }
        )

    async def handle_metrics(self, request: Request) -> Response:
        return PlainTextResponse(
            self.metrics.format_prometheus_text(),
            headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def handle_prediction(self, request: Request) -> Response:
        """An image, as the body or as a form's only file -> its likeliest classes."""
        started_at = perf_counter()
        try:
            response: Response = JSONResponse(await self.classify_upload(request))
            self.metrics.latency.observe_value(perf_counter() - started_at)
        except HTTPException as error:
            response = await make_error_response(request, error)
        except Exception:
            self.metrics.requests_by_status[500] += 1
            raise
        self.metrics.requests_by_status[response.status_code] += 1
        return response

    async def classify_upload(self, request: Request) -> dict[str, Json]:
        top_count, wants_heatmap, similar_count = (
            parse_query_number(request, *what)
            for what in (("top", 5, 1000), ("explain", 0, 1), ("similar", 0, 24))
        )
        self.refuse_when_full()
        content = await read_uploaded_image(
            request, self.limits.max_body_bytes, self.limits.timeout_seconds
        )
        self.refuse_when_full()  # others came while this one arrived
        self.metrics.waiting_images += 1
        try:
            async with asyncio.timeout(self.limits.timeout_seconds):
                pixels = await run_in_pool(
                    self.decode_pool,
                    lambda: preprocess_image(
                        decode_image(content, self.limits.max_image_pixels), self.engine.config
                    ),
                )
                probabilities = await self.batcher(pixels)
                answer = make_prediction_json(probabilities, self.engine.config.classes, top_count)
                if wants_heatmap:
                    answer["view"] = encode_data_uri(pixels_to_image(pixels))
                    answer["heat"] = await run_in_pool(
                        self.explain_pool,
                        lambda: self.make_heatmap_uri(pixels, int(probabilities.argmax())),
                    )
                if similar_count:
                    answer["similar"] = await run_in_pool(
                        self.explain_pool, lambda: self.list_similar_images(pixels, similar_count)
                    )
        except ImageError as error:
            raise make_http_error(http_status_for(error), f"the image {error.detail}") from None
        except TimeoutError:
            raise make_http_error(
                HTTPStatus.SERVICE_UNAVAILABLE, "too busy to answer in time", retry_after="5"
            ) from None
        finally:
            self.metrics.waiting_images -= 1
        return answer

    def refuse_when_full(self) -> None:
        if self.metrics.waiting_images >= self.limits.max_waiting_images:
            message = f"{self.limits.max_waiting_images} images wait already: try again in a second"
            raise make_http_error(HTTPStatus.SERVICE_UNAVAILABLE, message, retry_after="1")

    def make_heatmap_uri(self, pixels: Tensor, class_index: int) -> Json:
        """Where the network looks for class `which`, to be laid over the image; null where it has no maps."""
        if self.explainer is None:
            return None
        from matplotlib import colormaps

        heatmap = self.explainer.compute_heatmaps(pixels[None], torch.tensor([class_index]))[
            0
        ].numpy()
        colours = colormaps[HEAT_COLORMAP](heatmap)
        colours[..., 3] = heatmap
        return encode_data_uri(Image.fromarray(np.rint(255 * colours).astype(np.uint8), "RGBA"))

    def list_similar_images(self, pixels: Tensor, count: int) -> Json:
        if self.similar_images is None:
            return []
        return [
            {
                "class": near.class_name,
                "cosine": near.cosine,
                "image": encode_data_uri(pixels_to_image(near.pixels)),
            }
            for near in self.similar_images.find_nearest(pixels, count)
        ]


async def run_in_pool(pool: ThreadPoolExecutor, work: Callable[[], PoolResult]) -> PoolResult:
    """The result of `work`, done by a thread of the pool."""
    return await asyncio.get_running_loop().run_in_executor(pool, work)


async def make_error_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def parse_query_number(request: Request, name: str, default: int, maximum: int) -> int:
    """A whole number from the query."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= maximum):
        raise make_http_error(
            HTTPStatus.BAD_REQUEST,
            f"{name}={text[:40]} is impossible: give a whole number up to {maximum}",
        )
    return int(text)


def http_status_for(error: ImageError) -> HTTPStatus:
    status_by_kind = {
        "not an image": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "too large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    }
    return status_by_kind.get(error.kind, HTTPStatus.BAD_REQUEST)


def make_prediction_json(
    probabilities: Tensor, classes: tuple[str, ...], top_count: int
) -> dict[str, Json]:
    """As `predict --json` says it."""
    best = probabilities.topk(max(1, min(top_count, len(classes))))
    top: list[Json] = [
        {"class": classes[i], "probability": p}
        for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return {
        "class": classes[int(best.indices[0])],
        "probability": best.values[0].item(),
        "top": top,
    }
