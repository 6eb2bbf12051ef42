"""Reads an uploaded image from a request, with a limit on the bytes in memory."""

import asyncio
import logging
from http import HTTPStatus

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

# By default the library logs a warning for every malformed form that a client sends.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


def make_http_error(status: HTTPStatus, message: str, **headers: str) -> HTTPException:
    """Make an HTTP error; `headers` have their names in snake case, e.g. `retry_after`."""
    return HTTPException(
        status, message, {name.replace("_", "-"): value for name, value in headers.items()}
    )


async def read_uploaded_image(request: Request, max_bytes: int, timeout_seconds: float) -> bytes:
    """The bytes of the request's body, or of the only file in a multipart form.

    Raises an HTTPException: 413 for a body above `max_bytes`, before the rest is received; 408 if
    it does not arrive in time; 400 if it is empty or not a form with exactly one file.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            body = await read_body(request, max_bytes)
    except TimeoutError:
        raise make_http_error(
            HTTPStatus.REQUEST_TIMEOUT,
            f"the image did not arrive within {timeout_seconds:g} seconds",
            connection="close",
        ) from None
    except ClientDisconnect:
        raise make_http_error(HTTPStatus.BAD_REQUEST, "the client disconnected") from None
    content_type = request.headers.get("content-type", "")
    if content_type.startswith("multipart/form-data"):
        body = extract_form_file(content_type, body)
    if not body:
        raise make_http_error(
            HTTPStatus.BAD_REQUEST, "the body is empty: send an image, or a form with a file"
        )
    return body


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The request's body; HTTPException 413 if it is larger than `max_bytes`."""
    content_length = request.headers.get("content-length", "0")
    chunks, size = [], int(content_length) if content_length.isdecimal() else 0
    if size <= max_bytes:  # otherwise the announced length is reason enough to refuse
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes:
                break
            chunks.append(chunk)
    if size > max_bytes:
        raise make_http_error(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body is larger than {max_bytes:,} bytes",
            connection="close",
        )
    return b"".join(chunks)


def extract_form_file(content_type: str, body: bytes) -> bytes:
    """The bytes of the only file in a multipart form.

    `content_type` is the request's header, which names the boundary of the parts.  Raises
    HTTPException 400 unless the form has exactly one file.
    """
    files: list[File] = []
    try:
        boundary = parse_options_header(content_type)[1][b"boundary"]
        # Keep files in memory, where the body is already, instead of temporary files.
        settings = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}
        parser = FormParser(
            "multipart/form-data",
            lambda field: None,
            files.append,
            boundary=boundary,
            config=settings,
        )
        parser.write(body)
        parser.finalize()
    except KeyError:
        raise make_http_error(
            HTTPStatus.BAD_REQUEST, "the form cannot be read: its content type has no boundary"
        ) from None
    except (FormParserError, ValueError) as error:
        raise make_http_error(HTTPStatus.BAD_REQUEST, f"the form cannot be read: {error}") from None
    if len(files) != 1:
        raise make_http_error(
            HTTPStatus.BAD_REQUEST,
            f"the form has {len(files)} complete files: send exactly one image",
        )
    files[0].file_object.seek(0)
    return files[0].file_object.read()
