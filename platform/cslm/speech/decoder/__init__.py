"""Units -> audio: durations of merged units, mel by conditional flow matching, samples by a vocoder.

`load` a folder that jobs/decoder.py left, then `speak` whole utterances or `stream` them piece by piece:

    decoder = load("runs/decoder/decoder")
    samples = decoder.speak(units)                    # float32 at decoder.sample_rate_hz
    stream = decoder.stream()
    for some in chunks:
        play(stream.add(some))
    play(stream.end())
"""

from cslm.speech.decoder.decoder import DecoderStream as DecoderStream
from cslm.speech.decoder.decoder import SpeechDecoder as SpeechDecoder
from cslm.speech.decoder.decoder import has_decoder as has_decoder
from cslm.speech.decoder.decoder import load as load
from cslm.speech.decoder.saved import describe as describe
