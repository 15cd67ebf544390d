"""What is broken in the shards of a cache, each thing in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from ttt import retries, storage
from ttt.errors import UserError
from ttt.files.parquets import open_parquet
from ttt.files.shards import names_of_shards, shards_folder

Header = TypeVar("Header")


def broken_shards(
    cache_uri: str | Path,
    job: str,
    header_of: Callable[[pa.Schema, str], Header],
    differing: str,
    broken: Callable[[pq.ParquetFile, Header, str], Iterator[str]],
) -> list[str]:
    """Sentences on the shards of a cache; empty when they are sound.

    Args:
        job: what writes such caches.
        header_of: the header in a shard's schema; raises UserError for one that is no such shard.
        differing: what differs where a header is not the first shard's.
        broken: sentences on a shard's rows, from the open file, its header and its name.
    """
    try:
        names = names_of_shards(cache_uri, job)
    except retries.StorageUnavailable:
        raise
    except UserError as error:
        return [str(error)]
    problems: list[str] = []
    first: Header | None = None
    for name in names:
        uri = storage.join(shards_folder(cache_uri), name)
        try:
            with open_parquet(uri) as shard:
                header = header_of(shard.schema_arrow, uri)
                first = first or header
                if header != first:
                    problems.append(f"{uri}: {differing} differs from {names[0]}'s")
                problems.extend(f"{uri}: {each}" for each in broken(shard, header, name))
        except retries.StorageUnavailable:
            raise
        except UserError as error:
            problems.append(str(error))
    return problems
