"""Files by URI: local paths, pyarrow's own schemes (s3://, gs://, hdfs://) and any fsspec scheme.

Writing is whole or not at all: locally to a temporary name, fsync, rename; on an object store an
upload becomes visible only when it is complete. An object store that errs is asked again for a
minute or two (`patiently`); a local disk is not, since its errors do not pass.
"""

from __future__ import annotations

import functools
import glob
import logging
import os
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs

from ttt import store_errors, uris
from ttt.errors import UserError

logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Between one try and the next, besides what the store's client waits by itself (pyarrow about
ten seconds); drawn out or cut by up to a quarter, so that workers do not all come back at once."""


CONTINUE = "what was saved is safe: when the storage answers again, continue with --resume"
"""What to do when a store that has answered before stays away."""


class StorageUnavailable(UserError):
    """An object store still erred at the last try: the file may well be sound."""


def patiently(uri: str | Path, call: Callable[[], T], *, at_last: str = CONTINUE) -> T:
    """What `call` returns, which is made again while the object store of `uri` errs.

    `call` must do the same when it is repeated. What is missing raises FileNotFoundError at once,
    like every error of a local disk. Raises StorageUnavailable, which ends in the advice
    `at_last`, after the last try, and at once where waiting cannot help (credentials, no such
    bucket, another region).
    """
    if is_local(uri):
        return call()
    for tries in range(1, len(RETRY_PAUSES_SECONDS) + 2):
        try:
            return call()
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = store_errors.reason(error)
            if advice := store_errors.lasting(error):
                raise StorageUnavailable(
                    f"{uri}: the storage refuses ({reason}); {advice}"
                ) from error
            if tries > len(RETRY_PAUSES_SECONDS):
                raise StorageUnavailable(
                    f"{uri}: the storage failed {tries} times in a row ({reason}); {at_last}"
                ) from error
        pause = RETRY_PAUSES_SECONDS[tries - 1] * random.SystemRandom().uniform(0.75, 1.25)
        logger.warning("%s: %s; trying again in %.1f s", uri, reason, pause)
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def resolve(uri: str | Path) -> tuple[pafs.FileSystem, str]:
    """The filesystem of `uri` and the path inside it.

    An s3:// URI without a region asks its bucket for it, again while the store errs. Raises
    UserError when the URI has parts whose meaning is not the same to all (`ttt.uris`), when the
    scheme is unknown or its package is not installed, and when the store does not answer.
    """
    uri = str(uri)
    uris.check(uri)
    if not uris.is_uri(uri):
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    parsed = uris.parse(uri)
    try:
        if parsed.scheme in _PYARROW_SCHEMES:
            text = _with_retry_limit(uri)
            ask = functools.partial(pafs.FileSystem.from_uri, text)
            return patiently(uri, ask, at_last=_first_question(parsed))
        options = tuple(sorted(parsed.options.items()))
        handler = pafs.FSSpecHandler(_fsspec_filesystem(parsed.scheme, options))
        return pafs.PyFileSystem(handler), parsed.inside
    except (ValueError, TypeError, ImportError, pa.ArrowInvalid) as error:
        raise UserError(f"{uri}: no filesystem for {parsed.scheme}:// ({error})") from error


def _first_question(uri: uris.Uri) -> str:
    if uri.scheme == "s3" and "region" not in uri.options:
        return (
            "correct the bucket's name, or name its region, which is then not asked for: "
            f"{uri.base}?region=..."
        )
    return "correct the URI, or try again when the storage answers"


def _with_retry_limit(uri: str) -> str:
    """A gs:// URI whose client gives up a try as soon as S3's does; its own limit is 15 minutes."""
    option = "retry_limit_seconds="
    if not uri.startswith(("gs://", "gcs://")) or option in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{option}{_GCS_RETRY_SECONDS}"


_GCS_RETRY_SECONDS = 10
_PYARROW_SCHEMES = {"file", "s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss"}


@functools.cache
def _fsspec_filesystem(
    scheme: str, options: tuple[tuple[str, str], ...]
) -> fsspec.AbstractFileSystem:
    return fsspec.filesystem(scheme, **dict(options))


def is_local(uri: str | Path) -> bool:
    """Whether `uri` is a path of this machine, so that it can be mapped, renamed and pread."""
    return uris.is_local(str(uri))


def local_path(uri: str | Path) -> Path:
    """The path of a local `uri`."""
    return Path(resolve(uri)[1])


def absolute(uri: str | Path) -> str:
    """A local path that means the same in a worker's folder; URIs as they are."""
    return str(local_path(uri)) if is_local(uri) else str(uri)


def join(uri: str | Path, *parts: str) -> str:
    """`uri/part/part`, whatever the scheme; options after a `?` of a URI stay at its end."""
    uri = str(uri)
    if not uris.is_uri(uri):
        return "/".join([uri.rstrip("/"), *parts])
    parsed = uris.parse(uri)
    return "/".join([parsed.base.rstrip("/"), *map(uris.escaped, parts)]) + parsed.query


def name(uri: str | Path) -> str:
    """The last part of a path or URI."""
    uri = str(uri)
    path = uris.parse(uri).inside if uris.is_uri(uri) else uri
    return path.rstrip("/").rpartition("/")[2]


def parent(uri: str | Path) -> str:
    """The folder around a path or URI; a bucket's is the bucket itself."""
    if is_local(uri):
        return str(local_path(uri).parent)
    parsed = uris.parse(str(uri))
    folder = parsed.base.rstrip("/").rpartition("/")[0]
    return (parsed.base if folder.endswith("/") else folder) + parsed.query


def exists(uri: str | Path) -> bool:
    """Whether a file or folder is there."""
    return _info(uri).type != pafs.FileType.NotFound


def file_bytes(uri: str | Path) -> int | None:
    """The size of a file; None when it is not there."""
    return _info(uri).size


def file_sizes(uri: str | Path) -> dict[str, int]:
    """Name -> bytes of the files directly inside a folder, from one listing."""
    return {info.base_name: info.size for info in _infos(uri) if info.type == pafs.FileType.File}


def list_names(uri: str | Path) -> list[str]:
    """The sorted names directly inside a folder; empty when there is no such folder."""
    return sorted(info.base_name for info in _infos(uri))


def read_bytes(uri: str | Path) -> bytes:
    """A whole file. Raises FileNotFoundError."""
    filesystem, path = resolve(uri)

    def read() -> bytes:
        with filesystem.open_input_stream(path) as stream:
            return stream.read()

    return patiently(uri, read)


def write_bytes(uri: str | Path, content: bytes) -> None:
    """Write a whole file or nothing; a reader sees the old content or the new, never a part."""
    if is_local(uri):
        with atomic_path(local_path(uri)) as temporary:
            temporary.write_bytes(content)
        return
    filesystem, path = resolve(uri)

    def write() -> None:
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)

    patiently(uri, write)


def upload(path: Path, uri: str | Path) -> None:
    """Put a local file, which is complete, at a `uri` of an object store."""
    filesystem, inside = resolve(uri)

    def copy() -> None:
        with open(path, "rb") as source, filesystem.open_output_stream(inside) as sink:
            shutil.copyfileobj(source, sink, 2**22)

    patiently(uri, copy)


def delete(uri: str | Path) -> None:
    """Delete a file or a folder with all it holds; nothing happens when it is not there."""
    filesystem, path = resolve(uri)

    def remove() -> None:
        kind = filesystem.get_file_info(path).type
        if kind == pafs.FileType.Directory:
            filesystem.delete_dir(path)
        elif kind == pafs.FileType.File:
            filesystem.delete_file(path)

    patiently(uri, remove)


@contextmanager
def local_copy(uri: str | Path) -> Iterator[Path]:
    """A local file inside the block with the content of `uri`: itself, where it is local."""
    if is_local(uri):
        yield local_path(uri)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name(uri)
        path.write_bytes(read_bytes(uri))
        yield path


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
            f"{path}: could not be written ({error.strerror or error}); free space or choose "
            f"another folder"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporaries(path: Path) -> list[Path]:
    """What killed writers of a local `path` have left beside it."""
    return list(path.parent.glob(f".{glob.escape(path.name)}.*.tmp"))


def is_temporary(name: str) -> bool:
    """Whether a name is that of a file being written, or left by a killed writer."""
    return name.startswith(".") and name.endswith(".tmp")


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _info(uri: str | Path) -> pafs.FileInfo:
    filesystem, path = resolve(uri)
    return patiently(uri, lambda: filesystem.get_file_info(path))


def _infos(folder: str | Path) -> list[pafs.FileInfo]:
    filesystem, path = resolve(folder)
    selector = pafs.FileSelector(path, allow_not_found=True)
    return patiently(folder, lambda: filesystem.get_file_info(selector))
