import subprocess
import sys

import pytest
import torch

from cslm import recognise
from cslm.speech.recogniser.alphabet import Alphabet
from cslm.speech.recogniser.network import Network, Shape
from cslm.speech.recogniser.recogniser import Recogniser
from cslm.speech.tokenizers import KMeansSection
from cslm.speech.tokenizers.kmeans import KMeansTokenizer
from cslm.speech.tokenizers.learned import LearnedTokenizer
from tests.data import sounds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A recogniser that says "a" of all that is loud in every frame, and two recordings."""
    root = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    network = Network(Shape(width=8, hidden=16, num_blocks=2, unit_block=1), 3)
    with torch.no_grad():
        network.head.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
    saved = LearnedTokenizer.pack(Recogniser(network, Alphabet(("a", "b"))), torch.randn(4, 8), 50.0)
    saved.save(str(root / "model"))
    sounds.write(root / "1.wav", 1)
    (root / "2.flac").write_bytes(sounds.encoded(sounds.waveform(2, 0.5, 44_100), 44_100, "FLAC"))
    return root


def test_a_recording_is_told_as_text(folder):
    ended = subprocess.run(
        [sys.executable, "-m", "cslm.recognise", folder / "model", folder / "1.wav"],
        env={"PYTHONPATH": "platform", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "a\n"), ended.stderr


def test_several_come_with_their_names_and_a_bad_one_keeps_none_back(folder, capsys):
    (folder / "bad.wav").write_text("no sound")
    places = [str(folder / name) for name in ("1.wav", "bad.wav", "gone.wav", "2.flac")]
    assert recognise.main([str(folder / "model"), *places, "--beam", "4"]) == 2
    said = capsys.readouterr()
    assert said.out == f"{places[0]}\ta\n{places[3]}\ta\n"
    assert "bad.wav: a file must be audio" in said.err
    assert "gone.wav" in said.err


def test_another_kind_of_folder_is_refused(folder, tmp_path, capsys):
    clips = [sounds.waveform(seed) for seed in range(3)]
    KMeansTokenizer.fit(clips, KMeansSection(codebook_size=4)).save(str(tmp_path / "kmeans"))
    for name, found in (("kmeans", "kind kmeans"), ("none", "no tokenizer")):
        assert recognise.main([str(tmp_path / name), str(folder / "1.wav")]) != 0
        assert found in capsys.readouterr().err
