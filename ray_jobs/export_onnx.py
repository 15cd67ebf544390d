r"""A 48 kHz decoder as an ONNX file, which decodes without torch.

    python -m ray_jobs.export_onnx decoder=runs/voice output=voice.onnx

Its inputs are audio_codes.0, audio_codes.1, audio_codes.2 (int64, any batch and length), its output
is audio_values. It needs ttt-speech[onnx]; what decodes by the file needs onnxruntime alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ray_jobs.decoder.onnx_config import ExportOnnxConfig
from ray_jobs.runtime import cli


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return cli.run(
        ExportOnnxConfig,
        plan=cli.later("ray_jobs.decoder.onnx_file:make_plan"),
        describe=cli.later("ray_jobs.decoder.onnx_file:describe"),
        execute=cli.later("ray_jobs.decoder.onnx_file:execute"),
        foresee=cli.later("ray_jobs.decoder.onnx_file:foresee"),
        doc=__doc__ or "",
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
