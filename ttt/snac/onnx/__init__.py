"""A decoder as an ONNX file, which decodes without torch.

    export_onnx(decoder, "voice.onnx")

    session = onnxruntime.InferenceSession("voice.onnx")
    names = [each.name for each in session.get_inputs()]  # audio_codes.0, .1, .2: coarsest first
    (audio,) = session.run(None, dict(zip(names, codes)))  # float32 [B, 1, 4096 * n]

`codes` are int64 arrays [B, n], [B, 2n], [B, 4n] of any B and n from 1 on (snac_24khz). SNAC's
noise is off: the audio is that of `decode` inside `deterministic`. The file's metadata has the
rates, the geometry and the reach, by which a stream keeps as much context as it needs.
"""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ttt import storage
from ttt.errors import UserError
from ttt.extras import require
from ttt.snac.config import ONNX_OPSETS
from ttt.snac.load import weights_sha256
from ttt.snac.model import Decoder48k, deterministic
from ttt.snac.onnx.graph import decoder_graph, input_names

LARGEST_DIFFERENCE = 1e-4
"""To torch's audio, of any sample; an export that is farther from it is not written."""


def export_onnx(decoder: Decoder48k, path: str | Path, *, opset: int = ONNX_OPSETS[0]) -> float:
    """Write `decoder`, as it is now, in float32 into the one file `path` (or URI).

    A file that is there is replaced once the new one is complete. Before that ONNX Runtime decodes
    random codes by it: returns the largest difference to torch's audio, which is below
    `LARGEST_DIFFERENCE`. The decoder is left as it is.

    Raises UserError where onnx or onnxruntime is not installed, and for a decoder with a noise
    floor, for a layer that has no form in ONNX here, and for weights that make no audio.
    """
    require_packages()
    if not isinstance(decoder, Decoder48k):
        raise UserError(
            f"a {type(decoder).__name__} is not exported to ONNX, only a Decoder48k is; "
            "Decoder48k.from_snac makes one of a 24 kHz codec"
        )
    if decoder.noise_floor is not None:
        raise UserError(
            "a noise floor has no form in ONNX, as it depends on the sample's place in the stream; "
            "load the decoder with noise_floor=False"
        )
    if opset not in ONNX_OPSETS:
        raise UserError(f"opset {opset}: choose one of {', '.join(map(str, ONNX_OPSETS))}")
    plain = copy.deepcopy(decoder).to("cpu", torch.float32)
    content = _model(plain, opset).SerializeToString()
    difference = _difference(content, plain)
    storage.write_bytes(path, content)
    return difference


def require_packages() -> None:
    """Raise UserError unless what an export needs is installed."""
    require("exporting to ONNX", "onnx", "onnxruntime")


def metadata(decoder: Decoder48k, opset: int) -> dict[str, str]:
    """What the file of `decoder` says of itself."""
    geometry = decoder.geometry
    return {
        "format": "ttt.snac.Decoder48k",
        "format_version": "1",
        "sampling_rate": str(decoder.sampling_rate),
        "hop_length": str(decoder.hop_length),
        "samples_per_coarse": str(geometry.samples_48k(1)),
        "reach_samples": str(decoder.reach_samples_48k),
        "codebook_size": str(geometry.codebook_size),
        "geometry": geometry.to_json(),
        "init": decoder.init,
        "codec_sha256": decoder.codec_sha256,
        "decoder_sha256": weights_sha256(decoder),
        "opset": str(opset),
    }


def read_metadata(path: str | Path) -> dict[str, str]:
    """What an ONNX file says of itself. Raises UserError where it is none."""
    onnx = importlib.import_module("onnx")
    try:
        model = onnx.load_from_string(storage.read_bytes(path))
    except importlib.import_module("google.protobuf.message").DecodeError as error:
        raise UserError(f"{path}: not an ONNX file ({error})") from error
    return {each.key: each.value for each in model.metadata_props}


def _model(decoder: Decoder48k, opset: int) -> Any:
    onnx, helper = importlib.import_module("onnx"), importlib.import_module("onnx.helper")
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        decoder_graph(decoder),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="ttt-speech",
    )
    helper.set_model_props(model, metadata(decoder, opset))
    onnx.checker.check_model(model, full_check=True)
    return model


def _difference(content: bytes, decoder: Decoder48k) -> float:
    """The largest one between ONNX Runtime's audio and torch's, of random codes."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    geometry, random = decoder.geometry, np.random.default_rng(0)
    largest = 0.0
    for batch, n_coarse in ((1, 1), (2, 5)):
        codes = [
            random.integers(geometry.codebook_size, size=(batch, length))
            for length in geometry.lengths(n_coarse)
        ]
        feed = dict(zip(input_names(geometry), codes, strict=True))
        (found,) = session.run(None, feed)
        with deterministic(decoder):
            expected = decoder.decode([torch.from_numpy(scale) for scale in codes]).numpy()
        apart = float(np.abs(found - expected).max())
        if not apart <= LARGEST_DIFFERENCE:
            raise UserError(
                f"ONNX Runtime's audio differs by {apart:.1e} from torch's, more than "
                f"{LARGEST_DIFFERENCE:g}, and nothing was written; check that the decoder's audio "
                "is finite and within full scale"
            )
        largest = max(largest, apart)
    return largest
