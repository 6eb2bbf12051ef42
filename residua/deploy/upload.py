"""A request's body -> the bytes of an image, never more of them in memory than is allowed."""

import asyncio
from collections.abc import AsyncGenerator
from http import HTTPStatus

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request


def refusal(status: HTTPStatus, sentence: str, **headers: str) -> HTTPException:
    return HTTPException(status, sentence, headers or None)


async def image_of(request: Request, most: int, seconds: float) -> bytes:
    """The body, or the only file of a multipart form.

    Refused by 413 above `most` bytes, before the rest is read; by 408 after so many seconds; by 400 where it is no form
    of one file, or nothing.
    """
    try:
        async with asyncio.timeout(seconds):
            body = await whole(request, most)
            if request.headers.get("content-type", "").startswith("multipart/form-data"):
                body = await file_of(request, body)
    except TimeoutError:
        raise refusal(
            HTTPStatus.REQUEST_TIMEOUT, f"the image did not arrive within {seconds:g} seconds", connection="close"
        ) from None
    except ClientDisconnect:
        raise refusal(HTTPStatus.BAD_REQUEST, "the client went away") from None
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


async def file_of(request: Request, body: bytes) -> bytes:
    """The only file of a form."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(request.headers, stream(), max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise refusal(HTTPStatus.BAD_REQUEST, f"the form cannot be read: {error.message}") from None
    except (KeyError, ValueError, AssertionError, LookupError) as error:  # what a form without boundary or name ends in
        raise refusal(HTTPStatus.BAD_REQUEST, f"the form cannot be read: {error}") from None
    try:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if len(files) != 1:
            raise refusal(HTTPStatus.BAD_REQUEST, f"the form holds {len(files)} files: send one image")
        return await files[0].read()
    finally:
        await form.close()
