import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm.errors import ConfigError
from cslm.speech import tokenizer
from cslm.speech.tokenizer import encode_all, expand_repeats, merge_repeats, plan_batches

runs = st.lists(st.tuples(st.integers(0, 65535), st.integers(1, 200_000)), max_size=8)


@given(runs)
def test_merging_and_expanding_repeats_gives_every_frame_back(runs):
    codes = np.concatenate([np.full(length, code, np.uint16) for code, length in runs] or [np.empty(0, np.uint16)])
    sequence = merge_repeats(codes)
    assert sequence.units.dtype == sequence.durations.dtype == np.uint16
    assert np.array_equal(expand_repeats(sequence), codes)
    assert sequence.num_frames == len(codes)


@given(st.lists(st.integers(0, 3), max_size=50))
def test_neighbouring_units_differ_and_no_run_is_empty(codes):
    sequence = merge_repeats(np.array(codes, np.int64))
    assert (sequence.units[1:] != sequence.units[:-1]).all()
    assert (sequence.durations > 0).all()


def test_a_run_too_long_for_its_type_is_split():
    sequence = merge_repeats(np.array([7] * 140_000 + [8]))
    assert sequence.units.tolist() == [7, 7, 7, 8]
    assert sequence.durations.tolist() == [65535, 65535, 8930, 1]


@given(st.lists(st.floats(0.1, 60), max_size=40), st.floats(1, 120))
def test_batches_hold_every_clip_once_and_keep_to_their_budget(lengths_s, batch_s):
    batches = plan_batches(lengths_s, batch_s)
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths_s)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths_s[i] for i in batch) <= batch_s


class Lengths:
    """Its codes tell which clip they were made from: the length of the clip, again and again."""

    sample_rate_hz = 10
    batch_s = 5.0
    max_window_s = None

    def encode(self, waveforms):
        return [np.full(len(waveform), len(waveform), np.uint16) for waveform in waveforms]


def test_results_stand_in_the_order_of_the_clips():
    lengths = [30, 5, 70, 12, 12, 1]
    sequences = encode_all(Lengths(), [np.zeros(length, np.float32) for length in lengths])
    assert [int(sequence.units[0]) for sequence in sequences] == lengths


def test_an_unknown_kind_is_told_with_the_known_ones():
    for kind in ("wav2vec", "my-package:Class", "package:", ":Class", "package.module:a.b"):
        with pytest.raises(
            ConfigError, match=r"tokenizer.kind: must be one of \['hubert', 'kmeans', 'learned', 'mimi', 's3'\] or"
        ):
            tokenizer.check_kind(kind)
    tokenizer.check_kind("my_package.my_module:MyTokenizer")


def test_every_kind_in_the_table_is_a_speech_tokenizer():
    for kind in tokenizer.KINDS:
        found = tokenizer.tokenizer_class(kind)
        assert found.kind == kind
        assert all(hasattr(found, name) for name in ("make", "load", "encode", "to", "sample_rate_hz", "max_window_s"))


def test_a_driver_knows_and_checks_kinds_without_loading_what_they_are_made_of():
    script = (
        "import sys\n"
        "from cslm.speech import tokenizer\n"
        "from cslm.speech.tokenizers import HubertSection, MimiSection, S3Section\n"
        "tokenizer.check_kind('s3')\n"
        "assert not {'torch', 'transformers', 's3tokenizer', 'sklearn'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": "platform"})
