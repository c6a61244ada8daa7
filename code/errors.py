"""How a program of this project refuses: one line on stderr and exit status 2, never a traceback."""
import sys


class InputError(Exception):
    """Something the user gave (an option, a file, a folder) cannot be used; the message is one line that says why."""


def run(main):
    """Call main() and return the exit status: what main returns (None counts as 0), or 2 after an InputError."""
    try:
        return main() or 0
    except InputError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
