"""The export to ONNX as a job: from a folder to a file that decodes, and what it says."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from ray_jobs import export_onnx
from tests.conftest import build_nano_snac
from tests.test_light_install import BLOCKED
from ttt.snac.model import Decoder48k, deterministic
from ttt.snac.noise_floor import NoiseFloor
from ttt.snac.onnx import read_metadata

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """The folder of an export, in that of a run."""
    decoder = Decoder48k.from_snac(build_nano_snac(), init="random")
    decoder.save_pretrained(tmp_path / "run" / "export")
    return tmp_path / "run"


def require_audio(file: Path, folder: Path) -> None:
    """The file decodes as the export in `folder`, its noise floor left out."""
    model = Decoder48k.from_pretrained(folder, noise_floor=False)
    codes = [torch.randint(0, 64, (2, length)) for length in model.geometry.lengths(6)]
    session = onnxruntime.InferenceSession(file)
    feed = {f"audio_codes.{k}": scale.numpy() for k, scale in enumerate(codes)}
    (audio,) = session.run(None, feed)
    with deterministic(model):
        assert np.abs(audio - model.decode(codes).numpy()).max() < 1e-4


def test_a_run_becomes_a_file_that_decodes(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out" / "deep" / "voice.onnx"
    words = [f"decoder={exported}", f"output={file}"]
    assert export_onnx.main([*words, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert f"decoder: export of a run {exported}" in told
    assert f"writes: {file}\n" in told
    assert not (tmp_path / "out").exists()
    assert export_onnx.main([*words, "opset=20"]) == 0
    assert "MB, largest difference to torch's audio" in capsys.readouterr().out
    require_audio(file, exported / "export")
    assert read_metadata(file)["opset"] == "20"
    assert [each.name for each in file.parent.iterdir()] == ["voice.onnx"]


def test_a_file_that_exists_is_never_replaced(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "voice.onnx"
    words = [f"decoder={exported}", f"output={file}"]
    assert export_onnx.main([*words, "--resume-if-begun"]) == 0
    before = file.read_bytes()
    assert export_onnx.main(words) == 2
    assert f"{file}: exists; give --resume" in capsys.readouterr().err
    assert export_onnx.main([*words, "--dry-run"]) == 2
    told = capsys.readouterr()
    assert f"writes: {file}, which exists" in told.out
    assert f"{file}: exists; give --resume" in told.err
    assert export_onnx.main([*words, "--dry-run", "--resume"]) == 0
    capsys.readouterr()
    for flag in ("--resume", "--resume-if-begun"):
        assert export_onnx.main([*words, flag]) == 0
        assert f"{file}: kept, it is of this decoder" in capsys.readouterr().out
    assert export_onnx.main([*words, "--resume", "opset=19"]) == 2
    assert "made of another decoder or opset" in capsys.readouterr().err
    Decoder48k.from_snac(build_nano_snac(seed=1)).save_pretrained(tmp_path / "other")
    assert export_onnx.main([f"decoder={tmp_path / 'other'}", words[1], "--resume"]) == 2
    assert "made of another decoder or opset" in capsys.readouterr().err
    assert file.read_bytes() == before
    file.write_text("no protobuf")
    assert export_onnx.main([*words, "--resume"]) == 2
    assert f"{file}: not an ONNX file" in capsys.readouterr().err


def test_a_noise_floor_is_left_out_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decoder = Decoder48k.from_snac(build_nano_snac())
    decoder.noise_floor = NoiseFloor((-40.0,) * 16)
    decoder.save_pretrained(tmp_path / "floored")
    words = [f"decoder={tmp_path / 'floored'}", f"output={tmp_path / 'voice.onnx'}"]
    for also in ([], ["--dry-run"]):
        assert export_onnx.main([*words, *also]) == 2
        assert "noise_floor=false exports the decoder without it" in capsys.readouterr().err
    assert export_onnx.main([*words, "noise_floor=false"]) == 0
    require_audio(tmp_path / "voice.onnx", tmp_path / "floored")


def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decoder, output = f"decoder={exported}", f"output={tmp_path / 'voice.onnx'}"
    codec = tmp_path / "codec"
    codec.mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        (codec / name).write_text("{}")
    (tmp_path / "folder.onnx").mkdir()
    damaged = tmp_path / "damaged"
    Decoder48k.from_snac(build_nano_snac()).save_pretrained(damaged)
    (damaged / "model.safetensors").write_bytes(b"short")
    before = sorted(tmp_path.rglob("*"))
    for words, sentence in (
        ([decoder, "output=voice"], "output must be a local file named .onnx"),
        ([decoder, "output=s3://bucket/voice.onnx"], "output must be a local file named .onnx"),
        ([decoder, output, "opset=17"], "opset must be 18 to 20"),
        ([decoder, f"output={tmp_path / 'folder.onnx'}"], "a folder; name a file in it"),
        (
            [decoder, f"output={damaged / 'config.json' / 'voice.onnx'}"],
            "no folder that can be written to",
        ),
        ([f"decoder={tmp_path / 'nowhere'}", output], "no such folder"),
        ([f"decoder={codec}", output], "neither an exported decoder"),
        ([f"decoder={damaged}", output], "cannot be read"),
    ):
        assert export_onnx.main(words) == 2
        assert sentence in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_without_onnx_it_is_one_sentence(exported: Path, tmp_path: Path) -> None:
    for missing in ("onnx", "onnxruntime"):
        blocked = re.sub(r"in \[.*\]:", f"== {missing!r}:", BLOCKED)
        script = f"{blocked}\nfrom ray_jobs.export_onnx import main\nsys.exit(main())"
        words = [f"decoder={exported}", f"output={tmp_path / 'voice.onnx'}", "--dry-run"]
        done = subprocess.run(
            [sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 2, done.stderr
        sentence = f"error: exporting to ONNX needs {missing}; install ttt-speech[onnx]\n"
        assert done.stderr == sentence
