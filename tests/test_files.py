"""Files and folders are written whole or not at all, whoever else writes, reads or is killed."""

import errno
import os
import resource
import signal
import stat
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from residua import file_locks, files
from residua.errors import UsageError
from residua.files import (
    append_line,
    atomic_write,
    claim_new_output,
    clean_up_interrupted_writes,
    delete_path,
    hold_output_lock,
    read_undisturbed,
    recover_interrupted,
    write_json,
    write_text,
    write_text_files,
)
from tests.forks import kill_fork, run_at_once, run_forked, start_fork, wait_for_fork


def write_folder(folder, text):
    """A folder of two files that belong together."""
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        for name in ("a", "b"):
            (temporary / name).write_text(text)


def read_folder(folder):
    texts = {(folder / name).read_text() for name in ("a", "b")}
    assert len(texts) == 1, "half a folder"
    return texts.pop()


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


def start_writer_that_waits(path, text="half"):
    """A process that writes to `path` until it is killed; returns its id once it has begun."""
    read_end, write_end = os.pipe()

    def write():
        with atomic_write(path) as temporary:
            temporary.write_text(text)
            os.write(write_end, b"1")
            time.sleep(60)

    pid = start_fork(write)
    os.read(read_end, 1)
    os.close(read_end)
    os.close(write_end)
    return pid


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
    write_folder(folder, "old")
    with pytest.raises(OSError, match="full"), atomic_write(folder) as temporary_path:
        temporary_path.mkdir()
        raise OSError("full")
    assert read_folder(folder) == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_failure_deletes_the_empty_parent_folders_that_it_made(tmp_path):
    (tmp_path / "kept").mkdir()
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "kept" / "x" / "y" / "a"):
        raise RuntimeError
    assert list_names(tmp_path / "kept") == []


def test_a_folder_is_never_replaced_by_a_file_nor_a_file_by_a_folder(tmp_path):
    write_folder(tmp_path / "folder", "old")
    write_text(tmp_path / "file", "old")
    with pytest.raises(IsADirectoryError) as error:
        write_text(tmp_path / "folder", "new")
    assert error.value.filename == str(tmp_path / "folder")
    with pytest.raises(NotADirectoryError):
        write_folder(tmp_path / "file", "new")
    assert read_folder(tmp_path / "folder") == "old"
    assert (tmp_path / "file").read_text() == "old"
    assert list_names(tmp_path) == ["file", "folder"]


def test_helper_files_beside_the_temporary_path_are_deleted(tmp_path):
    with atomic_write(tmp_path / "a.so") as temporary_path:
        assert temporary_path.name == "a.so"  # libraries go by the suffix
        temporary_path.with_suffix(".o").write_text("helper")
        temporary_path.write_text("result")
    assert list_names(tmp_path) == ["a.so"]


# Links.


def test_a_link_to_a_file_or_a_folder_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name, write in (("file", write_text), ("folder", write_folder)):
        target, link = tmp_path / "elsewhere" / name, tmp_path / name
        write(target, "old")
        link.symlink_to(target)
        write(link, "new")
        assert link.is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_text() == "new"
    assert read_folder(tmp_path / "elsewhere" / "folder") == "new"
    assert list_names(tmp_path / "elsewhere") == ["file", "folder"]


def test_a_link_to_another_file_system_is_followed(tmp_path):
    if not Path("/dev/shm").is_dir() or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("there is no other file system")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        for name, write in (("file", write_text), ("folder", write_folder)):
            write(Path(elsewhere) / name, "old")
            (tmp_path / name).symlink_to(Path(elsewhere) / name)
            write(tmp_path / name, "new")
        assert (Path(elsewhere) / "file").read_text() == "new"
        assert read_folder(Path(elsewhere) / "folder") == "new"
        assert list_names(Path(elsewhere)) == ["file", "folder"]


def test_a_link_to_a_missing_file_makes_the_file_but_no_folders(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "missing")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "missing").read_text() == "new"
    (tmp_path / "lost").symlink_to(tmp_path / "unmounted" / "file")
    with pytest.raises(FileNotFoundError) as error:
        write_text(tmp_path / "lost", "new")
    assert error.value.filename == str(tmp_path / "lost")
    assert not (tmp_path / "unmounted").exists()


def test_links_in_a_circle_are_an_error_that_names_the_path(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="symbolic links") as error:
        write_text(tmp_path / "a", "new")
    assert error.value.filename == str(tmp_path / "a")
    assert list_names(tmp_path) == ["a", "b"]


def test_deleting_a_link_spares_the_folder_to_which_it_refers(tmp_path):
    write_folder(tmp_path / "folder", "old")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    delete_path(tmp_path / "link")
    assert list_names(tmp_path) == ["folder"]
    assert read_folder(tmp_path / "folder") == "old"


# Permissions.


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o027, 0o077])
def test_files_have_the_permissions_that_open_gives(tmp_path, umask):
    before = os.umask(umask)
    try:
        (tmp_path / "by-open").write_text("")
        with atomic_write(tmp_path / "folder") as temporary:
            temporary.mkdir()
            save_file({"x": torch.zeros(1)}, temporary / "weights")  # by itself 0600
        with atomic_write(tmp_path / "weights") as temporary:
            save_file({"x": torch.zeros(1)}, temporary)
        with atomic_write(tmp_path / "program") as temporary:
            temporary.write_text("")
            temporary.chmod(0o700)
        assert os.umask(umask) == umask  # it was not changed
    finally:
        os.umask(before)
    modes = {p: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*")}
    expected = modes.pop(tmp_path / "by-open")
    assert modes.pop(tmp_path / "program") == modes.pop(tmp_path / "folder") == 0o777 & ~umask
    assert set(modes.values()) == {expected} == {0o666 & ~umask}


def test_links_in_a_new_folder_leave_the_files_to_which_they_refer_as_they_are(tmp_path):
    write_text(tmp_path / "photo", "x")
    (tmp_path / "photo").chmod(0o400)
    before = (tmp_path / "photo").stat()
    with atomic_write(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "link").symlink_to(tmp_path / "photo")
        (temporary / "nowhere").symlink_to(tmp_path / "missing")
    assert (tmp_path / "photo").stat() == before
    assert list_names(tmp_path / "folder") == ["link", "nowhere"]


def test_a_replaced_file_or_folder_keeps_its_permissions(tmp_path):
    write_text(tmp_path / "private", "old")
    write_folder(tmp_path / "shared", "old")
    (tmp_path / "private").chmod(0o600)
    (tmp_path / "shared").chmod(0o775)
    write_text(tmp_path / "private", "new")
    write_folder(tmp_path / "shared", "new")
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o775


def test_a_read_only_output_or_folder_is_an_error_that_names_the_output():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder / "a", "old")
        (folder / "open").mkdir()
        write_text(folder / "open" / "a", "old")
        (folder / "a").chmod(0o444)
        (folder / "open" / "a").chmod(0o444)
        (folder / "open").chmod(0o777)
        folder.chmod(0o555)

        def write_as_ordinary_user():
            if os.getuid() == 0:
                os.setuid(65534)
            for path in (folder / "a", folder / "new", folder / "x" / "new", folder / "open" / "a"):
                with pytest.raises(PermissionError) as error:
                    write_text(path, "new")
                named = Path(error.value.filename)
                assert named in (path, path.parent)
            recover_interrupted(folder / "missing")  # nothing to do, and no error

        assert run_forked(write_as_ordinary_user) == 0
        assert list_names(folder) == ["a", "open"]
        assert list_names(folder / "open") == ["a"]
        folder.chmod(0o755)


# Full disks and file systems that cannot do everything.


def test_a_full_disk_leaves_the_old_file_and_an_error_that_names_it(tmp_path):
    write_text(tmp_path / "a", "old")

    def write_on_full_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with pytest.raises(OSError, match=r"File too large: '.*/a'") as error:
            write_text(tmp_path / "a", "new" * 100)
        assert error.value.errno == errno.EFBIG

    assert run_forked(write_on_full_disk) == 0
    assert (tmp_path / "a").read_text() == "old"
    assert list_names(tmp_path) == ["a"]


def test_a_line_is_appended_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.jsonl"
    append_line(path, "1")

    def append_on_full_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        with pytest.raises(OSError, match="No space left"):
            append_line(path, "2" * 20)

    assert run_forked(append_on_full_disk) == 0
    assert path.read_text() == "1\n"
    with open(path, "a") as file:
        file.write("half a li")  # as a kill leaves it
    append_line(path, "2")
    assert path.read_text() == "1\n2\n"


def test_a_mount_point_is_an_error_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "mnt").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "mnt")
    with (
        pytest.raises(OSError, match="a mount point cannot be replaced"),
        atomic_write(tmp_path / "mnt"),
    ):
        pytest.fail("the work began")
    assert list_names(tmp_path) == ["mnt"]


def forbid_exchange(monkeypatch):
    monkeypatch.setattr(files, "exchange_paths", lambda first, second: False)


def test_a_file_system_that_cannot_rename_folders_is_an_error_that_names_the_folder(
    tmp_path, monkeypatch
):
    write_folder(tmp_path / "m", "old")
    forbid_exchange(monkeypatch)

    def refuse(source, target):  # as a folder of a container's image
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source, None, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="the file system cannot replace this folder: '.*/m'"):
        write_folder(tmp_path / "m", "new")
    assert read_folder(tmp_path / "m") == "old"


def test_without_an_exchange_a_folder_is_replaced_by_two_renames(tmp_path, monkeypatch):
    forbid_exchange(monkeypatch)
    for text in ("old", "new"):
        write_folder(tmp_path / "m", text)
        assert read_folder(tmp_path / "m") == text
    assert list_names(tmp_path) == ["m"]


def test_if_the_second_rename_fails_the_old_folder_is_back(tmp_path, monkeypatch):
    write_folder(tmp_path / "m", "old")
    forbid_exchange(monkeypatch)
    rename = os.rename

    def fail_once(source, target):
        if Path(source).parent.suffix == ".part":
            raise OSError(errno.EIO, os.strerror(errno.EIO), source)
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(OSError, match="Input/output error"):
        write_folder(tmp_path / "m", "new")
    assert read_folder(tmp_path / "m") == "old"
    assert list_names(tmp_path) == ["m"]


def test_an_old_c_library_or_kernel_is_no_error(tmp_path, monkeypatch):
    write_folder(tmp_path / "m", "old")
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    write_folder(tmp_path / "m", "new")
    assert read_folder(tmp_path / "m") == "new"


@pytest.mark.parametrize("has_locks", [None, OSError])
def test_where_there_are_no_locks_files_are_written_and_live_writers_left_alone(
    tmp_path, monkeypatch, has_locks
):
    pid = start_writer_that_waits(tmp_path / "a")
    (tmp_path / ".a.part").touch()  # of version 0.1, or of a live process
    if has_locks is None:  # as on some network file systems
        monkeypatch.setattr(file_locks, "try_flock", lambda handle: None)
    else:  # as on Windows
        monkeypatch.setattr(file_locks, "IS_POSIX", False)
        monkeypatch.setattr(files, "IS_POSIX", False)
        monkeypatch.setattr(files.sys, "platform", "win32")
    try:
        write_text(tmp_path / "a", "new")
        write_folder(tmp_path / "m", "old")
        write_folder(tmp_path / "m", "new")
        assert list(tmp_path.glob(".a.*.part/a"))
        (tmp_path / "m").rename(tmp_path / ".m.1-00000000.old")
        recover_interrupted(tmp_path / "m")
        assert read_folder(tmp_path / "m") == "new"
    finally:
        kill_fork(pid)
    assert (tmp_path / "a").read_text() == "new"


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path):
    long_name = "ä" * 127
    path = tmp_path / long_name
    pid = start_writer_that_waits(path)
    kill_fork(pid)
    assert len(list_names(tmp_path)) == 2  # the lock and the staging folder
    write_text(path, "new")
    write_text(tmp_path / f"{long_name[:-1]}ö", "other")
    assert sorted(p.read_text() for p in tmp_path.iterdir()) == ["new", "other"]


# Killed writers.


def test_the_next_writer_deletes_what_a_killed_one_left(tmp_path):
    for name in ("e.onnx", "e.onnx.old"):  # another output is not touched
        write_text(tmp_path / name, "old")
    kill_fork(start_writer_that_waits(tmp_path / "e.onnx"))
    kill_fork(start_writer_that_waits(tmp_path / "e.onnx.old"))
    assert len(list_names(tmp_path)) == 6
    write_text(tmp_path / "e.onnx", "new")
    names = list_names(tmp_path)
    assert names[-2:] == ["e.onnx", "e.onnx.old"]
    assert all(name.startswith(".e.onnx.old.") for name in names[:-2])
    assert len(names) == 4


def test_what_version_0_1_left_is_deleted_or_renamed_back(tmp_path):
    write_folder(tmp_path / ".best.old", "old")
    write_folder(tmp_path / ".best.part", "half")
    recover_interrupted(tmp_path / "best")
    assert read_folder(tmp_path / "best") == "old"
    write_folder(tmp_path / ".best.part", "half")
    write_folder(tmp_path / "best", "new")
    assert read_folder(tmp_path / "best") == "new"
    assert list_names(tmp_path) == ["best"]


def test_a_folder_that_a_killed_writer_moved_away_is_renamed_back_before_it_is_read(
    tmp_path, capsys
):
    write_folder(tmp_path / "best", "old")
    (tmp_path / "best").rename(tmp_path / ".best.7-0123abcd.old")
    (tmp_path / ".best.7-0123abcd.part").mkdir()
    (tmp_path / ".best.lock").touch()
    assert read_undisturbed(tmp_path / "best", lambda: read_folder(tmp_path / "best")) == "old"
    assert list_names(tmp_path) == ["best"]
    assert "residua: restored " in capsys.readouterr().err


def test_a_folder_that_the_user_deleted_stays_deleted(tmp_path):
    write_folder(tmp_path / "best", "old")
    delete_path(tmp_path / "best")
    recover_interrupted(tmp_path / "best")
    recover_interrupted(tmp_path / "missing" / "best")
    assert list_names(tmp_path) == []


def test_cleaning_up_a_folder_spares_its_files_and_its_live_writers(tmp_path):
    write_text(tmp_path / "step-1", "old")
    write_text(tmp_path / ".hidden", "the user's")
    kill_fork(start_writer_that_waits(tmp_path / "step-2"))
    pid = start_writer_that_waits(tmp_path / "step-3")
    try:
        clean_up_interrupted_writes(tmp_path)
        assert [name[:7] for name in list_names(tmp_path)] == [
            ".hidden",
            ".step-3",
            ".step-3",
            "step-1",
        ]
        assert next(tmp_path.glob(".step-3.*.part/step-3")).read_text() == "half"
    finally:
        kill_fork(pid)
    clean_up_interrupted_writes(tmp_path)
    clean_up_interrupted_writes(tmp_path / "missing")
    assert list_names(tmp_path) == [".hidden", "step-1"]


# Several writers and readers.


def test_a_second_writer_waits_for_the_first_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(file_locks, "QUIET_SECONDS", 0.05)
    path = tmp_path / "a"
    pid = start_writer_that_waits(path)
    killer = threading.Timer(0.3, os.kill, [pid, signal.SIGKILL])
    killer.start()
    started = time.monotonic()
    write_text(path, "second")
    assert time.monotonic() - started > 0.2
    killer.join()
    wait_for_fork(pid)
    expected = f"residua: waiting for another process that writes to {path}\n"
    assert capsys.readouterr().err == expected
    assert path.read_text() == "second"
    assert list_names(tmp_path) == ["a"]


def test_a_lock_excludes_processes_and_threads_but_not_its_own_thread(tmp_path):
    path = tmp_path / "counter"
    write_text(path, "0")

    def increment():
        for _ in range(8):
            with hold_output_lock(path), hold_output_lock(path):
                write_text(path, str(int(path.read_text()) + 1))

    def increment_in_threads():
        threads = [threading.Thread(target=increment) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert run_at_once([increment_in_threads] * 3) == [0, 0, 0]
    assert path.read_text() == "48"
    assert list_names(tmp_path) == ["counter"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_nobody_reads_half_a_folder_or_none_while_others_replace_it(
    tmp_path, monkeypatch, can_exchange
):
    if not can_exchange:
        forbid_exchange(monkeypatch)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    folder = tmp_path / "best"
    write_folder(folder, "0")

    def write_often(number):
        for i in range(25):
            write_folder(folder, f"{number}-{i}")

    def read_often():
        for _ in range(400):
            read_undisturbed(folder, lambda: read_folder(folder))

    writers = [lambda number=number: write_often(number) for number in range(3)]
    assert run_at_once([*writers, read_often, read_often]) == [0] * 5
    assert read_folder(folder).endswith("-24")
    assert list_names(tmp_path) == ["best"]


def test_the_files_of_one_report_stay_together(tmp_path):
    def write_report(start, pause):
        def write_then_pause(path, text):
            write_text(path, text)
            time.sleep(pause)

        files.write_text = write_then_pause
        time.sleep(start)
        texts = dict.fromkeys(("figures/a.svg", "report.html"), f"started at {start}")
        write_text_files(tmp_path / "r", texts)

    # the second one begins and would end between the two files of the first one
    reports = [lambda: write_report(0, 0.3), lambda: write_report(0.1, 0)]
    assert run_at_once(reports) == [0, 0]
    texts = {(tmp_path / "r" / name).read_text() for name in ("figures/a.svg", "report.html")}
    assert texts == {"started at 0.1"}


def test_of_two_writers_of_a_new_output_the_second_says_that_it_exists(tmp_path):
    def write_new():
        try:
            with claim_new_output(tmp_path / "new" / "m"):
                time.sleep(0.1)
                write_folder(tmp_path / "new" / "m", "first")
        except UsageError as error:
            assert str(error) == f"{tmp_path / 'new' / 'm'} already exists: choose another --out"
            return 2
        return 0

    assert sorted(run_at_once([write_new] * 3)) == [0, 2, 2]
    assert list_names(tmp_path / "new") == ["m"]


def test_json_is_written_with_a_final_newline(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": [\n    1\n  ]\n}\n'
