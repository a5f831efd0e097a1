"""A fourth language on the demo corpus, with the real jobs, at a size that takes minutes: refused, killed, promoted."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
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
EVERY = "0 3 * * 1"
# At the beginning of a line: steps have lines of their own, further in.
DONE = "\nretrain: done: "
# In training behind a checkpoint that was written, and before the next.
KILLED_AT = (
    ("ceiling ─",), ("pretrain ─", "step 50/100"), ("sft ─", "step 30/40"), ("evaluate ─",), ("evaluate champion ─",),
)  # fmt: skip


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

    def scheduled(self, *lines: str, kill: bool = False) -> None:
        """The tick that a scheduler makes up for, as after a night without power, until it said `lines`, in this order.

        Then its process is killed, if asked for, and the scheduler ended.
        """
        if not (self.folder / "retrain" / "schedule.db").exists():
            process = self.start("--every", EVERY)
            _read(process, "next: ")
            process.kill()
            process.communicate()
        tick = command(self.folder / "retrain" / "tick.yaml")
        kept = schedule.opened(
            EVERY, ScheduleSection(), str(self.folder / "retrain"), "cslm.apps.retrain_schedule:tick", tick
        )
        # It stays paused: shut down, it would count the time as kept.
        kept.modify_job("retrain", next_run_time=datetime.now(UTC) - timedelta(days=9))
        process = self.start("--every", EVERY)
        _read(process, "missed: made up for now", *lines)
        if kill:
            (ticking,) = psutil.Process(process.pid).children()
            ticking.kill()
            _read(process, "the next one goes on from there")
        process.terminate()
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


def _read(process: "subprocess.Popen[str]", *lines: str) -> None:
    """Read what a process says until each of `lines` was in it, in this order."""
    assert process.stdout is not None
    said, left = "", list(lines)
    for line in process.stdout:
        said += line
        if left[0] in f"\n{line}":
            left.pop(0)
        if not left:
            return
        is_asleep = line.startswith("next: ") and "missed" not in line
        if is_asleep or "ended with exit code" in line or "the champion stays:" in line:
            break
    process.terminate()
    pytest.fail(f"never said {left[0]!r}:\n{said}")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_fourth_language_is_refused_when_it_harms_and_promoted_when_it_does_not(home: Home) -> None:
    for language in ORDER[:3]:
        home.bring(language, target=1000.0)
    # The scheduled tick makes the champion of three.
    home.scheduled(DONE)
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
    home.scheduled("tokenize fr 0 ─", kill=True)
    code, said = home.tick("--replay.share", "0")
    assert code == 3, said
    (run,) = home.summary()["runs"].values()
    assert run["ending"] == "refused"
    assert any("a fall of" in reason and "beyond it" in reason for reason in run["reasons"]), run["reasons"]
    assert registry.champion() == first

    # With replay, by the schedule; killed in every step.
    for lines in KILLED_AT:
        home.scheduled(*lines, kill=True)
        assert registry.champion() == first
    home.scheduled(DONE)
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
    storage.remove(str(home.folder / "retrain" / "data" / "fr"))
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
