"""Reads the options of a prediction request from its query string."""

from dataclasses import dataclass
from http import HTTPStatus

from starlette.requests import Request

from residua.deploy.upload import make_http_error


@dataclass(frozen=True, slots=True)
class PredictionQuery:
    """The options of a prediction request, from the query string of its URL."""

    top_count: int  # classes in the answer
    wants_heatmap: bool
    similar_count: int  # similar training images in the answer


def parse_prediction_query(request: Request) -> PredictionQuery:
    """Read `top`, `explain` and `similar` from the query string.

    Raises HTTPException 400 for an invalid value.
    """
    return PredictionQuery(
        top_count=parse_query_number(request, "top", 5, 1000),
        wants_heatmap=bool(parse_query_number(request, "explain", 0, 1)),
        similar_count=parse_query_number(request, "similar", 0, 24),
    )


def parse_query_number(request: Request, name: str, default: int, maximum: int) -> int:
    """Read a whole number in [0, maximum] from the query string, or `default` if it is absent.

    Raises HTTPException 400 for any other value.
    """
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= maximum):
        raise make_http_error(
            HTTPStatus.BAD_REQUEST,
            f"{name}={text[:40]} is invalid: give a whole number up to {maximum}",
        )
    return int(text)
