"""Keys of another program that a configuration takes as its own.

A configuration class names them in `__aliases__`; `load_config` moves their values to where they
belong before anything is checked, so that they replace what a base file says there. A dotted name
is one that this program itself has called otherwise before.

A configuration that holds one of the original project's keys for LibriLight (`ORIGINAL_KEYS`) is
refused with its sentence; docs/chapters.md has the same table.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_jobs.config import yaml_tree

_GROUP = "paper_metrics"


@dataclass(frozen=True)
class Alias:
    """What an old key means."""

    key: str
    """The key that it is now."""
    values: Mapping[Any, Any] | None = None
    """Old value -> new one, None for nothing to set; None takes every value as it is."""

    def move(self, tree: dict[str, Any], value: Any) -> str | None:
        """Set the key in `tree`, in place, to what the old `value` means; or the reason why not."""
        if self.values is not None:
            if not isinstance(value, bool | str) or value not in self.values:
                wanted = " or ".join(map(yaml_tree.show, self.values))
                return f"expected {wanted}, got {yaml_tree.show(value)}"
            value = self.values[value]
            if value is None:
                return None
        return self.put(tree, value)

    def put(self, tree: dict[str, Any], value: Any) -> str | None:
        """Set the key in `tree`, in place, to a new value; or the reason why not."""
        return yaml_tree.set_value(tree, self.key, value)


def former_keys(tree: Mapping[str, Any], aliases: Mapping[str, Alias]) -> list[str]:
    """A sentence for each old key of this program in `tree`: those of a dotted name."""
    found = []
    for name, alias in aliases.items():
        *path, last = name.split(".")
        if path and last in functools.reduce(_inside, path, dict(tree)):
            found.append(f"{name} is called {alias.key} now")
    return found


def translate(
    tree: Mapping[str, Any], aliases: Mapping[str, Alias]
) -> tuple[dict[str, Any], list[str]]:
    """`tree` with its old keys, at the top or below `paper_metrics`, moved; a line per problem.

    They are moved in the order of `aliases`, wherever they lie.
    """
    moved = copy.deepcopy(dict(tree))
    problems: list[str] = []
    holders = {"": moved}
    if isinstance(group := moved.get(_GROUP), dict):
        holders[f"{_GROUP}."] = group
    for name, alias in aliases.items():
        *path, last = name.split(".")
        for prefix, top in holders.items():
            holder = functools.reduce(_inside, path, top)
            problem = alias.move(moved, holder.pop(last)) if last in holder else None
            problems += [f"{prefix}{name}: {problem}"] if problem else []
            if path and top.get(path[0]) == {}:
                del top[path[0]]
    if group == {}:
        del moved[_GROUP]
    return moved, problems


def _inside(node: dict[str, Any], key: str) -> dict[str, Any]:
    inner = node.get(key)
    return inner if isinstance(inner, dict) else {}


_NO_SWITCH = "gone: there is one way to compute the loss, and it is tested"
_CHUNK = "gone: chunk sets the steps per pass, and changes no number beyond rounding"

ORIGINAL_KEYS: dict[str, str] = {
    "librilight_audio_dir": "now data.root",
    "librilight_max_chapters": "now data.max_chapters",
    "librilight_num_sequences": "now data.max_chapters",
    "librilight_speaker_id": "now data.speakers, a list",
    "librilight_book_name": "now data.books, a list",
    "librilight_evaluation_mode": (
        "gone: data.speakers and data.books choose, data.concatenate_seconds joins chapters"
    ),
    "max_sequence_length": "now max_frames, for trials: memory does not grow with the chapter",
    "librilight_streaming.max_sequence_length": (
        "now max_frames, for trials: memory does not grow with the chapter"
    ),
    "librilight_streaming.enabled": "gone: every evaluation streams",
    "librilight_streaming.memory_check": (
        "gone: --dry-run prints the memory needed; when it runs out the chunk is halved"
    ),
    "librilight_streaming.memory_log_interval": "gone: summary.json has the peak memory",
    "librilight_streaming.cache_clear_interval": (
        "gone: rings and states have a fixed size, and there is nothing to clear"
    ),
    "librilight_streaming.ttt_verification": (
        "gone: the change of the fast weights is always measured (TTT activity in the report), and "
        "verify_spans compares with stepping"
    ),
    "librilight_streaming.use_fixed_method": _NO_SWITCH,
    "librilight_streaming.verify_loss_computation": (
        "now verify_spans: stretches heard again step by step; a range of plausible losses says "
        "nothing"
    ),
    "use_fixed_streaming": _NO_SWITCH,
    "verify_loss_computation": "now verify_spans",
    "ttt_verification": "gone: always measured, see TTT activity in the report",
    "ttt_verification_enabled": "gone: always measured, see TTT activity in the report",
    "memory_check_enabled": "gone: --dry-run prints the memory needed",
    "ttt_optimize_chunk_size": _CHUNK,
    "ttt_prefer_efficiency": _CHUNK,
    "ttt.optimize_chunk_size": _CHUNK,
    "ttt.prefer_efficiency": _CHUNK,
    "ttt.chunk_size": "now chunk",
    "ttt.max_chunk_size": "now chunk",
    "ttt.mini_batch_size": "gone: it belongs to the TTT layers, in the ttt.json of model.ttt",
    "use_silence_codes": "now streams.text=silence_codes, for comparison only",
    "paper_metrics_use_silence": "now streams.other=silence, the default",
    "paper_metrics_use_user_stream": "now streams.voice=user",
}
"""Key, without a leading `paper_metrics.` -> what became of it."""
