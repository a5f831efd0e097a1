"""What a prediction adds to each measure of its task.

Error rates compare texts as they are heard (`speech.transcript.normalise`): of every language letters, marks and digits
count, in one case and one compatibility form, Han characters as words of their own. Speech is judged by what a
recogniser hears in it, so its figures hold that recogniser's own errors too.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from cslm import contracts
from cslm.evaluate import figures, translation
from cslm.evaluate.figures import Score
from cslm.evaluate.language_id import Identifier
from cslm.evaluate.metrics import edit_counts, is_right, normalise

Row = Mapping[str, Any]


def judged(predictions: pa.Table, identifier: Identifier) -> pa.Table:
    """Predictions with what can be told of each alone: whether it is right, and the languages of text and speech."""
    rows = predictions.to_pylist()
    for row in rows:
        if row["task"].startswith("answer/"):
            if row["accepted"] is not None:
                row["right"] = is_right(row["output"], row["accepted"])
                if row["spoken"] is not None:
                    row["spoken_right"] = is_right(row["spoken"], row["accepted"])
            row["text_language"] = identifier.identify(row["output"])
            row["spoken_language"] = None if row["spoken"] is None else identifier.identify(row["spoken"])
    return contracts.load("predictions").table(rows)


def scores(predictions: pa.Table, identifier: Identifier) -> list[Score]:
    """All scores of judged predictions."""
    by_task = {"asr": _asr, "tts": _tts, "mt": _translation, "st": _translation}
    found: list[Score] = []
    for row in predictions.to_pylist():
        task = row["task"].partition("/")[0]
        made = _answer(row, identifier) if task == "answer" else by_task[task](row)
        found += made
    return found


def _asr(row: Row) -> Iterable[Score]:
    return _errors(row, "", row["reference"], row["output"])


def _tts(row: Row) -> list[Score]:
    found = [_score(row, "silent", [_is_silent(row), 1])]
    if row["spoken"] is not None:
        found += _errors(row, "", row["reference"], row["spoken"])
    if row["original"] is not None:
        found += _errors(row, "original_", row["reference"], row["original"])
    return found


def _translation(row: Row) -> list[Score]:
    bleu = translation.bleu_statistics(row["output"], row["reference"], row["language"])
    chrf = translation.chrf_statistics(row["output"], row["reference"])
    return [_score(row, "bleu", bleu, "bleu"), _score(row, "chrf", chrf, "chrf")]


def _answer(row: Row, identifier: Identifier) -> list[Score]:
    found = []
    if row["right"] is not None:
        found.append(_score(row, "accuracy", [row["right"], 1]))
    if row["heard"] is not None:
        asked = edit_counts(row["question"], row["heard"])
        found.append(_score(row, "question_cer", [asked.character_errors, asked.characters]))
    found += _off_target(row, "off_target", row["output"], identifier)
    if row["grade"] is not None:
        found.append(_score(row, "grade", [row["grade"], 1]))
    if row["units"] is not None or row["spoken"] is not None:
        found.append(_score(row, "silent", [_is_silent(row), 1]))
    if row["spoken"] is None:
        return found
    if row["spoken_right"] is not None:
        found.append(_score(row, "speech_accuracy", [row["spoken_right"], 1]))
    # Of the speech against the text of the same answer: whether the model says what it writes.
    between = edit_counts(row["output"], row["spoken"])
    if between.words:
        found.append(_score(row, "asr_er", [between.word_errors, between.words]))
    found += _off_target(row, "speech_off_target", row["spoken"], identifier)
    if row["spoken_grade"] is not None:
        found.append(_score(row, "speech_grade", [row["spoken_grade"], 1]))
    return found


def _is_silent(row: Row) -> bool:
    """Whether a model that was to speak gave no speech."""
    return row["units"] is not None and not row["units"]


def _off_target(row: Row, metric: str, text: str, identifier: Identifier) -> list[Score]:
    """Only answers that say something count: an empty one is in no language.

    An answer that is right is in the language that it was asked in, though one word may look like another language's.
    """
    if not normalise(text):
        return []
    if is_right(text, [row["reference"], *(row["accepted"] or ())]):
        return [_score(row, metric, [0, 1])]
    off = identifier.is_off_target(text, row["language"])
    return [] if off is None else [_score(row, metric, [off, 1])]


def _errors(row: Row, prefix: str, reference: str, output: str) -> list[Score]:
    counts = edit_counts(reference, output)
    return [
        _score(row, f"{prefix}cer", [counts.character_errors, counts.characters]),
        _score(row, f"{prefix}wer", [counts.word_errors, counts.words]),
    ]


def _score(row: Row, metric: str, statistics: Iterable[float], form: str = "ratio") -> Score:
    return figures.score(row["task"], metric, row["id"], list(statistics), form)
