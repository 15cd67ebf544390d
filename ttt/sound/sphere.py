"""The length of NIST SPHERE files, which libsndfile takes from the file's size alone."""

from __future__ import annotations

from ttt.sound.splice import Damaged, Splice, Window

MAGIC = b"NIST"


def splices(window: Window) -> list[Splice | None]:
    """The file as it is. Raises Damaged when it is shorter than its header promises."""
    fields = {}
    for line in window[:1024].decode("latin-1").splitlines():
        words = line.split()
        if len(words) == 3 and words[1] == "-i" and words[2].isdigit():
            fields[words[0]] = int(words[2])
    lines = window[:64].split(b"\n")
    header = int(lines[1]) if len(lines) > 1 and lines[1].strip().isdigit() else 1024
    samples = fields.get("sample_count", 0)
    wanted = samples * fields.get("channel_count", 1) * fields.get("sample_n_bytes", 2)
    if len(window) - header < wanted:
        raise Damaged("cut short, the header promises more audio than follows")
    return [None]
