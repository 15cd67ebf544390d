"""Checkpoints as the original TTT code for Moshi left them, tiny, by the list of its keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ttt.moshi import tiny_lm
from ttt.moshi.tiny import tiny_arguments

DIM, HEADS, RANK = 64, 4, 2
SHAPE: dict[str, Any] = {"dim": DIM, "num_heads": HEADS, "num_layers": 2, "depformer_dim": 32}
TTT_CONFIG = {
    "enable": True,
    "layers": "1",
    "base_lr": 0.5,
    "mini_batch_size": 4,
    "persistent_states": True,
    "ttt_layer_context": 50,
    "use_rope": False,
    "rope_theta": 10000.0,
}


def ttt_tensors(kind: str = "mlp", layer: int = 1) -> dict[str, Tensor]:
    """All that the original put into a layer beside the layer itself."""
    draw = torch.Generator().manual_seed(layer)
    width = DIM // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "W1": (HEADS, width, 4 * width),
        "b1": (HEADS, 1, 4 * width),
        "W2": (HEADS, 4 * width, width),
        "b2": (HEADS, 1, width),
    }
    if kind == "linear":
        shapes = {"W1": (HEADS, width, width), "b1": (HEADS, 1, width)}
    shapes |= {
        "learnable_ttt_lr_weight": (HEADS, 1, DIM),
        "learnable_ttt_lr_bias": (HEADS, 1),
        "ttt_norm_weight": (HEADS, width),
        "ttt_norm_bias": (HEADS, width),
    }
    for name in ("wq", "wk", "wv", "wo"):
        shapes |= {f"{name}.weight": (DIM, DIM), f"{name}.bias": (DIM,)}
    tensors = {
        f"ttt_layer.ttt.{name}": 0.1 * torch.randn(shape, generator=draw)
        for name, shape in shapes.items()
    }
    tensors["ttt_layer.ttt.post_norm.weight"] = torch.ones(DIM)
    tensors["ttt_layer.ttt.post_norm.bias"] = torch.zeros(DIM)
    tensors["forward_ssm_gating.gating_alpha"] = torch.linspace(-4, 4, DIM)
    tensors["backward_ssm_gating.gating_alpha"] = torch.full((DIM,), 0.3)
    block = f"transformer.layers.{layer}.seq_modeling_block"
    return {f"{block}.{name}": tensor.bfloat16() for name, tensor in tensors.items()}


def renamed(tensors: dict[str, Tensor], layer: int = 1) -> dict[str, Tensor]:
    """Under the names of a model whose layer was wrapped, in which it is registered twice."""
    start, made = f"transformer.layers.{layer}.", {}
    for name, tensor in tensors.items():
        if name.startswith(start):
            inside = f"original_layer.{name.removeprefix(start)}"
            made[f"{start}{inside}"] = tensor
            made[f"{start}seq_modeling_block.{inside}"] = tensor.clone()
        else:
            made[name] = tensor
    return made


def lora_tensors() -> dict[str, Tensor]:
    """A pair for every Linear of the base."""
    draw = torch.Generator().manual_seed(9)
    pairs = {}
    for name, module in tiny_lm(**SHAPE).named_modules():
        if isinstance(module, nn.Linear):
            down = torch.randn((RANK, module.in_features), generator=draw)
            up = torch.randn((module.out_features, RANK), generator=draw)
            pairs |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": 0.1 * up}
    return pairs


def write_checkpoint(
    folder: Path, tensors: dict[str, Tensor], *, name: str = "lora", ttt: Any = TTT_CONFIG
) -> Path:
    """`folder`/consolidated with everything that the original wrote; returns `folder`."""
    inside = folder / "consolidated"
    inside.mkdir(parents=True, exist_ok=True)
    save_file(tensors, inside / f"{name}.safetensors")
    arguments = tiny_arguments(
        32, card=64, text_card=48, depformer_layers=2, depformer_heads=4, **SHAPE
    )
    told = {"lora": True, "lora_rank": RANK, "lora_scaling": 2.0}
    (inside / "config.json").write_text(json.dumps({**arguments, **told}))
    training = {"ttt": ttt, "moshi_paths": {"hf_repo_id": "kyutai/moshiko-pytorch-bf16"}}
    (inside / "training_config.json").write_text(json.dumps(training))
    return folder
