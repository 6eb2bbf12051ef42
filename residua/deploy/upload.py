"""Reads the images of a request: the body itself, the files of a form, or base64 in JSON."""

import asyncio
import base64
import binascii
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from residua.bounded_json import parse_strict_json
from residua.deploy.body_budget import BodyEvictedError, BodyShare
from residua.errors import ImageError

MAX_REQUEST_IMAGES = 64  # our choice
MAX_FORM_FIELDS = 16  # a browser's form may have a few besides its files; our choice
MAX_JSON_MARKS = 10_000  # millions of tiny values would take 40 times their bytes in memory
QUERY_OPTIONS = ("top", "explain", "similar")
NOT_BASE64 = "an image in the JSON is not base64: encode the bytes of its file"

# By default the library logs a warning for every malformed form that a client sends.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class UploadedImages:
    """The encoded images of a request; an error in place of one that is not base64."""

    contents: list[bytes | ImageError]
    is_list: bool  # whether the client expects a list of answers


def make_http_error(status: HTTPStatus, message: str, **headers: str) -> HTTPException:
    """Make an HTTP error; `headers` have their names in snake case, e.g. `retry_after`."""
    return HTTPException(
        status, message, {name.replace("_", "-"): value for name, value in headers.items()}
    )


def http_status_for(error: ImageError) -> HTTPStatus:
    """Return the HTTP status for an image that cannot be decoded."""
    status_by_kind = {
        "not an image": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "too large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    }
    return status_by_kind.get(error.kind, HTTPStatus.BAD_REQUEST)


async def receive_body(
    request: Request,
    max_bytes: int,
    timeout_seconds: float,
    share: BodyShare,
    count_refusal: Callable[[str], None],
) -> bytes:
    """Receive the request's body, and count its bytes in `share` while they arrive.

    `share` is the body's part of the memory for all bodies.  Raises an HTTPException: 413 for a
    body above `max_bytes`, before the rest is received; 408 if it does not arrive in time; 503 if
    the bodies of all requests take too much memory.  `count_refusal` is called with the reason.
    The answers 413 and 503 leave the connection open, so that a client that is still sending reads
    them.
    """
    try:
        async with asyncio.timeout(timeout_seconds) as arrival:
            with share.allow_eviction(arrival):
                return await read_body(request, max_bytes, share)
    except (TimeoutError, BodyEvictedError):
        if share.is_evicted:
            count_refusal("body_memory")
            raise make_http_error(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the memory for request bodies is full ({share.budget.max_bytes:,} "
                "bytes): try again in a second",
                retry_after="1",
            ) from None
        count_refusal("body_timeout")
        raise make_http_error(
            HTTPStatus.REQUEST_TIMEOUT,
            f"the image did not arrive within {timeout_seconds:g} seconds",
            connection="close",
        ) from None
    except HTTPException:
        count_refusal("body_size")
        raise
    except ClientDisconnect:
        raise make_http_error(HTTPStatus.BAD_REQUEST, "the client disconnected") from None


async def read_body(request: Request, max_bytes: int, share: BodyShare) -> bytes:
    """Read the request's body.

    Raises HTTPException 413 if it is larger than `max_bytes`, and BodyEvictedError if the memory
    for all bodies is full.
    """
    content_length = request.headers.get("content-length", "0")
    chunks, size = [], int(content_length) if content_length.isdecimal() else 0
    if size <= max_bytes:  # otherwise the announced length is reason enough to refuse
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes:
                break
            share.add_bytes(len(chunk))
            chunks.append(chunk)
    if size > max_bytes:
        raise make_http_error(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {max_bytes:,} bytes"
        )
    return b"".join(chunks)


def parse_upload(content_type: str, body: bytes, max_images: int) -> UploadedImages:
    """Find the images in a request's body; `content_type` is the request's header.

    Raises HTTPException: 400 if there are none, or the form or the JSON cannot be read; 413 if
    there are more than `max_images`.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if not body:
        raise make_bad_request("the body is empty: send an image, or a form with a file")
    if media_type == "multipart/form-data":
        files = extract_form_files(content_type, body, max_images)
        return UploadedImages([*files], len(files) > 1)
    if media_type == "application/json":
        return extract_json_images(body, max_images)
    return UploadedImages([body], False)


def make_bad_request(message: str) -> HTTPException:
    return make_http_error(HTTPStatus.BAD_REQUEST, message)


def make_too_many_images(max_images: int) -> HTTPException:
    return make_http_error(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the request has more than {max_images} images: send several requests",
    )


def extract_form_files(content_type: str, body: bytes, max_files: int) -> list[bytes]:
    """Extract the bytes of all files in a multipart form, in their order.

    `content_type` is the request's header, which names the boundary of the parts.  Raises
    HTTPException 400 if the form is incomplete, has no file, or has a field that is an option of
    the query; 413 as soon as it has more than `max_files`.
    """
    files: list[File] = []
    fields: list[str] = []
    has_ended: list[bool] = []

    def take_file(file: File) -> None:
        files.append(file)
        if len(files) > max_files:
            raise make_too_many_images(max_files)

    def take_field(field: Field) -> None:
        fields.append((field.field_name or b"").decode(errors="replace"))
        if len(fields) > MAX_FORM_FIELDS:
            raise make_bad_request(f"the form has more than {MAX_FORM_FIELDS} fields: send fewer")

    try:
        parser = FormParser(
            "multipart/form-data",
            take_field,
            take_file,
            on_end=lambda: has_ended.append(True),
            boundary=parse_options_header(content_type)[1][b"boundary"],
            # Keep files in memory, where the body is already, instead of temporary files.
            config={"MAX_MEMORY_FILE_SIZE": len(body) + 1},
        )
        parser.write(body)
        parser.finalize()
    except KeyError:
        raise make_bad_request(
            "the form cannot be read: its content type has no boundary"
        ) from None
    except (FormParserError, ValueError) as error:
        raise make_bad_request(f"the form cannot be read: {error}") from None
    if options := [name for name in fields if name in QUERY_OPTIONS]:
        raise make_bad_request(
            f"the form has a field {options[0]!r}: give it in the query, as in /predict?"
            f"{options[0]}=1"
        )
    if not files or not has_ended:
        raise make_bad_request(
            f"the form has {len(files)} complete files{'' if has_ended else ' and is cut off'}: "
            "send the whole form, with at least one image"
        )
    for file in files:
        file.file_object.seek(0)
    return [file.file_object.read() for file in files]


def extract_json_images(body: bytes, max_images: int) -> UploadedImages:
    """Decode the images of `{"image": base64}` or `{"images": [base64, ...]}`.

    In a list, a text that is not base64 is an image with an error.  Raises HTTPException 400 for
    any other JSON, and 413 for more than `max_images`.
    """
    document = None
    if sum(body.count(mark) for mark in (b'"', b",", b"[", b"{")) <= MAX_JSON_MARKS:
        try:
            document = parse_strict_json(body)
        except (ValueError, RecursionError):
            raise make_bad_request(
                "the content type is JSON, but the body is not valid JSON: correct one of them"
            ) from None
    match document:
        case {"images": [*texts]} if len(texts) > max_images:
            raise make_too_many_images(max_images)
        case {"image": str(text), **others} if not others:
            content = decode_base64(text)
            if isinstance(content, ImageError):
                raise make_bad_request(NOT_BASE64)
            return UploadedImages([content], False)
        case {"images": [_, *_] as texts, **others} if not others:
            if not all(isinstance(text, str) for text in texts):
                raise make_bad_request(NOT_BASE64)
            return UploadedImages([decode_base64(str(text)) for text in texts], True)
    raise make_bad_request(
        'the JSON has the wrong form: send {"image": base64} or {"images": [base64, ...]}, and '
        "options in the query"
    )


def decode_base64(text: str) -> bytes | ImageError:
    """Decode base64 text or a data URI; return an error for anything else."""
    try:
        encoded = re.sub(r"\s+", "", re.sub(r"\Adata:[^,]{0,200};base64,", "", text))
        return base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        return ImageError("the image", "not base64", "is not base64: encode the bytes of its file")
