"""Which wavs of an output folder may stay: decoded by this decoder, from the codes that are there.

OUTPUT/decoded.jsonl has a line per wav: clip_id, wav, `made_by` (digests of decoder, codec and
noise floor, and the device) and `source` (`FileIdentity` of the file of codes, or the clip's
checksum in its cache). It is there before the first wav. A folder with wavs and no such file was
written before this was noted: its wavs are kept, which is said, and their lines hold null.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttt import records, storage
from ttt.errors import UserError

LINES = "decoded.jsonl"
WITHOUT_FLOOR = "none"
"""What `made_by` calls no noise floor; lines of before there were floors lack the key."""


@dataclass
class DecodedFolder:
    """The lines of a folder, and what is to be said of them."""

    output: Path
    made_by: dict[str, str]
    """decoder_sha256, codec_sha256, device and noise_floor of what decodes now."""
    lines: dict[str, dict[str, Any]]
    """Wav -> its line, of the wavs that stay."""
    notes: list[str] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        output: Path,
        made_by: dict[str, str],
        there: Iterable[tuple[str, str]],
        is_same: Callable[[str, Any], bool],
    ) -> DecodedFolder:
        """Look at the folder, delete the wavs that must be decoded again, write the others' lines.

        Args:
            there: (clip_id, wav) of the planned wavs that exist.
            is_same: (clip_id, source) -> whether a clip's codes are still those of the source.

        Raises:
            UserError: a wav was made by another decoder, for another codec or on another device.
        """
        known = _read_lines(output / LINES)
        for line in known.values():
            _refuse_other(output, line, made_by)
        noted_before = (output / LINES).exists()
        folder = cls(output, made_by, known)
        unnoted, unrecorded, changed = 0, 0, 0
        for clip_id, wav in there:
            line = known.get(wav)
            if line is None and not noted_before:
                unnoted += 1
                known[wav] = {"clip_id": clip_id, "wav": wav, "made_by": None, "source": None}
                continue
            if line is not None and (line["source"] is None or is_same(clip_id, line["source"])):
                continue
            unrecorded += line is None
            changed += line is not None
            known.pop(wav, None)
            (output / wav).unlink()
        if unnoted:
            folder.notes.append(
                f"{unnoted:,} wavs were decoded before the decoder and codes of each were noted; "
                f"they are kept without a check{_named_before(output)}"
            )
        if changed:
            folder.notes.append(
                f"the codes of {changed:,} wavs have changed since; they are decoded again"
            )
        if unrecorded:
            folder.notes.append(
                f"{unrecorded:,} wavs have no line in {LINES}, as a killed job leaves them; they "
                "are decoded again"
            )
        text = "".join(json.dumps(line) + "\n" for line in known.values())
        storage.write_bytes(output / LINES, text.encode())
        return folder

    def add(self, clip_id: str, wav: str, source: dict[str, Any]) -> None:
        """Note a wav that has been written."""
        line = {"clip_id": clip_id, "wav": wav, "made_by": self.made_by, "source": source}
        self.lines[wav] = line
        records.append_jsonl(self.output / LINES, line)


def _read_lines(path: Path) -> dict[str, dict[str, Any]]:
    """Wav -> line of the wavs that exist; the last line may be cut short and is dropped."""
    found: dict[str, dict[str, Any]] = {}
    if not path.exists():
        return found
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        if (path.parent / line["wav"]).exists():
            found[line["wav"]] = line
    return found


def _refuse_other(output: Path, line: dict[str, Any], made_by: dict[str, str]) -> None:
    for key, now in made_by.items():
        before = (line["made_by"] or made_by).get(key, WITHOUT_FLOOR)
        if before != now:
            raise UserError(
                f"{output}: {line['wav']} was decoded with {key} {str(before)[:12]}, and now it is "
                f"{now[:12]}; choose another output, or delete the wavs to decode them again"
            )


def _named_before(output: Path) -> str:
    """What decoded.json calls the decoder of wavs that no line tells of."""
    summary = output / "decoded.json"
    if not summary.exists():
        return ""
    try:
        decoder = records.read_json(summary)["provenance"]["config"]["decoder"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f" (decoded.json names {decoder})"
