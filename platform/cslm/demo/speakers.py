"""Who speaks the demo corpus: a pool of synthetic speakers for each split, and the one who answers.

Left out of espeak-ng's 104 variants are those that whisper, croak, clip, lose the voice or the tones, swallow half of
the sentence, or speak as robots: measured as the share of voiced frames, the peak level and the length against the
others, in three languages. A speaker is a variant at a pitch and a rate; dev and test have combinations of their
own, and test has whole variants that nobody else has.
"""

from collections.abc import Mapping
from functools import cache
from itertools import product

from cslm.demo.voices import Speaker

VARIANTS = (
    *("m2", "m3", "m4", "m5", "m7", "max", "michel", "Mario", "edward", "travis", "norbert", "miguel", "Nguyen"),
    *("f1", "f3", "f5", "Annie", "Alicia", "belinda", "linda"),
)
TEST_ONLY_VARIANTS = ("m6", "f4", "Michael")
PITCHES = (40, 50, 60, 70)
RATES = (140, 160, 180, 200)

# Answers have one voice, in every language and split: it is the voice that the model will speak with.
ANSWERER = Speaker("f2", 50, 170)


@cache
def pools() -> Mapping[str, tuple[Speaker, ...]]:
    """The speakers of statements and questions, by split."""
    by_split: dict[str, list[Speaker]] = {"train": [], "dev": [], "test": []}
    for (i, variant), (j, pitch), (k, rate) in product(enumerate(VARIANTS), enumerate(PITCHES), enumerate(RATES)):
        # Every variant lends each held-out split two of its sixteen combinations, other ones from variant to variant.
        place = (i + j + 2 * k) % 8
        split = {0: "test", 4: "dev"}.get(place, "train")
        by_split[split].append(Speaker(variant, pitch, rate))
    for (i, variant), (j, pitch), (k, rate) in product(
        enumerate(TEST_ONLY_VARIANTS), enumerate(PITCHES), enumerate(RATES)
    ):
        # Four combinations of each: voices unheard in training are a quarter of the test's speakers.
        if (i + j + 2 * k) % 4 == 0:
            by_split["test"].append(Speaker(variant, pitch, rate))
    return {split: tuple(speakers) for split, speakers in by_split.items()}
