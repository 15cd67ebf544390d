"""Files by URI: local paths, pyarrow's own schemes (s3://, gs://, hdfs://) and any fsspec scheme.

pyarrow and fsspec are imported where a URI needs them: local paths work without.

Writing is whole or not at all: locally to a temporary name, fsync, rename; on an object store an
upload becomes visible only when it is complete. An object store that errs is asked again for a
minute or two (`patiently`); a local disk is not, since its errors do not pass.
"""

from __future__ import annotations

import functools
import glob
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ttt import uris
from ttt.errors import UserError
from ttt.extras import needed_for
from ttt.retries import patiently

if TYPE_CHECKING:
    import fsspec
    import pyarrow.fs as pafs


def resolve(uri: str | Path) -> tuple[pafs.FileSystem, str]:
    """The filesystem of `uri` and the path inside it.

    An s3:// URI without a region asks its bucket for it, again while the store errs. Raises
    UserError when the URI has parts whose meaning is not the same to all (`ttt.uris`), when the
    scheme is unknown or its package is not installed, and when the store does not answer.
    """
    uri = str(uri)
    uris.check(uri)
    with needed_for(uri):
        import pyarrow as pa
        import pyarrow.fs as pafs
    if not uris.is_uri(uri):
        return pafs.LocalFileSystem(), str(local_path(uri))
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
    import fsspec

    return fsspec.filesystem(scheme, **dict(options))


def is_local(uri: str | Path) -> bool:
    """Whether `uri` is a path of this machine, so that it can be mapped, renamed and pread."""
    return uris.is_local(str(uri))


def local_path(uri: str | Path) -> Path:
    """The path of a local `uri`."""
    uri = str(uri)
    uris.check(uri)
    path = uris.parse(uri).inside if uris.is_uri(uri) else os.path.expanduser(uri)
    return Path(os.path.abspath(path))


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
    if is_local(uri):
        return local_path(uri).exists()
    return _info(uri).type.name != "NotFound"


def file_bytes(uri: str | Path) -> int | None:
    """The size of a file; None when it is not there."""
    if is_local(uri):
        path = local_path(uri)
        return path.stat().st_size if path.is_file() else None
    return _info(uri).size


def file_sizes(uri: str | Path) -> dict[str, int]:
    """Name -> bytes of the files directly inside a folder, from one listing."""
    if is_local(uri):
        files = [path for path in _children(uri) if path.is_file()]
        return {path.name: path.stat().st_size for path in files}
    return {info.base_name: info.size for info in _infos(uri) if info.is_file}


def list_names(uri: str | Path) -> list[str]:
    """The sorted names directly inside a folder; empty when there is no such folder."""
    if is_local(uri):
        return sorted(path.name for path in _children(uri))
    return sorted(info.base_name for info in _infos(uri))


def files_below(uri: str) -> dict[str, int]:
    """Path below a folder of an object store -> bytes, of every file at any depth, by path."""
    filesystem, folder = resolve(uri)
    import pyarrow.fs as pafs

    selector = pafs.FileSelector(folder, recursive=True)
    found = patiently(uri, lambda: filesystem.get_file_info(selector))
    above = len(folder.strip("/")) + 1
    return {
        info.path.strip("/")[above:]: info.size
        for info in sorted(found, key=lambda info: info.path)
        if info.is_file
    }


def read_bytes(uri: str | Path) -> bytes:
    """A whole file. Raises FileNotFoundError."""
    if is_local(uri):
        return local_path(uri).read_bytes()
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
    if is_local(uri):
        local = local_path(uri)
        if local.is_dir() and not local.is_symlink():
            shutil.rmtree(local)
        else:
            local.unlink(missing_ok=True)
        return
    filesystem, path = resolve(uri)

    def remove() -> None:
        kind = filesystem.get_file_info(path).type.name
        if kind == "Directory":
            filesystem.delete_dir(path)
        elif kind == "File":
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
    import pyarrow.fs as pafs

    selector = pafs.FileSelector(path, allow_not_found=True)
    return patiently(folder, lambda: filesystem.get_file_info(selector))


def _children(folder: str | Path) -> list[Path]:
    path = local_path(folder)
    return list(path.iterdir()) if path.exists() else []
