"""The tree of configs/export_onnx.yaml."""

from __future__ import annotations

from dataclasses import dataclass

from ttt import uris
from ttt.config import Config
from ttt.snac.config import ONNX_OPSETS


@dataclass(frozen=True, kw_only=True)
class ExportOnnxConfig(Config):
    """A 48 kHz decoder as an ONNX file, which decodes without torch."""

    decoder: str
    """An export, a training run's folder (its export, else its best checkpoint), or USER/NAME of
    one on the hub, with @REVISION for a branch, a tag or a commit; a folder comes first."""
    output: str
    """New file, named .onnx; the weights are in it."""
    opset: int = ONNX_OPSETS[0]
    """Version of ONNX's operations, 18 to 20; a runtime reads its own and all older ones, and the
    audio is the same in each."""
    noise_floor: bool = True
    """A noise floor has no form in ONNX: a decoder that adds one is refused, unless this is false,
    which leaves the floor out as it does in decode_codes."""

    def __post_init__(self) -> None:
        if self.opset not in ONNX_OPSETS:
            raise ValueError(f"opset must be {ONNX_OPSETS[0]} to {ONNX_OPSETS[-1]}")
        if not uris.is_local(self.output) or not self.output.endswith(".onnx"):
            raise ValueError(f"output must be a local file named .onnx, got {self.output}")
