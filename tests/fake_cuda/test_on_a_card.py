"""What the product does on a GPU, without one: no tensor on a wrong device, and what is counted.

A pretended card knows shapes alone (tests/fake_cuda/pretended.py), so that numbers are held to
other tests; here is what a CPU cannot show.
"""

import json
import random

import pytest

from benchmarks import counted, launches
from benchmarks.launches import LIMITS, waits
from benchmarks.sizes import SMALL
from tests.fake_cuda.scenes import SCENES
from tests.fake_cuda.start import compiler, start
from tests.fake_cuda.training import MICRO_BATCHES

pytestmark = pytest.mark.timeout(900)  # A minute of one core, and others may want it too.

TABLES = ("own_text_by_chunk", "whole_chapter", "few_estimates")
TRIALS = ("mixing", "look_ups")
"""Of the card itself."""
LISTENING = ("known_text", "own_text", "known_text_ttt", "own_text_ttt")


@pytest.fixture(scope="module")
def played() -> dict[str, dict]:
    """Every scene but the tables, in a process of its own with the card."""
    return _played("small", *(name for name in SCENES if name not in TABLES))


@pytest.fixture(scope="module")
def published() -> dict[str, dict]:
    """The limits' scenes as they are published; what waits is the same at any size."""
    names = dict.fromkeys(limit.name for limit in LIMITS if limit.count is not waits)
    scenes = _played("published", *(launches.SCENES[name] for name in names))
    return dict(zip(names, scenes.values(), strict=True))


def _played(size: str, *names: str) -> dict[str, dict]:
    """What is counted by scene; one that fails fails them all."""
    if compiler() is None:
        pytest.skip("a pretended CUDA device needs a C compiler (gcc or cc), and there is none")
    lines = start("tests.fake_cuda.scenes", size, *names).splitlines()
    return {line["scene"]: line for line in map(json.loads, lines)}


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: f"{limit.name} {limit.what}")
def test_the_limits_hold(limit, played, published):
    here = limit.count is waits
    counted = played[launches.SCENES[limit.name]] if here else published[limit.name]
    assert limit.count(counted) <= (limit.held or limit.reach)


def test_a_step_over_a_chapter_takes_the_sum_of_its_layers(played):
    counted = played["sum_of_layers"]
    for stretch, most in counted["counted"].items():
        assert counted["summed"][stretch] == pytest.approx(most, rel=0.01), stretch
    assert counted["launches_summed"] == pytest.approx(counted["launches_counted"], rel=0.03)
    # The step's numbers, once; its windows are copied before.
    assert sum(counted["reads_back"].values()) <= 1
    grows = played["plain_and_sparing"]
    assert grows["sparing_bytes_per_frame"] < 0.6 * grows["plain_bytes_per_frame"]


@pytest.mark.parametrize("size", ["small", "mid"])
def test_the_memory_of_training_is_what_its_sum_says(played, size):
    """Of a tiny model with every option on and off, and of some with a mid one."""
    if size == "small":
        rows = played["estimates"]["rows"]
    else:
        rows = _played("mid", "few_estimates")["few_estimates"]["rows"]
    assert len(rows) >= 4
    for row in rows:
        assert row["estimated"] == pytest.approx(row["counted"], rel=0.1), row["what"]


def test_guesses_that_are_right_by_chance_stand_in_a_row():
    rng = random.Random(0)
    for chance, steps in ((0.5, 4), (0.87, 16), (0.95, 64)):
        drawn = []
        for _ in range(4000):
            kept = 1
            while kept < steps and rng.random() < chance:
                kept += 1
            drawn.append(kept)
        assert abs(sum(drawn) / len(drawn) / counted.kept_steps(chance, steps) - 1) < 0.05
    assert counted.kept_steps(1, 32) == 32


def test_the_kept_counts_are_those_of_today(published):
    """Those whose limits are counted anyway; `python -m benchmarks.launches --keep` renews all."""
    kept = counted.kept_counts()
    for name, fresh in published.items():
        fresh = counted.without_places(fresh)
        assert kept[name].keys() == fresh.keys(), name
        for what, value in fresh.items():
            if what != "most_live_bytes":  # Garbage of the scenes played before counts in it.
                assert kept[name][what] == pytest.approx(value, rel=0.001), (name, what)


def test_the_gpu_benchmark_runs_on_a_card(played):
    """Every section: no wrong device, and what it does is what the launches are counted of."""
    rows = {row["what"]: row for row in played["measured"]["rows"]}
    assert [row["failed"] for row in rows.values()] == [None] * len(rows)
    assert [what for what, row in rows.items() if row["measured"] is None] == []
    windows = f"training, {SMALL.clips} windows, bfloat16"
    for what, scene in (
        (f"pass of {SMALL.chunk} steps, base, text known", "pass_known"),
        (f"pass of {SMALL.chunk} steps, base, own text", "pass_own"),
        (windows, "train_bf16"),
    ):
        assert rows[f"{what}: kernels"]["measured"] == played[scene]["launches"], what


def test_a_tensor_on_the_wrong_device_is_seen(played):
    assert "same device" in played["mixing"]["error"]
    assert (
        "moshi/modules" in played["mixing"]["error"] or "moshi/models" in played["mixing"]["error"]
    )


@pytest.mark.parametrize(
    "name", [name for name in SCENES if name not in (*LISTENING, *TABLES, *TRIALS)]
)
def test_the_product_runs_on_a_card(played, name):
    counted = played[name]
    assert counted["launches"] > (5 if name == "save" else 40)
    assert counted["gigabytes"] > 0
    assert counted["most_live_bytes"] > 0
    assert "elsewhere:0" not in counted["reads_back"]


@pytest.mark.parametrize("name", LISTENING)
def test_moshi_listens_on_a_card(played, name):
    counted = played[name]["pass"]
    assert counted["launches"] > 100
    # Text that the model chooses decides what stands, and the machine must know.
    assert sum(counted["reads_back"].values()) == (1 if name.startswith("own") else 0)
    assert counted["to_card"] == {}


def test_a_ttt_layer_hands_over_few_operations(played):
    """The same for any number of heads, and few for each mini-batch that a call touches."""
    launches = played["ttt_layer"]["launches_of"]
    assert launches["2 heads, 4 mini-batches"] == launches["8 heads, 4 mini-batches"]
    more = launches["8 heads, 8 mini-batches"] - launches["8 heads, 4 mini-batches"]
    assert more <= 4 * 24
    # What a call adds, and one mini-batch more where one is open.
    assert launches["8 heads, 4 mini-batches"] <= 5 * 24 + 21


def test_a_lact_layer_hands_over_fewer(played):
    """42 for each of two passes, none of which ends a chunk, and nothing for each mini-batch."""
    layers = played["chapter_by_flavour"]["layers"]
    assert layers["lact, passes"]["launches"] <= 2 * 42
    assert 2 * layers["lact, passes"]["launches"] < layers["ttt_lm mlp, passes"]["launches"]
    assert not played["chapter_by_flavour"]["reads_back"]


def test_ttt_layers_add_few_launches_to_a_pass(played):
    """24 for each of the chunk's 4 mini-batches, 28 for a pass, in every layer (here 2 of 3)."""
    counted = played["chunk"]
    layers = len(SMALL.ttt_layers)
    assert counted["launches"] - counted["base_launches"] <= layers * (4 * 24 + 28)


@pytest.mark.parametrize("name", LISTENING)
def test_saving_a_state_takes_one_tensor_at_a_time(played, name):
    counted = played[name]
    assert counted["save"]["extra_bytes"] <= counted["most_at_a_time"] + 4096
    if not name.endswith("ttt"):  # whose layers are larger than so short rings
        assert counted["save"]["extra_bytes"] < counted["rings_bytes"] / 4
    assert counted["most_at_a_time"] <= counted["working_bytes"]


def test_the_memory_that_is_announced_suffices(played):
    """At the published width: what a TTT layer takes, and at the small size all of it."""
    for row in played["learning"]["rows"]:
        for what in ("listening", "taking back"):
            counted, announced = row[what]
            assert counted <= announced, (row["layer"], what)
    of_the_7b = played["learning"]["rows"][0]
    assert of_the_7b["listening"][1] <= 1.25 * of_the_7b["listening"][0]
    assert of_the_7b["taking back"][1] <= 1.25 * of_the_7b["taking back"][0]
    assert played["memory"]["counted"] <= played["memory"]["need"]


def test_a_step_reads_nothing_back(played):
    for name in ("train_bf16", "train_float32", "train_head", "adversarial"):
        assert played[name]["reads_back"] == {}


def test_a_step_of_eight_micro_batches_waits_once_and_twice_among_ranks(played):
    """A first wait that is not the step's own numbers is the sum over the ranks before it."""
    assert waits(played["train_step"]) == 1
    assert waits(played["train_step_of_many"]) == 2
    copied = played["train_step"]["to_card"]
    assert copied == dict.fromkeys(copied, 3 * MICRO_BATCHES)  # codes, audio, lengths
    assert [place.partition(":")[0] for place in copied] == ["ttt/training/device.py"]


def test_an_activation_is_one_launch_each_way_and_a_sum(played):
    """More are a launch in every unit: 37 activations are 111 launches of 921 in all."""
    for name in ("train_bf16", "train_float32"):
        kinds, units = played[name]["kinds"], played[name]["units"]
        assert kinds["snake"] == kinds["snake_backward"] == units
        assert played[name]["launches_by_file"]["ttt/snac/layers/snake.py"] == 3 * units
    assert played["train_bf16"]["launches"] <= 25 * played["train_bf16"]["units"]
    assert "sin" not in played["train_bf16"]["kinds"]


def test_the_update_takes_all_weights_at_once(played):
    kinds = played["train_step"]["kinds"]
    assert kinds["_fused_adamw_"] == 2, "one for the head and one for the body"
    assert kinds["_foreach_lerp_"] == 1


def test_a_look_up_reads_the_rows_that_it_gives(played):
    assert played["look_ups"]["gigabytes"] * 1e9 == 5 * 8 + 2 * (5 * 3 * 4) + 5 * 8 + 2 * (
        5 * 3 * 4
    )


def test_a_frozen_depformer_reads_each_weight_once(played):
    trained, frozen = played["depformer"], played["depformer_frozen"]
    assert "bmm" not in frozen["kinds"]
    assert frozen["kinds"] == trained["kinds"]
    assert frozen["gigabytes"] == trained["gigabytes"]


def test_half_precision_is_where_it_should_be(played):
    """Training in bfloat16 moves less than in float32, and the head alone less than everything."""
    whole, half, head = (played[f"train_{n}"]["gigabytes"] for n in ("float32", "bf16", "head"))
    assert head < half < whole
