"""Tokens to codes and back, held against a parser of regular expressions; damage moves nothing."""

import random
import re

import numpy as np
import pytest
import torch

from ttt.snac.orpheus import FrameReader, from_codes, to_codes, to_text

BASE = 128_266
# Which code of a frame stands where, written out as canopyai's decoder reads it.
PLACES = [(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (2, 2), (2, 3)]
PER_COARSE = (1, 2, 4)


def published(codes, base=BASE):
    """Ids of codes by scale, one by one."""
    ids = []
    for frame in range(len(codes[0])):
        for place, (scale, offset) in enumerate(PLACES):
            ids.append(base + 4096 * place + codes[scale][frame * PER_COARSE[scale] + offset])
    return ids


def drawn(frames, seed=0):
    """Codes by scale, with many of the ends of the codebook."""
    chance = random.Random(seed)
    some = [0, 4095, 1, 4094]
    return [
        [chance.choice(some) if chance.random() < 0.3 else chance.randrange(4096) for _ in range(n)]
        for n in (frames, 2 * frames, 4 * frames)
    ]


def lists(codes):
    return [scale.tolist() for scale in codes]


def without(codes, frames):
    """Codes by scale without these frames."""
    n = len(codes[0])
    return [
        [c for i, c in enumerate(scale) if i // (len(scale) // n) not in frames] for scale in codes
    ]


def slow_parser(ids, base=BASE):
    """(ids of whole frames, numbers of bad frames): a word of places, read by a pattern."""
    word = "".join(str(p) if 0 <= (p := (i - base) // 4096) <= 6 else "x" for i in ids)
    frames, bad, number, last = [], [], 0, 0

    def damage(text, at_the_start, at_the_end):
        if at_the_start:
            text = re.sub("^x+", "", text)
        if at_the_end:
            text = re.sub("x+$", "", text)
        half = re.search("0x*(1x*)?(2x*)?(3x*)?(4x*)?(5x*)?$", text) if at_the_end else None
        if half:
            in_sequence = half[0].replace("x", "")
            assert in_sequence == "0123456"[: len(in_sequence)]
            return damage(text[: half.start()], at_the_start, False) + 1
        if not set(text) - {"x"} or len(text) % 7 == 0:
            return len(text) // 7
        return max(1, int(len(text) / 7 + 0.5), text.count("0"))

    for found in re.finditer("0x*1x*2x*3x*4x*5x*6", word):
        count = damage(word[last : found.start()], last == 0, False)
        bad += range(number, number + count)
        number += count + 1
        places = range(found.start(), found.end())
        frames += [ids[place] for place in places if word[place] != "x"]
        last = found.end()
    bad += range(number, number + damage(word[last:], last == 0, True))
    return frames, bad


@pytest.mark.parametrize("frames", [1, 2, 3, 17, 200])
@pytest.mark.parametrize("base", [BASE, 0, 10, 151_669])
def test_tokens_to_codes_and_back_is_the_identity(frames, base):
    codes = drawn(frames, seed=frames)
    ids = published(codes, base)
    assert from_codes(codes, base) == ids
    read, bad = to_codes(ids, base)
    assert (lists(read), bad) == ([[scale] for scale in codes], [])
    assert all(scale.dtype == torch.int64 for scale in read)
    assert from_codes(read, base) == ids
    numbers = [i - base + 10 for i in ids]
    assert to_text(ids, base) == "".join(f"<custom_token_{n}>" for n in numbers)
    assert lists(to_codes(to_text(ids, base), base)[0]) == lists(read)


def test_what_the_issue_writes_down():
    """N = code + 10 + 4096 k, and the tokenizer's id is 128256 + N."""
    text = "".join(f"<custom_token_{5 + 10 + 4096 * k}>" for k in range(7))
    codes, bad = to_codes(text)
    assert (lists(codes), bad) == ([[[5]], [[5, 5]], [[5, 5, 5, 5]]], [])
    assert from_codes(codes) == [128256 + 5 + 10 + 4096 * k for k in range(7)]


def test_ids_of_every_type_are_read():
    codes = drawn(3)
    ids = published(codes)
    text = to_text(ids)
    rows = np.array(ids, dtype=np.int32).reshape(3, 7)
    pieces = [text[i : i + 5] for i in range(0, len(text), 5)]
    for form in (
        ids, tuple(ids), iter(ids), range(0), np.array(ids), rows, rows[0], rows.astype(np.uint64),
        torch.tensor(ids), torch.tensor([ids]), torch.tensor(rows), text, pieces,
        [text[:100], *[text[100:]]], [np.int64(each) for each in ids], torch.tensor(ids).int(),
    ):  # fmt: skip
        read, bad = to_codes(form)
        frames = read[0].shape[1]
        assert bad == []
        assert from_codes(read) == ids[: 7 * frames]
        assert frames == (0 if isinstance(form, range) else 1 if form is rows[0] else frames)
    for scales in (codes, [np.array(s) for s in codes], [torch.tensor([s]) for s in codes]):
        assert from_codes(scales) == ids
    assert from_codes(to_codes([])[0]) == []


def test_another_order_has_its_own_setting():
    codes, order = drawn(4), (0, 1, 2, 3, 4, 5, 6)
    ids = from_codes(codes, 0, order)
    assert [i % 4096 for i in ids[:7]] == [codes[0][0], *codes[1][:2], *codes[2][:4]]
    assert lists(to_codes(ids, 0, order)[0]) == [[scale] for scale in codes]
    assert lists(to_codes(ids, 0)[0]) != [[scale] for scale in codes]
    for wrong in ((0, 1, 2), (0, 1, 2, 3, 4, 5, 5), (1, 2, 3, 4, 5, 6, 7)):
        with pytest.raises(ValueError, match=r"names each column of a row once, 0 to 6, got \d"):
            to_codes(ids, 0, wrong)
        with pytest.raises(ValueError, match="names each column"):
            from_codes(codes, 0, wrong)


NO_AUDIO = [0, -1, -(2**70), BASE - 1, BASE + 7 * 4096, 128_256, 128_258, 2**63, 10**30]


@pytest.mark.parametrize("place", range(7))
@pytest.mark.parametrize("frame", [0, 1, 4, 5])
def test_a_damaged_frame_is_named_and_moves_nothing(frame, place):
    codes = drawn(6, seed=place)
    ids = published(codes)
    at = 7 * frame + place
    others = without(codes, {frame})
    own = ids[at] - BASE - 4096 * place
    damaged = {f"id {alien}": [*ids[:at], alien, *ids[at + 1 :]] for alien in NO_AUDIO}
    damaged["4096, one past the codebook"] = [*ids[:at], ids[at] - own + 4096, *ids[at + 1 :]]
    if place:
        damaged["-1"] = [*ids[:at], ids[at] - own - 1, *ids[at + 1 :]]
    damaged["lost"] = ids[:at] + ids[at + 1 :]
    damaged["three times"] = [*ids[:at], ids[at], ids[at], *ids[at:]]
    if place:
        damaged["two lost"] = ids[: at - 1] + ids[at + 1 :]
    for what, stream in damaged.items():
        read, bad = to_codes(stream)
        if what == "three times" and place in (0, 6):
            # What stands beside a frame that is whole is a frame of its own.
            assert lists(read) == [[scale] for scale in codes]
            assert bad == ([frame, frame + 1] if place == 0 else [frame + 1])
            continue
        assert bad == [frame], what
        assert lists(read) == [[scale] for scale in others], what


@pytest.mark.parametrize("kept", range(1, 7))
def test_half_a_frame_at_the_end_is_named(kept):
    codes = drawn(3)
    reader = FrameReader()
    rows = reader.push(published(codes)[: 14 + kept])
    assert len(rows) == 2
    assert reader.bad == []
    reader.finish()
    (bad,) = reader.bad
    assert str(bad) == f"frame 2: the utterance ends after {kept} of its 7 tokens"


def test_half_a_token_at_the_end_is_half_a_frame():
    codes = drawn(2)
    text = to_text(published(codes))
    read, bad = to_codes(f"{text}<custom_token_12")
    assert (lists(read), bad) == ([[scale] for scale in codes], [2])
    read, bad = to_codes(text[:-1])
    assert (lists(read), bad) == ([[scale] for scale in without(codes, {1})], [1])
    for end in ("<", "<custom", "<custom_token", " <b>", "<custom_token_1 "):
        assert to_codes(text + end)[1] == ([2] if end.startswith("<custom_token_") else [])


def test_whole_frames_of_no_audio_are_counted_and_text_is_not():
    codes = drawn(5)
    ids = published(codes)
    lost = [*ids[:14], *[7] * 7, *ids[21:]]
    read, bad = to_codes(lost)
    assert (lists(read), bad) == ([[scale] for scale in without(codes, {2})], [2])
    prompt, ends = [1, 2, 3, 128_257] * 9, [128_258, 128_262]
    for stream in (
        [*prompt, *ids, *ends], [*ids[:14], *ends, *ids[14:]], [*ids[:3], 128_258, *ids[3:]],
        [x for each in ids for x in (each, 128_258)],
    ):  # fmt: skip
        read, bad = to_codes(stream)
        assert (lists(read), bad) == ([[scale] for scale in codes], [])
    text = "Hello <b>, " + " and\n".join(to_text([each]) for each in ids) + " </custom> <cust"
    assert lists(to_codes(text)[0]) == [[scale] for scale in codes]


@pytest.mark.parametrize(
    "token",
    ["<custom_token_>", "<custom_token_x>", "<custom_token_-5>", "<custom_token_1.5>",
     "<custom_token_5>", "<custom_token_28682>", "<custom_token_٣>",
     "<custom_token_" + "9" * 5000 + ">"],
)  # fmt: skip
def test_a_token_of_text_that_is_none_damages_its_frame_alone(token):
    codes = drawn(4)
    texts = [to_text([each]) for each in published(codes)]
    texts[16] = token
    read, bad = to_codes("".join(texts))
    assert (lists(read), bad) == ([[scale] for scale in without(codes, {2})], [2])


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ([1.5], "1.5 is no token; give ids, which are whole numbers, or text"),
        ([None], "None is no token"),
        ([True], "True is no token"),
        (np.zeros(7), "^the array of tokens holds float64; ids are whole numbers"),
        (torch.zeros(7), "holds float32; ids are whole numbers"),
        (np.zeros(7, dtype=bool), "holds bool; ids are whole numbers"),
        (
            np.zeros((2, 3), int),
            r"^the array of tokens has shape \(2, 3\); needed are the ids of one utterance",
        ),
        (np.zeros((1, 2, 7), int), r"shape \(1, 2, 7\)"),
        ([5] * 14, r"none of its 14 ids is one of 128266 to 156937; give the base"),
        ("<custom_token_3>", "none of its 1 ids is one of"),
        ("hello", "text 'hello' holds no <custom_token_N>; give ids, which are whole numbers, or"),
        ([str(BASE + 121), str(BASE + 4096)], "text '128387' holds no <custom_token_N>; give ids"),
        (["", " \n", "x" * 99], "text 'x{40}' holds no"),
    ],
)
def test_what_is_no_stream_of_tokens_is_refused(ids, sentence):
    with pytest.raises(ValueError, match=sentence):
        to_codes(ids)


@pytest.mark.parametrize(
    ("codes", "sentence"),
    [
        ([[4096], [0] * 2, [0] * 4], "codes from 0 to 4096; a codebook has 0 to 4095"),
        ([[0], [-1] * 2, [0] * 4], "codes from -1 to 0"),
        ([[0], [0] * 2, [0] * 3], r"lengths \(1, 2, 3\) do not cover the same time"),
        ([[0], [0] * 2], "holds 2 codebooks; the decoder has 3"),
        ([[0.5], [0] * 2, [0] * 4], "^scale 0 of the codes holds float64; codes are integers"),
        (
            [[[0], [1]], [0] * 2, [0] * 4],
            r"^scale 0 of the codes has shape \(2, 1\); needed is one",
        ),
    ],
)
def test_what_is_no_codes_is_refused(codes, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_codes(codes)


@pytest.mark.parametrize("nothing", ["", " \n", [], [""], np.zeros(0, int), "<custom_token_12"])
def test_nothing_is_no_codes(nothing):
    codes, bad = to_codes(nothing)
    assert [scale.shape for scale in codes] == [(1, 0)] * 3
    assert bad == ([0] if "<custom_token_12" in nothing else [])


def test_ids_without_a_text_of_their_own_are_refused():
    edges = [BASE - 10, BASE, BASE + 7 * 4096 - 1]
    text = "<custom_token_0><custom_token_10><custom_token_28681>"
    for ids in (edges, np.array(edges), torch.tensor(edges)):
        assert to_text(ids) == text
    for wrong in (5, BASE - 11, BASE + 7 * 4096):
        with pytest.raises(ValueError, match=f"id {wrong} has no <custom_token_N>, which 128256 t"):
            to_text([BASE, wrong])
    assert to_text([5, 6], base=0) == "<custom_token_15><custom_token_16>"
    for wrong in (1.5, "128266", None):
        with pytest.raises(ValueError, match=r"is no id; ids are whole numbers"):
            to_text([wrong])


def test_any_damage_is_read_as_the_slow_parser_reads_it_and_in_any_pieces():
    chance = random.Random(5)
    for trial in range(400):
        ids = published(drawn(chance.randrange(1, 9), seed=trial))
        for _ in range(chance.randrange(5)):
            at = chance.randrange(len(ids) + 1)
            kind = chance.randrange(4)
            if kind == 0:
                ids[at : at + chance.randrange(1, 9)] = []
            elif kind == 1:
                ids[at:at] = [chance.randrange(128_000, 160_000) for _ in range(3)]
            elif kind == 2:
                ids[at : at + 1] = [chance.randrange(BASE - 9000, BASE + 9 * 4096)]
            else:
                ids[at:at] = [7] * chance.randrange(1, 16)
        frames, bad = slow_parser(ids)
        reader, rows, done = FrameReader(), [], 0
        while done < len(ids):
            size = chance.randrange(1, 12)
            rows.append(reader.push(ids[done : done + size]))
            done += size
        reader.finish()
        assert [each.number for each in reader.bad] == bad
        if frames:
            codes, named = to_codes(ids)
            assert (from_codes(codes), named) == (frames, bad)
            assert sum(map(len, rows)) == len(frames) / 7
        assert all("\n" not in str(each) and len(str(each)) < 120 for each in reader.bad)
