"""A run's files on disk: one writer, whole rows only, and a run that goes on where it stopped."""
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable, Iterable

from errors import InputError
from runs.log import Table, join
from runs.record import (
    NON_FINITE,
    changed_circumstances,
    check_same_settings,
    read_record,
    record_path,
    without_row,
    write_record,
)
from runs.scores import describe_dtype, scores_path


class AppendFile:
    """A file that one process at a time extends, by whole records: locked, and flushed to the disk at each record."""

    def __init__(self, path: str):
        """Open or create `path` and lock it. Raises InputError where another run holds it or it cannot be written."""
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            self.created = not os.path.exists(path)
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None
        self.path = path
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            os.close(self.fd)
            raise InputError(f"{path}: not a regular file")
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system drops it when the process ends, however
            if os.stat(path).st_ino != os.fstat(self.fd).st_ino:
                raise BlockingIOError
        except OSError:
            os.close(self.fd)
            raise InputError(f"{path}: another run is writing it") from None
        self.size = os.fstat(self.fd).st_size

    def read(self) -> bytes:
        """All that is in the file."""
        return os.pread(self.fd, self.size, 0)

    def append(self, data: bytes) -> None:
        """Append all of `data`, or nothing of it: the file then ends as before, and InputError is raised."""
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
        """Give the file back, and remove it where it was made here and stayed empty."""
        if self.created and not self.size:
            os.unlink(self.path)
        os.close(self.fd)


class RunOutput:
    """A log with its record, and its saved scores where the run keeps them: opened, locked, compared, gone on with.

    parse(path, data) gives the Table of what is there; parse_scores(path, data) the array of its saved scores.
    """

    def __init__(self, path: str, settings: dict, start: dict, header: list[str], parse: Callable[[str, bytes], Table],
                 parse_scores: Callable | None = None, overwrite: bool = False):
        self.path, self.settings, self.start, self.header, self.scores = path, settings, start, header, None
        self.file = AppendFile(path)
        try:
            if overwrite and (self.file.size or any(os.path.exists(part(path)) for part in (record_path, scores_path))):
                print(f"{path}: kept as {set_aside(path)}", file=sys.stderr)
                old, self.file = self.file, None
                os.close(old.fd)
                self.file = AppendFile(path)
            self.old = read_record(path)
            if self.old is None and self.file.size:
                raise InputError(f"{path} has no record ({record_path(path)}), so nothing is added to it; "
                                 "--overwrite starts anew and keeps it as .bak")
            if self.old is not None:
                check_same_settings(path, self.old["settings"], settings)
            table = parse(path, self.file.read())
            if table.header and list(table.header) != list(header):
                raise InputError(f"{path}: its columns are not those of its record; --overwrite starts anew")
            complete = self._open_scores(table, parse_scores) if parse_scores else len(table.rows)
            self.done = set(table.indices[:complete])
            self._size = table.ends[complete] if table.rows else table.ends[-1]
        except BaseException:
            self.close()
            raise

    def _open_scores(self, table: Table, parse_scores: Callable) -> int:
        """Open the scores and return how many images are complete in both files: what one has more is redone."""
        path = scores_path(self.path)
        if table.rows and not os.path.exists(path):
            raise InputError(f"{path}: missing, though {self.path} has rows; --overwrite starts anew")
        self.scores = AppendFile(path)
        if self.scores.size and not table.header:
            raise InputError(f"{path}: has scores, though {self.path} is not there or empty; --overwrite starts anew "
                             "and keeps them as .bak")
        records = parse_scores(path, self.scores.read())
        complete = min(len(records), len(table.rows))
        if records["idx"][:complete].tolist() != table.indices[:complete]:
            raise InputError(f"{path}: its images are not those of {self.path}; --overwrite starts anew")
        self._scores_size = complete * records.dtype.itemsize
        self._scores_dtype = describe_dtype(records.dtype)
        return complete

    def begin(self, eta: float | None = None, non_finite: Iterable[int] = ()) -> None:
        """Cut off what is torn, write the record of this start, and the header of a new log.

        non_finite: images known to have no row, since their scores are not finite.
        """
        old = self.old or {"settings": self.settings, "starts": []}
        if old["starts"] and (names := changed_circumstances(old["starts"][-1], self.start)):
            print(f"{self.path}: goes on with another {', '.join(names)} than before", file=sys.stderr)
        self.record = {**old, "eta": eta, "starts": old["starts"] + [self.start]}
        if self.scores:
            self.record["scores_dtype"] = self._scores_dtype
        self.leave_out(*non_finite)
        self.file.cut(self._size)
        if self.scores:
            self.scores.cut(self._scores_size)
        if not self.file.size:
            self.file.append(join(*self.header).encode())

    def leave_out(self, *indices: int) -> None:
        """Write the record, which tells that these images have non-finite scores: no count of images forgets them."""
        if failed := {*without_row(self.record, self.done), *indices}:
            self.record[NON_FINITE] = sorted(failed)
        write_record(self.path, self.record)

    def write(self, index: int, line: str, scores: bytes | None = None) -> None:
        """Add the row of one image, after its scores, unless it is there already."""
        if index in self.done:
            return
        if self.scores:
            self.scores.append(scores)
        self.file.append(line.encode())
        self.done.add(index)

    def complete(self, lines: list[tuple[int, str]], eta: float | None, non_finite: Iterable[int]) -> None:
        """Begin, and add the rows (index, line) that are not there yet at one go: for rows that cost no sampling."""
        lines = [(index, line) for index, line in lines if index not in self.done]
        if not lines and set(non_finite) <= set(without_row(self.old, self.done)):
            print(f"{self.path}: complete; nothing to do", file=sys.stderr)
            return
        self.begin(eta, non_finite)
        self.file.append("".join(line for _, line in lines).encode())

    def close(self) -> None:
        """Give the files back."""
        for file in (self.scores, self.file):
            if file:
                file.close()


def set_aside(path: str) -> str:
    """Rename a log, its record and its scores to the first free .bak name, and return that name."""
    parts = (lambda name: name, record_path, scores_path)
    names = (path + ".bak" + (str(k) if k else "") for k in range(10 ** 6))
    backup = next(name for name in names if not any(os.path.exists(part(name)) for part in parts))
    for part in parts:
        if os.path.exists(part(path)):
            os.rename(part(path), part(backup))
    return backup
