"""Which of two decoders listeners prefer, from the answers to a listening page.

An answer counts as 1 for the second decoder, 0 for the first and a half where no difference was
heard, so that ties pull towards no preference and are not thrown away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ttt import records
from ttt.errors import UserError
from ttt.snac.evaluation.listening import FORMAT_VERSION, KEY_FORMAT, RESULT_FORMAT
from ttt.snac.verdict import Verdict
from ttt.statistics.accuracies import accuracy_interval, crossed_accuracy_interval
from ttt.statistics.intervals import FEWEST_CLUSTERS, Interval


@dataclass(frozen=True)
class Answer:
    """One listener's answer about one clip."""

    listener: str
    trial: str
    preferred: str | None
    """The decoder's letter; None where no difference was heard."""
    side: int | None
    """Which side was preferred, 1 or 2."""


def read_key(path: Path) -> dict[str, Any]:
    """The key of a listening page. Raises UserError where there is none."""
    try:
        key = records.read_json(path)
    except (OSError, ValueError) as error:
        absent = isinstance(error, FileNotFoundError)
        raise UserError(
            f"{path}: no key of a listening page can be read there"
            f"{'' if absent else f' ({_reason(error)})'}; name the folder of the evaluation that "
            "made the page, as output=FOLDER"
        ) from error
    return _of_format(key, KEY_FORMAT, path, "is not the key of a listening page")


def score(key: Mapping[str, Any], files: Sequence[Path]) -> dict[str, Any]:
    """The preference with its interval, and what it is made of, for JSON.

    Raises UserError where a file cannot be read, answers another page, holds no answer or a wrong
    one, or where two are of one listener.
    """
    results = [_read_result(key, path) for path in files]
    _refuse_twice(files, results)
    by_file = [_of(key, path, result) for path, result in zip(files, results, strict=True)]
    answers = [each for its in by_file for each in its]
    _, second = key["decoders"]
    interval, over = _interval(answers, second)
    found = {
        "page": key["page"],
        "decoders": key["decoders"],
        "trials": len(key["trials"]),
        "listeners": [
            {
                "file": path.name,
                "name": result["name"],
                "listener": result["listener"],
                "answered": len(its),
                **_counts(its, key["decoders"]),
            }
            for path, result, its in zip(files, results, by_file, strict=True)
        ],
        "clips": len({each.trial for each in answers}),
        "answers": len(answers),
        **_counts(answers, key["decoders"]),
        "sides": {str(side): sum(each.side == side for each in answers) for side in (1, 2)},
        "prefers": second,
        "preference": interval.to_dict(),
    }
    return {**found, "verdict": asdict(_judge(found, interval, over))}


def _interval(answers: Sequence[Answer], second: str) -> tuple[Interval, str]:
    """The share that prefers `second`, and what its interval is over, in words."""
    outcomes = [0.5 if a.preferred is None else float(a.preferred == second) for a in answers]
    listeners, trials = [a.listener for a in answers], [a.trial for a in answers]
    heard_by, clips = len(set(listeners)), len(set(trials))
    if heard_by < FEWEST_CLUSTERS:
        found = accuracy_interval(outcomes, trials, "values", "clip")
        who = "one listener" if heard_by == 1 else f"{heard_by} listeners"
        return found, (
            f"Answers are of {who}, so the interval is over clips alone and says nothing about "
            f"other listeners, which needs {FEWEST_CLUSTERS}."
        )
    if clips < FEWEST_CLUSTERS:
        found = accuracy_interval(outcomes, listeners, "values", "listener")
        return found, (
            f"Answers are about {clips} clip{'s' * (clips != 1)}, so the interval is over "
            f"listeners alone and says nothing about other clips, which needs {FEWEST_CLUSTERS}."
        )
    found = crossed_accuracy_interval(outcomes, listeners, trials, ("listener", "clip"))
    return found, f"The interval is over {heard_by} listeners and {clips} clips at once."


def _judge(found: Mapping[str, Any], interval: Interval, over: str) -> Verdict:
    first, second = found["decoders"]
    share = interval.mean
    assert share is not None, "there is an answer"
    counted = (
        f"{second} is preferred in {found['preferred'][second]}, {first} in "
        f"{found['preferred'][first]} and neither in {found['no_difference']} of "
        f"{found['answers']} answer{'s' * (found['answers'] != 1)}"
    )
    if interval.low is None or interval.high is None:
        sentence = f"{counted}: {share:.1%} for {second} with ties as halves."
        return Verdict("mixed", "No verdict by ear", (sentence, f"{interval.reason}.", over))
    sentence = (
        f"{counted}: {share:.1%} for {second} with ties as halves (95 % interval "
        f"{interval.low:.1%} to {interval.high:.1%})."
    )
    count = len(found["listeners"])
    about = "The listener prefers" if count == 1 else f"These {count} listeners prefer"
    if count >= FEWEST_CLUSTERS:
        about = "Listeners prefer"
    if interval.low > 0.5:
        return Verdict("good", f"{about} {second} to {first}", (sentence, over))
    if interval.high < 0.5:
        return Verdict("bad", f"{about} {first} to {second}", (sentence, over))
    heading = f"No preference between {first} and {second} is shown"
    return Verdict("mixed", heading, (sentence, over))


def _counts(answers: Sequence[Answer], letters: Iterable[str]) -> dict[str, Any]:
    return {
        "preferred": {letter: sum(a.preferred == letter for a in answers) for letter in letters},
        "no_difference": sum(each.preferred is None for each in answers),
    }


def _read_result(key: Mapping[str, Any], path: Path) -> dict[str, Any]:
    try:
        result = records.read_json(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; name what the listening page saved") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder; name the files that listeners saved") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not what a listening page saved ({_reason(error)})") from error
    result = _of_format(result, RESULT_FORMAT, path, "is not what a listening page saved")
    if result.get("page") != key["page"]:
        raise UserError(
            f"{path}: answers another page ({result.get('page')}) than this evaluation's "
            f"({key['page']}); name the output folder that holds the page that was heard"
        )
    answers, listener = result.get("answers"), result.get("listener")
    fits = {
        "listener": isinstance(listener, str) and listener.strip() != "",
        "name": isinstance(result.get("name"), str),
        "answers": isinstance(answers, list),
    }
    if wrong := [field for field, fit in fits.items() if not fit]:
        verb = "is" if wrong in (["listener"], ["name"]) else "are"
        raise UserError(
            f"{path}: is damaged, its {' and '.join(wrong)} {verb} missing or wrong; ask for the "
            "file that the page saved"
        )
    if not answers:
        raise UserError(f"{path}: holds no answer; leave it out")
    return result


def _of_format(document: object, name: str, path: Path, otherwise: str) -> dict[str, Any]:
    """The document, if it says that it is of this format and of the version read here."""
    if not isinstance(document, dict) or document.get("format") != name:
        raise UserError(f"{path}: {otherwise}")
    if document.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {document.get('format_version')}, this program reads "
            f"{FORMAT_VERSION}; use the version that made the page"
        )
    return document


def _reason(error: OSError | ValueError) -> str:
    """Without the path and the number that an OSError's own text repeats."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _refuse_twice(files: Sequence[Path], results: Sequence[Mapping[str, Any]]) -> None:
    seen: dict[tuple[str, str], Path] = {}
    for path, result in zip(files, results, strict=True):
        for what in ("listener", "name"):
            said = (what, result[what].strip().casefold())
            if not said[1]:
                continue
            if said in seen:
                who = result["name"].strip() or result["listener"].strip()
                advice = (
                    "give the newer one alone"
                    if what == "listener"
                    else "if they are two people, tell their names apart in the files"
                )
                raise UserError(f"{seen[said]} and {path} are of one listener ({who}); {advice}")
            seen[said] = path


def _of(key: Mapping[str, Any], path: Path, result: Mapping[str, Any]) -> list[Answer]:
    """A file's answers in the key's words. Raises UserError for one that the page cannot give."""
    answers: dict[str, Answer] = {}
    for place, given in enumerate(result["answers"], 1):
        if why := _impossible(key, given, answers):
            raise UserError(
                f"{path}: is damaged, answer {place} of {len(result['answers'])} {why}; ask for "
                "the file that the page saved"
            )
        trial, preferred = given["trial"], given["preferred"]
        side = None if preferred is None else 1 + [given["first"], given["second"]].index(preferred)
        letter = None if preferred is None else key["trials"][trial]["versions"][preferred]
        answers[trial] = Answer(result["listener"], trial, letter, side)
    return list(answers.values())


def _impossible(key: Mapping[str, Any], given: object, before: Mapping[str, Answer]) -> str | None:
    """Why the page cannot have given this answer after those; None where it can."""
    if not isinstance(given, dict):
        return "is no object with trial, first, second and preferred"
    if lacking := [field for field in _ANSWER_FIELDS if field not in given]:
        return f"lacks {' and '.join(lacking)}"
    trial, shown = given["trial"], [given["first"], given["second"]]
    if not isinstance(trial, str) or trial not in key["trials"]:
        return "is about a trial that the page does not have"
    if trial in before:
        return f"is the second about trial {trial}"
    versions = list(key["trials"][trial]["versions"])
    if shown not in (versions, versions[::-1]):
        return f"has a first and second that are not the two versions of trial {trial}"
    if given["preferred"] not in (None, *shown):
        return f"prefers what is not one of the two versions of trial {trial}"
    return None


_ANSWER_FIELDS = ("trial", "first", "second", "preferred")
