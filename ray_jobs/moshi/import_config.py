"""The tree of configs/import_ttt.yaml."""

from __future__ import annotations

from dataclasses import dataclass

from ttt import uris
from ttt.config import Config


@dataclass(frozen=True, kw_only=True)
class ImportTTTConfig(Config):
    """A checkpoint of the original TTT code, made into layers that the evaluations take."""

    input: str
    """Folder of the checkpoint: lora.safetensors or consolidated.safetensors, with config.json and
    training_config.json; or the one above its consolidated/."""
    output: str
    """New folder for the layers, to be named as model.ttt."""
    weights: str | None = None
    """Base model that they were trained with, a hub name or a folder: the layers then fit no other;
    null takes the one inside a consolidated.safetensors, and else binds them to none."""
    mini_batch_size: int | None = None
    """Frames of a mini-batch in training; null takes training_config.json's."""
    base_lr: float | None = None
    """Inner learning rate in training; null takes training_config.json's."""
    attention_context: int | None = None
    """Frames that attention of these layers reaches back; null leaves the base model's."""

    def __post_init__(self) -> None:
        for name in ("mini_batch_size", "base_lr", "attention_context"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, or null")
        if not uris.is_local(self.input):
            raise ValueError("input must be a local folder, not a URI")
