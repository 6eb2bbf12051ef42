"""A request's body -> the bytes of an image, never more of them in memory than is allowed."""

import asyncio
import logging
from http import HTTPStatus

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # or else it writes a line for each form that anybody spoils


def refusal(status: HTTPStatus, sentence: str, **headers: str) -> HTTPException:
    return HTTPException(status, sentence, {name.replace("_", "-"): value for name, value in headers.items()})


async def image_of(request: Request, most: int, seconds: float) -> bytes:
    """The body, or the only file of a multipart form.

    Refused by 413 above `most` bytes, before the rest is read; by 408 after so many seconds; by 400 where it is no form
    of one file, or nothing.
    """
    try:
        async with asyncio.timeout(seconds):
            body = await whole(request, most)
    except TimeoutError:
        raise refusal(
            HTTPStatus.REQUEST_TIMEOUT, f"the image did not arrive within {seconds:g} seconds", connection="close"
        ) from None
    except ClientDisconnect:
        raise refusal(HTTPStatus.BAD_REQUEST, "the client went away") from None
    kind = request.headers.get("content-type", "")
    if kind.startswith("multipart/form-data"):
        body = file_of(kind, body)
    if not body:
        raise refusal(HTTPStatus.BAD_REQUEST, "the body is empty: send an image, or a form with a file")
    return body


async def whole(request: Request, most: int) -> bytes:
    """The body, of at most so many bytes."""
    announced = request.headers.get("content-length", "0")
    parts, size = [], int(announced) if announced.isdecimal() else 0
    if size <= most:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                break
            parts.append(part)
    if size > most:
        raise refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {most:,} bytes", connection="close")
    return b"".join(parts)


def file_of(kind: str, body: bytes) -> bytes:
    """The only file of a form whose content type is `kind`; in memory, where the body is."""
    files: list[File] = []
    try:
        boundary = parse_options_header(kind)[1][b"boundary"]
        settings = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}
        parser = FormParser("multipart/form-data", lambda field: None, files.append, boundary=boundary, config=settings)
        parser.write(body)
        parser.finalize()
    except KeyError:
        raise refusal(HTTPStatus.BAD_REQUEST, "the form cannot be read: its content type says no boundary") from None
    except (FormParserError, ValueError) as error:
        raise refusal(HTTPStatus.BAD_REQUEST, f"the form cannot be read: {error}") from None
    if len(files) != 1:
        raise refusal(HTTPStatus.BAD_REQUEST, f"the form holds {len(files)} whole files: send one image")
    files[0].file_object.seek(0)
    return files[0].file_object.read()
