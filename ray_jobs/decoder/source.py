"""Where a decoder comes from: an export, a training run's export or best checkpoint, or the hub.

Folders may lie on an object store. An export there, or one of the hub, is copied to where it is
used, which every node sees; the cache of the hub on this machine they need not.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_jobs.config.load import load_config
from ray_jobs.decoder.train.starts import untrained
from ray_jobs.decoder.train_config import TrainConfig
from ttt import checkpoint, storage
from ttt.errors import UserError
from ttt.snac import export
from ttt.snac.hub import fetch_export, is_hub_name
from ttt.snac.load import load_codec


@dataclass(frozen=True)
class DecoderSource:
    """A decoder that was found, and the run it comes from."""

    name: str
    """As the user named it."""
    export: str | None
    """Folder or URI to load it from; None when it has to be made from `checkpoint` first."""
    checkpoint: str | None
    """The run's best checkpoint (the newest before any validation), without an export."""
    run: str | None
    """Folder or URI of the training run, where there is one."""
    training: TrainConfig | None
    """The run's configuration."""
    hub_commit: str | None = None
    """Of a decoder on the hub, whose `export` is in this machine's cache: which commit it is."""

    @property
    def kind(self) -> str:
        """In words, for reports."""
        if self.hub_commit is not None:
            return f"export on the hub (commit {self.hub_commit[:12]})"
        if self.export is None:
            return f"checkpoint {storage.name(self.checkpoint or '')} of a run"
        return "export" if self.run is None else "export of a run"

    @property
    def takes_card(self) -> bool:
        """Whether an evaluation may write its numbers beside the export: it is the user's own."""
        return self.export is not None and self.hub_commit is None

    def history(self) -> list[dict[str, Any]]:
        """The lines of the run's metrics.jsonl; empty without a run."""
        uri = None if self.run is None else storage.join(self.run, "metrics.jsonl")
        if uri is None or not storage.exists(uri):
            return []
        return [json.loads(line) for line in storage.read_bytes(uri).splitlines()]

    @contextlib.contextmanager
    def exporting(self, folder: Path) -> Iterator[Path]:
        """The export to look at inside the block; one that had to be made is `folder` after it.

        Where the block raises, `folder` stays as it is: it may belong to another decoder's results.
        """
        named = {"prefix": f".{folder.name}.", "suffix": ".tmp", "dir": folder.parent}
        with tempfile.TemporaryDirectory(**named) as beside:
            made = self.export_into(Path(beside, folder.name))
            yield made
            if made != self.exported(folder):
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)

    def exported(self, folder: Path) -> Path:
        """Where the export is once `export_into(folder)` is done."""
        if self.export is not None and self._in_place:
            return storage.local_path(self.export)
        return folder

    def export_into(self, folder: Path) -> Path:
        """The local export to load; it is written into `folder` when there is only a checkpoint,
        or an export on an object store or the hub.

        Raises UserError when the checkpoint does not fit the run's configuration.
        """
        if self.export is not None and self._in_place:
            return storage.local_path(self.export)
        if self.export is not None:
            for name in storage.file_sizes(self.export):
                content = storage.read_bytes(storage.join(self.export, name))
                storage.write_bytes(folder / name, content)
            return folder
        assert self.checkpoint is not None
        assert self.training is not None
        tensors = checkpoint.load(self.checkpoint).tensors
        codec = load_codec(self.training.codec)
        decoder = untrained(self.training, codec)
        try:
            decoder.load_state_dict(tensors.get("ema", tensors["model"]))
        except RuntimeError as error:
            raise UserError(
                f"{self.checkpoint}: does not fit codec {self.training.codec} with init "
                f"{self.training.init}; it belongs to another configuration"
            ) from error
        decoder.save_pretrained(folder)
        return folder

    @property
    def _in_place(self) -> bool:
        """Whether the export is used where it lies."""
        return self.takes_card and storage.is_local(self.export or "")


def find_decoder(path: str) -> DecoderSource:
    """Look at `path`, a folder or a name on the hub, without loading weights.

    A folder comes first; what the hub has is fetched into this machine's cache. Raises UserError
    when it is neither an export nor a training run that has one or a checkpoint, and where the hub
    does not give it.
    """
    if is_hub_name(path):
        fetched = fetch_export(path)
        return DecoderSource(path, str(fetched.folder), None, None, None, fetched.commit)
    if not storage.exists(path):
        raise UserError(
            f"{path}: no such folder; give an export or the folder of a training run, or USER/NAME "
            "of a decoder on the hub"
        )
    if storage.is_local(path) and storage.local_path(path).is_file():
        raise UserError(f"{path}: a file; give the folder of an export or of a training run")
    if storage.exists(storage.join(path, "trials")):
        raise UserError(
            f"{path}: the folder of a sweep; give its best decoder, "
            f"{storage.join(path, 'export')}, or one of its trials"
        )
    if _is_export(path):
        export.read_config(path)
        parent = storage.parent(path)
        run = parent if "checkpoints" in storage.list_names(parent) else None
        return DecoderSource(path, path, None, run, _training(run))
    inside = storage.join(path, "export")
    if _is_export(inside):
        export.read_config(inside)
        return DecoderSource(path, inside, None, path, _training(path))
    best = checkpoint.best(path) or checkpoint.newest_complete(path)
    if best is None:
        raise UserError(
            f"{path}: neither an exported decoder (config.json, model.safetensors) nor a training "
            "run with a complete checkpoint"
        )
    training = _training(path)
    if training is None:
        raise UserError(f"{path}: has checkpoints but no config.json or config.yaml of a run")
    return DecoderSource(path, None, best, path, training)


def _is_export(folder: str) -> bool:
    return {"config.json", "model.safetensors"} <= set(storage.list_names(folder))


def _training(run: str | None) -> TrainConfig | None:
    uri = None if run is None else storage.join(run, "config.yaml")
    if uri is None or not storage.exists(uri):
        return None
    with storage.local_copy(uri) as path:
        return load_config(TrainConfig, path)
