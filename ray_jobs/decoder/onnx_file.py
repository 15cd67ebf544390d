"""A decoder to one ONNX file, whole or not there."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ray_jobs.decoder.onnx_config import ExportOnnxConfig
from ray_jobs.decoder.source import DecoderSource, find_decoder
from ray_jobs.runtime.cli import Invocation
from ttt import storage
from ttt.errors import UserError
from ttt.snac import onnx
from ttt.snac.export import read_config
from ttt.snac.model import Decoder48k


@dataclass(frozen=True)
class Plan:
    """What will be written; made without loading weights."""

    config: ExportOnnxConfig
    decoder: DecoderSource
    output: Path


def make_plan(config: ExportOnnxConfig) -> Plan:
    """Find the decoder. Raises UserError where it cannot be exported, or not to there."""
    onnx.require_packages()
    decoder = find_decoder(config.decoder)
    if (
        config.noise_floor
        and decoder.export is not None
        and read_config(decoder.export).noise_floor is not None
    ):
        raise UserError(
            f"{config.decoder}: adds a noise floor, which has no form in ONNX; noise_floor=false "
            "exports the decoder without it"
        )
    output = storage.local_path(config.output)
    folder = next(parent for parent in output.parents if parent.exists())
    if output.is_dir():
        raise UserError(f"{output}: a folder; name a file in it, such as {output / 'voice.onnx'}")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: no folder that can be written to; choose another output")
    return Plan(config, decoder, output)


def describe(plan: Plan) -> str:
    """The plan in words."""
    there = ", which exists" if plan.output.exists() else ""
    floor = "" if plan.config.noise_floor else ", without a noise floor"
    return (
        f"export to ONNX, opset {plan.config.opset}\n"
        f"  decoder: {plan.decoder.kind} {plan.decoder.name}{floor}\n"
        f"  writes: {plan.output}{there}"
    )


def foresee(plan: Plan, _config: ExportOnnxConfig, resume: bool) -> None:
    """Raise UserError where the file exists and is not to be kept."""
    if plan.output.exists() and not resume:
        raise UserError(
            f"{plan.output}: exists; give --resume to keep it if it is of this decoder, or choose "
            "another output"
        )


def execute(plan: Plan, invocation: Invocation) -> None:
    """Write the file. One that exists is an error, or with --resume kept, if it is the same."""
    config, output = plan.config, plan.output
    foresee(plan, config, invocation.resume)
    with tempfile.TemporaryDirectory() as folder:
        made = plan.decoder.export_into(Path(folder) / "decoder")
        decoder = Decoder48k.from_pretrained(made, noise_floor=config.noise_floor)
    if output.exists():
        if onnx.read_metadata(output) != onnx.metadata(decoder, config.opset):
            raise UserError(
                f"{output}: made of another decoder or opset; choose another output, or delete it"
            )
        print(f"{output}: kept, it is of this decoder")
        return
    difference = onnx.export_onnx(decoder, output, opset=config.opset)
    megabytes = output.stat().st_size / 1e6
    print(f"{output}: {megabytes:.1f} MB, largest difference to torch's audio {difference:.1e}")
