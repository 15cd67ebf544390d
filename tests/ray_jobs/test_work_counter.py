"""Progress within items."""

import io

import pytest
import ray

from ray_jobs.runtime.actors import counted_progress
from ray_jobs.runtime.progress import Progress


@pytest.mark.usefixtures("ray_local")
def test_clips_of_all_shards_are_shown_and_a_repeated_shard_counts_once() -> None:
    stream = io.StringIO()
    fields: dict[str, object] = {}
    with (
        Progress("caching", 10, "clips", line_seconds=0, stream=stream) as progress,
        counted_progress(progress, fields, poll_seconds=0.05) as counter,
    ):
        for shard, clips in ((0, 3), (1, 2), (0, 1), (0, 4)):
            ray.get(counter.count.remote(shard, clips))
        fields["shards"] = "1/2"
    last = stream.getvalue().splitlines()[-1]
    assert "6/10 clips" in last
    assert "shards=1/2" in last


@pytest.mark.usefixtures("ray_local")
def test_an_error_in_the_block_gets_out() -> None:
    progress = Progress("caching", 1, "clips", stream=io.StringIO())
    with pytest.raises(ZeroDivisionError), counted_progress(progress, {}):
        raise ZeroDivisionError
