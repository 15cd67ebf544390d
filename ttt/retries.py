"""Calls of an object store, made again while it errs for a minute or two."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

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
    if uris.is_local(str(uri)):
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
