"""The tokenize job with tokenizers that are networks, or a user's own: made on the cluster, kept, and known again."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save

from cslm import cluster, contracts, storage
from cslm.apps import tokenize
from cslm.apps.job import Job
from cslm.config import parse
from cslm.data import manifest
from cslm.speech import tokenizer as speech
from cslm.speech.tokenizer import merge_repeats
from tests.data import networks, sounds
from tests.unit.speech.test_own_tokenizer import KIND, package  # noqa: F401

NUM_CLIPS = 6


@pytest.fixture
def corpus(home):
    """A few recordings, one of them longer than a window of the tokenizer."""
    rows = []
    for seed in range(NUM_CLIPS):
        sounds.write(home / "audio" / f"{seed}.wav", seed, 11.0 if seed == 3 else 1.0 + 0.2 * seed)
        rows.append({"id": f"u{seed}", "audio": f"audio/{seed}.wav", "language": ("en", "es")[seed % 2]})
    (home / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


def arguments(**changes):
    settings = {"corpus.manifest": "corpus.jsonl", "output.path": "out", "tokenizer.max_actors": 1}
    settings |= {f"tokenizer.{name.replace('__', '.')}": value for name, value in changes.items()}
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


HUBERT = {
    "kind": "hubert",
    "hubert__model": "model",
    "hubert__layer": 2,
    "hubert__codebook_size": 20,
    "hubert__fit_audio_s": 8,
    "hubert__max_window_s": 6,
}


def without_ray(monkeypatch):
    def refuse(section):
        raise AssertionError("Ray must not be needed")

    monkeypatch.setattr(cluster, "connect", refuse)


def test_units_of_a_network_fitted_on_the_corpus(corpus, ray_cluster, monkeypatch, capsys):
    networks.hubert_folder(corpus / "model")
    assert tokenize.main(arguments(**HUBERT)) == 0
    table = contracts.load("units").check(storage.read_table(str(corpus / "out" / "units"))).sort_by("id")
    # The folder is whole: here, in another process, it gives the units that the actor made.
    tokenizer = speech.load("hubert", str(corpus / "out" / "tokenizer"))
    for row in table.to_pylist():
        seed = int(row["id"][1:])
        seconds = 11.0 if seed == 3 else 1.0 + 0.2 * seed
        assert row["num_frames"] == (round(seconds * 16_000) - 400) // 320 + 1
        assert row["tokenizer"] == tokenizer.fingerprint
        if seed != 3:
            samples = torch.tensor(sounds.waveform(seed, seconds)).mul(32767).round().div(32768).numpy()
            expected = merge_repeats(tokenizer.encode([samples])[0])
            same = row["units"] == expected.units.tolist()
            assert same or abs(len(row["units"]) - len(expected.units)) <= 3  # files hold 16 bits
    # The same command knows that all is done; the model's folder may be gone by then.
    without_ray(monkeypatch)
    moved = shutil.move(corpus / "model", corpus / "elsewhere")
    assert tokenize.main(arguments(**HUBERT)) == 0
    assert "finished before, nothing to do" in capsys.readouterr().out
    assert tokenize.main(arguments(**HUBERT | {"hubert__model": moved})) == 0
    # Other settings, or other weights under the same name, are another tokenizer.
    assert tokenize.main(arguments(**HUBERT | {"hubert__layer": 1})) == 2
    assert "units of two tokenizers never mix" in capsys.readouterr().err
    networks.hubert_folder(corpus / "model", norm="layer")
    assert tokenize.main(arguments(**HUBERT)) == 2
    assert "tokenizer.hubert: must name the weights that the tokenizer of this output was made from" in (
        capsys.readouterr().err
    )


def test_weights_of_another_variant_end_the_job_in_a_sentence(corpus, ray_cluster, capsys):
    (corpus / "weights").write_bytes(save(networks.s3_state("speech_tokenizer_v2_25hz")))
    wanted = {"kind": "s3", "s3__weights": "weights", "s3__variant": "speech_tokenizer_v3_25hz"}
    assert tokenize.main(arguments(**wanted)) == 1
    told = capsys.readouterr().err
    assert "they are those of speech_tokenizer_v2_25hz: set it" in told
    assert "Traceback" not in told
    assert not (corpus / "out" / "tokenizer").exists()


def test_what_a_kind_cannot_do_without_is_told_at_once(corpus, monkeypatch, capsys):
    without_ray(monkeypatch)
    assert tokenize.main(arguments(kind="s3")) == 2
    told = capsys.readouterr().err
    assert "tokenizer.s3.weights: required, not given" in told
    assert "tokenizer.s3.variant: required, not given" in told
    assert tokenize.main(arguments(kind="wav2vec")) == 2
    assert "tokenizer.kind: must be one of" in capsys.readouterr().err


def test_a_users_own_class_is_made_and_known_again(corpus, package, capsys):  # noqa: F811
    # The workers of the shared cluster cannot import it, so what they would do is done here.
    wanted = {"kind": KIND, "options__floor_db": -60}
    config = parse(tokenize.Config, arguments(**wanted), prog="tokenize", description="")
    job = Job("tokenize", config, str(corpus / "out"))
    manifest.prepare(config.corpus, job.output)
    folder = str(corpus / "out" / "tokenizer")
    assert tokenize._known_tokenizer(config.tokenizer, folder) is None
    described = tokenize._make._function(config, job.output, config.tokenizer.options, [folder], "cpu")
    assert described["settings"] == {"floor_db": -60}
    assert tokenize._known_tokenizer(config.tokenizer, folder) == described
    assert tokenize.main(arguments(**wanted | {"options__floor_db": -50})) == 2
    assert "units of two tokenizers never mix" in capsys.readouterr().err
