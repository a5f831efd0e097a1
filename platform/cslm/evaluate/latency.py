"""How long a listener waits: to the first text and speech of an answer, and how quickly speech comes after it.

Two things are measured, one question at a time on an idle device. As generated: what the model gives, as it streams.
As written: the reference answer in the interleaved and in the full form, fed token by token to the same model as if it
had chosen them, so that the two forms differ in nothing but their order and a model that answers badly is timed on
answers of full length (CSLM, latency of the two chains).
"""

import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from cslm.config import Section, setting
from cslm.evaluate import figures, likelihood
from cslm.evaluate.asking import Speak
from cslm.evaluate.figures import Score
from cslm.evaluate.items import Item
from cslm.evaluate.network import Network
from cslm.lm import chain, text_tokenizer
from cslm.lm.chunks import Spoken, Word
from cslm.lm.generate import EndEvent, Event, SpeechEvent, TextEvent
from cslm.lm.vocabulary import Vocabulary
from cslm.speech import words

Case = dict[str, Any]
# CSLM, ablation of the chunk size.
_CHUNK_WORDS = 7
_FORMS: tuple[chain.Form, ...] = ("interleaved", "full")


class LatencySection(Section):
    """Time to the first speech."""

    max_questions: int = setting(4, "questions of each pair of languages that are timed, at most; 0: none", ge=0)
    first_units: int = setting(
        10, "units of speech that make the beginning of it: with so many the decoder can start", unit="units", ge=1
    )
    chunk_words: int | None = setting(
        None, "words of a chunk of the interleaved form; as the model was trained, or 7, when not given", ge=1
    )
    answer_words: int = setting(
        0, "answers are joined until one has so many words, where a corpus has short ones only; 0: as they are", ge=0
    )
    repeats: int = setting(3, "times that a written answer is timed, of which the quickest counts", ge=1)
    warm_up: int = setting(2, "questions that are asked before and not counted", ge=0)


def cases(items: Sequence[Item], units: str, alignments: str | None, section: LatencySection) -> list[Case]:
    """The first few questions of each pair of languages whose answers are spoken by someone, with these answers."""
    by_task: dict[str, list[Item]] = {}
    for item in items:
        if item.kind_of_task == "answer" and item.reference_audio is not None:
            by_task.setdefault(item.task, []).append(item)
    chosen = [item for of_task in by_task.values() for item in of_task[: section.max_questions]]
    names = sorted({item.reference_audio for item in chosen if item.reference_audio})
    known = likelihood.spoken(units, alignments, names) if names else {}
    speaking = [item for item in chosen if item.reference_audio in known]
    found = []
    for place, item in enumerate(speaking):
        # What follows in the same language, round and round: enough of it makes an answer of any length.
        others = [one for one in [*speaking[place:], *speaking[:place]] if one.answer_language == item.answer_language]
        parts: list[tuple[str, Spoken]] = []
        num_words = 0
        for other in itertools.cycle(others):
            parts.append((other.reference, known[other.reference_audio or ""]))
            num_words += max(1, len(words.words(other.reference, other.answer_language)))
            if num_words >= section.answer_words:
                break
        text, spoken = joined(parts)
        case = {"answer": text, "answer_speech": likelihood.told(spoken)}
        found.append({"task": item.task, "item": item.told(), **case})
    return found


def written(
    network: Network, question: str, answer: str, spoken: Spoken, language: str, form: chain.Form, chunk_words: int
) -> list[int]:
    """The ids of a spoken answer in a form; where it is not aligned, words get units by their length."""
    if spoken.words is None:
        spoken = Spoken(spoken.units, _spread(answer, language, len(spoken.units)))
    section = chain.ChainSection(form=form, chunk_words=chunk_words)

    def encode(text: str) -> list[int]:
        return text_tokenizer.encode(network.tokenizer, text) if text else []

    said = chain.answer(answer, spoken, section, encode, network.layout)
    return chain.with_question(question, said, section, encode, network.layout)


def joined(answers: Sequence[tuple[str, Spoken]]) -> tuple[str, Spoken]:
    """Spoken answers one behind the other, as one; aligned when all of them are."""
    units: list[int] = []
    aligned: list[Word] | None = []
    for _, spoken in answers:
        if spoken.words is None or aligned is None:
            aligned = None
        else:
            aligned += [Word(word.text, word.start + len(units), word.end + len(units)) for word in spoken.words]
        units += [int(unit) for unit in spoken.units]
    return " ".join(text for text, _ in answers), Spoken(units, aligned)


@torch.no_grad()
def forced(network: Network, prompt: Sequence[int], ids: Sequence[int]) -> list[float]:
    """Seconds from the question to each token of an answer, when each follows from the model's last step."""
    device = network.model.device
    began_s = time.perf_counter()
    step = network.model(input_ids=torch.tensor([list(prompt)], device=device), use_cache=True, logits_to_keep=1)
    times = []
    for place, token in enumerate(ids):
        # The choice is part of the time, though the token that follows is the written one.
        int(step.logits[0, -1].argmax())
        times.append(time.perf_counter() - began_s)
        if place + 1 < len(ids):
            step = network.model(
                input_ids=torch.tensor([[token]], device=device), past_key_values=step.past_key_values, use_cache=True
            )
    return times


def scores(network: Network, speak: Speak | None, cases: Sequence[Case], section: LatencySection) -> list[Score]:
    """The scores of questions by the written forms. `speak` makes sound of units and is part of the time."""
    found: list[Score] = []
    warm_up = list(cases[: section.warm_up])
    for number, case in enumerate([*warm_up, *cases]):
        spoken = likelihood.spoken_of({"answer": case["answer_speech"]})["answer"]
        told = (case["question"], case["answer"], spoken, case["language"])
        ids = {form: written(network, *told, form, section.chunk_words or _CHUNK_WORDS) for form in _FORMS}
        times: dict[str, list[float]] = {form: [] for form in _FORMS}
        # In turns, so that what slows the machine for a while slows both.
        for form in [*_FORMS] * (section.repeats if number >= len(warm_up) else 1):
            first, units = _first_speech(ids[form], network.layout, section.first_units)
            times[form].append(forced(network, case["prompt"], ids[form][: first + 1])[-1] + _seconds(speak, units))
        if number >= len(warm_up):
            # The least of several is what the work takes; what is above it is what else the machine does.
            found += _scores(case, {form: min(seconds) for form, seconds in times.items()})
    return found


def streamed(task: str, item: str, events: Iterable[Event], speak: Speak | None, frame_rate_hz: float) -> list[Score]:
    """Scores of an answer as the model streams it; without `speak` its units stand for sound, one a frame."""
    began_s = time.perf_counter()
    first_text_s = first_speech_s = None
    beginning_s = end_s = speech_s = 0.0
    for event in events:
        if isinstance(event, TextEvent) and first_text_s is None:
            first_text_s = time.perf_counter() - began_s
        elif isinstance(event, SpeechEvent) and first_speech_s is None:
            beginning_s = _seconds(speak, event.units)
            first_speech_s = time.perf_counter() - began_s
        elif isinstance(event, EndEvent):
            units = event.response.units
            # The beginning is spoken again with the rest, and counts once.
            end_s = time.perf_counter() - began_s - beginning_s
            speech_s = len(units) / frame_rate_hz
            if speak is not None and units:
                spoken_from_s = time.perf_counter()
                samples, rate_hz = speak(units)
                end_s += time.perf_counter() - spoken_from_s
                speech_s = len(samples) / rate_hz
    found = []
    for metric, seconds in (("first_text_s", first_text_s), ("first_speech_s", first_speech_s)):
        if seconds is not None:
            found.append(figures.score(task, metric, item, [seconds, 1]))
    if speech_s > 0:
        found.append(figures.score(task, "real_time_factor", item, [end_s, speech_s]))
    return found


def _scores(case: Case, times: dict[str, float]) -> list[Score]:
    task, item = case["task"], case["id"]
    return [
        figures.score(task, "interleaved_first_speech_s", item, [times["interleaved"], 1]),
        figures.score(task, "full_first_speech_s", item, [times["full"], 1]),
        figures.score(task, "full_over_interleaved", item, [times["full"], times["interleaved"]]),
    ]


def _first_speech(ids: Sequence[int], layout: Vocabulary, first_units: int) -> tuple[int, list[int]]:
    """The place of the token with which there are enough units to begin with, and those units."""
    places = [place for place, token in enumerate(ids) if layout.num_text <= token < layout.num_text + layout.num_units]
    kept = places[:first_units]
    return kept[-1], [ids[place] - layout.num_text for place in kept]


def _seconds(speak: Speak | None, units: Sequence[int]) -> float:
    if speak is None:
        return 0.0
    began_s = time.perf_counter()
    speak(units)
    return time.perf_counter() - began_s


def _spread(text: str, language: str, num_units: int) -> list[Word]:
    """Words of a text, each with units by its share of the letters."""
    pieces = [text[start:end] for start, end in words.words(text, language)] or [text]
    ends = np.cumsum([len(piece) for piece in pieces])
    bounds = [0, *(ends * num_units // ends[-1]).tolist()]
    return [Word(piece, bounds[place], bounds[place + 1]) for place, piece in enumerate(pieces)]
