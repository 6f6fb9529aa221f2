"""Text from files, on terminals and in logs."""

import contextlib
import sys


def printable(text: object) -> str:
    """A text as one line that shows every character as itself or as an escape.

    File names, class names and the contents of files may hold control characters, line breaks, or marks that reverse
    the direction of a line. A terminal would obey them, and a forged line would look like one of the program's.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))


def print_line(line: object) -> None:
    """Prints one `printable` line, at once."""
    print(printable(line), flush=True)


def print_error(line: object) -> None:
    """Prints one `printable` line to stderr. It is lost if stderr cannot be written: the results matter more."""
    with contextlib.suppress(OSError):
        print(printable(line), file=sys.stderr, flush=True)
