"""Whether a file is still the one that something was made of: by its bytes, never by its times."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ttt.files.errors import reading


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


def same_files(known: Sequence[FileIdentity], paths: Sequence[str | Path]) -> bool:
    """Whether the files are those that were known, one by one."""
    return len(known) == len(paths) and all(
        identity.is_of(path) for identity, path in zip(known, paths, strict=True)
    )
