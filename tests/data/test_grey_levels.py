"""Grey levels of more than 8 bits: scaled by their white, and reported where it seems wrong."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from residua.cli.main import main
from residua.config.model import ImagePreprocessing, ModelConfig
from residua.config.papers import network
from residua.config.serialize import from_json, to_json
from residua.data.decode import decode_image, decode_photo
from residua.data.grey_levels import (
    describe_doubtful_white_level,
    guess_white_level,
    scale_grey_to_uint8,
    summarize_doubtful_white_levels,
)
from residua.errors import ImageError, UsageError
from tests.data.tiff_maker import make_tiff

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def encode_array(levels, format):
    file = BytesIO()
    Image.fromarray(levels).save(file, format)
    return file.getvalue()


def pack_12_bits(levels):
    """Two levels in three bytes, the higher bits first, as TIFF 6.0 stores 12 bits."""
    flat = levels.reshape(-1).astype(int)
    first, second = flat[::2], flat[1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1)
    return packed.astype(np.uint8).tobytes()


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_the_white_level_of_any_number_of_bits_becomes_white(bits, format):
    white = 2**bits - 1
    levels = np.linspace(0, white, 4096).round().astype(np.uint16).reshape(64, 64)
    wanted = np.rint(levels / white * 255)
    found = np.asarray(decode_image(encode_array(levels, format), white_level=white))
    assert (found == wanted[:, :, None]).all()
    assert len(np.unique(found)) == 256


def test_levels_above_the_white_level_are_white():
    levels = np.array([[0, 4095, 4096, 65535]], np.uint16)
    assert scale_grey_to_uint8(levels, 4095).tolist() == [[0, 255, 255, 255]]


def test_all_images_of_32_bits_and_of_floats_have_the_same_white_level_if_it_is_given():
    for dtype in (np.int32, np.float32):
        dark, bright = (np.array([[0, level]], dtype) for level in (50_000, 100_000))
        assert scale_grey_to_uint8(dark, 100_000).tolist() == [[0, 128]]
        assert scale_grey_to_uint8(bright, 100_000).tolist() == [[0, 255]]
    assert scale_grey_to_uint8(np.array([[0.5, 1.0]], np.float32)).tolist() == [[128, 255]]


def test_nan_and_infinite_levels_do_not_change_the_others():
    levels = np.array([[np.nan, np.inf, -np.inf, 0.5]], np.float32)
    assert scale_grey_to_uint8(levels).tolist() == [[0, 255, 0, 128]]
    assert scale_grey_to_uint8(np.full((2, 2), np.nan, np.float32)).tolist() == [[0, 0], [0, 0]]


def test_a_large_image_is_scaled_strip_by_strip_to_the_same_levels():
    levels = np.random.default_rng(0).integers(0, 65536, (1500, 2000), dtype=np.uint16)
    wanted = np.rint(levels / 257).astype(np.uint8)
    assert (scale_grey_to_uint8(levels) == wanted).all()


@pytest.mark.parametrize("big_endian", [False, True])
def test_a_tiff_file_that_states_12_bits_is_scaled_by_them(big_endian):
    content = make_tiff(pack_12_bits(RAMP), 64, 64, 12, big_endian=big_endian)
    try:
        photo = decode_photo(content)
    except ImageError as error:
        assert big_endian, error  # Pillow reads only the little-endian order
        assert error.kind == "damaged"
        return
    assert (np.asarray(photo.image)[..., 0] == np.rint(RAMP / 4095 * 255)).all()
    assert photo.brightest_level == 0


def test_a_tiff_file_in_which_zero_is_white_is_inverted():
    content = make_tiff((RAMP * 16).astype("<u2").tobytes(), 64, 64, 16, photometric=0)
    found = np.asarray(decode_image(content))[..., 0]
    assert np.abs(found - (255 - np.rint(RAMP * 16 / 257))).max() == 0
    eight_bits = make_tiff(bytes(range(256)), 16, 16, 8, photometric=0)
    assert np.asarray(decode_image(eight_bits))[..., 0].reshape(-1).tolist() == list(
        range(255, -1, -1)
    )


@pytest.mark.parametrize(
    ("level", "white"),
    [
        *((0, 0), (1, 255), (255, 255), (256, 1023), (3900, 4095), (4096, 16383), (16384, 0)),
        *((65535, 0), (65536, 65536), (10**6, 10**6)),
    ],
)
def test_the_white_level_that_the_highest_level_suggests(level, white):
    assert guess_white_level(level) == white
    assert bool(describe_doubtful_white_level(level)) == bool(white)


def test_many_images_are_summarised_in_one_sentence():
    assert summarize_doubtful_white_levels([0, 65535, 20_000]) == ""
    assert summarize_doubtful_white_levels([900, 3900, 65535]) == (
        "images of more than 8 bits (2) have no level above 3,900, and another white is assumed: "
        "if it is 4,095, give --white-level 4095"
    )


def test_16_bits_per_colour_are_reported_if_they_are_dark_and_refused_with_a_white_level():
    """Pillow reads the upper 8 bits alone, which no white level brings back."""
    colour = np.stack([RAMP] * 3, 2).astype("<u2")
    content = make_tiff(colour.tobytes(), 64, 64, (16, 16, 16), photometric=2)
    photo = decode_photo(content)
    assert len(np.unique(np.asarray(photo.image))) == 16
    assert photo.brightest_level == 4095
    with pytest.raises(ImageError, match="has 16 bits per colour, but only the upper 8"):
        decode_image(content, white_level=4095)
    bright = make_tiff((colour * 16).tobytes(), 64, 64, (16, 16, 16), photometric=2)
    assert describe_doubtful_white_level(decode_photo(bright).brightest_level) == ""


def write_12_bit_folder(root, count=3):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(count):
            levels = rng.integers(0, 3901, (20, 20), dtype=np.uint16)
            levels[0, 0] = 3900
            (root / name / f"{i}.png").write_bytes(encode_array(levels, "PNG"))


def test_the_check_reports_12_bits_in_16_and_not_if_the_white_level_is_given(tmp_path, capsys):
    write_12_bit_folder(tmp_path / "d")

    def check(*options):
        out = ["--out", str(tmp_path / "o"), "--json"]
        assert main(["data", "check", str(tmp_path / "d"), *out, *options]) == 0
        facts = json.loads(capsys.readouterr().out)
        return facts["mean"][0], [p for p in facts["problems"] if p["kind"] == "unused levels"]

    mean, problems = check()
    assert len(problems) == 6
    assert problems[0]["detail"] == (
        "is nearly black, because it has 16 bits but no level above 3,900: "
        "if its white is 4,095, give --white-level 4095"
    )
    assert mean < 0.05
    mean, problems = check("--white-level", "4095")
    assert (problems, round(mean, 1)) == ([], 0.5)
    for level in ("0", "-1", str(2**31)):
        assert main(["data", "check", str(tmp_path / "d"), "--white-level", level]) == 2
        assert f"--white-level {level} is invalid" in capsys.readouterr().err


def test_the_white_level_is_kept_in_a_model_folder():
    config = ModelConfig(
        network=network("cifar-resnet8", input=(3, 16, 16)),
        classes=tuple("abcdefghij"),
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
    )
    assert "white_level" not in to_json(config)
    stored = to_json(config) | {"white_level": 4095}
    assert from_json(ModelConfig, stored).white_level == 4095
    with pytest.raises(UsageError, match="white_level=-1 is invalid"):
        from_json(ModelConfig, stored | {"white_level": -1})
    with pytest.raises(UsageError, match="white_level=-1 is invalid"):
        ImagePreprocessing((3, 8, 8), white_level=-1)


def test_training_keeps_the_white_level_for_prediction_evaluation_and_resuming(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, run = tmp_path / "d", tmp_path / "r"
    write_12_bit_folder(folder, count=12)
    options = [
        *("train", str(folder), "--model", "cifar-resnet8", "--size", "16", "--steps", "2"),
        *("--set", "batch_size=8", "--precision", "fp32", "--out"),
    ]
    note = "images of more than 8 bits ({}) have no level above 3,900, and another white is assumed"
    assert main([*options, str(tmp_path / "dark")]) == 0
    assert note.format(24) in capsys.readouterr().err
    assert main([*options, str(run), "--white-level", "4095"]) == 0
    assert "of more than 8 bits" not in capsys.readouterr().err
    assert json.loads((run / "last" / "config.json").read_text())["white_level"] == 4095
    # the images are those of the run without the option, too
    assert main([*options, str(run), "--resume"]) == 0
    assert main(["evaluate", str(run), str(folder), "--json"]) == 0
    image = str(folder / "cat" / "0.png")
    capsys.readouterr()

    def predict(model, *more):
        assert main(["predict", str(model), image, "--json", "--engine", "torch", *more]) == 0
        captured = capsys.readouterr()
        return json.loads(captured.out)["top"], captured.err

    top, error = predict(run)
    assert "of more than 8 bits" not in error
    assert predict(run, "--white-level", "4095")[0] == top
    assert predict(run, "--white-level", "65535")[0] != top
    assert note.format(1) in predict(tmp_path / "dark")[1]
    assert main(["train", "digits", "--white-level", "4095"]) == 2
    assert "--white-level applies only to photographs: leave it out for digits" in (
        capsys.readouterr().err
    )
