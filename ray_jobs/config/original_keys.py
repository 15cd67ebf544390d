"""The original project's keys for LibriLight: what became of each, for those who still have them.

A configuration that holds one is refused with its sentence; docs/chapters.md has the same table.
"""

from __future__ import annotations

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
