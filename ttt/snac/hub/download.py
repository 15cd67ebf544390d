"""An export fetched from the hub into huggingface_hub's cache, or found there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import RevisionNotFoundError

from ttt.errors import UserError
from ttt.snac import export
from ttt.snac.hub import refusals
from ttt.snac.hub.names import is_hub_name, split_name

CONFIG = "config.json"


@dataclass(frozen=True)
class FetchedExport:
    """A decoder of the hub on this machine."""

    folder: Path
    """config.json and model.safetensors in the cache. Read it, write nothing there."""
    commit: str
    """Which state of the repository it is, 40 hex digits."""


def export_folder(
    name: str | Path, revision: str | None = None, *, local_files_only: bool = False
) -> Path:
    """The folder `name` itself, where it is one, or else what `fetch_export` finds under that name.

    Raises UserError as `fetch_export` does, for what is neither a folder nor such a name, and for a
    `revision` of a folder.
    """
    if is_hub_name(str(name)):
        return fetch_export(str(name), revision, local_files_only=local_files_only).folder
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"{name}: {'a file' if folder.exists() else 'no such folder'}; give a folder with an "
            f"export ({CONFIG}, {export.WEIGHTS}), or USER/NAME of a decoder on the hub"
        )
    if revision is not None:
        raise UserError(f"{name}: revision={revision} is of a name on the hub; a folder has none")
    return folder


def fetch_export(
    name: str, revision: str | None = None, *, local_files_only: bool = False
) -> FetchedExport:
    """The export that the repository `name` holds, USER/NAME or USER/NAME@REVISION.

    A branch or tag is looked up on the hub; where that does not answer, it is the commit that it
    was when it was last fetched. What the cache has is not fetched again, and weights are fetched
    once config.json has shown a 48 kHz decoder. Raises UserError when the name, the revision or a
    file is not there, the hub refuses or does not answer, or the repository is another's.
    """
    repo, revision = split_name(name, revision)
    called = repo if revision is None else f"{repo}@{revision}"
    is_here = local_files_only or _is_cached_commit(repo, revision)
    silence = None if is_here else _why_silent(repo, revision)

    def fetch(file: str, at: str | None) -> Path:
        only_here = local_files_only or silence is not None
        try:
            return Path(
                huggingface_hub.hf_hub_download(repo, file, revision=at, local_files_only=only_here)
            )
        except refusals.ERRORS as error:
            why = silence or error
            raise refusals.not_fetched(called, file, why, local_files_only) from why

    if isinstance(silence, RevisionNotFoundError):
        raise refusals.not_fetched(called, CONFIG, silence, local_files_only) from silence
    config = fetch(CONFIG, revision)
    export.read_config(config.parent, called=f"{called}: {CONFIG}")
    commit = config.parent.name
    return FetchedExport(fetch(export.WEIGHTS, commit).parent, commit)


def _is_cached_commit(repo: str, revision: str | None) -> bool:
    """Whether nothing need be asked: a commit never changes."""
    if revision is None or not re.fullmatch("[0-9a-f]{40}", revision):
        return False
    return isinstance(huggingface_hub.try_to_load_from_cache(repo, CONFIG, revision=revision), str)


def _why_silent(repo: str, revision: str | None) -> Exception | None:
    """What the hub or the network says in place of an answer; None if it answers.

    Asked once and not for long: huggingface_hub's own look at a file repeats itself for half a
    minute before it takes what the cache has.
    """
    try:
        huggingface_hub.HfApi().model_info(repo, revision=revision, timeout=_PATIENCE_SECONDS)
    except refusals.ERRORS as error:
        return error
    return None


_PATIENCE_SECONDS = 10
