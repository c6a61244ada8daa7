"""AppendFile: whole records or nothing, one writer at a time."""
import errno
import fcntl
import os

import pytest

from certconf.errors import InputError, Stopped
from certconf.files import write_whole
from certconf.formats.log import Log
from certconf.runner import output
from certconf.runner.output import AppendFile


@pytest.fixture
def file(tmp_path):
    """A file with one record in it."""
    file = AppendFile(str(tmp_path / "log"))
    file.append(b"first\n")
    yield file
    file.close()


def test_appends(file, tmp_path):
    file.append(b"second\n")
    assert (tmp_path / "log").read_bytes() == file.read() == b"first\nsecond\n"
    file.cut(6)
    assert (tmp_path / "log").read_bytes() == file.read() == b"first\n" and file.size == 6


def test_a_file_that_cannot_be_written_whole(tmp_path, monkeypatch):
    """The one that it would have replaced stays, and nothing else is left."""
    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_whole(tmp_path / "record", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="record: cannot be written"):
        write_whole(tmp_path / "record", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("written", [0, 7])
def test_a_short_write(written, file, tmp_path, monkeypatch):
    """What the system took of a record is cut off again, and the file can still be extended."""
    write = os.write
    with monkeypatch.context() as patch, pytest.raises(InputError, match="log: cannot be written .*complete"):
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:written]))
        file.append(b"second and long\n")
    assert (tmp_path / "log").read_bytes() == b"first\n" and file.size == 6
    file.append(b"second\n")
    assert (tmp_path / "log").read_bytes() == b"first\nsecond\n"


@pytest.mark.parametrize("where", ["write", "fsync"])
@pytest.mark.parametrize("error, raised", [
    (OSError(errno.EIO, "bad disk"), InputError), (Stopped(15), Stopped), (MemoryError(), MemoryError)], ids=repr)
def test_an_error_in_mid_write(where, error, raised, file, tmp_path, monkeypatch):
    """A signal or an error in the middle of a write, or in the flush: nothing of the record stays."""
    write = os.write

    def fail(fd, data=b""):
        if where == "write":
            write(fd, data[:3])
        raise error

    with monkeypatch.context() as patch, pytest.raises(raised):
        patch.setattr(os, where, fail)
        file.append(b"second\n")
    assert (tmp_path / "log").read_bytes() == b"first\n" and file.size == 6


def test_every_record_is_flushed_to_the_disk(file, monkeypatch):
    """A row counts as written once it is on the disk, not in a cache."""
    done, write, fsync = [], os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda fd, data: done.append(("write", fd)) or write(fd, data))
    monkeypatch.setattr(os, "fsync", lambda fd: done.append(("fsync", fd)) or fsync(fd))
    for _ in range(3):
        file.append(b"x\n")
    assert done == [("write", file.fd), ("fsync", file.fd)] * 3


def test_one_writer(file, tmp_path):
    """A second one is refused while the first is open, in the same process too."""
    with pytest.raises(InputError, match="log: another run"):
        AppendFile(str(tmp_path / "log"))
    assert (tmp_path / "log").read_bytes() == b"first\n"


@pytest.mark.parametrize("number, words", [
    (errno.EWOULDBLOCK, "another run is writing it"), (errno.ENOLCK, "its file system has no locks"),
    (errno.EIO, "cannot be locked")])
def test_why_a_file_is_not_locked(number, words, tmp_path, monkeypatch):
    """Only EWOULDBLOCK means another run; a file system without locks is named as the reason. No file is left open."""
    def flock(fd, how):
        raise OSError(number, os.strerror(number))

    open_before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(InputError, match=f"log: {words}"):
        AppendFile(str(tmp_path / "log"))
    assert len(os.listdir("/proc/self/fd")) == len(open_before)


def test_a_file_replaced_while_it_is_opened(tmp_path, monkeypatch):
    """Between the opening and the lock another run may have set the file aside: its rows would go into the backup."""
    path, flock = tmp_path / "log", fcntl.flock

    def set_aside_first(fd, how):
        path.rename(tmp_path / "log.bak")
        path.write_text("a new run's\n")
        flock(fd, how)

    path.write_text("an old run's\n")
    monkeypatch.setattr(fcntl, "flock", set_aside_first)
    with pytest.raises(InputError, match="another run"):
        AppendFile(str(path))
    assert path.read_text() == "a new run's\n"


@pytest.mark.parametrize("there", [True, False])
def test_an_empty_file_is_removed_by_its_maker_alone(there, tmp_path):
    """A refused run leaves no empty log behind, and removes none that was there."""
    if there:
        (tmp_path / "log").touch()
    AppendFile(str(tmp_path / "log")).close()
    assert (tmp_path / "log").exists() == there


def test_a_refused_overwrite(tmp_path, monkeypatch):
    """Where another run takes the name just after the old log was set aside, that is said, not a second error."""
    (tmp_path / "log").write_text("old\n")
    real, log = output.set_aside, output.ResumableLog(str(tmp_path / "log"), {}, [], Log.parse, overwrite=True)

    def set_aside(path):
        backup = real(path)
        taken.append(AppendFile(path))
        taken[0].append(b"another run's\n")
        return backup

    taken = []
    monkeypatch.setattr(output, "set_aside", set_aside)
    with pytest.raises(InputError, match="another run"):
        log.begin({})
    assert (tmp_path / "log").read_bytes() == b"another run's\n" and (tmp_path / "log.bak").read_text() == "old\n"
    taken[0].close()
