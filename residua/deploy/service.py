"""A web application around an engine: a page, predictions as JSON, a health check and metrics."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter
from typing import TypeVar

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
from residua.deploy.explain import GradCamExplainer, draw_heat_layer
from residua.deploy.metrics import ServerMetrics
from residua.deploy.predict import make_prediction_json, rank_top_classes
from residua.deploy.similar import SimilarImageIndex
from residua.deploy.upload import make_http_error, read_uploaded_image
from residua.errors import ImageError

PoolResult = TypeVar("PoolResult")

# The page is one file: scripts and styles are inline, images are data URIs or the user's own file.
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "img-src data: blob:",
        "style-src 'unsafe-inline'",
        "script-src 'unsafe-inline'",
        "connect-src 'self'",
    ]
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits on requests; the defaults are our choice."""

    max_body_bytes: int = 20_000_000
    max_image_pixels: int = 50_000_000
    max_waiting_images: int = 256  # images that are accepted and not answered yet
    timeout_seconds: float = 30.0  # for the body to arrive, and again for the prediction


@dataclass(frozen=True, slots=True)
class PredictionQuery:
    """What a prediction request asks for, from its query string."""

    top_count: int  # classes in the answer
    wants_heatmap: bool
    similar_count: int  # similar training images in the answer


class PredictionService:
    """Answers HTTP requests with the predictions of an engine.

    If it has an explainer, it also returns heat maps.  If it has an index of training images, it
    also returns the ones most similar to the image.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        page_html: str,
        limits: ServerLimits,
        explainer: GradCamExplainer | None = None,
        similar_images: SimilarImageIndex | None = None,
    ) -> None:
        self.engine = engine
        self.page_html = page_html
        self.limits = limits
        self.explainer = explainer
        self.similar_images = similar_images
        self.metrics = ServerMetrics()
        self.batcher = RequestBatcher(engine, self.metrics.batch_sizes.observe_value)
        self.decode_pool = ThreadPoolExecutor(2, "decode")
        # One thread: the explainer's hooks on the network are not thread-safe.
        self.explain_pool = ThreadPoolExecutor(1, "explain")

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
        """Run the batcher as long as the application runs."""
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
        """Classify the image in the request's body, or in the only file of its form."""
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
        """The prediction for an uploaded image as JSON; HTTPException if it cannot be made."""
        query = parse_prediction_query(request)
        self.refuse_when_full()
        content = await read_uploaded_image(
            request, self.limits.max_body_bytes, self.limits.timeout_seconds
        )
        self.refuse_when_full()  # again, because other images were accepted during the upload
        self.metrics.waiting_images += 1
        try:
            async with asyncio.timeout(self.limits.timeout_seconds):
                return await self.answer_query(query, content)
        except ImageError as error:
            raise make_http_error(http_status_for(error), f"the image {error.detail}") from None
        except TimeoutError:
            raise make_http_error(
                HTTPStatus.SERVICE_UNAVAILABLE, "too busy to answer in time", retry_after="5"
            ) from None
        finally:
            self.metrics.waiting_images -= 1

    async def answer_query(self, query: PredictionQuery, content: bytes) -> dict[str, Json]:
        """Decode and classify the bytes of an image file; return the answer as JSON.

        Raises ImageError if they cannot be decoded.
        """
        config = self.engine.config
        pixels = await run_in_pool(
            self.decode_pool,
            lambda: preprocess_image(decode_image(content, self.limits.max_image_pixels), config),
        )
        probabilities = await self.batcher(pixels)
        top = rank_top_classes(probabilities, max(1, query.top_count))
        answer = make_prediction_json([(config.classes[i], p) for i, p in top])
        if query.wants_heatmap:
            answer["view"] = encode_data_uri(pixels_to_image(pixels))
            answer["heat"] = await run_in_pool(
                self.explain_pool,
                lambda: self.make_heatmap_uri(pixels, int(probabilities.argmax())),
            )
        if query.similar_count:
            answer["similar"] = await run_in_pool(
                self.explain_pool, lambda: self.list_similar_images(pixels, query.similar_count)
            )
        return answer

    def refuse_when_full(self) -> None:
        """Raise HTTPException 503 if the number of waiting images has reached the limit."""
        max_waiting = self.limits.max_waiting_images
        if self.metrics.waiting_images >= max_waiting:
            message = f"the queue is full ({max_waiting} images): try again in a second"
            raise make_http_error(HTTPStatus.SERVICE_UNAVAILABLE, message, retry_after="1")

    def make_heatmap_uri(self, pixels: Tensor, class_index: int) -> str | None:
        """The heat map of a class as a data URI, to lay over the image.

        None if the service has no explainer.
        """
        if self.explainer is None:
            return None
        return encode_data_uri(draw_heat_layer(self.explainer.compute_heatmap(pixels, class_index)))

    def list_similar_images(self, pixels: Tensor, count: int) -> list[Json]:
        """The most similar training images as JSON; empty without an index."""
        if self.similar_images is None:
            return []
        return [
            {
                "class": similar.class_name,
                "cosine": similar.cosine,
                "image": encode_data_uri(pixels_to_image(similar.pixels)),
            }
            for similar in self.similar_images.find_nearest(pixels, count)
        ]


async def run_in_pool(pool: ThreadPoolExecutor, work: Callable[[], PoolResult]) -> PoolResult:
    """Run `work` on a thread of the pool and return its result."""
    return await asyncio.get_running_loop().run_in_executor(pool, work)


async def make_error_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def parse_prediction_query(request: Request) -> PredictionQuery:
    """Read `top`, `explain` and `similar` from the query.

    Raises HTTPException 400 for a bad value.
    """
    return PredictionQuery(
        top_count=parse_query_number(request, "top", 5, 1000),
        wants_heatmap=bool(parse_query_number(request, "explain", 0, 1)),
        similar_count=parse_query_number(request, "similar", 0, 24),
    )


def parse_query_number(request: Request, name: str, default: int, maximum: int) -> int:
    """A whole number in [0, maximum] from the query.

    Raises HTTPException 400 for anything else.
    """
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= maximum):
        raise make_http_error(
            HTTPStatus.BAD_REQUEST,
            f"{name}={text[:40]} is invalid: give a whole number up to {maximum}",
        )
    return int(text)


def http_status_for(error: ImageError) -> HTTPStatus:
    """The HTTP status for an image that cannot be decoded."""
    status_by_kind = {
        "not an image": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "too large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    }
    return status_by_kind.get(error.kind, HTTPStatus.BAD_REQUEST)
