"""What a file of other people can throw, as one sentence, and whether it is still the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

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


@dataclass(frozen=True, kw_only=True)
class FileIdentity:
    """A file as it was when something was made of it."""

    sha256: str
    """Of its bytes."""
    bytes: int

    @classmethod
    def of(cls, path: str | Path) -> Self:
        """What `path` is now. Raises UserError when it cannot be read."""
        with reading(path), open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return cls(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=size)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """What `to_dict` gave."""
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def is_of(self, path: str | Path) -> bool:
        """Whether `path` still has the same bytes. Raises UserError when it cannot be read."""
        with reading(path):
            same_size = os.stat(path).st_size == self.bytes
        return same_size and FileIdentity.of(path) == self


@contextmanager
def reading_column_types() -> Iterator[None]:
    """Around the opening of a file: Ray's column types, too, fail with a pa.ArrowException.

    Ray reads how a file describes them before anybody can look at its columns. Its own errors are
    of any kind, and for a pickle they advise to switch the protection off.
    """
    import pyarrow as pa  # Whoever opens such a file has it; the decoder alone does without.

    try:
        yield
    except pa.ArrowException:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise pa.ArrowInvalid("the type of a column cannot be read") from error
