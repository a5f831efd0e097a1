import re
import sys
from pathlib import Path

import numpy as np
import pytest

from cslm.errors import CheckpointError, ConfigError
from cslm.speech import tokenizer as speech
from cslm.speech.tokenizer import SpeechTokenizer, encode_all
from tests.data.sounds import waveform

DOCS = Path(__file__).parents[3] / "docs" / "tokenizers.md"
KIND = "my_package.my_module:Loudness"
RATES = "codebook_size = 16_000, 50.0, 16"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The example of the documentation, as a package that can be imported."""
    [example] = [
        code for code in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S) if "class Loudness" in code
    ]
    (tmp_path / "my_package").mkdir()
    path = tmp_path / "my_package" / "my_module.py"
    path.write_text(example)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    for name in ("my_package", "my_package.my_module"):
        sys.modules.pop(name, None)


def rewrite(package, old, new):
    text = package.read_text()
    assert old in text
    package.write_text(text.replace(old, new))
    for name in ("my_package", "my_package.my_module"):
        sys.modules.pop(name, None)
    # A module written again within the same second would be taken from the cache.
    for cached in package.parent.rglob("*.pyc"):
        cached.unlink()


def test_the_example_of_the_documentation_is_a_tokenizer(package, tmp_path):
    assert 15 <= len(package.read_text().splitlines()) <= 25
    options = {"floor_db": -60.0}
    speech.make(KIND, options, []).save(str(tmp_path / "saved"))
    described = speech.describe(str(tmp_path / "saved"))
    assert (described["kind"], described["settings"]) == (KIND, options)
    speech.verify(str(tmp_path / "saved"))
    loaded = speech.load(KIND, str(tmp_path / "saved"))
    assert isinstance(loaded, SpeechTokenizer)
    assert loaded.fingerprint == described["fingerprint"]
    clips = [waveform(seed, 1 + seed) for seed in range(3)]
    assert [sequence.num_frames for sequence in encode_all(loaded, clips)] == [50, 100, 150]
    loud, quiet = (loaded.encode([gain * clips[0]])[0].mean() for gain in (1.0, 0.05))
    assert loud > quiet + 3


def test_other_options_are_another_tokenizer(package):
    one, other = (speech.make(KIND, {"floor_db": floor}, []).document for floor in (-60.0, -50.0))
    assert one["fingerprint"] != other["fingerprint"]


def test_all_that_a_class_lacks_is_listed(package):
    rewrite(package, "self.fingerprint", "self.digest")
    rewrite(package, "def encode", "def encode_clips")
    rewrite(package, "max_window_s, codebook, batch_s = None, None, 60.0", "max_window_s, batch_s = None, 60.0")
    with pytest.raises(
        CheckpointError, match=r"lacks fingerprint \(an attribute\), codebook \(an attribute\), encode \(a method\)"
    ):
        speech.make(KIND, {}, [])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            RATES,
            "codebook_size = 16_000, 50.0, 99_999",
            "must be 2 to 65,536, found 99999",
        ),
        (
            RATES,
            'codebook_size = "16k", 50.0, 16',
            "sample_rate_hz: must be int, found '16k'",
        ),
        (RATES, "codebook_size = 16_000, 50.0, 4", "must be below codebook_size 4"),
        (
            RATES,
            "codebook_size = 16_000, 25.0, 16",
            "about 17.5 codes for 0.7 s, found 35",
        ),
        ("np.uint16", "np.int64", "must give uint16 arrays of one dimension, found int64 of 1 dimensions"),
        ("hexdigest()[:16]", "hexdigest()[:0]", "fingerprint: must be a digest of weights and settings, found nothing"),
    ],
)
def test_what_does_not_work_is_told_before_any_unit_is_made(package, old, new, expected):
    rewrite(package, old, new)
    with pytest.raises(CheckpointError, match=expected):
        speech.make(KIND, {}, [])


def test_a_class_whose_codes_depend_on_the_batch_is_refused(package):
    module = package.read_text()
    module += "\n\nclass Padded(Loudness):\n    def encode(self, clips):\n"
    module += "        loudest = max(abs(clip).max() for clip in clips)\n"
    module += "        return super().encode([clip[:] * (0.5 / loudest / len(clips)) for clip in clips])\n"
    package.write_text(module)
    with pytest.raises(CheckpointError, match="a clip must get the same codes alone and in a batch, found others"):
        speech.make(KIND.replace("Loudness", "Padded"), {}, [])


def test_a_class_that_cannot_be_found_or_made_is_told(package):
    with pytest.raises(ConfigError, match=r"must name a class that the workers can import, found no_such\.module:A"):
        speech.make("no_such.module:A", {}, [])
    with pytest.raises(ConfigError, match="must name a class that the workers can import, found my_package"):
        speech.make(KIND.replace("Loudness", "Softness"), {}, [])
    with pytest.raises(ConfigError, match=r"tokenizer.options: must be what my_package.*takes, found \{'floor': 1\}"):
        speech.make(KIND, {"floor": 1}, [])


def test_a_class_that_has_become_another_since_is_refused(package, tmp_path):
    speech.make(KIND, {}, []).save(str(tmp_path / "saved"))
    rewrite(package, "loudness 1", "loudness 2")
    with pytest.raises(CheckpointError, match="its code or weights are others now"):
        speech.load(KIND, str(tmp_path / "saved"))


def test_windows_of_a_class_with_a_longest_window_are_stitched(package):
    rewrite(package, "max_window_s, codebook, batch_s = None", "max_window_s, codebook, batch_s = 10.0")
    speech.make(KIND, {}, [])
    found = sys.modules["my_package.my_module"].Loudness()
    clip = waveform(3, 33.3)
    codes = np.repeat(*[getattr(encode_all(found, [clip])[0], name) for name in ("units", "durations")])
    assert np.array_equal(codes, found.encode([clip])[0])
