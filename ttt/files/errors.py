"""What a file of other people can throw, as one sentence with its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ttt.errors import UserError

_LONGEST = 300


@contextmanager
def reading(path: str | Path, kind: str | None = None) -> Iterator[None]:
    """Raise UserError with the path and the reason for whatever is thrown inside the block.

    A file may be cut short, filled with anything or made to harm, and readers answer with errors
    of any type; so every one of them is taken for the file's fault. A UserError passes as it is.

    Args:
        kind: what the file should have been, such as JSON, for the sentence.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = cause(error)
        raise UserError(
            f"{path}: {reason}" if kind is None else f"{path}: cannot be read as {kind} ({reason})"
        ) from error


def cause(error: BaseException) -> str:
    """What an error says, on one line: the system's own words, or the first line of its text."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    line = (str(error).strip().splitlines() or [""])[0][:_LONGEST].strip()
    if isinstance(error, _SPEAKING) and line:
        return line
    return f"{type(error).__name__}: {line}".rstrip(": ")


_SPEAKING = (UserError, ValueError, RuntimeError, EOFError)
"""Their text makes sense without the name of their type."""
