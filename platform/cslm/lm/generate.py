"""The model speaks: prompts in, text and speech units out, in batches or token by token.

Decoding is held to the form that the task's outputs have (see `lm.grammar`). What a prompt gets does not depend on
what else is in its batch.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from cslm import storage
from cslm.errors import ConfigError
from cslm.lm import chain, decoding, request, text_tokenizer, vocabulary
from cslm.lm import grammar as grammars
from cslm.lm import model as lm_model
from cslm.lm.examples import ExampleBuilder
from cslm.lm.grammar import Bounds, Guide, Kind
from cslm.lm.request import Prompt as Prompt
from cslm.lm.request import Turn as Turn
from cslm.lm.sampling import Chooser
from cslm.lm.sampling import Sampling as Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Units handed on together while a span of speech goes on: 0.2 s of sound at 25 a second.
_UNITS_AN_EVENT = 5
# Looked up at every token, which an enumeration takes long for.
_TEXT, _UNIT, _QUESTION, _ANSWER = (int(kind) for kind in (Kind.TEXT, Kind.UNIT, Kind.QUESTION, Kind.ANSWER))
_INCOMPLETE = "�"


@dataclass
class Times:
    """Seconds since generation began, of all prompts of a call together; None for what did not come."""

    first_text_s: float | None = None
    first_speech_s: float | None = None
    end_s: float = 0.0


@dataclass(frozen=True)
class Response:
    """What a model gave for one prompt.

    `question`: what it wrote down of the question, None where it did not. `spans`: the answer in order. `ids`: all it
    wrote, without the mark that ends the turn. `stop`: "length" when a limit forbade it to go on as it might have.
    """

    question: str | None
    text: str
    units: list[int]
    spans: list[tuple[Literal["text"], str] | tuple[Literal["speech"], list[int]]]
    ids: list[int]
    stop: Literal["end", "length"]
    times: Times

    def after(self, prompt: Prompt) -> tuple[Turn, ...]:
        """The history of what is asked next, when this was the response to `prompt`."""
        return (*prompt.history, prompt.turn(), Turn("assistant", prompt.target_language, ids=self.ids))


@dataclass(frozen=True)
class QuestionEvent:
    """The question as the model heard it, whole."""

    text: str


@dataclass(frozen=True)
class TextEvent:
    """More text of the answer."""

    text: str


@dataclass(frozen=True)
class SpeechEvent:
    """More units of the answer's speech."""

    units: list[int]


@dataclass(frozen=True)
class EndEvent:
    """The end, with the whole response."""

    response: Response


Event = QuestionEvent | TextEvent | SpeechEvent | EndEvent


class Generator:
    """A model on a device with what it takes to ask it."""

    def __init__(self, model: "PreTrainedModel", folder: str) -> None:
        """`folder`: the local one that the model came from, with its tokenizer and vocabulary."""
        self.tokenizer = text_tokenizer.load(folder)
        self.layout = vocabulary.load(folder)
        recorded = chain.recorded(folder)
        self._form: grammars.AnswerForm = "any" if recorded is None else recorded.form
        self._model = model.eval()
        # Of an exchange before the question nothing is aligned: an answer given as text stays text.
        self._builder = ExampleBuilder(self.tokenizer, self.layout, chain.ChainSection(form="full"))
        self._stops = request.stop_ids(self.tokenizer, self._builder)
        num_rows = int(model.get_output_embeddings().weight.shape[0])
        kinds = grammars.kinds(self.layout, self.tokenizer, self._stops, num_rows)
        self._bans = decoding.Bans(kinds, model.device)
        self._longest = int(getattr(model.config.get_text_config(), "max_position_embeddings", 1 << 30))

    @classmethod
    def load(cls, folder: str, device: str = "cpu", dtype: torch.dtype | None = None) -> "Generator":
        """Open a trained model's folder or URI.

        `dtype`: that of the weights in memory; when not given float32 on a CPU, where it is no slower and results are
        the same in any batch, elsewhere as they were saved. Raises CheckpointError when the folder lacks something.
        """
        with storage.local_folder(storage.absolute(folder)) as local:
            vocabulary.load(local)
            precision = dtype or (torch.float32 if device == "cpu" else "auto")
            return cls(lm_model.load(local, precision).to(torch.device(device)), local)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self._model.device
        return device

    def prompt_ids(self, prompt: Prompt, sampling: Sampling | None = None) -> list[int]:
        """The ids that a prompt is asked with. Raises ConfigError for one that cannot be asked, or is too long."""
        ids = request.ids(prompt, self._builder)
        needed = self._shortest(prompt, sampling or Sampling())
        if len(ids) + needed > self._longest:
            raise ConfigError(
                f"prompt: must leave room for an answer of {needed} tokens in the model's {self._longest}, found "
                f"{len(ids)} tokens"
            )
        return ids

    def markup(self, prompt: Prompt) -> str:
        """A prompt as text in which units and marks stand by their names, for a server that takes text."""
        return request.markup(self.prompt_ids(prompt), self.tokenizer)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, batch_size: int = 64) -> list[Response]:
        """The responses to prompts, in their order; `batch_size` of them are decoded side by side.

        Raises ConfigError when one cannot be asked.
        """
        if not prompts:
            return []
        all_ids = [self.prompt_ids(prompt, sampling) for prompt in prompts]
        # The longest first: a prompt that takes the place of an output that has ended then always has the room.
        order = sorted(range(len(prompts)), key=lambda index: -len(all_ids[index]))
        asked, ids = [prompts[index] for index in order], [all_ids[index] for index in order]
        outputs = [_Output() for _ in prompts]
        began_s = time.perf_counter()
        guide, steps = self._decode(asked, ids, sampling, batch_size)
        for step in steps:
            now_s = time.perf_counter() - began_s
            for row, token, ended in zip(step.rows, step.tokens, step.ended, strict=True):
                outputs[row].add(token, self._bans.kinds[token], ended, now_s)
        place = {index: row for row, index in enumerate(order)}
        rows = [place[index] for index in range(len(prompts))]
        return [self._response(outputs[row], bool(guide.was_cut[row])) for row in rows]

    def stream(self, prompt: Prompt, sampling: Sampling, *, units_an_event: int = _UNITS_AN_EVENT) -> Iterator[Event]:
        """The response to one prompt while it comes: text by the token, units in groups, last the whole."""
        ids = self.prompt_ids(prompt, sampling)
        began_s = time.perf_counter()
        guide, steps = self._decode([prompt], [ids], sampling, 1)
        output = _Output()
        text: list[int] = []
        told = ""
        units: list[int] = []
        is_question = False
        for step in steps:
            token = step.tokens[0]
            kind = self._bans.kinds[token]
            output.add(token, kind, step.ended[0], time.perf_counter() - began_s)
            if kind == _UNIT:
                units.append(token - self.layout.num_text)
            if units and (kind != _UNIT or len(units) >= units_an_event):
                yield SpeechEvent(units)
                units = []
            if kind == _QUESTION:
                is_question = True
            elif kind == _TEXT:
                text.append(token)
                so_far = self._text(text)
                # Letters of several bytes may be spread over tokens.
                if not is_question and not so_far.endswith(_INCOMPLETE) and len(so_far) > len(told):
                    yield TextEvent(so_far[len(told) :])
                    told = so_far
            elif text:
                whole = self._text(text)
                if is_question:
                    yield QuestionEvent(whole.strip())
                elif len(whole) > len(told):
                    yield TextEvent(whole[len(told) :])
                is_question, text, told = False, [], ""
        yield EndEvent(self._response(output, bool(guide.was_cut[0])))

    def _decode(
        self, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]], sampling: Sampling, batch_size: int
    ) -> tuple[Guide, Iterator[decoding.Step]]:
        bounds = [
            Bounds(
                min(sampling.max_new_tokens, self._longest - len(one)),
                sampling.max_text_tokens,
                sampling.max_speech_units,
            )
            for one in ids
        ]
        guide = Guide([self._grammar(prompt, sampling) for prompt in prompts], bounds, self._bans.kinds)
        steps = decoding.decode(self._model, ids, guide, self._bans, Chooser(sampling, ids), batch_size=batch_size)
        return guide, steps

    def _grammar(self, prompt: Prompt, sampling: Sampling) -> grammars.Grammar:
        form = self._form if sampling.form == "any" else sampling.form
        return request.grammar_of(prompt, form, sampling.spoken)

    def _shortest(self, prompt: Prompt, sampling: Sampling) -> int:
        return int(self._grammar(prompt, sampling).to_end[0])

    def _response(self, output: "_Output", was_cut: bool) -> Response:
        ids = output.ids
        question, spans = chain.spans(ids, self.layout)
        told = [("speech", content) if is_speech else ("text", self._text(content)) for is_speech, content in spans]
        return Response(
            question=None if question is None else self._text(question).strip(),
            text=self._text([token for is_speech, content in spans if not is_speech for token in content]).strip(),
            units=[unit for is_speech, content in spans if is_speech for unit in content],
            spans=told,  # type: ignore[arg-type]
            ids=ids,
            stop="length" if was_cut else "end",
            times=output.times,
        )

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


@dataclass
class _Output:
    """What one row has written so far, and when."""

    ids: list[int] = field(default_factory=list)
    times: Times = field(default_factory=Times)
    _is_question: bool = False

    def add(self, token: int, kind: int, ended: bool, now_s: float) -> None:
        if ended:
            self.times.end_s = now_s
            return
        self.ids.append(token)
        if kind == _QUESTION:
            self._is_question = True
        elif kind == _ANSWER:
            self._is_question = False
        elif kind == _TEXT and not self._is_question and self.times.first_text_s is None:
            self.times.first_text_s = now_s
        elif kind == _UNIT and self.times.first_speech_s is None:
            self.times.first_speech_s = now_s


@torch.no_grad()
def greedy(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    batch_size: int = 64,
) -> list[list[int]]:
    """The most likely continuation of each prompt, without the stop token that ended it.

    Prompts of like length share a batch, padded on the left. A continuation without a stop token has
    `max_new_tokens` ids.
    """
    results: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        members = order[start : start + batch_size]
        longest = max(len(prompts[index]) for index in members)
        input_ids = torch.full((len(members), longest), pad_id)
        attention_mask = torch.zeros_like(input_ids)
        for row, index in enumerate(members):
            input_ids[row, longest - len(prompts[index]) :] = torch.tensor(prompts[index])
            attention_mask[row, longest - len(prompts[index]) :] = 1
        output = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=list(stop_ids),
            pad_token_id=pad_id,
        )
        for row, index in enumerate(members):
            results[index] = _until_stop(output[row, longest:].tolist(), stop_ids)
    return results


def _until_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    stops = [place for place, token in enumerate(ids) if token in stop_ids]
    return ids[: stops[0]] if stops else ids
