"""The tree of configs/push_decoder.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ttt.config import Config


@dataclass(frozen=True, kw_only=True)
class PushConfig(Config):
    """Pushing a 48 kHz decoder to the Hugging Face hub; the token is HF_TOKEN's, never a key."""

    decoder: str
    """An export, or a training run's folder (its export, else its best checkpoint)."""
    repo: str
    """Repository on the hub, USER/NAME or ORGANIZATION/NAME; it is made where there is none."""
    license: str | None = None
    """What others may do with the weights: the hub's identifier, such as apache-2.0, cc-by-4.0 or
    mit. Never assumed: null takes the one in the header of the export's README.md, or stops."""
    base_model: str | None = None
    """Name on the hub of the codec whose codes it decodes, such as hubertsiuzdak/snac_24khz; null
    takes the README.md's, else the training run's, where that is a name on the hub."""
    private: bool | None = None
    """Who sees a repository that has to be made: true its owner, false everybody, null what the
    account has set. One that is there is never changed, and refused where it is otherwise."""

    def __post_init__(self) -> None:
        for name in ("repo", "base_model"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", value, re.ASCII):
                raise ValueError(f"{name} must be USER/NAME on the hub, got {value}")
