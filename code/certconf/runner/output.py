"""A run's files on disk: one writer, whole rows only, and logs that a later run resumes."""
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from certconf.errors import InputError
from certconf.formats.record import NON_FINITE, read_record, record_path, without_row, write_record
from certconf.formats.rows import Table, join_fields
from certconf.formats.scores import describe_dtype, run_files, scores_path
from certconf.runner.settings import changed_circumstances, check_same_settings

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # what a file system without locks answers


class AppendFile:
    """A file that one process at a time extends, by whole records: locked, and flushed to the disk at each record."""

    def __init__(self, path: str):
        """Open or create `path` and lock it. Raises InputError if another run holds it or it cannot be written."""
        try:
            folder = Path(path).absolute().parent
            self.new_folders = [each for each in (folder, *folder.parents) if not each.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            self.created = not os.path.exists(path)
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None
        self.path = path
        try:
            if not stat.S_ISREG(os.fstat(self.fd).st_mode):
                raise InputError(f"{path}: not a regular file")
            self._lock()
        except InputError:
            os.close(self.fd)
            raise
        self.size = os.fstat(self.fd).st_size

    def _lock(self) -> None:
        """Lock the file until its descriptor is closed, at the latest by the system when the process ends."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            replaced = os.stat(self.path).st_ino != os.fstat(self.fd).st_ino
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise InputError(f"{self.path}: its file system has no locks ({error.strerror}), which keep two runs "
                                 "from writing one log; choose a folder on another one") from None
            replaced = error.errno in (errno.EWOULDBLOCK, errno.ENOENT)  # locked, or set aside right now
            if not replaced:
                raise InputError(f"{self.path}: cannot be locked ({error.strerror})") from None
        if replaced:
            raise InputError(f"{self.path}: another run is writing it")

    def read(self) -> bytes:
        """All that is in the file."""
        return os.pread(self.fd, self.size, 0)

    def append(self, data: bytes) -> None:
        """Append all of `data`; or nothing, and raise InputError: the file then ends as before."""
        try:
            if os.write(self.fd, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self.fd)
        except BaseException as error:  # a signal too
            self.cut(self.size)
            if isinstance(error, OSError):
                raise InputError(f"{self.path}: cannot be written ({error.strerror}); its rows are complete") from None
            raise
        self.size += len(data)

    def cut(self, size: int) -> None:
        """Cut the file off after `size` bytes."""
        os.ftruncate(self.fd, size)
        self.size = size

    def close(self) -> None:
        """Close the file, and remove it, and its folders, if they were made here and stayed empty."""
        if self.created and not self.size:
            os.unlink(self.path)
            with suppress(OSError):  # another run writes there
                for folder in self.new_folders:
                    folder.rmdir()
        os.close(self.fd)


class ResumableLog:
    """A log with its record, and its saved scores if the run keeps them: locked, compared with the run, and resumed.

    settings            what its record holds of this run (see settings.py); whole: all of it, not only what is known
                        before the network is loaded
    parse(path, data)   returns the Table of a log's content; parse_scores(path, data) the array of its saved scores
    done                the indices of the images that have a row
    """

    def __init__(self, path: str, settings: dict, header: Sequence[str],
                 parse: Callable[[str, bytes], Table], parse_scores: Callable | None = None, *,
                 overwrite: bool = False, whole: bool = True):
        self.path, self.settings, self.header, self.overwrite, self.whole = path, settings, header, overwrite, whole
        self.parse, self.parse_scores, self.scores = parse, parse_scores, None
        self.file = AppendFile(path)
        try:
            self._read(fresh=overwrite)
        except BaseException:
            self.close()
            raise

    def _read(self, fresh: bool) -> None:
        """Read record, rows and scores, and compare their settings; fresh: as if there were none. Raises InputError."""
        path, content = self.path, b"" if fresh else self.file.read()
        self.old = None if fresh else read_record(path)
        if self.old is None and content:
            raise InputError(f"{path} has no record ({record_path(path)}), so nothing is added to it; "
                             "--overwrite starts over and keeps it as .bak")
        if self.old is not None:
            check_same_settings(path, self.old["settings"], self.settings, None if self.whole else self.settings)
        table = self.parse(path, content)
        if table.header and list(table.header) != list(self.header):
            raise InputError(f"{path}: its columns are not those of its record; --overwrite starts over")
        scored = self.parse_scores and not fresh
        complete = self._open_scores(table) if scored else len(table.rows)
        self.done = set(table.indices[:complete])
        self._size = table.ends[complete] if table.rows else table.ends[-1]

    def check_settings(self, settings: dict) -> None:
        """Take the settings of the whole run. Raises InputError if the record has others."""
        if self.old is not None:
            check_same_settings(self.path, self.old["settings"], settings)
        self.settings, self.whole = settings, True

    def _open_scores(self, table: Table) -> int:
        """Open the scores and return how many images are complete in both files; the others are recomputed."""
        path = scores_path(self.path)
        if table.rows and not os.path.exists(path):
            raise InputError(f"{path}: missing, though {self.path} has rows; --overwrite starts over")
        self.scores = AppendFile(path)
        if self.scores.size and not table.header:
            raise InputError(f"{path}: has scores, though {self.path} is missing or empty; --overwrite starts over "
                             "and keeps them as .bak")
        records = self.parse_scores(path, self.scores.read())
        complete = min(len(records), len(table.rows))
        if records["idx"][:complete].tolist() != table.indices[:complete]:
            raise InputError(f"{path}: its images are not those of {self.path}; --overwrite starts over")
        self._scores_size = complete * records.dtype.itemsize
        self._scores_dtype = describe_dtype(records.dtype)
        return complete

    def begin(self, start: dict, non_finite: Iterable[int] = ()) -> None:
        """Cut off what is torn, write the record of this start, and the header of a new log.

        start: what is recorded of it (see settings.py); non_finite: images known to have no row, since their scores are
        not finite.
        """
        if self.overwrite:
            self._start_over()
        old = self.old or {"settings": self.settings, "starts": []}
        if old["starts"] and (names := changed_circumstances(old["starts"][-1], start)):
            print(f"{self.path}: resumes with another {', '.join(names)} than before", file=sys.stderr)
        self.record = {**old, "starts": old["starts"] + [start]}
        if self.scores:
            self.record["scores_dtype"] = self._scores_dtype
        self.record_without_row(*non_finite)
        self.file.cut(self._size)
        if self.scores:
            self.scores.cut(self._scores_size)
        if not self.file.size:
            self.file.append(join_fields(*self.header).encode())

    def _start_over(self) -> None:
        """Set the old files aside and open new ones, which another run may have taken meanwhile: InputError then."""
        if self.file.size or any(map(os.path.exists, run_files(self.path)[1:])):
            print(f"{self.path}: kept as {set_aside(self.path)}", file=sys.stderr)
            old, self.file = self.file, None
            os.close(old.fd)
            self.file = AppendFile(self.path)
        self._read(fresh=False)

    def record_without_row(self, *indices: int) -> None:
        """Write the record, which lists images with non-finite scores, so that they stay in every denominator."""
        if failed := {*without_row(self.record, self.done), *indices}:
            self.record[NON_FINITE] = sorted(failed)
        write_record(self.path, self.record)

    def write(self, index: int, line: str, scores: bytes | None = None) -> None:
        """Add the row of one image, after its scores, unless the log has it."""
        if index in self.done:
            return
        if self.scores:
            self.scores.append(scores)
        self.file.append(line.encode())
        self.done.add(index)

    def complete(self, start: dict, lines: list[tuple[int, str]], non_finite: Iterable[int]) -> None:
        """Begin, and add all rows (index, line) that are missing in one write: for rows that cost no sampling."""
        lines = [(index, line) for index, line in lines if index not in self.done]
        if not lines and set(non_finite) <= set(without_row(self.old, self.done)):
            print(f"{self.path}: complete; nothing to do", file=sys.stderr)
            return
        self.begin(start, non_finite)
        self.file.append("".join(line for _, line in lines).encode())

    def close(self) -> None:
        """Close the files."""
        for file in (self.scores, self.file):
            if file:
                file.close()


def set_aside(path: str) -> str:
    """Rename a log, its record and its scores to the first free .bak name, and return that name."""
    names = (path + ".bak" + (str(k) if k else "") for k in range(10 ** 6))
    backup = next(name for name in names if not any(map(os.path.exists, run_files(name))))
    for old, new in zip(run_files(path), run_files(backup), strict=True):
        if os.path.exists(old):
            os.rename(old, new)
    return backup
