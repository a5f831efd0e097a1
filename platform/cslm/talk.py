"""Talk to a model on the command line: `python -m cslm.talk MODEL question.wav`, or without a question in turns.

Text is printed as the model writes it, and its speech is played (`--play`) while it goes on, and written to a wav file
(`--output`). Turns are lines of text or paths of recordings; what was said before is remembered, `/new` forgets it.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from cslm import storage
from cslm.errors import EXIT_DONE, EXIT_FAILED, AudioError, CheckpointError, ConfigError, CslmError
from cslm.lm.generate import (
    EndEvent,
    Generator,
    Prompt,
    QuestionEvent,
    Response,
    Sampling,
    SpeechEvent,
    TextEvent,
    Turn,
)
from cslm.lm.request import NAMES
from cslm.speech import decoder as speech_decoder
from cslm.speech import tokenizer as speech
from cslm.speech.audio import AudioSection, Recording
from cslm.speech.playing import Voice, wav

# Recordings of any length are taken whole; what is too long for the model is told by it.
_LIMITS = AudioSection(min_s=0.05, max_s=3600.0)
_SOUND = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aiff")
# Folders of a model that bring these with it.
_TOKENIZER, _DECODER = "speech_tokenizer", "speech_decoder"
_REMEMBERING = ("text", "answer", "s2s")


def main(argv: Sequence[str] | None = None) -> int:
    """Talk as the command line says; the exit code is 2 when something that was given cannot be used."""
    options = _parser().parse_args(argv)
    try:
        talk = Talk(options)
        if options.question:
            for number, question in enumerate(options.question, 1):
                talk.turn(question, _numbered(options.output, number if len(options.question) > 1 else None))
        else:
            _turns(talk, options.output)
    except (CslmError, OSError) as error:
        print(f"talk: {type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, CslmError) else EXIT_FAILED
    except KeyboardInterrupt:
        return 130
    return EXIT_DONE


class Talk:
    """A conversation: the model, its ears and its voice, and what was said so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Load what the options name. Raises CslmError for what does not fit together."""
        self._options = options
        self._sampling = _sampling(options)
        _one_thread_each(options.threads)
        _without_bars()
        self._generator = Generator.load(options.model, options.device)
        layout = self._generator.layout
        self._tokenizer: speech.SpeechTokenizer | None = None
        if folder := _beside(options.tokenizer, options.model, _TOKENIZER):
            described = speech.describe(folder)
            if described is None:
                raise CheckpointError(f"--tokenizer must be the folder of a speech tokenizer, found none at {folder}")
            layout.require_units_of([described["fingerprint"]], f"--tokenizer {folder}")
            self._tokenizer = speech.load(described["kind"], folder, options.device)
        self._decoder: speech_decoder.SpeechDecoder | None = None
        if folder := _beside(options.decoder, options.model, _DECODER):
            self._decoder = speech_decoder.load(folder, options.device)
            self._decoder.check_units(layout.unit_tokenizer, options.model)
        if self._decoder is None and (options.output or options.play):
            raise ConfigError(
                "--output and --play need --decoder, a speech decoder of the model's units (output.path/decoder of "
                "jobs/decoder.py), found none"
            )
        _one_thread_each(options.threads)
        self._history: tuple[Turn, ...] = ()

    def forget(self) -> None:
        """Begin anew."""
        self._history = ()

    def turn(self, question: str, output: str | None) -> Response:
        """Ask one question, a text or the path of a recording, and tell the answer while it comes."""
        began_s = time.perf_counter()
        prompt = self._prompt(question)
        heard_s = time.perf_counter() - began_s
        voice = Voice(self._decoder, self._options.speaker, self._options.play) if self._decoder is not None else None
        times: dict[str, float] = {}
        response: Response | None = None
        is_first = True
        try:
            for event in self._generator.stream(prompt, self._sampling):
                now_s = time.perf_counter() - began_s
                if isinstance(event, QuestionEvent):
                    print(f"(heard: {event.text})", flush=True)
                elif isinstance(event, TextEvent):
                    times.setdefault("text", now_s)
                    print(event.text.lstrip() if is_first else event.text, end="", flush=True)
                    is_first = False
                elif isinstance(event, SpeechEvent):
                    if voice is None:
                        times.setdefault("units", now_s)
                    elif voice.add(event.units):
                        times.setdefault("speech", time.perf_counter() - began_s)
                elif isinstance(event, EndEvent):
                    response = event.response
            if voice is not None and voice.end():
                times.setdefault("speech", time.perf_counter() - began_s)
            times["end"] = time.perf_counter() - began_s
        finally:
            if voice is not None:
                voice.close()
        assert response is not None
        print(flush=True)
        if response.units and voice is None and not response.text:
            print(f"({len(response.units)} units of speech; --decoder lets you hear them)")
        if voice is not None and output and len(voice.samples):
            storage.write_bytes(storage.absolute(output), wav(voice.samples, voice.rate_hz))
        print(_told(times, heard_s if prompt.is_spoken else None, voice, output, response), file=sys.stderr, flush=True)
        if prompt.task in _REMEMBERING:
            self._history = response.after(prompt)
        return response

    def _prompt(self, question: str) -> Prompt:
        """What is asked, with as much of what was said before as the model has room for."""
        options = self._options
        text = units = None
        if _is_recording(question):
            units = self._heard(question)
        else:
            text = question
        task = options.task or ("answer" if units is not None else "text")
        history = self._history if task in _REMEMBERING else ()
        while True:
            prompt = Prompt(
                task, options.language or options.answer_language, options.answer_language, text, units, history
            )
            try:
                self._generator.prompt_ids(prompt, self._sampling)
                return prompt
            except ConfigError:
                if not history:
                    raise
            # The oldest exchange is forgotten first.
            history = history[2:]

    def _heard(self, place: str) -> list[int]:
        if self._tokenizer is None:
            raise ConfigError(
                f"--tokenizer is needed to hear recordings: the folder of the tokenizer "
                f"{self._generator.layout.unit_tokenizer} (tokenizer/ beside the units that the model was trained on)"
            )
        recording = Recording(storage.read_bytes(storage.absolute(place)))
        clip = recording.clip(self._tokenizer.sample_rate_hz, limits=_LIMITS)
        units: list[int] = speech.encode_all(self._tokenizer, [clip.samples])[0].units.tolist()
        return units


def _turns(talk: Talk, output: str | None) -> None:
    """Question after question from standard input."""
    if sys.stdin.isatty():
        print("Type a question or the path of a recording; /new forgets what was said, /quit or Ctrl-D ends.")
    number = 0
    for line in _lines():
        if line == "/new":
            talk.forget()
            continue
        if line == "/quit":
            return
        number += 1
        try:
            talk.turn(line, _numbered(output, number))
        except (ConfigError, AudioError, OSError) as error:
            print(f"talk: {error}", file=sys.stderr)


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if line:
            yield line


def _told(
    times: dict[str, float], heard_s: float | None, voice: Voice | None, output: str | None, response: Response
) -> str:
    """The times of an answer in a line."""
    parts = [f"heard in {heard_s:.2f} s"] if heard_s is not None else []
    parts += [f"first {name} after {times[name]:.2f} s" for name in ("text", "units", "speech") if name in times]
    if voice is not None and len(voice.samples):
        audio_s = len(voice.samples) / voice.rate_hz
        parts.append(
            f"{audio_s:.2f} s of speech in {times['end']:.2f} s (real-time factor {times['end'] / audio_s:.2f})"
        )
        parts += [f"written to {output}"] if output else []
    else:
        parts.append(f"all in {times['end']:.2f} s")
    if response.stop == "length":
        parts.append("a limit ended it")
    return f"[{', '.join(parts)}]"


def _is_recording(question: str) -> bool:
    return (question.lower().endswith(_SOUND) and " " not in question.strip()) or _is_file(question)


def _is_file(question: str) -> bool:
    try:
        place = storage.absolute(question)
        return len(question) < 1024 and storage.exists(place) and not storage.is_folder(place)
    except (CslmError, OSError, ValueError):
        return False


def _beside(given: str | None, model: str, name: str) -> str | None:
    """The folder that was given, or the one of that name in the model's."""
    if given:
        return storage.absolute(given)
    inside = storage.join(storage.absolute(model), name)
    return inside if storage.is_folder(inside) else None


def _numbered(output: str | None, number: int | None) -> str | None:
    if output is None or number is None:
        return output
    stem, dot, suffix = output.rpartition(".")
    return f"{stem}-{number}.{suffix}" if dot else f"{output}-{number}"


def _one_thread_each(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _without_bars() -> None:
    """Keep the bars of loading out of a conversation."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _sampling(options: argparse.Namespace) -> Sampling:
    named = ("temperature", "top_p", "seed", "max_new_tokens", "form")
    given: dict[str, Any] = {name: getattr(options, name) for name in named if getattr(options, name) is not None}
    try:
        return Sampling(**given)
    except ValueError as error:
        faults = "; ".join(f"--{one['loc'][0]}: {one['msg']}, found {one['input']!r}" for one in error.errors())  # type: ignore[attr-defined]
        raise ConfigError(faults) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cslm.talk",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m cslm.talk chat/model question.wav --tokenizer units/tokenizer --decoder "
        "decoder/decoder --answer_language zh --play 'aplay -q -t raw -f S16_LE -r {rate} -c 1'",
    )
    parser.add_argument("model", help="folder or URI of a trained model (output.path/model of pretrain or sft)")
    parser.add_argument(
        "question", nargs="*", help="recordings or texts, asked in turn; without any, from standard input"
    )
    ears = parser.add_argument_group("hearing and speaking")
    ears.add_argument("--tokenizer", help=f"the model's speech tokenizer; MODEL/{_TOKENIZER} where that is there")
    ears.add_argument("--decoder", help=f"a speech decoder of its units; MODEL/{_DECODER} where that is there")
    ears.add_argument("--speaker", help="whose voice the decoder speaks in; its default one without")
    ears.add_argument(
        "--output", help="wav file of the answer's speech; of several turns answer-1.wav, answer-2.wav ..."
    )
    ears.add_argument(
        "--play", help="command that plays 16-bit mono samples from its standard input; {rate}: their rate"
    )
    asking = parser.add_argument_group("asking")
    asking.add_argument("--answer_language", default="en", help="language to be answered in (BCP-47), en by default")
    asking.add_argument(
        "--language", help="language of the question, where the task needs it; that of the answer without"
    )
    asking.add_argument("--task", choices=NAMES, help="what to do; by default answer for recordings and text for texts")
    drawing = parser.add_argument_group("drawing the answer")
    defaults = Sampling()
    drawing.add_argument(
        "--temperature", type=float, help=f"0: always the likeliest; {defaults.temperature} by default"
    )
    drawing.add_argument("--top_p", type=float, help=f"share of probability to draw from; {defaults.top_p} by default")
    drawing.add_argument("--seed", type=int, help="which of the possible answers; 0 by default")
    drawing.add_argument("--max_new_tokens", type=int, help=f"longest answer; {defaults.max_new_tokens} by default")
    drawing.add_argument(
        "--form", help="form of a spoken answer: any, interleaved, full, ..._no_question; any by default"
    )
    parser.add_argument("--device", default="cpu", help="torch device, cpu by default")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, 1 by default")
    return parser


if __name__ == "__main__":
    sys.exit(main())
