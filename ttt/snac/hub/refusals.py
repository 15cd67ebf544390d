"""What the hub, the network or the cache refused, each as one sentence without a token in it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ttt.errors import UserError

ERRORS: tuple[type[Exception], ...] = (
    *(OSError, ValueError, RuntimeError, EntryNotFoundError),
    *(kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception)),
)
"""What a call of huggingface_hub may raise: its own errors, the network's (of requests, or of httpx
in later versions, whose base is HfHubHTTPError's) and the disk's."""


def endpoint() -> str:
    """The address of the hub as a sentence may show it: without a user or password."""
    return without_password(constants.ENDPOINT)


def without_password(address: str) -> str:
    """An address, or a text with addresses, without users and passwords."""
    return re.sub(r"//[^/@\s]*@", "//", address)


def not_fetched(name: str, file: str, error: BaseException, local_only: bool) -> UserError:
    """Why `file` of the repository `name`, perhaps with its @revision, is not here."""
    repo, _, revision = name.partition("@")
    status = _status(error)
    if isinstance(error, GatedRepoError):
        return UserError(
            f"{name}: a gated repository; ask for access on {endpoint()}/{repo} and set HF_TOKEN "
            "to a token of that account"
        )
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"{name}: neither a folder here nor a repository that {endpoint()} shows {_asking()}; "
            "correct the name, or set HF_TOKEN to a token that may read it"
        )
    if isinstance(error, RevisionNotFoundError):
        return UserError(
            f"{repo}: has no revision {revision or 'main'}; give a branch, a tag or a commit of it "
            f"({endpoint()}/{repo}/commits/main lists them)"
        )
    if local_only or _was_offline(error):
        cause = "local_files_only is set" if local_only else "HF_HUB_OFFLINE is set"
        return UserError(
            f"{name}: neither a folder here nor in the cache {constants.HF_HUB_CACHE}, and "
            f"{cause}; correct the name, or fetch it once without that"
        )
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return UserError(
            f"{name}: a repository without {file}, so no 48 kHz decoder; name one that "
            "ray_jobs.push_decoder or push_to_hub filled"
        )
    if status in (401, 403):
        return UserError(
            f"{name}: {endpoint()} refuses it {_asking()} ({status}); set HF_TOKEN to a token that "
            "may read it"
        )
    return UserError(
        f"{name}: neither a folder here nor in the cache {constants.HF_HUB_CACHE}, and "
        f"{endpoint()} {_silence(error, status)}; correct the name, or try again when it answers"
    )


def not_pushed(repo: str, error: BaseException, *, made: bool = False) -> UserError:
    """Why nothing was pushed to `repo`; `made` if the repository was made for it just now."""
    status = _status(error)
    left = f"; the repository was made and is still empty: {endpoint()}/{repo}" if made else ""
    if _was_offline(error):
        return UserError(f"{repo}: HF_HUB_OFFLINE is set, so nothing can be pushed; unset it")
    if isinstance(error, HfHubHTTPError) and status == 401:
        return UserError(
            f"{repo}: {endpoint()} does not know the token (401); set HF_TOKEN to a valid one, or "
            f"run 'hf auth login'{left}"
        )
    if status == 403:
        return UserError(
            f"{repo}: the token may not write there (403); take one with write access, and a USER "
            f"or organization that is yours{left}"
        )
    if status == 404:
        return UserError(
            f"{repo}: {endpoint()} finds it no more, or not for the account of this token (404); "
            f"see that it is there and run the same again{left}"
        )
    if status in (409, 412):
        return UserError(
            f"{repo}: somebody else has changed it meanwhile ({status}); nothing was pushed, look "
            f"at {endpoint()}/{repo} and push again{left}"
        )
    if status is None and not isinstance(error, ValueError):
        return UserError(
            f"{repo}: {endpoint()} {_silence(error, status)}; run the same again when it does: a "
            f"push is there whole or not at all{left}"
        )
    return UserError(f"{repo}: {endpoint()} refused the push ({_reason(error)}){left}")


def no_token(repo: str) -> UserError:
    """That pushing needs a token."""
    return UserError(
        f"{repo}: pushing needs a token; set HF_TOKEN to one with write access, or run "
        "'hf auth login'"
    )


def _asking() -> str:
    return (
        "without a token" if huggingface_hub.get_token() is None else "to the account of this token"
    )


def _was_offline(error: BaseException) -> bool:
    offline = any(isinstance(each, OfflineModeIsEnabled) for each in _chain(error))
    return offline or (isinstance(error, LocalEntryNotFoundError) and constants.HF_HUB_OFFLINE)


def _silence(error: BaseException, status: int | None) -> str:
    if status is not None:
        return f"answers with {status}"
    innermost = [*_chain(error)][-1]
    return f"does not answer ({_reason(innermost)})"


def _status(error: BaseException) -> int | None:
    """The HTTP status that the hub answered with, if it did."""
    for each in _chain(error):
        response = getattr(each, "response", None)
        if response is not None:
            return int(response.status_code)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _reason(error: BaseException) -> str:
    told = " ".join(str(error).split()) or type(error).__name__
    token = huggingface_hub.get_token()
    if token:
        told = told.replace(token, "***")
    return without_password(told)[:200].rstrip(". ")
