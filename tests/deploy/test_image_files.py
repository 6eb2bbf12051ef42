"""The image files of a folder: found by suffix or by content, and nothing passed over silently."""

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from residua.deploy.image_files import PassedOverFiles, find_image_files


def write_image(path, format="JPEG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (90, 60, 30)).save(path, format)
    return path


def list_found(folder):
    """The files found, relative to the folder, and the sentence about the others."""
    passed_over = PassedOverFiles()
    found = [str(path.relative_to(folder)) for path in find_image_files(folder, passed_over)]
    return found, passed_over.describe()


def test_images_of_a_folder_are_sorted_by_name_at_any_depth(tmp_path):
    for name in ("b/10.PNG", "b/9.jpeg", "a/x.webp", "c.tiff", ".hidden.png", "b/.cache/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("日本.gif", "d.avif", "e.HEIC", "f.pgm", "g.jp2", "Thumbs.db", "@eaDir/h.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_found(tmp_path) == (
        [
            *("a/x.webp", "b/10.PNG", "b/9.jpeg", "c.tiff", "d.avif", "e.HEIC", "f.pgm", "g.jp2"),
            "日本.gif",
        ],
        "",
    )


def test_files_without_a_suffix_are_found_by_their_content(tmp_path):
    for name, format in (("IMG_001", "JPEG"), ("3.14", "PNG"), ("a.jpeg!d", "WEBP")):
        write_image(tmp_path / name, format)
    (tmp_path / "README").write_text("BM is no image, nor is P5")
    (tmp_path / "empty").touch()
    assert list_found(tmp_path) == (
        ["3.14", "IMG_001", "a.jpeg!d"],
        "2 files passed over: 2 without a known suffix",
    )


def test_files_that_are_passed_over_are_counted_by_kind(tmp_path):
    write_image(tmp_path / "a.jpg")
    for name in ("a.txt", "b.TXT", "c/d.mp4", "e.nef"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"II*\0")
    assert list_found(tmp_path) == (["a.jpg"], "4 files passed over: 2 .txt, 1 .mp4, 1 .nef")
    for i in range(12):
        (tmp_path / f"a.x{i}").touch()
    assert list_found(tmp_path)[1].endswith(", 5 of other kinds")


def test_links_are_followed_but_not_in_circles(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    write_image(outside / "away.png", "PNG")
    (inside / "file.png").symlink_to(outside / "away.png")
    (inside / "folder").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (outside / "up").symlink_to(tmp_path)
    assert list_found(inside) == (
        ["file.png", "folder/away.png"],
        "2 files passed over: 2 links to folders that contain them",
    )


def test_more_nested_folders_than_python_allows_nested_calls_are_walked(tmp_path):
    folders = [f"{tmp_path}{'/d' * depth}" for depth in range(1, 400)]
    for folder in folders:
        os.mkdir(folder)
    image = write_image(Path(folders[-1], "deep.png"), "PNG")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        assert list_found(tmp_path) == ([str(image.relative_to(tmp_path))], "")
    finally:
        sys.setrecursionlimit(limit)
        image.unlink()
        for folder in reversed(folders):
            os.rmdir(folder)


def test_a_folder_whose_path_is_too_long_is_passed_over(tmp_path):
    write_image(tmp_path / "a.jpg")
    descriptor, opened = os.open(tmp_path, os.O_RDONLY), []
    for _ in range(21):
        os.mkdir("d" * 200, dir_fd=descriptor)
        opened.append(descriptor)
        descriptor = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
    try:
        assert list_found(tmp_path) == (
            ["a.jpg"],
            "1 file passed over: 1 without a known suffix",
        )
    finally:
        os.close(descriptor)
        for parent in reversed(opened):
            os.rmdir("d" * 200, dir_fd=parent)
            os.close(parent)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_counted(tmp_path):
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    assert list_found(tmp_path)[1] == "1 file passed over: 1 folder that cannot be read"
    (tmp_path / "closed").chmod(0o700)
