"""What the product does on a GPU, without one: no tensor on a wrong device, and what is counted.

A pretended card knows shapes alone (tests/fake_cuda/pretended.py), so that numbers are held to
other tests; here is what a CPU cannot show.
"""

import json

import pytest

from tests.fake_cuda.scenes import SCENES
from tests.fake_cuda.start import compiler, start

pytestmark = pytest.mark.timeout(900)  # A minute of one core, and others may want it too.

LISTENING = ("known_text", "own_text", "known_text_ttt", "own_text_ttt")


@pytest.fixture(scope="module")
def played() -> dict[str, dict]:
    """Every scene, in a process of its own with the card; one that fails fails them all."""
    if compiler() is None:
        pytest.skip("a pretended CUDA device needs a C compiler (gcc or cc), and there is none")
    lines = start("tests.fake_cuda.scenes", "small").splitlines()
    return {line["scene"]: line for line in map(json.loads, lines)}


def test_a_tensor_on_the_wrong_device_is_seen(played):
    assert "same device" in played["mixing"]["error"]
    assert (
        "moshi/modules" in played["mixing"]["error"] or "moshi/models" in played["mixing"]["error"]
    )


@pytest.mark.parametrize("name", [name for name in SCENES if name not in (*LISTENING, "mixing")])
def test_the_product_runs_on_a_card(played, name):
    counted = played[name]
    assert counted["launches"] > 100
    assert counted["gigabytes"] > 0
    assert counted["most_live_bytes"] > 0
    assert "elsewhere:0" not in counted["reads_back"]


@pytest.mark.parametrize("name", LISTENING)
def test_moshi_listens_on_a_card(played, name):
    counted = played[name]["pass"]
    assert counted["launches"] > 100
    # Text that the model chooses decides what stands, and the machine must know.
    assert sum(counted["reads_back"].values()) <= (3 if name.startswith("own") else 0)
    assert sum(counted["to_card"].values()) <= 5


@pytest.mark.parametrize("name", LISTENING)
def test_saving_a_state_takes_one_tensor_at_a_time(played, name):
    counted = played[name]
    assert counted["save"]["extra_bytes"] <= counted["most_at_a_time"] + 4096
    if not name.endswith("ttt"):  # whose layers are larger than so short rings
        assert counted["save"]["extra_bytes"] < counted["rings_bytes"] / 4
    assert counted["most_at_a_time"] <= counted["working_bytes"]


def test_a_step_reads_nothing_back(played):
    for name in ("train_bf16", "train_float32", "train_head", "adversarial"):
        assert played[name]["reads_back"] == {}


def test_a_frozen_depformer_reads_each_weight_once(played):
    trained, frozen = played["depformer"], played["depformer_frozen"]
    assert "bmm" not in frozen["kinds"]
    assert frozen["kinds"] == trained["kinds"]
    assert frozen["gigabytes"] == trained["gigabytes"]


def test_half_precision_is_where_it_should_be(played):
    """Training in bfloat16 moves less than in float32, and the head alone less than everything."""
    whole, half, head = (played[f"train_{n}"]["gigabytes"] for n in ("float32", "bf16", "head"))
    assert head < half < whole
