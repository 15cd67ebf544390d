"""A small codec, recordings, a cache and an exported decoder on disk, made once."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from snac import SNAC

from ray_jobs import train_decoder
from tests.ray_jobs.compared_decoders import Compared, compare
from tests.ray_jobs.nano_training import ON_RAY, ROOT, World, command, write_world
from tests.ray_jobs.nano_ttt import write_ttt_world
from ttt.snac.cache.encode import ClipEncoder
from ttt.snac.cache.inputs import ClipInput, QualityConfig
from ttt.snac.cache.shard_file import Clip, CodecIdentity, write_shard
from ttt.snac.cache.shards import build_index
from ttt.snac.cache.sources import prepare_recording
from ttt.snac.config import EncodeConfig
from ttt.snac.export import snac_config
from ttt.snac.load import load_codec
from ttt.snac.model import Decoder48k


@pytest.fixture(scope="session")
def small_codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SNAC with the published rates and strides, in the hub's layout."""
    folder = tmp_path_factory.mktemp("codec")
    torch.manual_seed(0)
    model = SNAC(
        sampling_rate=24000,
        encoder_dim=4,
        encoder_rates=[2, 4, 8, 8],
        decoder_dim=64,
        decoder_rates=[8, 8, 4, 2],
        attn_window_size=None,
        codebook_size=64,
        codebook_dim=4,
        vq_strides=[4, 2, 1],
    )
    (folder / "config.json").write_text(json.dumps(snac_config(model)))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of about a second in a sub-folder, and a file that is no audio."""
    folder = tmp_path_factory.mktemp("recordings")
    (folder / "a").mkdir()
    for number, samples in enumerate((45_000, 52_345)):
        noise = np.random.default_rng(number).standard_normal(samples)
        soundfile.write(folder / "a" / f"{number}.wav", 0.1 * noise, 48_000, subtype="PCM_16")
    (folder / "broken.wav").write_text("this is no audio")
    return folder


@pytest.fixture(scope="session")
def small_cache(
    tmp_path_factory: pytest.TempPathFactory, recordings: Path, small_codec: Path
) -> Path:
    """The two recordings as a cache."""
    folder = tmp_path_factory.mktemp("cache")
    codec = load_codec(small_codec)
    clips = []
    for number in range(2):
        source = ClipInput(clip_id=f"a/{number}.wav", source=str(recordings / f"a/{number}.wav"))
        ready = prepare_recording(source, codec.geometry, QualityConfig())
        (codes,) = ClipEncoder(codec.model, EncodeConfig()).encode([ready.source])
        clips.append(Clip(ready.clip_id, codes, ready.audio, len(ready.audio)))
    identity = CodecIdentity(codec.name, codec.weights_sha256)
    write_shard(folder / "shards" / "shard-00000.parquet", clips, codec.geometry, identity)
    build_index(folder)
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """What a training of seconds needs."""
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run in this process, with TensorBoard."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert train_decoder.main([*world.overrides(run), "tracking.tensorboard=true"]) == 0
    return run


@pytest.fixture(scope="session")
def whole_on_ray(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of two workers."""
    run = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(command(world, run, *ON_RAY), cwd=ROOT, check=True)
    return run


@pytest.fixture(scope="session")
def ttt_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same for TTT and LoRA in Moshi."""
    return write_ttt_world(tmp_path_factory.mktemp("ttt_world"))


@pytest.fixture(scope="session")
def ttt_finished(ttt_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of it in this process, with TensorBoard."""
    run = tmp_path_factory.mktemp("ttt_finished") / "run"
    assert ttt_world.main(run, "tracking.tensorboard=true") == 0
    return run


@pytest.fixture(scope="session")
def ttt_on_ray(ttt_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of it by two workers."""
    run = tmp_path_factory.mktemp("ttt_on_ray") / "run"
    subprocess.run(command(ttt_world, run, *ON_RAY), cwd=ROOT, check=True)
    return run


@pytest.fixture(scope="session")
def small_export(tmp_path_factory: pytest.TempPathFactory, small_codec: Path) -> Path:
    """A decoder whose head hisses a little and whose body is the codec's."""
    folder = tmp_path_factory.mktemp("decoder") / "export"
    decoder = Decoder48k.from_snac(load_codec(small_codec).model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in decoder.head_parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    decoder.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def compared(
    tmp_path_factory: pytest.TempPathFactory, small_codec: Path, small_export: Path
) -> Compared:
    """Two decoders that were compared; who changes something there copies it first."""
    return compare(tmp_path_factory.mktemp("compared"), small_codec, small_export)
