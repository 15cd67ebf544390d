"""The types that a file gives its columns: who opens one may meet a type of Ray's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa


@contextmanager
def reading_column_types() -> Iterator[None]:
    """Around the opening of a file: Ray's column types, too, fail with a pa.ArrowException.

    Ray reads how a file describes them before anybody can look at its columns. Its own errors are
    of any kind, and for a pickle they advise to switch the protection off.
    """
    try:
        yield
    except pa.ArrowException:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise pa.ArrowInvalid("the type of a column cannot be read") from error
