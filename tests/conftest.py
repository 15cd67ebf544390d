"""What every test shares: one thread, seeds, a local Ray of two CPUs, the recorded material."""

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("NO_TORCH_COMPILE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# What clients of tests/object_store.py want; here, so that workers of the local Ray have it too.
os.environ.setdefault("AWS_ACCESS_KEY_ID", "test")
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "test")
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from snac import SNAC

if TYPE_CHECKING:
    from tests.hub_server import HubServer
    from tests.object_store import ObjectStore

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A local Ray with two CPUs, started once for all tests that ask for it."""
    import ray

    # Without an address Ray would join one that somebody else has started on this machine.
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "warning"}
    ray.init(address="local", num_cpus=2, **quiet)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recorded audio beside the checkout; tests that ask for it skip without it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the recorded audio (../shared/data) is not here")
    return folder


@pytest.fixture
def object_store() -> Iterator["ObjectStore"]:
    """An S3 server that the test may break and mend."""
    from tests.object_store import ObjectStore  # A second, for those who ask for it.

    store = ObjectStore()
    yield store
    store.close()


@pytest.fixture
def nano_snac() -> SNAC:
    """A random SNAC with the published rates and strides, small enough for a CPU second."""
    return build_nano_snac()


NANO_CONFIG = {
    "sampling_rate": 24000,
    "encoder_dim": 4,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 64,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": 64,
    "codebook_dim": 4,
    "vq_strides": [4, 2, 1],
}


def build_nano_snac(seed: int = 0, **overrides: object) -> SNAC:
    torch.manual_seed(seed)
    return SNAC(**{**NANO_CONFIG, **overrides}).eval()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator["HubServer"]:
    """A hub that this process talks to with anna's token and an empty cache of its own."""
    from tests.hub_server import HubServer, talk_to

    server = HubServer()
    with talk_to(server.endpoint, tmp_path / "hub_cache", monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_annas_secret")
        yield server
        server.close()
