"""Where a decoder comes from: an export, or a training run's export or best checkpoint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_jobs.config import load_config
from ray_jobs.train_config import TrainConfig
from ttt import checkpoint, records, storage
from ttt.errors import UserError
from ttt.snac import export
from ttt.snac.load import load_codec
from ttt.snac.model import Decoder48k


@dataclass(frozen=True)
class DecoderSource:
    """A decoder that was found, and the run it comes from."""

    name: str
    """As the user named it."""
    export: Path | None
    """The folder to load it from; None when it has to be made from `checkpoint` first."""
    checkpoint: str | None
    """The run's best checkpoint (the newest before any validation), without an export."""
    run: Path | None
    """The folder of the training run, where there is one."""
    training: TrainConfig | None
    """The run's configuration."""

    @property
    def kind(self) -> str:
        """In words, for reports."""
        if self.export is None:
            return f"checkpoint {Path(self.checkpoint or '').name} of a run"
        return "export" if self.run is None else "export of a run"

    def history(self) -> list[dict[str, Any]]:
        """The lines of the run's metrics.jsonl; empty without a run."""
        path = None if self.run is None else self.run / "metrics.jsonl"
        return list(records.read_jsonl(path)) if path is not None and path.exists() else []

    def export_into(self, folder: Path) -> Path:
        """The export to load; one is written into `folder` when only a checkpoint is there.

        Raises UserError when the checkpoint does not fit the run's configuration.
        """
        if self.export is not None:
            return self.export
        assert self.checkpoint is not None
        assert self.training is not None
        tensors = checkpoint.load(self.checkpoint).tensors
        codec = load_codec(self.training.codec)
        decoder = Decoder48k.from_snac(codec.model, self.training.init, seed=self.training.seed)
        try:
            decoder.load_state_dict(tensors.get("ema", tensors["model"]))
        except RuntimeError as error:
            raise UserError(
                f"{self.checkpoint}: does not fit codec {self.training.codec} with init "
                f"{self.training.init}; it belongs to another configuration"
            ) from error
        decoder.save_pretrained(folder)
        return folder


def find_decoder(path: str) -> DecoderSource:
    """Look at `path` without loading weights.

    Raises UserError when it is neither an export nor a run that has one or a checkpoint.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"{path}: no such folder; give an export or the folder of a training run")
    if _is_export(folder):
        export.read_config(folder)
        run = folder.parent if (folder.parent / "checkpoints").is_dir() else None
        return DecoderSource(path, folder, None, run, _training(run))
    if _is_export(folder / "export"):
        export.read_config(folder / "export")
        return DecoderSource(path, folder / "export", None, folder, _training(folder))
    best = checkpoint.best(str(folder)) or checkpoint.newest_complete(str(folder))
    if best is None:
        raise UserError(
            f"{path}: neither an exported decoder (config.json, model.safetensors) nor a training "
            "run with a complete checkpoint"
        )
    training = _training(folder)
    if training is None:
        raise UserError(f"{path}: has checkpoints but no config.json or config.yaml of a run")
    return DecoderSource(path, None, best, folder, training)


def absolute_uri(uri: str) -> str:
    """A local path made absolute, so that workers in another folder find it; URIs as they are."""
    return str(storage.local_path(uri)) if storage.is_local(uri) else uri


def weights_file_sha256(folder: Path) -> str:
    """64 hex digits that identify an export's weights file."""
    with open(folder / "model.safetensors", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_export(folder: Path) -> bool:
    return (folder / "config.json").exists() and (folder / "model.safetensors").exists()


def _training(run: Path | None) -> TrainConfig | None:
    path = None if run is None else run / "config.yaml"
    return load_config(TrainConfig, path) if path is not None and path.exists() else None
