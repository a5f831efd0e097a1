"""A fourth language on the demo corpus, with the real jobs, at a size that takes minutes: refused, killed, promoted."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

from cslm import storage
from cslm.demo import drops
from cslm.languages import schedule
from cslm.languages.schedule import ScheduleSection
from cslm.speech.tokenizers import KMeansSection
from cslm.speech.tokenizers.kmeans import KMeansTokenizer
from cslm.tracking import Registry

ROOT = Path(__file__).resolve().parents[2]
ORDER = ("en", "zh", "es", "fr")
NAMES = {"en": "English", "zh": "Mandarin", "es": "Spanish", "fr": "French"}
CORPUS = {
    "corpus.num_utterances": 1600, "corpus.languages": list(ORDER), "corpus.concepts": 3, "corpus.shard_size": 400,
    "corpus.statement_kinds": ["things"], "corpus.fact_kinds": ["colour"],
}  # fmt: skip
STEPS: dict[str, Any] = {
    "rows_per_step": 8, "micro_batch_rows": 8, "num_workers": 1, "log_every_steps": 10, "checkpoint_every_steps": 20,
    "device": "cpu", "optimizer": "muon", "learning_rate": 0.005, "embedding_learning_rate": 0.03,
}  # fmt: skip
# In fp32 a run that was killed ends with the very weights of one that was not.
EXACT = {"precision": "fp32"}
CONFIGS: dict[str, dict[str, Any]] = {
    "tokenize": {"filters": {"duplicate_audio": False}, "tokenizer": {"device": "cpu"}},
    "pretrain": {
        "data": {"row_length": 256, "weights": {"asr": 1.0, "tts": 0.02, "mt": 0.1, "text": 0.3}},
        "model": {"shape": "micro", "text_vocab_size": 500},
        "train": {**STEPS, "max_steps": 100},
        "deepspeed": EXACT,
    },
    "sft": {
        "data": {
            "row_length": 256, "chain": {"form": "full"},
            "weights": {"answer": 0.3, "text": 0.3, "asr": 1.0, "tts": 0.0, "mt": 0.0},
        },
        "train": {**STEPS, "max_steps": 40},
        "deepspeed": EXACT,
    },
    "evaluate": {
        "evaluate": {"max_utterances": 30, "max_spoken": 0, "max_translations": 0, "max_speech_translations": 0,
                     "max_questions": 4, "num_workers": 1, "device": "cpu", "samples": 1},
        "sampling": {"max_new_tokens": 32}, "perplexity": {"max_examples": 30}, "similarity": {"max_pairs": 0},
        "latency": {"max_questions": 0},
    },
}  # fmt: skip
SETTINGS = {
    "languages": "cards",
    "output": {"path": "retrain"},
    "recipe": {"tokenizer": "tokenizer", "align": None, **{job: f"configs/{job}.yaml" for job in CONFIGS}},
    "replay": {"share": 0.6},
    "look": {"reader_steps": 600, "device": "cpu"},
    # After minutes a model hears little; how well it foretells what is said shows learning and forgetting alike.
    "gate": {"margins": {}, "relative_margins": {"asr/*/perplexity": 0.15}, "max_off_target": 1.0},
}


def command(config: Path) -> list[str]:
    return [sys.executable, "-P", str(ROOT / "jobs" / "retrain.py"), "--config", str(config)]


class Home:
    """A folder with a corpus, cards, configs and a tokenizer, and the job in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ, "CSLM_HOME": str(folder), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "PYTHONPATH": os.pathsep.join(["platform", os.environ.get("PYTHONPATH", "")]), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        made = [part for key, value in CORPUS.items() for part in (f"--{key}", str(value).replace("'", ""))]
        self.finish([sys.executable, "-m", "cslm.apps.demo_corpus", "--output.path", "corpus", *made])
        for job, document in CONFIGS.items():
            document = {**document, "output": {"path": job}}
            storage.write_text(str(folder / "configs" / f"{job}.yaml"), yaml.safe_dump(document))
        paths = {name: str(folder / path) if str(path).startswith("configs/") else path
                 for name, path in SETTINGS["recipe"].items()}  # type: ignore[attr-defined]  # fmt: skip
        storage.write_text(str(folder / "retrain.yaml"), yaml.safe_dump({**SETTINGS, "recipe": paths}))
        files = sorted((folder / "corpus" / "audio" / "en").rglob("*.wav"))[:200]
        import soxr

        sounds = [soxr.resample(*soundfile.read(file, dtype="float32"), 16_000) for file in files]
        KMeansTokenizer.fit(sounds, KMeansSection(codebook_size=100)).save(str(folder / "tokenizer"))

    def bring(self, code: str, target: float, *, shuffled: bool = False) -> None:
        """Card and data of a language."""
        folder = str(self.folder / "drops")
        drops.bring(str(self.folder / "corpus"), folder, ORDER, code, shuffle_seed=1 if shuffled else None)
        card = {
            "name": NAMES[code], "code": code, "script": "Hans" if code == "zh" else "Latn",
            "words": "segmented" if code == "zh" else "spaced",
            "sources": {
                "speech": [{"manifest": f"drops/utterances/{code}", "root": "corpus"}],
                "parallel_text": [{"uri": f"drops/parallel_text/{code}"}],
                "dialogues": [{"uri": f"drops/dialogues/{code}"}],
            },
            "filters": {"duplicate_audio": False},
            "targets": {f"asr/{code}/perplexity": target},
        }  # fmt: skip
        storage.write_text(str(self.folder / "cards" / f"{code}.yaml"), yaml.safe_dump(card))

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*command(self.folder / "retrain.yaml"), *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def tick(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        said, _ = process.communicate()
        return process.returncode, said

    def killed_in(self, step: str) -> None:
        """A tick that is killed as soon as it has started a step."""
        process = self.start()
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith(f"{step} ─"):
                break
        else:
            pytest.fail(f"never began {step}:\n{said}")
        process.kill()
        process.communicate()

    def finish(self, program: list[str]) -> None:
        done = subprocess.run(program, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def summary(self) -> dict[str, Any]:
        return dict(storage.read_json(str(self.folder / "retrain" / "summary.json")))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    made = Home(tmp_path)
    for name in ("CSLM_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, made.environment[name])
    return made


def missed(home: Home, every: str) -> None:
    """Have the times kept by the job lie in the past, as after a night without power."""
    process = home.start("--every", every)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("next: "):
            break
    process.kill()
    process.communicate()
    folder = home.folder / "retrain"
    tick = command(folder / "tick.yaml")
    kept = schedule.opened(every, ScheduleSection(), str(folder), "cslm.apps.retrain_schedule:tick", tick)
    kept.modify_job("retrain", next_run_time=datetime.now(UTC) - timedelta(days=9))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_fourth_language_is_refused_when_it_harms_and_promoted_when_it_does_not(home: Home) -> None:
    for language in ORDER[:3]:
        home.bring(language, target=1000.0)
    # The scheduled tick that was missed makes the champion of three.
    missed(home, "0 3 * * 1")
    process = home.start("--every", "0 3 * * 1")
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "promoted as version 1" in line:
            break
    else:
        pytest.fail(said)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    registry = Registry("cslm")
    first = registry.champion()
    assert first is not None
    assert first.tags["cslm.languages"] == "en,es,zh"
    target = 1.5 * min(_perplexities(first.uri).values())

    # Poisoned: transcripts of other utterances.
    home.bring("fr", target, shuffled=True)
    code, said = home.tick()
    assert code == 3, said
    (run,) = home.summary()["runs"].values()
    assert run["ending"] in ("no-go", "refused")
    assert registry.champion() == first

    # Without replay what the champion could do is forgotten.
    home.bring("fr", target)
    code, said = home.tick("--replay.share", "0")
    assert code == 3, said
    (run,) = home.summary()["runs"].values()
    assert run["ending"] == "refused"
    assert any("a fall of" in reason and "beyond it" in reason for reason in run["reasons"]), run["reasons"]
    assert registry.champion() == first

    # With replay; killed in every step.
    for step in ("ceiling", "pretrain", "sft", "evaluate", "evaluate champion"):
        home.killed_in(step)
        assert registry.champion() == first
    code, said = home.tick()
    assert code == 0, said
    second = registry.champion()
    assert second is not None
    assert second.tags["cslm.languages"] == "en,es,fr,zh"
    assert registry.previous() == first
    (run,) = home.summary()["runs"].values()
    html = Path(run["report"]).read_text(encoding="utf-8")
    for name in (*(f"asr/{code}" for code in ORDER), *(f"answer/{code}-{code}" for code in ORDER)):
        assert name in html
    killed = _scores(run["report"])

    # Taken back and made again without interruption: the same to the last digit.
    assert home.tick("--rollback")[0] == 0
    assert registry.champion() == first
    storage.remove(storage.parent(run["report"]))
    storage.remove(str(home.folder / "retrain" / "state.json"))
    code, said = home.tick()
    assert code == 0, said
    assert _scores(run["report"]) == killed


def _scores(report: str) -> list[dict[str, Any]]:
    folder = storage.join(storage.parent(report), "evaluate", "scores")
    rows: list[dict[str, Any]] = storage.read_table(folder).to_pylist()
    return [row for row in rows if not row["metric"].endswith("_s") and "factor" not in row["metric"]]


def _perplexities(model: str) -> dict[str, float]:
    """Of a model's own evaluation beside it: how well it foretells what is said."""
    summary = storage.read_json(storage.join(storage.parent(storage.parent(model)), "evaluate", "summary.json"))
    return {
        name: value for name, value in summary["metrics"].items() if name.startswith("asr/") and "perplexity" in name
    }
