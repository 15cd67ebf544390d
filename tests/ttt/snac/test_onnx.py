"""The file decodes under ONNX Runtime as the decoder does under torch, at every length."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from snac import SNAC
from torch import nn

from benchmarks.streaming_decode import PUBLISHED
from tests.conftest import build_nano_snac
from ttt.errors import UserError
from ttt.snac.decode import StreamingDecoder
from ttt.snac.geometry import CodeGeometry
from ttt.snac.layers import units
from ttt.snac.load import load_codec, weights_sha256
from ttt.snac.model import Decoder48k, deterministic
from ttt.snac.noise_floor import NoiseFloor
from ttt.snac.onnx import export_onnx, metadata, read_metadata

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "decoder.md"


def made(init="interp", **overrides) -> Decoder48k:
    """A random decoder with a branch that is heard and alphas as training leaves them."""
    model = Decoder48k.from_snac(build_nano_snac(**overrides), init=init)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter[parameter == 0] = 0.3
        for module in model.modules():
            if isinstance(module, units.Snake):
                module.alpha.normal_(1.0, 1.0, generator=generator)
                module.alpha[0, :3, 0] = torch.tensor([0.0, -0.5, 30.0])
    return model


def opened(path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # What a test provokes is no news.
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def codes_for(model, n_coarse, batch=1, seed=0) -> list[np.ndarray]:
    random, geometry = np.random.default_rng(seed), model.geometry
    shapes = [(batch, length) for length in geometry.lengths(n_coarse)]
    return [random.integers(geometry.codebook_size, size=shape) for shape in shapes]


def run(session, codes) -> np.ndarray:
    (audio,) = session.run(
        ["audio_values"], {f"audio_codes.{k}": scale for k, scale in enumerate(codes)}
    )
    return audio


def by_torch(model, codes) -> np.ndarray:
    with deterministic(model):
        return model.decode([torch.from_numpy(scale) for scale in codes]).numpy()


DECODERS = {
    "interp": {},
    "noble": {"init": "noble"},
    "average": {"init": "average"},
    "random": {"init": "random"},
    "dense, without noise": {"depthwise": False, "noise": False},
    "odd rates, four scales": {
        "encoder_rates": [2, 3, 5],
        "decoder_rates": [5, 3, 2],
        "vq_strides": [8, 4, 2, 1],
    },
    "strides that do not nest": {"vq_strides": [6, 3, 2]},
}


@pytest.mark.parametrize("name", DECODERS)
def test_audio_is_torchs_at_every_length_and_batch(name, tmp_path):
    model = made(**DECODERS[name])
    assert export_onnx(model, tmp_path / "voice.onnx") < 1e-4
    session = opened(tmp_path / "voice.onnx")
    # The export itself was tried at batches of 1 and 2 and up to five coarsest tokens.
    for batch, n_coarse in ((1, 1), (1, 2), (3, 1), (2, 4), (1, 7), (5, 3), (1, 41)):
        codes = codes_for(model, n_coarse, batch, seed=n_coarse)
        expected, found = by_torch(model, codes), run(session, codes)
        assert found.dtype == np.float32
        assert found.shape == (batch, 1, model.geometry.samples_48k(n_coarse))
        assert np.abs(expected).max() > 1e-2
        assert np.abs(found - expected).max() < 1e-4
        # The ends, where the convolutions see zeros, on their own.
        assert np.abs(found - expected)[..., -64:].max() < 1e-4
        assert np.abs(found - expected)[..., :64].max() < 1e-4


@pytest.mark.parametrize("opset", [18, 19, 20])
def test_every_opset_has_the_same_graph_and_audio(opset, tmp_path):
    model = made()
    export_onnx(model, tmp_path / "voice.onnx", opset=opset)
    written = onnx.load(tmp_path / "voice.onnx")
    assert [(each.domain, each.version) for each in written.opset_import] == [("", opset)]
    onnx.checker.check_model(written, full_check=True)
    codes = codes_for(model, 9)
    found = run(opened(tmp_path / "voice.onnx"), codes)
    assert np.abs(found - by_torch(model, codes)).max() < 1e-4
    export_onnx(model, tmp_path / "again.onnx", opset=opset)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "voice.onnx").read_bytes()


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    """A decoder, its file and a session of it."""
    model = made()
    path = tmp_path_factory.mktemp("onnx") / "voice.onnx"
    export_onnx(model, path)
    return model, path, opened(path)


def test_the_file_says_what_it_is(nano):
    model, path, session = nano
    inputs = {each.name: (each.type, each.shape) for each in session.get_inputs()}
    assert inputs == {
        "audio_codes.0": ("tensor(int64)", ["batch", "coarse"]),
        "audio_codes.1": ("tensor(int64)", ["batch", "2*coarse"]),
        "audio_codes.2": ("tensor(int64)", ["batch", "4*coarse"]),
    }
    (output,) = session.get_outputs()
    assert (output.name, output.type) == ("audio_values", "tensor(float)")
    assert output.shape == ["batch", 1, "4096*coarse"]
    told = session.get_modelmeta().custom_metadata_map
    assert told == read_metadata(path) == metadata(model, 18)
    assert told["sampling_rate"] == "48000"
    assert told["hop_length"] == "1024"
    assert told["samples_per_coarse"] == "4096"
    assert told["reach_samples"] == str(model.reach_samples_48k)
    assert told["codebook_size"] == "64"
    assert told["decoder_sha256"] == weights_sha256(model)
    assert told["codec_sha256"] == model.codec_sha256
    assert CodeGeometry.from_json(told["geometry"]) == model.geometry
    assert json.loads(told["geometry"])["sample_rate"] == 24_000


@pytest.mark.parametrize("scale", [0, 1, 2])
@pytest.mark.parametrize("code", [64, 4096, -1, -64, 2**40])
def test_a_code_that_is_none_is_refused(nano, scale, code):
    model, _, session = nano
    codes = codes_for(model, 3)
    codes[scale][0, 1] = code
    with pytest.raises(Exception, match="Gather"):
        run(session, codes)


def test_code_0_and_the_last_one_are_codes(nano):
    model, _, session = nano
    for code in (0, 63):
        codes = [np.full_like(scale, code) for scale in codes_for(model, 6)]
        assert np.abs(run(session, codes) - by_torch(model, codes)).max() < 1e-4
    mixed = codes_for(model, 6)
    mixed[0][0, 3] = 0
    assert np.abs(run(session, mixed) - by_torch(model, mixed)).max() < 1e-4


def test_scales_that_do_not_fit_each_other_are_refused(nano):
    model, _, session = nano
    one, two = codes_for(model, 3), codes_for(model, 3, batch=2)
    for codes in (
        [one[0], one[1], one[2][:, :11]],
        [one[0], one[1], one[2][:, :1]],
        [one[0][:, :1], *one[1:]],
        [one[0], two[1], one[2]],
        [two[0], two[1], one[2]],
        [two[0], one[1], two[2]],
        [one[0].astype(np.float32), *one[1:]],
        [one[0].astype(np.int32), *one[1:]],
        [scale[:, :0] for scale in one],
    ):
        with pytest.raises(Exception, match=r"Concat|Unexpected input data type|Got invalid|zero"):
            run(session, codes)


def test_the_decoder_is_left_as_it_is(tmp_path):
    model = made(init="random").double().train()
    model.freeze_body(True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learning = [parameter.requires_grad for parameter in model.parameters()]
    export_onnx(model, tmp_path / "voice.onnx")
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()] == learning
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    codes = codes_for(model, 5)
    found = run(opened(tmp_path / "voice.onnx"), codes)
    assert np.abs(found - by_torch(model, codes)).max() < 1e-4


def test_what_cannot_be_exported_is_one_sentence_and_leaves_nothing(tmp_path):
    floored, strange, broken, loud = made(), made(), made(), made()
    floored.noise_floor = NoiseFloor((-40.0,) * 16)
    strange.body[0] = nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        broken.head.output.bias.fill_(float("nan"))
        loud.head.output.bias.fill_(1e9)
    for model, opset, sentence in (
        (floored, 18, "load the decoder with noise_floor=False"),
        (strange, 18, "a layer of the class Conv2d has no form in ONNX here"),
        (broken, 18, "differs by nan from torch's"),
        (build_nano_snac(), 18, "a SNAC is not exported to ONNX"),
        (made(), 17, "choose one of 18, 19, 20"),
        (made(), 21, "choose one of 18, 19, 20"),
    ):
        with pytest.raises(UserError, match=re.escape(sentence)):
            export_onnx(model, tmp_path / "voice.onnx", opset=opset)
    assert not list(tmp_path.iterdir())
    (tmp_path / "text.onnx").write_text("no protobuf")
    with pytest.raises(UserError, match="not an ONNX file"):
        read_metadata(tmp_path / "text.onnx")


def test_the_tiny_codec_and_the_published_shape(tmp_path):
    torch.manual_seed(3)
    published = Decoder48k.from_snac(SNAC(**PUBLISHED).eval())
    with torch.no_grad():
        for parameter in published.head.parameters():
            parameter[parameter == 0] = 0.3
    for model in (Decoder48k.from_snac(load_codec("tiny").model), published):
        path = tmp_path / "voice.onnx"
        assert export_onnx(model, path) < 1e-4
        session = opened(path)
        for batch, n_coarse in ((1, 4), (2, 7)):
            codes = codes_for(model, n_coarse, batch)
            assert np.abs(run(session, codes) - by_torch(model, codes)).max() < 1e-4
        assert onnx.load(path).ByteSize() == path.stat().st_size  # No second file.
    assert [each.name for each in tmp_path.iterdir()] == ["voice.onnx"]


# -- streams ---------------------------------------------------------------------------------------


def guide_program(path: Path) -> dict:
    """The program of docs/decoder.md, as it stands there, run on this file."""
    (block,) = re.findall(
        r"```python\n(import numpy as np\nimport onnxruntime.*?)```", GUIDE.read_text(), re.DOTALL
    )
    scope: dict = {}
    exec(block.replace('"voice.onnx"', repr(str(path))), scope)
    return scope


@pytest.mark.parametrize("sizes", [[1] * 13, [13], [2, 5, 1, 5], [12, 1]])
def test_the_guides_stream_equals_the_whole_and_torchs_stream(nano, sizes):
    model, path, _ = nano
    program = guide_program(path)
    codes = codes_for(model, 13)
    rows = model.geometry.interleave([scale[0] for scale in codes])
    chunks = np.split(rows, np.cumsum(sizes)[:-1])
    pieces = list(program["stream"](iter(chunks)))
    assert len(pieces) > min(len(sizes), 3)
    assert np.abs(np.concatenate(pieces) - by_torch(model, codes)[0, 0]).max() < 1e-4
    near = list(program["stream"](iter(chunks), reach=6144))
    decoder = StreamingDecoder(model, low_latency=True)
    theirs = []
    for chunk in chunks:
        scales = [torch.from_numpy(chunk[:, c].reshape(1, -1)) for c in model.geometry.columns()]
        theirs.append(decoder.push(scales)[0, 0].numpy())
    theirs.append(decoder.finish()[0, 0].numpy())
    audio = np.concatenate(near)
    assert audio.shape == (13 * 4096,)
    assert np.abs(audio - np.concatenate(theirs)).max() < 1e-4
    assert [len(each) for each in near] == [len(each) for each in theirs if len(each)]


def test_the_published_window_of_four_frames_is_torchs(nano):
    model, _, session = nano
    codes = codes_for(model, 12)
    decoder, heard = StreamingDecoder(model, low_latency=True), []
    for n in range(12):
        chunk = [
            torch.from_numpy(c[:, n * k : (n + 1) * k])
            for c, k in zip(codes, (1, 2, 4), strict=True)
        ]
        heard.append(decoder.push(chunk)[0, 0].numpy())
    for n in range(4, 13):
        window = [c[:, (n - 4) * k : n * k] for c, k in zip(codes, (1, 2, 4), strict=True)]
        middle = run(session, window)[0, 0, 6144:10240]
        assert np.abs(middle - heard[n - 1]).max() < 1e-4
