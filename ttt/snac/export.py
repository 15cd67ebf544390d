"""The folder an exported decoder lives in: config.json, model.safetensors, README.md.

config.json holds what is needed to build the modules without the encoder: SNAC's own keyword
arguments, the head's init, the geometry, and the hash of the codec's weights, by which a cache
and a decoder recognise each other. It is written last, so a folder that has it is complete.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import safetensors
import safetensors.torch
from snac import SNAC
from snac.layers import Decoder, NoiseBlock
from snac.vq import ResidualVectorQuantize
from torch import Tensor, nn

from ttt import records, storage
from ttt.errors import UserError
from ttt.numerics import refuse_nonfinite_weights
from ttt.snac.config import Init
from ttt.snac.evaluation.trick_levels import FittedTricks
from ttt.snac.geometry import CodeGeometry
from ttt.snac.noise_floor import NoiseFloor

if TYPE_CHECKING:
    from ttt.snac.model import Decoder48k

FORMAT = "ttt.snac.Decoder48k"
FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class ExportConfig:
    """What config.json says."""

    init: str
    snac: dict[str, Any]
    geometry: CodeGeometry
    codec_sha256: str
    tricks: FittedTricks | None = None
    """The cheap tricks' levels on the run's validation clips; None where none were fitted."""
    noise_floor: NoiseFloor | None = None
    """What `decode` adds; None where none was fitted, or none lowered LSD-HF."""


def save(
    model: Decoder48k, folder: Path, card: str | None, tricks: FittedTricks | None = None
) -> None:
    """Write `model` into `folder`, which is made if needed. Raises UserError when it cannot."""
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    storage.write_bytes(folder / WEIGHTS, safetensors.torch.save(weights))
    storage.write_bytes(folder / "README.md", (card or _short_card(model)).encode())
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "init": model.init,
        "snac": model.snac_config,
        "geometry": json.loads(model.geometry.to_json()),
        "codec_sha256": model.codec_sha256,
        **({} if tricks is None else {"tricks": tricks.to_dict()}),
        **({} if model.noise_floor is None else {"noise_floor": model.noise_floor.to_dict()}),
    }
    records.write_json(folder / "config.json", config)


def read_config(folder: str | Path, *, called: str | None = None) -> ExportConfig:
    """Read and check config.json. Raises UserError when it is missing, damaged or another's.

    `called` is what a sentence calls it, by default its path.
    """
    file = storage.join(folder, "config.json")
    path = called or file
    try:
        fields = records.read_json(file)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: not found; give a folder that save_pretrained or the export wrote"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    if isinstance(fields, dict) and fields.keys() >= {"vq_strides", "decoder_rates"}:
        raise UserError(
            f"{path}: a SNAC codec and not a 48 kHz decoder made for one; give the decoder's own "
            "folder or name (ray_jobs.train_decoder makes one with this as its codec=)"
        )
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise UserError(f"{path}: not an exported 48 kHz decoder (no format {FORMAT!r} in it)")
    if fields.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {fields.get('format_version')}, this program reads "
            f"{FORMAT_VERSION}; use the version of the package that wrote it"
        )
    try:
        config = ExportConfig(
            init=fields["init"],
            snac=fields["snac"],
            geometry=CodeGeometry.from_json(json.dumps(fields["geometry"])),
            codec_sha256=fields["codec_sha256"],
            tricks=FittedTricks.from_dict(fields["tricks"]) if fields.get("tricks") else None,
            noise_floor=NoiseFloor.from_dict(floor)
            if (floor := fields.get("noise_floor"))
            else None,
        )
        derived = _geometry(config.snac)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged, a field is missing or wrong ({error})") from error
    if config.init not in get_args(Init):
        raise UserError(f"{path}: unknown init {config.init!r}; known are {get_args(Init)}")
    if derived != config.geometry:
        raise UserError(
            f"{path}: its geometry {config.geometry.to_json()} is not that of its snac "
            f"arguments, {derived.to_json()}; export the decoder again"
        )
    return config


def load_weights(model: Decoder48k, folder: Path) -> None:
    """Fill `model` from model.safetensors.

    Raises UserError when it is missing, does not fit, or holds NaN or infinite values.
    """
    path, weights = folder / WEIGHTS, _read_weights(folder)
    try:
        model.to(next(iter(weights.values())).dtype).load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"{path}: does not fit config.json ({' '.join(str(error).split())[:300]})"
        ) from error


def start_from(model: Decoder48k, folder: Path) -> None:
    """Fill `model`, a fresh decoder, from the export of another training: the same at step 0.

    Raises UserError when it is of another codec, geometry or head, and what `load_weights` raises.
    """
    config = read_config(folder)
    for what, theirs, ours in (
        ("geometry", config.geometry.to_json(), model.geometry.to_json()),
        ("codec", config.codec_sha256, model.codec_sha256),
        ("init", config.init, model.init),
    ):
        if theirs != ours:
            raise UserError(
                f"init_from {folder}: its {what} is {theirs} and this training's is {ours}; give "
                f"an export of the same codec and init, or set init_from to null"
            )
    load_weights(model, folder)


def refuse_nonfinite_export(folder: Path) -> None:
    """Raise what `load_weights` would of model.safetensors alone."""
    _read_weights(folder)


def snac_config(snac_model: SNAC) -> dict[str, Any]:
    """SNAC's keyword arguments as plain JSON values, `noise` and `depthwise` read off its layers
    (SNAC does not keep them)."""
    layers = snac_model.decoder.model
    return {
        "sampling_rate": int(snac_model.sampling_rate),
        "encoder_dim": int(snac_model.encoder_dim),
        "encoder_rates": [int(rate) for rate in snac_model.encoder_rates],
        "latent_dim": int(snac_model.latent_dim),
        "decoder_dim": int(snac_model.decoder_dim),
        "decoder_rates": [int(rate) for rate in snac_model.decoder_rates],
        "attn_window_size": snac_model.attn_window_size,
        "codebook_size": int(snac_model.codebook_size),
        "codebook_dim": int(snac_model.codebook_dim),
        "vq_strides": [int(stride) for stride in snac_model.vq_strides],
        "noise": any(isinstance(module, NoiseBlock) for module in layers.modules()),
        "depthwise": cast(nn.Conv1d, layers[0]).groups > 1,
    }


def build_base(config: dict[str, Any]) -> tuple[ResidualVectorQuantize, Decoder]:
    """SNAC's quantizer and decoder with random weights; no encoder."""
    quantizer = ResidualVectorQuantize(
        input_dim=config["latent_dim"],
        codebook_size=config["codebook_size"],
        codebook_dim=config["codebook_dim"],
        vq_strides=config["vq_strides"],
    )
    decoder = Decoder(
        config["latent_dim"],
        config["decoder_dim"],
        config["decoder_rates"],
        config["noise"],
        depthwise=config["depthwise"],
        attn_window_size=config["attn_window_size"],
    )
    return quantizer, decoder


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.exists():
        raise UserError(f"{path}: not found; the export is incomplete, make it again")
    try:
        weights = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); make the export again") from error
    refuse_nonfinite_weights(weights, path)
    return weights


def _geometry(config: dict[str, Any]) -> CodeGeometry:
    return CodeGeometry.of(_Attributes(config))


class _Attributes:
    """SNAC's keyword arguments as the attributes that CodeGeometry.of reads."""

    def __init__(self, config: dict[str, Any]) -> None:
        vars(self).update(config)

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


def _short_card(model: Decoder48k) -> str:
    return (
        "# A 48 kHz decoder for SNAC 24 kHz codes\n\n"
        "```python\n"
        "from ttt.snac.model import Decoder48k\n\n"
        'audio = Decoder48k.from_pretrained("this folder").decode(codes)  # [B, 1, T], 48 kHz\n'
        "```\n\n"
        f"Codec weights: sha256 {model.codec_sha256}.\n"
    )
