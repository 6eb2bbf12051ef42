"""The web application of a model: a page, predictions as JSON, a health check and metrics."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from time import perf_counter
from typing import TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from residua.config.serialize import Json
from residua.deploy.access import AccessCheck, AccessRules
from residua.deploy.batcher import RequestBatcher
from residua.deploy.body_budget import BodyBudget
from residua.deploy.decoding import DecodingMemory, decode_upload
from residua.deploy.engine import InferenceEngine
from residua.deploy.example_images import ExampleImage
from residua.deploy.explain import GradCamExplainer
from residua.deploy.explanation import explain_answer
from residua.deploy.limits import ServerLimits
from residua.deploy.metrics import ServerMetrics
from residua.deploy.predict import make_prediction_json, rank_top_classes
from residua.deploy.query import PredictionQuery, parse_prediction_query
from residua.deploy.similar import SimilarImageIndex
from residua.deploy.upload import (
    MAX_REQUEST_IMAGES,
    UploadedImages,
    http_status_for,
    make_http_error,
    parse_upload,
    receive_body,
)
from residua.errors import ImageError

PoolResult = TypeVar("PoolResult")

DECODING_THREADS = 2

logger = logging.getLogger(__name__)


class PredictionService:
    """Answers HTTP requests with the predictions of an engine.

    With an explainer, the service also returns heat maps.  With an index of training images, it
    also returns the training images that are most similar to the uploaded image.  With a threshold,
    it also says whether the answer's probability is below the threshold.  With examples, it hands
    out their files, which the page offers to click.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        page_html: str,
        limits: ServerLimits,
        explainer: GradCamExplainer | None = None,
        similar_images: SimilarImageIndex | None = None,
        access: AccessRules | None = None,
        threshold: float = 0.0,
        examples: Sequence[ExampleImage] = (),
    ) -> None:
        self.engine = engine
        self.page_html = page_html
        self.limits = limits
        self.explainer = explainer
        self.similar_images = similar_images
        self.access = access or AccessRules()
        self.threshold = threshold
        self.example_by_number = {str(i): example for i, example in enumerate(examples)}
        self.metrics = ServerMetrics()
        self.batcher = RequestBatcher(engine, self.metrics.batch_sizes.observe_value)
        self.body_budget = BodyBudget(limits.max_total_bytes)
        self.decoding_memory = DecodingMemory(limits.max_image_pixels)
        self.decode_pool = ThreadPoolExecutor(DECODING_THREADS, "decode")
        # One thread: the explainer's hooks on the network are not thread-safe.
        self.explain_pool = ThreadPoolExecutor(1, "explain")

    @property
    def application(self) -> Starlette:
        routes = [
            Route("/", self.handle_page),
            Route("/examples/{number}", self.handle_example),
            Route("/predict", self.handle_prediction, methods=["POST"]),
            Route("/health", self.handle_health),
            Route("/metrics", self.handle_metrics),
        ]
        middleware = [Middleware(AccessCheck, rules=self.access, metrics=self.metrics)]
        if self.access.origins:
            cors = Middleware(
                CORSMiddleware,
                allow_origins=self.access.origins,
                allow_methods=("GET", "POST"),
                expose_headers=("Retry-After",),
            )
            middleware.append(cors)
        return Starlette(
            routes=routes,
            middleware=middleware,
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
        return HTMLResponse(self.page_html)

    async def handle_example(self, request: Request) -> Response:
        """Answer with the bytes of an example's file, or with 404 if there is no such example."""
        example = self.example_by_number.get(request.path_params["number"])
        if example is None:
            message = "there is no such example: reload the page"
            return JSONResponse({"error": message}, HTTPStatus.NOT_FOUND)
        return Response(example.content, media_type="application/octet-stream")

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
        self.metrics.body_bytes = self.body_budget.used_bytes
        return PlainTextResponse(
            self.metrics.format_prometheus_text(),
            headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def handle_prediction(self, request: Request) -> Response:
        """Classify the images of the request: its body, the files of a form, or base64 in JSON."""
        started_at = perf_counter()
        try:
            response: Response = JSONResponse(await self.classify_upload(request))
            self.metrics.latency.observe_value(perf_counter() - started_at)
        except HTTPException as error:
            response = await make_error_response(request, error)
        except Exception:
            logger.exception("a prediction failed")
            message = "the prediction failed: the server's log has the reason"
            response = JSONResponse({"error": message}, HTTPStatus.INTERNAL_SERVER_ERROR)
        self.metrics.requests_by_status[response.status_code] += 1
        return response

    async def classify_upload(self, request: Request) -> Json:
        """Classify the uploaded images and return the answer, or the list of answers, as JSON.

        Raises HTTPException if the request or its only image is invalid, or if the server is too
        busy.
        """
        query = parse_prediction_query(request, self.engine.config.classes)
        self.refuse_when_full()
        with self.body_budget.open_share() as share:
            body = await receive_body(
                request,
                self.limits.max_body_bytes,
                self.limits.timeout_seconds,
                share,
                self.metrics.count_refusal,
            )
            try:
                with self.count_waiting(1):
                    async with asyncio.timeout(self.limits.timeout_seconds):
                        upload = await self.parse_body(request, body)
                        del body  # the images are copies
                        with self.count_waiting(len(upload.contents) - 1):
                            return await self.answer_upload(query, upload)
            except TimeoutError:
                raise make_http_error(
                    HTTPStatus.SERVICE_UNAVAILABLE, "too busy to answer in time", retry_after="5"
                ) from None

    async def parse_body(self, request: Request, body: bytes) -> UploadedImages:
        """Find the images in the request's body on a thread, because a form may be large."""
        content_type = request.headers.get("content-type", "")
        max_images = min(MAX_REQUEST_IMAGES, self.limits.max_waiting_images)
        return await run_in_pool(
            self.decode_pool, lambda: parse_upload(content_type, body, max_images)
        )

    async def answer_upload(self, query: PredictionQuery, upload: UploadedImages) -> Json:
        """Answer one image, or each image of a list, as JSON.

        In a list, the answer to an image that cannot be decoded or classified is its error.
        Outside a list, such an image raises HTTPException.
        """
        if not upload.is_list:
            try:
                return await self.answer_image(query, upload.contents[0])
            except ImageError as error:
                raise make_http_error(http_status_for(error), f"the image {error.detail}") from None
        results = await asyncio.gather(
            *(self.answer_image(query, content) for content in upload.contents),
            return_exceptions=True,
        )
        answers: list[Json] = []
        for result in results:
            if isinstance(result, ImageError):
                answers.append({"error": f"the image {result.detail}"})
            elif isinstance(result, HTTPException):
                answers.append({"error": result.detail})
            elif isinstance(result, BaseException):
                raise result
            else:
                answers.append(result)
        return answers

    async def answer_image(
        self, query: PredictionQuery, content: bytes | ImageError
    ) -> dict[str, Json]:
        """Decode and classify the bytes of an image file; return the answer as JSON.

        Raises ImageError if `content` is one or cannot be decoded, and HTTPException 500 if the
        network's probabilities are not finite.
        """
        if isinstance(content, ImageError):
            raise content
        config = self.engine.config
        upload = await run_in_pool(
            self.decode_pool,
            lambda: decode_upload(
                content, config, self.limits.max_image_pixels, self.decoding_memory
            ),
        )
        probabilities = await self.batcher(upload.pixels)
        if not probabilities.isfinite().all():  # a NaN is no JSON, and would win or lose silently
            raise make_http_error(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "the probabilities for this image are not finite: the network's weights are "
                "damaged, or their products overflow",
            )
        top = rank_top_classes(probabilities, max(1, query.top_count))
        answer = make_prediction_json([(config.classes[i], p) for i, p in top])
        if self.threshold:
            answer["unsure"] = top[0][1] < self.threshold
        if query.wants_heatmap or query.similar_count:
            answer |= await run_in_pool(
                self.explain_pool,
                lambda: explain_answer(
                    query,
                    upload,
                    int(probabilities.argmax()),
                    self.explainer,
                    self.similar_images,
                ),
            )
        return answer

    @contextmanager
    def count_waiting(self, count: int) -> Iterator[None]:
        """Count `count` images as waiting inside the context.

        Raises HTTPException 503 if more images than the limit would then wait.
        """
        self.refuse_when_full(count)
        self.metrics.waiting_images += count
        try:
            yield
        finally:
            self.metrics.waiting_images -= count

    def refuse_when_full(self, count: int = 1) -> None:
        """Raise HTTPException 503 if `count` more waiting images would exceed the limit."""
        max_waiting = self.limits.max_waiting_images
        if self.metrics.waiting_images + count > max_waiting:
            self.metrics.count_refusal("queue_full")
            message = f"the queue is full ({max_waiting} images): try again in a second"
            raise make_http_error(HTTPStatus.SERVICE_UNAVAILABLE, message, retry_after="1")


async def run_in_pool(pool: ThreadPoolExecutor, work: Callable[[], PoolResult]) -> PoolResult:
    """Run `work` on a thread of the pool and return its result."""
    return await asyncio.get_running_loop().run_in_executor(pool, work)


async def make_error_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)
