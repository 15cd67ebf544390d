"""Files by URI: local paths, pyarrow's own schemes (s3://, gs://, hdfs://) and any fsspec scheme.

Writing is whole or not at all: locally to a temporary name, fsync, rename; on an object store an
upload becomes visible only when it is complete.
"""

from __future__ import annotations

import functools
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs

from ttt.errors import UserError


def resolve(uri: str | Path) -> tuple[pafs.FileSystem, str]:
    """The filesystem of `uri` and the path inside it.

    Raises UserError when the scheme is unknown or its package is not installed.
    """
    uri = str(uri)
    if "://" not in uri:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    scheme = uri.split("://", 1)[0]
    try:
        if scheme in _PYARROW_SCHEMES:
            return pafs.FileSystem.from_uri(uri)
        return pafs.PyFileSystem(pafs.FSSpecHandler(_fsspec_filesystem(scheme))), uri.split(
            "://", 1
        )[1]
    except (ValueError, ImportError, pa.ArrowInvalid) as error:
        raise UserError(f"{uri}: no filesystem for {scheme}:// ({error})") from error


_PYARROW_SCHEMES = {"file", "s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss"}


@functools.cache
def _fsspec_filesystem(scheme: str) -> fsspec.AbstractFileSystem:
    return fsspec.filesystem(scheme)


def is_local(uri: str | Path) -> bool:
    """Whether `uri` is a path of this machine, so that it can be mapped, renamed and pread."""
    return "://" not in str(uri) or str(uri).startswith("file://")


def local_path(uri: str | Path) -> Path:
    """The path of a local `uri`."""
    return Path(resolve(uri)[1])


def join(uri: str | Path, *parts: str) -> str:
    """`uri/part/part`, whatever the scheme; options after a `?` of a URI stay at its end."""
    text = str(uri)
    path, mark, options = text.partition("?") if "://" in text else (text, "", "")
    return "/".join([path.rstrip("/"), *parts]) + mark + options


def exists(uri: str | Path) -> bool:
    """Whether a file or folder is there."""
    filesystem, path = resolve(uri)
    return filesystem.get_file_info(path).type != pafs.FileType.NotFound


def list_names(uri: str | Path) -> list[str]:
    """The sorted names directly inside a folder; empty when there is no such folder."""
    filesystem, path = resolve(uri)
    selector = pafs.FileSelector(path, allow_not_found=True)
    return sorted(os.path.basename(info.path) for info in filesystem.get_file_info(selector))


def read_bytes(uri: str | Path) -> bytes:
    """A whole file. Raises FileNotFoundError."""
    filesystem, path = resolve(uri)
    with filesystem.open_input_stream(path) as stream:
        return stream.read()


def write_bytes(uri: str | Path, content: bytes) -> None:
    """Write a whole file or nothing; a reader sees the old content or the new, never a part."""
    if is_local(uri):
        with atomic_path(local_path(uri)) as temporary:
            temporary.write_bytes(content)
        return
    filesystem, path = resolve(uri)
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)


def delete(uri: str | Path) -> None:
    """Delete a file or a folder with all it holds; nothing happens when it is not there."""
    filesystem, path = resolve(uri)
    kind = filesystem.get_file_info(path).type
    if kind == pafs.FileType.Directory:
        filesystem.delete_dir(path)
    elif kind == pafs.FileType.File:
        filesystem.delete_file(path)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling of a local `path` to write; synced and renamed when the block succeeds.

    Nothing is left behind when the block raises. Raises UserError when the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path}: could not be written ({error.strerror}); free space or choose another folder"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
