"""A model's state on the disk: tensors by name, and whose they are."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ttt import storage
from ttt.errors import UserError

_KEY = "group"


def save_state(path: Path, identity: str, tensors: dict[str, Tensor]) -> None:
    """Write the tensors in one rename; only who asks for `identity` gets them back."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with storage.atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: identity})


def load_state(path: Path, identity: str) -> dict[str, Tensor] | None:
    """The tensors saved under this identity; None when there are none.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            if file.metadata().get(_KEY) != identity:
                return None
            # Copies, because a tensor may begin anywhere in the file, and sums over unaligned
            # memory can differ in the last bit from those of a run that was not cut off.
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}); delete it to start the group anew") from error
