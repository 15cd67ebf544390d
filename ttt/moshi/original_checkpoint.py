"""Checkpoints of the original TTT code for Moshi, as the layers of this project.

The original saved a fine-tuning as moshi-finetune does: `lora.safetensors` or
`consolidated.safetensors`, `config.json` (the model's arguments) and `training_config.json`. In
layer N it put, under `transformer.layers.N.`

    seq_modeling_block.ttt_layer.ttt.*              the TTT layer; of ttt-video-dit, in names too
    seq_modeling_block.forward_ssm_gating.*         the gate
    seq_modeling_block.backward_ssm_gating.*        a second gate, which nothing ever called
    original_layer.*                                Moshi's own layer
    seq_modeling_block.original_layer.*             the same one again

The tensors are taken as they are; what the layer computed from them was not what it should have
been (`original_report.FAULTS`), so that the numbers here are others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ttt.errors import UserError
from ttt.layers import TTTConfig
from ttt.moshi.load import outline_base
from ttt.moshi.lora import StoredLora, by_todays_names, check_lora
from ttt.moshi.original_report import ImportReport, Row
from ttt.moshi.ttt_files import fingerprint_of, ttt_shapes
from ttt.records import read_json

_LAYER = re.compile(
    r"transformer\.layers\.(\d+)\.(?:seq_modeling_block\.(.+)|(original_layer\..+))"
)
_NAMES = {
    **{f"ttt_layer.ttt.w{one}.{part}": f"layer.{one}_proj.{part}"
       for one in "qkvo" for part in ("weight", "bias")},
    **{f"ttt_layer.ttt.{name}": f"layer.{name}"
       for name in ("W1", "b1", "W2", "b2", "learnable_ttt_lr_weight", "learnable_ttt_lr_bias",
                    "ttt_norm_weight", "ttt_norm_bias", "post_norm.weight", "post_norm.bias")},
    "forward_ssm_gating.gating_alpha": "alpha",
}  # fmt: skip
_UNUSED = "backward_ssm_gating.gating_alpha"
_LARGEST_ALPHA = 3.0
"""The original cut the gate's alpha off here before its tanh."""
_IN_PLACE = re.compile(r"\bgating\.w_down|target_generator")
_MORE_MAPS = re.compile(r"ttt_layer\.ttt\.(weights|biases)\.\d+$")


def import_original(
    folder: str | Path,
    *,
    mini_batch_size: int | None = None,
    base_lr: float | None = None,
    attention_context: int | None = None,
) -> tuple[dict[str, Tensor], ImportReport]:
    """Read a checkpoint of the original code.

    Args:
        folder: with `lora.safetensors` or `consolidated.safetensors`; or the one above, in which it
            is called `consolidated`.
        mini_batch_size, base_lr: those of the training; None takes training_config.json's.
        attention_context: see `insert_ttt`.

    Returns:
        The tensors of the TTT layers under the names that they have in the model, ready for
        `write_ttt`, and the report.

    Raises:
        UserError: files missing or damaged, a base model that does not fit, or a tensor that is
            not understood.
    """
    path, whole = _tensor_file(Path(folder))
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error})") from error
    model, training = (
        _json(path.parent / name) for name in ("config.json", "training_config.json")
    )
    layers, unused, rest, rows = _sorted_out(path, tensors)
    mapped = {
        f"transformer.layers.{number}.ttt.{ours}": tensor
        for number, layer in sorted(layers.items())
        for ours, tensor in layer.items()
    }
    told = dict(training.get("ttt") or {})
    config, decisions = _config(path, layers, told, mini_batch_size, base_lr)
    _check_shapes(path, mapped, layers, config)
    for name, tensor in mapped.items():
        if name.endswith(".alpha"):
            mapped[name] = tensor.clamp(-_LARGEST_ALPHA, _LARGEST_ALPHA)
    lora, fingerprint, of_rest = _rest(path, rest, model, whole)
    base = (training.get("moshi_paths") or {}).get("hf_repo_id")
    return mapped, ImportReport(
        source=str(path),
        layers=tuple(sorted(layers)),
        config=config,
        attention_context=attention_context,
        base=base,
        fingerprint=fingerprint,
        rows=(*rows, *of_rest),
        decisions=(*decisions, *_observed(mapped, unused, told, attention_context, base, lora)),
        lora=lora,
        lora_config=model,
    )


def _tensor_file(folder: Path) -> tuple[Path, bool]:
    """The file, and whether it holds a whole model."""
    for place in (folder, folder / "consolidated"):
        for name in ("lora", "consolidated"):
            path = place / f"{name}.safetensors"
            if path.is_file():
                return path, name == "consolidated"
    raise UserError(
        f"{folder}: not a checkpoint of the original code, there is neither lora.safetensors nor "
        "consolidated.safetensors in it or in its consolidated/"
    )


def _json(path: Path) -> dict[str, Any]:
    """A file of the checkpoint; nothing where there is no training_config.json."""
    if not path.exists() and path.name != "config.json":
        return {}
    try:
        return dict(read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error


def _sorted_out(
    path: Path, tensors: Mapping[str, Tensor]
) -> tuple[dict[int, dict[str, Tensor]], list[Tensor], dict[str, Tensor], list[Row]]:
    """TTT tensors by layer under our names, gates never called, all else under the base's names."""
    if found := sorted(key for key in tensors if _IN_PLACE.search(key)):
        raise UserError(
            f"{path}: a checkpoint of In-Place TTT ({len(found)} tensors, the first {found[0]}), "
            "whose fast weights are the feed-forward's own: this project has no such layer"
        )
    if found := sorted(key for key in tensors if _MORE_MAPS.search(key)):
        raise UserError(
            f"{path}: small models of three maps or more ({len(found)} tensors, the first "
            f"{found[0]}): this project has those of one (linear) and of two (mlp)"
        )
    layers: dict[int, dict[str, Tensor]] = {}
    unused: list[Tensor] = []
    rest: dict[str, Tensor] = {}
    counted: Counter[str] = Counter()
    unknown: list[str] = []
    twice = 0
    for key, tensor in sorted(tensors.items()):
        match = _LAYER.fullmatch(key)
        number, inside, own = match.groups() if match else (None, None, None)
        name = inside or own or ""
        if match is None:
            rest[key] = tensor
        elif name in _NAMES:
            layers.setdefault(int(number or 0), {})[_NAMES[name]] = tensor
            counted[name] += 1
        elif name == _UNUSED:
            unused.append(tensor)
        elif name.startswith("original_layer."):
            plain = f"transformer.layers.{number}.{name.removeprefix('original_layer.')}"
            before = rest.setdefault(plain, tensor)
            twice += before is not tensor
            if not torch.equal(before, tensor):
                unknown.append(key)  # Two tensors where there should be one twice.
        else:
            unknown.append(key)
    _refuse_unknown(path, unknown)
    if not layers:
        raise UserError(f"{path}: holds no TTT layers of the original code")
    rows = [Row(name, ours, counted[name]) for name, ours in _NAMES.items() if counted[name]]
    if unused:
        rows.append(Row(_UNUSED, None, len(unused), "the original never called it"))
    if twice:
        rows.append(Row("original_layer.*", None, twice, "there twice, with the same values"))
    return layers, unused, rest, rows


def _config(
    path: Path,
    layers: Mapping[int, Mapping[str, Tensor]],
    told: Mapping[str, Any],
    mini_batch_size: int | None,
    base_lr: float | None,
) -> tuple[TTTConfig, list[str]]:
    """The layers' configuration, and what was decided for it."""
    first = layers[min(layers)]
    settings: dict[str, Any] = {"mini_batch_size": mini_batch_size, "base_lr": base_lr}
    decisions = []
    for name, given in settings.items():
        settings[name] = told.get(name) if given is None else given
        if settings[name] is None:
            raise UserError(
                f"{path.parent}: no training_config.json says ttt.{name}, without which the layers "
                f"learn otherwise than they were trained: set {name}"
            )
        where = "training_config.json" if given is None else "the command"
        decisions.append(f"{name}={settings[name]:g}, of {where}")
    turned = bool(told.get("use_rope"))
    settings["rope_theta"] = float(told.get("rope_theta") or 10_000.0) if turned else None
    decisions.append(
        "rope_theta as in training_config.json; the original scaled its angles besides, here they "
        "are not"
        if turned
        else "no rotary embedding: use_rope was off, its default"
    )
    decisions.append(
        "flavour video_dit: unit-length queries and keys, biases, and no learnable_token_idx, "
        "which the original does not have"
    )
    try:
        return TTTConfig(
            dim=len(first["alpha"]),
            num_heads=len(first["layer.W1"]),
            kind="mlp" if "layer.W2" in first else "linear",
            flavour="video_dit",
            **settings,
        ), decisions
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a TTT layer that can be built ({error})") from error


def _check_shapes(
    path: Path,
    mapped: Mapping[str, Tensor],
    layers: Mapping[int, Any],
    config: TTTConfig,
) -> None:
    wanted = ttt_shapes(sorted(layers), config)
    given = {name: tensor.shape for name, tensor in mapped.items()}
    if wrong := sorted(name for name in wanted | given if wanted.get(name) != given.get(name)):
        name = wrong[0]
        raise UserError(
            f"{path}: {len(wrong)} tensors are missing or of another shape, the first {name}: "
            f"needed {_shape(wanted.get(name))}, given {_shape(given.get(name))}"
        )


def _shape(shape: torch.Size | None) -> str:
    return "nothing" if shape is None else str(tuple(shape))


def _rest(
    path: Path, rest: dict[str, Tensor], model: dict[str, Any], whole: bool
) -> tuple[StoredLora | None, str | None, list[Row]]:
    """What else the file holds: a LoRA, or the fingerprint of the base model that is all there."""
    if not rest:
        return None, None, []
    base = outline_base(path.parent / "config.json")
    rest = by_todays_names(base, rest)
    wanted = {name: tensor.shape for name, tensor in base.state_dict().items()}
    if whole:
        _refuse_unknown(path, [n for n, t in rest.items() if wanted.get(n) != t.shape])
        if missing := sorted(wanted.keys() - rest.keys()):
            raise UserError(
                f"{path}: {len(missing)} tensors of the base model that config.json describes are "
                f"missing, the first {missing[0]}"
            )
        why = "layers alone are kept; name their base model when they are loaded"
        return None, fingerprint_of(rest), [Row("the base model", None, len(rest), why)]
    unknown = [name for name in rest if name not in wanted and ".lora_" not in name]
    _refuse_unknown(path, unknown)
    if "lora_rank" not in model or "lora_scaling" not in model:
        raise UserError(
            f"{path.parent}: config.json does not say lora_rank and lora_scaling of the LoRA that "
            f"is in {path.name}, too; bring the one that was written beside it"
        )
    rank, scaling = int(model["lora_rank"]), float(model["lora_scaling"])
    lora = StoredLora(str(path.parent), rest, rank, scaling, sha256="")
    check_lora(base, lora)
    return lora, None, [Row("*.lora_A, *.lora_B and others", "lora.safetensors", len(rest))]


def _observed(
    mapped: Mapping[str, Tensor],
    unused: list[Tensor],
    told: Mapping[str, Any],
    attention_context: int | None,
    base: str | None,
    lora: StoredLora | None,
) -> Iterator[str]:
    """What was found and done beside the configuration."""
    norms = [t for name, t in mapped.items() if ".post_norm." in name]
    drawn = all(bool((t == (1 if t.any() else 0)).all()) for t in norms)
    yield f"post_norm {'is' if drawn else 'is not'} as it was drawn in all layers"
    if unused and not all(bool((tensor == tensor.flatten()[0]).all()) for tensor in unused):
        yield f"{_UNUSED} is not as it was drawn: another version of the code may have called it"
    yield f"alpha cut off at {_LARGEST_ALPHA:g}, as the original did in every call"
    if attention_context is not None:
        yield f"attention_context={attention_context}, of the command"
    elif told.get("ttt_layer_context") is not None:
        yield (
            f"attention of these layers reaches as far as the base's: ttt_layer_context="
            f"{told['ttt_layer_context']} was asked for and, until 2025-11, never set; "
            "attention_context sets it"
        )
    if told.get("normalize_ttt_output"):
        yield "normalize_ttt_output was on: outputs were scaled to a norm, which is not done here"
    if lora is not None:
        yield f"the LoRA of rank {lora.rank} lies beside the layers and is fused into their base"
    yield f"the base model, by training_config.json: {base or 'not said'}"


def _refuse_unknown(path: Path, keys: list[str]) -> None:
    if keys:
        shown = ", ".join(sorted(keys)[:8]) + (", ..." if len(keys) > 8 else "")
        raise UserError(
            f"{path}: {len(keys)} tensors were not understood, and nothing was imported: {shown}"
        )
