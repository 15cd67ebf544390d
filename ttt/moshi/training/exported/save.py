"""The folder that training leaves: what `model.ttt` takes whole, and a card that says what it is.

ttt.safetensors, ttt.json      TTT layers, where some were trained
lora.safetensors, config.json  LoRA, where some was: as moshi-finetune writes it
README.md                      the card
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moshi.models.lm import LMModel

from ttt import storage
from ttt.moshi.insert import ttt_layers
from ttt.moshi.lora import write_lora
from ttt.moshi.training.lora import lora_linears
from ttt.moshi.training.lora_files import stored_lora
from ttt.moshi.ttt_files import base_fingerprint as fingerprint_now
from ttt.moshi.ttt_files import clear_trained, save_ttt


def save_trained(
    lm: LMModel,
    folder: str | Path,
    arguments: Mapping[str, Any],
    *,
    base_fingerprint: str,
    card: str,
) -> None:
    """Write what was trained in a model, over whatever training left in `folder` before.

    Args:
        folder: a path or URI. With TTT layers it is for `model.ttt`, with LoRA alone for
            `model.lora`.
        arguments: of the base model, as its config.json has them.
        base_fingerprint: of the base model, taken before anything was inserted.
        card: what README.md says (`ttt.moshi.training.card`).

    Raises:
        UserError: the model has neither TTT layers nor LoRA.
        RuntimeError: the base model is not what it was.
    """
    if (now := fingerprint_now(lm)) != base_fingerprint:
        raise RuntimeError(
            f"the base model was {base_fingerprint} and is {now}: training has changed it, which "
            "is a bug"
        )
    lora = stored_lora(lm) if lora_linears(lm) or not ttt_layers(lm) else None
    clear_trained(folder)
    storage.write_bytes(storage.join(folder, "README.md"), card.encode())
    if ttt_layers(lm):
        save_ttt(lm, folder, beside=None if lora is None else (lora, arguments))
    elif lora is not None:
        write_lora(folder, lora, arguments)
