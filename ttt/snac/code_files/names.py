"""File names for what clips decode to: safe on any disk, all different."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence

from ttt.files.walk import same_name_key
from ttt.snac.code_files.contents import CODE_SUFFIXES


def wav_names(clip_ids: Sequence[str]) -> list[str]:
    """A relative .wav path for each clip id: safe on any disk, all different, sub-folders kept.

    An id cannot leave the output folder: roots, `..` and control characters are dropped or
    replaced, and what is too long is cut. Ids that would share a name, on a disk that ignores case
    or how accents are written too, each get eight hex digits of their own.
    """
    plain = [_safe_stem(clip_id) for clip_id in clip_ids]
    shared = Counter(map(same_name_key, plain))
    return [
        f"{stem}-{_digest(clip_id)}.wav" if shared[same_name_key(stem)] > 1 else f"{stem}.wav"
        for stem, clip_id in zip(plain, clip_ids, strict=True)
    ]


_AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".opus"}
_LONGEST_PART = 120
_LONGEST_PATH = 2048


def _safe_stem(clip_id: str) -> str:
    stem, suffix = os.path.splitext(clip_id)
    known = suffix.lower() in _AUDIO_SUFFIXES or suffix.lower() in CODE_SUFFIXES
    parts = [_safe_part(part) for part in (stem if known else clip_id).split("/")]
    safe = "/".join(part for part in parts if part)
    # Below another folder it may come to no more than the system's 4,096 bytes.
    return safe if 0 < len(safe.encode()) <= _LONGEST_PATH else f"clip-{_digest(clip_id)}"


def _safe_part(part: str) -> str:
    safe = re.sub(r"[^\w.+=@-]+", "_", part).strip(".")
    if len(safe.encode()) > _LONGEST_PART:
        # Cutting could make two names equal; their digests keep them apart.
        safe = safe.encode()[: _LONGEST_PART // 2].decode(errors="ignore") + "-" + _digest(part)
    return safe


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]
