"""Reads the options of a prediction request from its query string."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from starlette.requests import Request

from residua.deploy.explained_class import find_class_index
from residua.deploy.upload import make_http_error
from residua.errors import UsageError

MAX_CLASS_CHARACTERS = 1000  # of a class's name in a request; more are compared in vain


@dataclass(frozen=True, slots=True)
class PredictionQuery:
    """The options of a prediction request, from the query string of its URL."""

    top_count: int  # classes in the answer
    wants_heatmap: bool
    explained_class: int | None  # of the heat map; None for the most probable one
    similar_count: int  # similar training images in the answer


def parse_prediction_query(request: Request, classes: Sequence[str]) -> PredictionQuery:
    """Read `top`, `explain`, `explain_class` and `similar` from the query string.

    Raises HTTPException 400 for an invalid value.
    """
    wants_heatmap = bool(parse_query_number(request, "explain", 0, 1))
    return PredictionQuery(
        top_count=parse_query_number(request, "top", 5, 1000),
        wants_heatmap=wants_heatmap,
        explained_class=parse_explained_class(request, classes, wants_heatmap=wants_heatmap),
        similar_count=parse_query_number(request, "similar", 0, 24),
    )


def parse_explained_class(
    request: Request, classes: Sequence[str], *, wants_heatmap: bool
) -> int | None:
    """Read the class that `explain_class` names in the query string; None if it is absent.

    Raises HTTPException 400 if the model has no such class, or if no heat map is asked for.
    """
    name = request.query_params.get("explain_class")
    if name is None:
        return None
    if not wants_heatmap:
        raise make_http_error(
            HTTPStatus.BAD_REQUEST,
            "explain_class only applies with explain=1: add it, or leave explain_class out",
        )
    try:
        return find_class_index(classes, name[:MAX_CLASS_CHARACTERS])
    except UsageError as error:
        raise make_http_error(HTTPStatus.BAD_REQUEST, str(error)) from None


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
