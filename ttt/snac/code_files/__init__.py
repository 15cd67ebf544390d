"""Codes in the files that other programs write, and file names for what they decode to.

| file | scales | interleaved | orpheus |
|---|---|---|---|
| .safetensors | integer tensors `codes_0`, `codes_1`, ... coarsest first, each [L_k] or [1, L_k] | one tensor [n, 7] | one tensor [L] or [n, 7] |
| .pt | a list of such tensors | a tensor [n, 7] | a tensor [L] or [n, 7] |
| .npy | - | integers [n, 7] | ids [L] or [n, 7] |
| .jsonl, an utterance a line | [[c0, ...], [c1, ...], [c2, ...]] | a list of rows of 7 | a list of ids, or text with `<custom_token_N>` |
| .txt, one utterance | a line of numbers for each scale | a row of 7 on each line | ids, or text with `<custom_token_N>` |

A row [n, 7] is one coarsest token with all the codes of its time: `interleaved` 1 coarse, 2 middle and
4 fine codes, `orpheus` the seven tokens of a frame (ids, or codes whose offsets were taken off). Nothing
in such an array tells which, so that its layout is named by the caller or by the file: in a
.safetensors file's metadata (`layout`), in a .pt file {"layout": ..., "codes": ...}, in a line
{"layout": ..., "codes" | "ids" | "tokens" | "text": ..., "id": ...} of .jsonl. Scales and text tell it
by themselves.

Suffixes may be written in capitals, and no code in a file is run. Whatever else a file holds is its
reason not to be read. Inside the project a clip's codes are one interleaved array [n, 7].
"""  # noqa: E501

from ttt.snac.code_files.contents import CODE_SUFFIXES, Place, UnnamedLayout
from ttt.snac.code_files.layouts import Layout
from ttt.snac.code_files.names import wav_names
from ttt.snac.code_files.read import ReadCodes, Utterance, list_code_files, read_codes, utterances

__all__ = [
    "CODE_SUFFIXES",
    "Layout",
    "Place",
    "ReadCodes",
    "UnnamedLayout",
    "Utterance",
    "list_code_files",
    "read_codes",
    "utterances",
    "wav_names",
]
