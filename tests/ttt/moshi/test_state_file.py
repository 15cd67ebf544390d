"""A state from the disk lies in memory as one that never was there."""

from pathlib import Path

import pytest
import torch

from ttt.moshi.streaming.state import load_state, save_state


@pytest.mark.parametrize("identity", ["a", "ab", "abc", "abcd"])
def test_every_tensor_is_aligned_wherever_it_began_in_the_file(
    tmp_path: Path, identity: str
) -> None:
    tensors = {f"t{n}": torch.arange(n, dtype=torch.float32) for n in (1, 3, 5, 7)}
    save_state(tmp_path / "state", identity, tensors)
    loaded = load_state(tmp_path / "state", identity)
    assert loaded is not None
    for name, tensor in loaded.items():
        assert torch.equal(tensor, tensors[name])
        assert tensor.data_ptr() % 64 == 0
