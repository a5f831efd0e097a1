"""Speech to text on the command line: `python -m cslm.recognise MODEL recording.wav ...`.

MODEL is the `tokenizer` folder that jobs/fit_tokenizer.py leaves. One line for each recording: its text, behind its
name when there are several.
"""

import argparse
import sys
from collections.abc import Sequence

from cslm import storage
from cslm.errors import EXIT_DONE, AudioError, CheckpointError, CslmError
from cslm.speech import tokenizer as speech
from cslm.speech.audio import AudioSection, Recording
from cslm.speech.tokenizers.learned import LearnedTokenizer

# Recordings of any length are taken whole.
_LIMITS = AudioSection(min_s=0.01, max_s=24 * 3600.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Recognise the recordings of a command line; the exit code is 2 when one of them cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m cslm.recognise", description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="folder or URI that jobs/fit_tokenizer.py left in output.path/tokenizer")
    parser.add_argument("audio", nargs="+", help="recordings: paths or URIs, of any length, rate and common format")
    parser.add_argument(
        "--beam", type=int, help="prefix beam search that keeps so many texts; the likeliest path without"
    )
    parser.add_argument("--device", default="cpu", help="torch device, cpu by default")
    options = parser.parse_args(argv)
    try:
        recogniser = _load(options.model, options.device).recogniser
    except CslmError as error:
        print(f"recognise: {type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    code = EXIT_DONE
    for place in options.audio:
        try:
            recording = Recording(storage.read_bytes(storage.absolute(place)))
            clip = recording.clip(LearnedTokenizer.sample_rate_hz, limits=_LIMITS)
            text = recogniser.texts([clip.samples], options.beam)[0]
        except (OSError, AudioError) as error:
            print(f"recognise: {place}: {error}", file=sys.stderr)
            code = AudioError.exit_code
            continue
        print(f"{place}\t{text}" if len(options.audio) > 1 else text, flush=True)
    return code


def _load(path: str, device: str) -> LearnedTokenizer:
    path = storage.absolute(path)
    described = speech.describe(path)
    if described is None or described["kind"] != LearnedTokenizer.kind:
        found = "no tokenizer" if described is None else f"a tokenizer of kind {described['kind']}"
        raise CheckpointError(f"MODEL must be a folder that jobs/fit_tokenizer.py made, found {found} at {path}")
    return LearnedTokenizer.load(path).to(device)


if __name__ == "__main__":
    sys.exit(main())
