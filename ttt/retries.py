"""Calls of an object store, made again while it errs for a minute or two; what its errors mean."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ttt import uris
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
    if uris.is_local(str(uri)):
        return call()
    for tries in range(1, len(RETRY_PAUSES_SECONDS) + 2):
        try:
            return call()
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = store_reason(error)
            if advice := lasting_advice(error):
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


def store_reason(error: OSError) -> str:
    """The error in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    # Without a Java machine, pyarrow names every folder in which it has looked for one.
    return text if len(text) <= 500 else f"{text[:497]}..."


def lasting_advice(error: OSError) -> str | None:
    """What to do about an error that would come again at every try; None when it may pass."""
    for pattern, advice in _LASTING:
        if re.search(pattern, str(error)):
            return advice
    return _CREDENTIALS if isinstance(error, PermissionError) else None


_CREDENTIALS = "give this machine credentials that may read and write there"
_LASTING = (
    (
        r"HTTP status 301|PERMANENT_REDIRECT|Looks like the configured region|is wrong; expecting",
        "the bucket lies in another region: correct region= in the URI, or leave it out",
    ),
    (
        r"NO_SUCH_BUCKET|Bucket '.*' not found",
        "there is no such bucket: correct its name or create it",
    ),
    (r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH", _CREDENTIALS),
    (r"Unable to load lib", "install what this library belongs to, or use another scheme"),
)
"""What an error says when waiting cannot help -> what to do."""
