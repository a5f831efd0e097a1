"""Tables of several languages as one set: every file once, again nothing, and what is gone goes."""

from pathlib import Path

import numpy as np
import pytest

from cslm import storage
from cslm.data import assembled
from cslm.errors import ConfigError
from cslm.speech.tokenizers import KMeansSection
from cslm.speech.tokenizers.kmeans import KMeansTokenizer
from tests.data import tables


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, dict[str, list[str]]]:
    found = {}
    for seed, code in enumerate(("en", "xx")):
        root = tmp_path / code
        tables.write(root, num_utterances=20, seed=seed)
        found[code] = {"units": [str(root / "units")], "dialogues": [str(root / "dialogues")]}
    return found


def test_every_file_has_its_place_under_the_name_of_its_source(
    sources: dict[str, dict[str, list[str]]], tmp_path: Path
) -> None:
    target = str(tmp_path / "together")
    assert assembled.assemble(sources, target) == {"units": 4, "parallel_text": 0, "dialogues": 2}
    names = [uri.removeprefix(target) for uri in storage.list_files(f"{target}/units")]
    assert "/units/language=en/split=train/xx-0-shard-00000.parquet" in names
    assert storage.read_table(f"{target}/units").num_rows == 40
    assert storage.exists(f"{target}/tokenizer/speech_tokenizer.json")
    before = storage.listing_digest(target)
    assembled.assemble(sources, target)
    assert storage.listing_digest(target) == before
    # The same files made again are the same to whoever looks at names, sizes and times.
    digest = storage.listing_digest(f"{target}/units")
    storage.remove(f"{target}/assembled.json")
    storage.remove(f"{target}/units/language=en/split=test/en-0-shard-00000.parquet")
    assembled.assemble(sources, target)
    assert storage.listing_digest(f"{target}/units") == digest
    del sources["xx"]
    assert assembled.assemble(sources, target)["units"] == 2
    assert storage.read_table(f"{target}/units").num_rows == 20


def test_units_of_two_tokenizers_are_refused(sources: dict[str, dict[str, list[str]]], tmp_path: Path) -> None:
    other = KMeansTokenizer(KMeansSection(codebook_size=4), np.eye(4, 39, dtype=np.float32))
    storage.remove(f"{sources['xx']['units'][0]}/tokenizer")
    other.save(f"{sources['xx']['units'][0]}/tokenizer")
    with pytest.raises(ConfigError, match="one tokenizer"):
        assembled.assemble(sources, str(tmp_path / "together"))
