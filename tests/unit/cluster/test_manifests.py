"""The Kubernetes manifests against their schemas, strictly, by Ray's own reading of them, and by what they promise.

Kubernetes' own kinds are checked against the schemas of its API; those of KubeRay and Prometheus against small ones in
tests/data/crds, and the pods inside them as pods.
"""

import copy
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from cslm import config
from cslm.apps.job import JobConfig

ROOT = Path(__file__).parents[3]
KUBERNETES = ROOT / "cluster" / "kubernetes"
VERSION = "1.33"
CRDS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "tests" / "data" / "crds").glob("*.json")}
FILES = sorted(
    path
    for folder in (KUBERNETES, ROOT / "cluster" / "kubernetes_with_volume")
    for path in folder.rglob("*.yaml")
    if path.name != "kustomization.yaml"
)


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [
        one for path in FILES for one in documents(path) if (one["kind"], one["metadata"].get("name")) == (kind, name)
    ]
    return found


def pods(node: Any) -> Iterator[dict[str, Any]]:
    """Every pod that a document makes: wherever a `spec` has containers."""
    if isinstance(node, dict):
        if isinstance(node.get("spec"), dict) and "containers" in node["spec"]:
            yield node
        for value in node.values():
            yield from pods(value)
    elif isinstance(node, list):
        for value in node:
            yield from pods(value)


def check(document: dict[str, Any]) -> None:
    """Raise a ValidationError where the API server, or the operator, would."""
    schema = CRDS.get(document["kind"])
    if schema is None:
        kubernetes_validate.validate(document, VERSION, strict=True)
        return
    jsonschema.validate(document, schema)
    for pod in pods(document["spec"]):
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **pod}, VERSION, strict=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_manifest_is_what_its_schema_says(path: Path) -> None:
    found = documents(path)
    assert found
    for document in found:
        check(document)


def test_the_checks_find_what_is_wrong() -> None:
    cluster = named("RayCluster", "cslm")
    for change in (
        lambda spec: spec.update(enableAutoscaling=True),
        lambda spec: spec["workerGroupSpecs"][0].update(maxReplica=3),
        lambda spec: spec["autoscalerOptions"].update(version="v3"),
        lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0].update(volumeMount=[]),
        lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    ):
        wrong = copy.deepcopy(cluster)
        change(wrong["spec"])
        with pytest.raises(jsonschema.ValidationError):
            check(wrong)
    policy = copy.deepcopy(named("NetworkPolicy", "closed"))
    policy["spec"]["policyType"] = ["Ingress"]
    with pytest.raises(jsonschema.ValidationError):
        check(policy)


@pytest.mark.parametrize("folder", [KUBERNETES, ROOT / "cluster" / "kubernetes_with_volume"], ids=lambda one: one.name)
def test_what_is_applied_together_is_there(folder: Path) -> None:
    (kustomization,) = documents(folder / "kustomization.yaml")
    for name in kustomization["resources"]:
        assert (folder / name).exists()
    for generated in kustomization.get("configMapGenerator", []):
        assert all((folder / name).is_file() for name in generated.get("envs", []) + generated.get("files", []))


def test_ray_reads_the_groups_as_they_are_meant() -> None:
    cluster = yaml.safe_load(yaml.safe_dump(named("RayCluster", "cslm")))
    cluster["metadata"]["namespace"] = "cslm"
    told = _derive_autoscaling_config_from_ray_cr(cluster)
    types = told["available_node_types"]
    head = types.pop(told["head_node_type"])
    assert head["resources"]["CPU"] == 0
    assert {name: (kind["min_workers"], kind["max_workers"]) for name, kind in types.items()} == {
        "tokenize-gpu": (0, 16),
        "train-gpu": (0, 4),
        "cpu": (0, 16),
    }
    for name, (gpus, accelerator) in {"tokenize-gpu": (1, "L4"), "train-gpu": (8, "H100")}.items():
        resources = types[name]["resources"]
        assert (resources["GPU"], resources[f"accelerator_type:{accelerator}"]) == (gpus, 1)
        container = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
        (may_start,) = [one["value"] for one in container["env"] if one["name"] == "CSLM_AUTOSCALED_GPUS"]
        assert f"{accelerator}:{gpus * types[name]['max_workers']}" in may_start
    assert cluster["spec"]["authOptions"]["mode"] == "token"
    assert cluster["spec"]["autoscalerOptions"]["version"] == "v2"


def test_the_volume_is_mounted_in_every_group() -> None:
    (kustomization,) = documents(ROOT / "cluster" / "kubernetes_with_volume" / "kustomization.yaml")
    (patch,) = kustomization["patches"]
    paths = {operation["path"] for operation in yaml.safe_load(patch["patch"])}
    groups = ["headGroupSpec", *(f"workerGroupSpecs/{n}" for n in range(len(named_groups())))]
    for group in groups:
        assert f"/spec/{group}/template/spec/volumes/-" in paths
        assert f"/spec/{group}/template/spec/containers/0/volumeMounts/-" in paths


def named_groups() -> list[dict[str, Any]]:
    return list(named("RayCluster", "cslm")["spec"]["workerGroupSpecs"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_pod_has_no_rights_that_it_does_not_need(path: Path) -> None:
    """What the namespace's level `restricted` refuses; and whoever has a token of Kubernetes' has it by name."""
    for document in documents(path):
        for pod in pods(document):
            spec = pod["spec"]
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
            assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
            assert not any("hostPath" in volume for volume in spec.get("volumes", []))
            for container in spec["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
                assert "memory" in container["resources"]["limits"]


def test_nobody_is_reached_but_by_those_who_are_named() -> None:
    policies = [one for one in documents(KUBERNETES / "network.yaml") if one["kind"] == "NetworkPolicy"]
    closed = next(one["spec"] for one in policies if one["metadata"]["name"] == "closed")
    assert closed["podSelector"] == {}
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in closed
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"]
            for who in rule["from"]:
                assert (
                    who["podSelector"]["matchLabels"]
                    if "podSelector" in who
                    else who["namespaceSelector"]["matchLabels"]
                )
    services = [one for path in FILES for one in documents(path) if one["kind"] == "Service"]
    assert all(one["spec"].get("type", "ClusterIP") == "ClusterIP" for one in services)


def test_pods_are_who_there_is_an_account_for() -> None:
    accounts = {
        one["metadata"]["name"] for one in documents(KUBERNETES / "accounts.yaml") if one["kind"] == "ServiceAccount"
    }
    groups = {"head": named("RayCluster", "cslm")["spec"]["headGroupSpec"]} | {
        one["groupName"]: one for one in named_groups()
    }
    used = {name: group["template"]["spec"]["serviceAccountName"] for name, group in groups.items()}
    assert set(used.values()) <= accounts
    # KubeRay lets the head's account change the cluster: workers are somebody else.
    assert used.pop("head") not in used.values()


def test_no_secret_is_in_a_file() -> None:
    assert not any(one["kind"] == "Secret" for path in FILES for one in documents(path))
    asked = {
        (env["valueFrom"]["secretKeyRef"]["name"], env["valueFrom"]["secretKeyRef"]["key"])
        for path in FILES
        for one in documents(path)
        for pod in pods(one)
        for container in pod["spec"]["containers"]
        for env in container.get("env", [])
        if "valueFrom" in env
    }
    made = (KUBERNETES / "secrets.sh").read_text()
    assert {name for name, _ in asked} == {"cslm-mlflow"}
    assert all(re.search(rf"^  {key}:", made, re.MULTILINE) for _, key in asked)


@pytest.mark.parametrize("path", sorted((KUBERNETES / "jobs").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_command_of_a_job_is_one_that_it_takes(path: Path) -> None:
    (document,) = documents(path)
    # The image has the checkout there.
    program, *arguments = document["spec"]["entrypoint"].replace("/opt/cslm", str(ROOT)).split()
    launcher = Path(program)
    assert launcher.is_file()
    assert document["spec"]["clusterSelector"] == {"ray.io/cluster": "cslm"}
    found = config.parse(
        importlib.import_module(f"cslm.apps.{launcher.stem}").Config, arguments, prog="", description=""
    )
    assert isinstance(found, JobConfig)


def test_every_job_of_the_corpus_and_model_has_its_manifest() -> None:
    written = {path.stem for path in (KUBERNETES / "jobs").glob("*.yaml")}
    launchers = {path.stem for path in (ROOT / "jobs").glob("*.py")}
    # Reading text corpora is a matter of a laptop.
    assert launchers - {"ingest"} <= written
