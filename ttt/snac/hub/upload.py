"""An export pushed to the hub: looked at first, then sent as one commit or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import RepositoryNotFoundError

from ttt import records
from ttt.errors import UserError
from ttt.files.errors import FileIdentity
from ttt.snac import export
from ttt.snac.hub import refusals
from ttt.snac.hub.card import hub_card, measured_weights, split_card
from ttt.snac.hub.download import CONFIG
from ttt.snac.hub.names import check_repo

CARD = "README.md"


@dataclass(frozen=True)
class Destination:
    """A repository that was looked at."""

    repo: str
    """USER/NAME."""
    private: bool | None
    """What is asked of a new repository; None leaves it to the account's own setting."""
    commit: str | None
    """The commit that main was at; None where there is no such repository yet."""

    @property
    def url(self) -> str:
        """Its page."""
        return f"{refusals.endpoint()}/{self.repo}"


def push_export(
    folder: str | Path,
    repo: str,
    *,
    license: str | None,
    base_model: str | None = None,
    private: bool | None = None,
) -> str:
    """Push the export in `folder` to the repository `repo`, and return the commit's address.

    See `hub_card` for `license` and `base_model`, `look_at` for `private`. Raises UserError, and
    then nothing was pushed.
    """
    folder = Path(folder)
    check_export(folder)
    readme = folder / CARD
    text = readme.read_text(encoding="utf-8") if readme.exists() else None
    card = hub_card(text, repo, license=license, base_model=base_model)
    return push(folder, look_at(repo, card, private=private), card)


def check_export(folder: Path) -> None:
    """Raise UserError unless `folder` is a whole export, and its card's numbers are its own."""
    from ttt.snac.model import Decoder48k  # Which has a method that pushes.

    Decoder48k.from_pretrained(folder.absolute())
    readme = folder / CARD
    if not readme.exists():
        return
    measured = measured_weights(split_card(readme.read_text(encoding="utf-8"))[1])
    if measured not in (None, FileIdentity.of(folder / export.WEIGHTS).sha256):
        raise UserError(
            f"{readme}: its numbers were measured on other weights ({str(measured)[:12]}); run "
            "ray_jobs.evaluate_decoder on this export again, or delete the file"
        )


def look_at(repo: str, card: str, *, private: bool | None = None) -> Destination:
    """Ask the hub about `repo` and whether it takes `card`; nothing is written there.

    With `private` a new repository is private, or public if False. Raises UserError without a
    token, when the hub does not answer or refuses, when the repository is there and not as
    `private` asks, or when it holds another kind of model.
    """
    try:
        check_repo(repo)
    except ValueError as error:
        raise UserError(str(error)) from error
    if huggingface_hub.get_token() is None:
        raise refusals.no_token(repo)
    try:
        _validate(repo, card)
        found = huggingface_hub.HfApi().model_info(repo)
    except RepositoryNotFoundError:
        return Destination(repo, private, None)
    except refusals.ERRORS as error:
        raise refusals.not_pushed(repo, error) from error
    if private is not None and found.private != private:
        told = "private" if found.private else "public"
        raise UserError(
            f"{repo}: is there and {told}; private={str(private).lower()} makes only a new "
            f"repository so: leave it out, or change that on {refusals.endpoint()}/{repo}/settings"
        )
    assert found.sha is not None, "the hub tells the commit of what it shows"
    if CONFIG in [file.rfilename for file in found.siblings or []]:
        _refuse_other_model(repo, found.sha)
    return Destination(repo, private, found.sha)


def push(folder: Path, destination: Destination, card: str) -> str:
    """Send the export in `folder`, with `card` as its README.md, and return the commit's address.

    Raises UserError when the hub refuses or does not answer; the repository then holds what it
    held, and one that had to be made is empty.
    """
    repo, new = destination.repo, destination.commit is None
    files = {CONFIG: folder / CONFIG, export.WEIGHTS: folder / export.WEIGHTS, CARD: card.encode()}
    made = False
    try:
        if new:
            huggingface_hub.HfApi().create_repo(repo, private=destination.private)
            made = True
        commit = huggingface_hub.HfApi().create_commit(
            repo,
            [huggingface_hub.CommitOperationAdd(path, content) for path, content in files.items()],
            commit_message="Push a 48 kHz decoder for SNAC codes",
            parent_commit=destination.commit,
        )
    except refusals.ERRORS as error:
        raise refusals.not_pushed(repo, error, made=made) from error
    return refusals.without_password(commit.commit_url)


def _validate(repo: str, card: str) -> None:
    """Let the hub look at the header before a repository is made for it. Raises UserError."""
    answer = huggingface_hub.get_session().post(
        f"{huggingface_hub.HfApi().endpoint}/api/validate-yaml",
        json={"content": card, "repoType": "model"},
    )
    if answer.status_code == 400:
        told = "; ".join(str(each.get("message")) for each in answer.json().get("errors", []))
        raise UserError(f"{repo}: the hub refuses the header of the card ({told}); correct it")
    answer.raise_for_status()


def _refuse_other_model(repo: str, commit: str) -> None:
    try:
        path = huggingface_hub.hf_hub_download(repo, CONFIG, revision=commit)
    except refusals.ERRORS as error:
        raise refusals.not_pushed(repo, error) from error
    try:
        fields = records.read_json(Path(path))
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or fields.get("format") != export.FORMAT:
        raise UserError(
            f"{repo}: holds another kind of model, which a push would overwrite; choose another "
            "name, or remove its config.json first"
        )
