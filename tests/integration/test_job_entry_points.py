"""Every way of starting a job: `python jobs/x.py`, `./jobs/x.py`, and both given to a real `ray job submit`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cslm import storage
from cslm.apps.local_cluster import LocalCluster
from cslm.speech.tokenizers import KMeansSection
from cslm.speech.tokenizers.kmeans import KMeansTokenizer
from tests.data import sounds

ROOT = Path(__file__).parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))
# The program and its working directory, from the repository's root and from the folder of the job.
DIRECT = {
    "python jobs/job.py": (["python", "jobs/{}.py"], "."),
    "./jobs/job.py": (["./jobs/{}.py"], "."),
    "./job.py": (["./{}.py"], "jobs"),
}
SUBMITTED = {"jobs/job.py": ["jobs/{}.py"], "python jobs/job.py": ["python", "jobs/{}.py"]}
# What a job cannot do without, with relative paths.
REQUIRED = {"tokenize": ["--corpus.manifest", "corpus.jsonl", "--output.path", "out"]}


@pytest.fixture(scope="module")
def job_cluster() -> Iterator[LocalCluster]:
    with LocalCluster(num_cpus=4) as started:
        yield started


def program(words: list[str], job: str) -> list[str]:
    return [word.format(job) for word in words]


def submit(cluster: LocalCluster, command: list[str], env: dict[str, str]) -> tuple[int, str]:
    said: list[str] = []
    code = cluster.submit("entry", command, working_dir=str(ROOT), env=env, say=said.append)
    return code, "\n".join(said)


# One form costs a second a job and tells that a job starts; the others differ in the launcher, which is alike in all.
@pytest.mark.parametrize(
    ("job", "form"),
    [*((job, "./jobs/job.py") for job in JOBS), ("tokenize", "python jobs/job.py"), ("tokenize", "./job.py")],
)
def test_a_job_starts_from_a_shell(job: str, form: str) -> None:
    words, folder = DIRECT[form]
    # Without PYTHONPATH: a job finds its package itself.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    command = [*program(words, job), "--help"]
    done = subprocess.run(command, cwd=ROOT / folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: jobs/{job}.py" in done.stdout
    assert "--output.path" in done.stdout


# Each submission costs seconds; the other form is the next test's.
@pytest.mark.parametrize(("job", "form"), [("tokenize", "python jobs/job.py")])
def test_a_submitted_job_refuses_paths_that_would_be_lost(job: str, form: str, job_cluster: LocalCluster) -> None:
    code, said = submit(job_cluster, [*program(SUBMITTED[form], job), *REQUIRED[job]], {})
    assert code == 2, said
    assert "a submitted job runs in Ray's own copy of the working directory, where a relative path is lost" in said
    assert "CSLM_HOME" in said


def test_a_submitted_job_leaves_its_results_where_the_submitter_said(
    job_cluster: LocalCluster, tmp_path: Path, tracking_store: str
) -> None:
    rows = []
    for seed in range(4):
        sounds.write(tmp_path / f"{seed}.wav", seed)
        rows.append({"id": f"u{seed}", "audio": f"{seed}.wav", "language": "en"})
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = KMeansTokenizer.fit([sounds.waveform(1)], KMeansSection(codebook_size=10))
    tokenizer.save(str(tmp_path / "tokenizer"))
    command = [*program(SUBMITTED["jobs/job.py"], "tokenize"), *REQUIRED["tokenize"]]
    env = {"CSLM_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": tracking_store}
    code, said = submit(job_cluster, [*command, "--tokenizer.path", "tokenizer"], env)
    assert code == 0, said
    assert "4 rows = 4 accepted + 0 rejected" in said
    assert storage.read_json(str(tmp_path / "out" / "summary.json"))["status"] == "done"
    assert storage.read_table(str(tmp_path / "out" / "units")).num_rows == 4
