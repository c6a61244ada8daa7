"""How a program of this project ends: with one line on stderr if it refuses or is stopped, never a traceback.

CERTIFY_DEBUG=1 in the environment shows the traceback of an unexpected OSError.
"""
import os
import signal
import sys
import traceback
from collections.abc import Callable


class InputError(Exception):
    """Something the user gave (an option, a file, a folder) cannot be used; the message is one line that says why."""


class BadNetwork(ValueError):
    """The base classifier is none that can be certified; the message is one line that says why."""


class NonFiniteScores(ArithmeticError):
    """The base classifier gave a NaN or infinite score: nothing can be certified."""


class RankFailed(BaseException):
    """Another process of the run failed or is lost; the message is one line. No Exception: a signal may raise it."""


class Stopped(BaseException):
    """SIGTERM or Ctrl-C arrived; status: the exit status that shells expect then."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.status = 128 + signum


def _stop(signum, frame):
    raise Stopped(signum)


def run_cli(main: Callable[[], int | None], when_stopped: str = "stopped") -> int:
    """Call main(); its exit status (None: 0), or 1 after a RankFailed, 2 after an InputError or OSError.

    SIGTERM and SIGINT end it with 143 and 130 and the line `when_stopped` (under torchrun from rank 0 alone).
    """
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _stop)
    if sys.stderr is None:  # the caller closed it
        sys.stderr = open(os.devnull, "w")
    try:
        status = main() or 0
        if sys.stdout is not None:  # it is None if the caller closed it
            sys.stdout.flush()
        return status
    except (InputError, RankFailed) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except OSError as error:  # most often of stdout: at its exit Python must not try to write there again
        if os.environ.get("CERTIFY_DEBUG") == "1":
            traceback.print_exc()
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # its reader (head, say) has closed it
            return 128 + signal.SIGPIPE
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(when_stopped, file=sys.stderr)
        return stopped.status
