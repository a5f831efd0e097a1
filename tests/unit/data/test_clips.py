import numpy as np
import pytest

from cslm import contracts, storage
from cslm.data import alignments, clips
from cslm.errors import CheckpointError
from cslm.speech import tokenizer as speech
from cslm.speech.decoder.mel import MelShape
from tests.data import aligning, sounds

MEL = MelShape()
# Those of `aligning` that are about audio.
FAULTS = ["missing", "source_changed"]


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenized")
    aligning.write_units(root, 46, rows_a_file=16)
    return root


@pytest.fixture
def written(tokenized, tmp_path):
    units = str(tokenized / "units")
    tokenizer = speech.describe(str(tokenized / "tokenizer"))["fingerprint"]
    shards = alignments.shards(units, None, None)

    def write(shard, **changes):
        options = {"tokenizer": tokenizer, "mel": MEL, "speakers": None, **changes}
        return clips.write_shard(str(tmp_path), units, shard, **options)

    return write, shards, str(tmp_path)


def test_every_utterance_becomes_a_clip_or_is_rejected_with_its_reason(written):
    write, shards, output = written
    counts = [write(shard) for shard in shards]
    assert sum(one["clips"] + one["rejected"] for one in counts) == 46
    assert sorted(reason for one in counts for reason in one["reasons"]) == FAULTS
    rejects = contracts.load("rejects").check(storage.read_table(storage.list_files(f"{output}/rejects", ".parquet")))
    assert sorted(rejects.column("error").to_pylist()) == FAULTS
    found = clips.read(output, [shard["name"] for shard in shards], 16_000)
    assert sum(one["clips"] for one in counts) == len(found)
    assert {clip.speaker for clip in found} == {clips.NOBODY}
    for clip in found:
        seed = int(clip.id[1:])
        expected = sounds.waveform(seed, 1.0 + 0.1 * (seed % 7))
        np.testing.assert_allclose(clip.samples / 32767, expected, atol=1e-4)
        assert clip.num_frames == clip.durations.sum()


def test_what_was_written_is_not_redone(written, tokenized):
    write, shards, output = written
    first = write(shards[0])
    place = f"{output}/{clips.FOLDER}/{shards[0]['name']}.parquet"
    storage.remove(place)
    assert write(shards[0]) == first
    assert not storage.exists(place)
    assert write(shards[0], most=2)["clips"] <= 2
    assert storage.exists(place)


def test_speakers_are_chosen_by_name(written):
    write, shards, _ = written
    assert write(shards[0], speakers=["nobody else"])["clips"] == 0
    assert write(shards[0], speakers=[clips.NOBODY])["clips"] > 0


def test_units_of_another_tokenizer_are_refused(written):
    write, shards, _ = written
    with pytest.raises(CheckpointError, match="another"):
        write(shards[0], tokenizer="another")


def test_shares_of_the_ranks_are_all_clips_once(written):
    write, shards, output = written
    names = [shard["name"] for shard in shards]
    for shard in shards:
        write(shard)
    whole = [clip.id for clip in clips.read(output, names, 16_000)]
    shares = [[clip.id for clip in clips.read(output, names, 16_000, (rank, 3))] for rank in range(3)]
    assert sorted(whole) == sorted(one for share in shares for one in share)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
