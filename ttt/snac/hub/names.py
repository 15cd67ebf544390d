"""What a name on the hub looks like: USER/NAME, with @REVISION behind it where one is meant."""

from __future__ import annotations

import re
from pathlib import Path

from ttt.errors import UserError

_PART = r"\w(?:[\w.-]*\w)?"
_MOST_CHARACTERS = 96


def is_hub_name(text: str) -> bool:
    """Whether `text` can name a repository on the hub; a folder of that name comes first."""
    repo, at, revision = text.partition("@")
    named = _is_repo(repo) and (not at or _is_revision(revision))
    return named and not Path(text).exists()


def split_name(text: str, revision: str | None = None) -> tuple[str, str | None]:
    """USER/NAME and the revision: `revision`, or what stands behind an @.

    Raises UserError for what is no such name, and where both name a revision.
    """
    repo, at, named = text.partition("@")
    if at and revision is not None:
        raise UserError(f"{text}: names a revision, and revision={revision} does so too; drop one")
    revision = named if at else revision
    if not _is_repo(repo) or (revision is not None and not _is_revision(revision)):
        shown = text if at or revision is None else f"{text} at {revision}"
        raise UserError(
            f"{shown}: neither a folder here nor a name on the hub; write USER/NAME, with "
            "@REVISION behind it for a branch, a tag or a commit"
        )
    return repo, revision


def check_repo(text: str) -> None:
    """Raise ValueError unless `text` is USER/NAME as the hub allows it."""
    if not _is_repo(text):
        raise ValueError(
            f"repo must be USER/NAME, of letters, digits, and -, _ or . between them, got {text}"
        )


def _is_repo(text: str) -> bool:
    return (
        len(text) <= _MOST_CHARACTERS
        and re.fullmatch(f"{_PART}/{_PART}", text, re.ASCII) is not None
        and re.search(r"--|\.\.|\.git$", text) is None
    )


def _is_revision(text: str) -> bool:
    return re.fullmatch(r"\w[\w./-]*", text, re.ASCII) is not None and ".." not in text
