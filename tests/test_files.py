import pytest

from residua.files import atomic_write, write_text


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary_path:
        temporary_path.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_a_folder_replaces_an_existing_one(tmp_path):
    folder = tmp_path / "model"
    for text in ("first", "second"):
        with atomic_write(folder) as temporary_path:
            temporary_path.mkdir()
            (temporary_path / text).write_text(text)
    assert [p.name for p in folder.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_failure_while_writing_a_folder_leaves_the_old_one(tmp_path):
    folder = tmp_path / "model"
    with atomic_write(folder) as temporary_path:
        temporary_path.mkdir()
        (temporary_path / "a").touch()
    with pytest.raises(OSError, match="full"), atomic_write(folder) as temporary_path:
        temporary_path.mkdir()
        raise OSError("full")
    assert (folder / "a").exists()
    assert list(tmp_path.iterdir()) == [folder]
