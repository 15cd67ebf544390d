"""What a training begins with: the codec's own decoder, or weights that another training made."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray_jobs.decoder.train_config import TrainConfig
from ttt import storage
from ttt.snac import export
from ttt.snac.load import LoadedCodec
from ttt.snac.model import Decoder48k


def untrained(config: TrainConfig, codec: LoadedCodec) -> Decoder48k:
    """The codec's own decoder with a new head."""
    return Decoder48k.from_snac(
        codec.model, config.init, seed=config.seed, codec_sha256=codec.weights_sha256
    )


def at_start(config: TrainConfig, codec: LoadedCodec) -> Decoder48k:
    """The decoder that training begins with. Raises UserError where `init_from` does not fit."""
    model = untrained(config, codec)
    if config.init_from is not None:
        with _local_export(config.init_from) as folder:
            export.start_from(model, folder)
    return model


@contextmanager
def _local_export(uri: str) -> Iterator[Path]:
    """The folder of an export, copied here where it lies on an object store."""
    if storage.is_local(uri):
        yield storage.local_path(uri)
        return
    with tempfile.TemporaryDirectory() as copied:
        for name in storage.file_sizes(uri):
            storage.write_bytes(Path(copied, name), storage.read_bytes(storage.join(uri, name)))
        yield Path(copied)


def starts_sha256(config: TrainConfig) -> dict[str, str]:
    """Of the weights that others trained, by key."""
    folders = {
        "init_from": config.init_from,
        "adversarial.start_from": config.adversarial and config.adversarial.start_from,
    }
    return {
        key: hashlib.sha256(storage.read_bytes(storage.join(uri, export.WEIGHTS))).hexdigest()
        for key, uri in folders.items()
        if uri
    }
