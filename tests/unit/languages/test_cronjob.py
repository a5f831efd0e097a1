"""The manifest for Kubernetes: one RayJob a time, nothing beside another, history kept, and a command that there is."""

from pathlib import Path
from typing import Any

import yaml

from cslm import config
from cslm.apps import retrain

ROOT = Path(__file__).resolve().parents[3]
MANIFEST = ROOT / "cluster" / "retrain-cronjob.yaml"


def documents() -> dict[str, dict[str, Any]]:
    found = yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))
    return {one["kind"]: one for one in found}


def test_the_cronjob_starts_one_at_a_time_and_keeps_history() -> None:
    spec = documents()["CronJob"]["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["startingDeadlineSeconds"] > 0
    assert spec["successfulJobsHistoryLimit"] >= 3
    assert spec["failedJobsHistoryLimit"] >= 3
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["serviceAccountName"] == documents()["ServiceAccount"]["metadata"]["name"]
    assert documents()["Role"]["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]


def test_what_it_makes_is_a_rayjob_with_a_command_that_there_is() -> None:
    found = documents()
    (volume,) = found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"]
    assert volume["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
    job = yaml.safe_load(found["ConfigMap"]["data"]["retrain.yaml"])
    assert job["kind"] == "RayJob"
    # A fixed name could be made once only; finished ones stay.
    assert job["metadata"] == {"generateName": "retrain-"}
    assert "ttlSecondsAfterFinished" not in job["spec"]
    launcher, *arguments = job["spec"]["entrypoint"].replace("/opt/cslm", str(ROOT)).split()
    assert Path(launcher).is_file()
    parsed = config.parse(retrain.Config, arguments, prog="retrain", description="")
    assert parsed.languages == "languages"
