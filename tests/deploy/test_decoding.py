"""Decoding uploads: its memory is known before, bounded over all threads, and its crop is right."""

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from residua.data.decode import decode_image, open_image_header, preprocess_image
from residua.deploy.decoding import (
    RGB_BYTES_PER_PIXEL,
    DecodingMemory,
    decode_upload,
    estimate_decoding_bytes,
    locate_crop,
)
from residua.deploy.limits import ServerLimits
from residua.deploy.service import PredictionService
from residua.errors import ImageError
from tests.cli_runner import run_cli
from tests.deploy.live_server import make_small_engine, run_server, send_request

WIDTH, HEIGHT = 2500, 2000
WORKING_BYTES = 32e6  # of strips and tables, whatever the size of the image
FOR_224 = SimpleNamespace(
    input=(3, 224, 224),
    resize=256,
    interpolation="bilinear",
    white_level=0,
    scaled_decoding=False,
)
ROTATED = 6  # EXIF orientation: the pixels are copied


def encode_image(image, image_format, rotated=False, **options):
    file = BytesIO()
    if rotated:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = ROTATED
    image.save(file, image_format, **options)
    return file.getvalue()


def make_images():
    """Images of all kinds of modes and formats, by name; of one colour, to be encoded fast."""
    photo, clear = [Image.new(mode, (WIDTH, HEIGHT), "#3468ac80") for mode in ("RGB", "RGBA")]
    palette = Image.new("P", (WIDTH, HEIGHT))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    deep = {
        kind: Image.fromarray(np.full((HEIGHT, WIDTH), 77, kind))
        for kind in (np.uint16, np.int32, np.float32)
    }
    fast_png = {"compress_level": 1}
    return {
        "JPEG": encode_image(photo, "JPEG", rotated=True),
        "progressive": encode_image(photo, "JPEG", True, progressive=True, subsampling=0),
        "CMYK": encode_image(photo.convert("CMYK"), "JPEG", True, progressive=True),
        "grey": encode_image(photo.convert("L"), "JPEG", True),
        "PNG": encode_image(photo, "PNG", True, **fast_png),
        "RGBA": encode_image(clear, "PNG", True, **fast_png),
        "LA": encode_image(photo.convert("L").convert("LA"), "PNG", **fast_png),
        "palette": encode_image(palette, "PNG", **fast_png),
        "clear palette": encode_image(palette, "PNG", transparency=0, **fast_png),
        "GIF": encode_image(palette, "GIF", transparency=0),
        "16 bits": encode_image(deep[np.uint16], "PNG", **fast_png),
        "32 bits": encode_image(deep[np.int32], "TIFF", compression="tiff_lzw"),
        "float": encode_image(deep[np.float32], "TIFF", compression="tiff_lzw"),
        "one strip": encode_image(
            photo, "TIFF", compression="tiff_adobe_deflate", strip_size=2**30
        ),
        "WebP": encode_image(photo, "WEBP", method=0),
        "clear WebP": encode_image(clear, "WEBP", method=0),
        "JPEG 2000": encode_image(photo, "JPEG2000"),
    }


def read_peak_bytes():
    """The peak of this process's resident memory since the last call of `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def forget_peak():
    """Return free memory to the system, which would hide what is allocated next."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        pytest.skip("the peak of the memory cannot be measured here")


def test_no_image_takes_more_memory_than_its_estimate():
    peaks = {}
    for name, content in make_images().items():
        with open_image_header(content, name, 10**8) as header:
            estimate = estimate_decoding_bytes(header)
        forget_peak()
        before = read_peak_bytes()
        preprocess_image(decode_image(content), FOR_224)
        peaks[name] = (read_peak_bytes() - before - WORKING_BYTES) / estimate
    too_large = {name: share for name, share in peaks.items() if share > 1}
    assert not too_large, peaks
    assert max(peaks.values()) > 0.5, peaks  # something was measured


def test_a_float_tiff_is_refused_before_it_is_decoded():
    """Its 49 megapixels are within the limit, but take a gigabyte."""
    content = encode_image(Image.new("F", (7000, 7000)), "TIFF", compression="tiff_adobe_deflate")
    assert len(content) < 400_000
    service = PredictionService(make_small_engine(), "", ServerLimits())
    with run_server(service) as port:
        forget_peak()
        before = read_peak_bytes()
        status, _, found = send_request(port, content)
        assert read_peak_bytes() - before < 50e6
    assert (status, found["error"]) == (
        413,
        "the image needs 1,029 MB of memory to be decoded, more than the limit of 650 MB: send "
        "a smaller image, or one with 8 bits per channel",
    )


def test_threads_wait_until_the_memory_for_their_image_is_free():
    memory = DecodingMemory(max_pixels=1000)
    assert memory.max_bytes == 1000 * RGB_BYTES_PER_PIXEL
    most, lock, entered = [0], threading.Lock(), threading.Event()

    def work(count):
        with memory.reserve_bytes(count), lock:
            most[0] = max(most[0], memory.used_bytes)
        return count

    with ThreadPoolExecutor(8) as pool:
        with memory.reserve_bytes(memory.max_bytes):
            waiting = pool.submit(lambda: (work(1), entered.set()))
            assert not entered.wait(0.1)
        waiting.result(5)
        counts = [memory.max_bytes // 3 + i for i in range(50)]
        assert sorted(pool.map(work, counts)) == counts
    assert most[0] <= memory.max_bytes
    assert memory.used_bytes == 0
    with pytest.raises(ImageError, match="more than the limit of"):
        work(memory.max_bytes + 1)


def test_memory_is_free_again_after_an_image_that_cannot_be_decoded():
    memory = DecodingMemory(max_pixels=10_000)
    content = encode_image(Image.new("RGB", (100, 50), "red"), "PNG")
    for broken in (b"", b"no image", content[:60], content[: len(content) // 2]):
        with pytest.raises(ImageError):
            decode_upload(broken, FOR_224, 10_000, memory)
        assert memory.used_bytes == 0
    assert decode_upload(content, FOR_224, 10_000, memory).size == (100, 50)


@pytest.mark.parametrize("size", [(640, 400), (301, 777), (40, 30), (4000, 20), (17, 1900)])
@pytest.mark.parametrize("resize", [0, 256, 230])
def test_the_crop_is_the_part_of_the_photograph_that_the_network_receives(size, resize):
    """A ramp tells from its pixels where they were."""
    width, height = size
    preprocessing = SimpleNamespace(**FOR_224.__dict__ | {"input": (3, 224, 196), "resize": resize})
    column = (np.arange(width) + 0.5) * (255 / width)
    row = (np.arange(height) + 0.5) * (255 / height)
    ramp = np.zeros((height, width, 3))
    ramp[..., 0], ramp[..., 1] = column, row[:, None]
    pixels = preprocess_image(Image.fromarray(np.rint(ramp).astype(np.uint8)), preprocessing)
    left, top, right, bottom = locate_crop(size, preprocessing)
    columns = pixels[0].float().mean(0).numpy() * (width / 255)
    rows = pixels[1].float().mean(1).numpy() * (height / 255)
    for found, start, end, side in ((columns, left, right, width), (rows, top, bottom, height)):
        steps = start + (np.arange(len(found)) + 0.5) * ((end - start) / len(found))
        inner = (steps > 0.03 * side) & (steps < 0.97 * side)  # edges are clamped
        np.testing.assert_allclose(found[inner], steps[inner], atol=0.012 * side + 0.6)


def test_the_help_states_the_bytes_per_pixel(capsys):
    code, out, _ = run_cli(capsys, "serve", "--help")
    assert code == 0
    assert f"most {RGB_BYTES_PER_PIXEL} times as many bytes" in " ".join(out.split())
