"""A request's body -> the bytes of an image, never more of them in memory than is allowed."""

import asyncio
import logging
from http import HTTPStatus

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

logging.getLogger("python_multipart").setLevel(
    logging.ERROR
)  # or else it writes a line for each form that anybody spoils


def make_http_error(status: HTTPStatus, message: str, **headers: str) -> HTTPException:
    return HTTPException(
        status, message, {name.replace("_", "-"): value for name, value in headers.items()}
    )


async def read_uploaded_image(request: Request, max_bytes: int, timeout_seconds: float) -> bytes:
    """The body, or the only file of a multipart form.

    Refused by 413 above `most` bytes, before the rest is read; by 408 after so many seconds; by 400 where it is no form
    of one file, or nothing.
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
        raise make_http_error(HTTPStatus.BAD_REQUEST, "the client went away") from None
    content_type = request.headers.get("content-type", "")
    if content_type.startswith("multipart/form-data"):
        body = extract_form_file(content_type, body)
    if not body:
        raise make_http_error(
            HTTPStatus.BAD_REQUEST, "the body is empty: send an image, or a form with a file"
        )
    return body


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body, of at most so many bytes."""
    content_length = request.headers.get("content-length", "0")
    chunks, size = [], int(content_length) if content_length.isdecimal() else 0
    if size <= max_bytes:
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
    """The only file of a form whose content type is `kind`; in memory, where the body is."""
    files: list[File] = []
    try:
        boundary = parse_options_header(content_type)[1][b"boundary"]
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
            HTTPStatus.BAD_REQUEST, "the form cannot be read: its content type says no boundary"
        ) from None
    except (FormParserError, ValueError) as error:
        raise make_http_error(HTTPStatus.BAD_REQUEST, f"the form cannot be read: {error}") from None
    if len(files) != 1:
        raise make_http_error(
            HTTPStatus.BAD_REQUEST, f"the form holds {len(files)} whole files: send one image"
        )
    files[0].file_object.seek(0)
    return files[0].file_object.read()
