"""ray_cluster.yaml and cluster/gcp.yaml by Ray's own checks, and the first against a cloud on this machine.

Nothing leaves the machine: addresses are internal ones, boto3 asks moto's server, `ssh` is a stub.
"""

import configparser
import contextlib
import copy
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest
import yaml
from ray.autoscaler._private import util as checks
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.tags import TAG_RAY_CLUSTER_NAME, TAG_RAY_LAUNCH_CONFIG, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from tests.data import cloud

ROOT = Path(__file__).parents[3]
AWS, GCP = ROOT / "ray_cluster.yaml", ROOT / "cluster" / "gcp.yaml"
OWNER = "192.0.2.7"
# One that moto has among its own.
MACHINE_IMAGE = "ami-12c6146b"


def load(name: str) -> ModuleType:
    """A script of cluster/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "cluster" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cloud.Cloud]:
    """The cloud, and the owner's home folder in it."""
    with cloud.running(tmp_path_factory.mktemp("owner")) as server:
        yield server


def up() -> dict[str, str]:
    """`aws_account.py up` as its user types it, and what it prints."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        load("aws_account").main(["up", "--owner_ip", OWNER, "--machine_image", MACHINE_IMAGE])
    return dict(yaml.safe_load(told.getvalue()))


@pytest.fixture(scope="module")
def filled(sky: cloud.Cloud) -> dict[str, Any]:
    """ray_cluster.yaml with the five values that the account's script prints, and internal addresses only."""
    values, text = up(), AWS.read_text()
    asked = read(AWS)["metadata"]
    assert set(values) == set(asked)
    for key, value in values.items():
        text = text.replace(asked[key], value)
    config = dict(yaml.safe_load(text))
    assert config["metadata"] == values
    config["provider"]["use_internal_ips"] = True
    return config


@pytest.fixture(scope="module")
def bootstrapped(filled: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of it before it starts a machine."""
    whole = AWSNodeProvider.fillout_available_node_types_resources(checks.prepare_config(copy.deepcopy(filled)))
    checks.validate_config(whole)
    return dict(AWSNodeProvider.bootstrap_config(whole))


@pytest.mark.parametrize("path", [AWS, GCP], ids=lambda path: path.name)
def test_ray_takes_the_config(path: Path) -> None:
    whole = checks.prepare_config(read(path))
    checks.validate_config(whole)
    with pytest.raises(Exception, match="idle_minutes"):
        checks.validate_config(whole | {"idle_minutes": 3})


@pytest.mark.parametrize("path", [AWS, GCP], ids=lambda path: path.name)
def test_a_config_is_of_a_small_head_and_workers_from_none(path: Path) -> None:
    config = read(path)
    assert len(config["metadata"]) <= 5
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert set(types) == {"tokenize_gpu", "train_gpu", "cpu"}
    assert all(kind.get("min_workers", 0) == 0 for kind in types.values())
    assert sum(kind["max_workers"] for kind in types.values()) == config["max_workers"]
    assert config["idle_timeout_minutes"] > 0
    assert config["file_mounts"] == {}
    assert re.search(r"@sha256:[0-9a-f]{64}$", config["docker"]["image"])
    options = config["docker"]["run_options"]
    assert "-e RAY_AUTH_MODE=token" in options
    assert "-e RAY_object_spilling_directory=/spill" in options
    assert any(option.endswith(":/spill") for option in options)
    # The head's web pages and jobs' port are on its loopback, whatever a firewall says.
    assert any("--dashboard-host=127.0.0.1" in command for command in config["head_start_ray_commands"])
    assert not re.search(r"\bAKIA|aws_secret|auth_token:|BEGIN [A-Z ]*PRIVATE KEY", path.read_text())


def test_what_the_jobs_are_told_of_the_autoscaler_is_what_it_may_start(bootstrapped: dict[str, Any]) -> None:
    told = next(one for one in bootstrapped["docker"]["run_options"] if "CSLM_AUTOSCALED_GPUS" in one)
    types = bootstrapped["available_node_types"]
    for kind, accelerator in (("tokenize_gpu", "L4"), ("train_gpu", "H100")):
        resources = types[kind]["resources"]
        assert resources[f"accelerator_type:{accelerator}"] == 1
        assert f"{accelerator}:{resources['GPU'] * types[kind]['max_workers']}" in told
        assert resources["memory"] > 0
    google = read(GCP)
    # Decoding asks for memory: a type that does not say what it has would never be started for it.
    assert all(kind["resources"]["memory"] for name, kind in google["available_node_types"].items() if name != "head")
    assert f"-e CSLM_AUTOSCALED_GPUS={told.partition('=')[2]}" in google["docker"]["run_options"]
    for kind, accelerator in (("tokenize_gpu", "L4"), ("train_gpu", "H100")):
        resources = google["available_node_types"][kind]["resources"]
        assert f"{accelerator}:{resources['GPU'] * google['available_node_types'][kind]['max_workers']}" in told


def test_an_account_is_made_ready_once_and_closed_to_all_but_the_owner(
    sky: cloud.Cloud, filled: dict[str, Any]
) -> None:
    ec2, ssm = boto3.client("ec2"), boto3.client("ssm")
    token = ssm.get_parameter(Name="/cslm/ray-auth-token", WithDecryption=True)["Parameter"]
    assert token["Type"] == "SecureString"
    assert len(token["Value"]) == 64
    assert up()["security_group"] == filled["metadata"]["security_group"]
    assert ssm.get_parameter(Name="/cslm/ray-auth-token", WithDecryption=True)["Parameter"]["Value"] == token["Value"]
    group = ec2.describe_security_groups(GroupIds=[filled["metadata"]["security_group"]])["SecurityGroups"][0]
    open_to = {one["CidrIp"] for rule in group["IpPermissions"] for one in rule["IpRanges"]}
    assert open_to == {f"{OWNER}/32"}
    assert [rule["FromPort"] for rule in group["IpPermissions"] if rule["IpRanges"]] == [22]
    assert not any(rule.get("Ipv6Ranges") for rule in group["IpPermissions"])
    iam = boto3.client("iam")
    rights = {
        name: iam.get_role_policy(RoleName=name, PolicyName="cslm")["PolicyDocument"]["Statement"]
        for name in ("cslm-head", "cslm-worker")
    }
    bucket = f"arn:aws:s3:::cslm-123456789012-{filled['metadata']['region']}"
    for statements in rights.values():
        for statement in statements:
            if any(action.startswith("s3:") for action in statement["Action"]):
                assert statement["Resource"].startswith(bucket)
    assert not any("ec2:" in action for one in rights["cslm-worker"] for action in one["Action"])


def test_a_moved_owner_takes_the_place_of_the_old_address(sky: cloud.Cloud, filled: dict[str, Any]) -> None:
    account = load("aws_account").Account("us-east-1", "us-east-1a")
    account.up("198.51.100.1", MACHINE_IMAGE)
    group = account.ec2.describe_security_groups(GroupIds=[filled["metadata"]["security_group"]])["SecurityGroups"][0]
    assert [one["CidrIp"] for rule in group["IpPermissions"] for one in rule["IpRanges"]] == ["198.51.100.1/32"]
    account.up(OWNER, MACHINE_IMAGE)


@pytest.mark.parametrize("kind", ["head", "tokenize_gpu", "train_gpu", "cpu"])
def test_each_kind_of_node_is_started_with_its_tags(kind: str, sky: cloud.Cloud, bootstrapped: dict[str, Any]) -> None:
    provider = AWSNodeProvider(bootstrapped["provider"], bootstrapped["cluster_name"])
    node = copy.deepcopy(bootstrapped["available_node_types"][kind])
    tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_LAUNCH_CONFIG: "x", TAG_RAY_USER_NODE_TYPE: kind}
    started = list(provider.create_node(node["node_config"], tags, 1).values())
    assert len(started) == 1
    one = boto3.client("ec2").describe_instances(InstanceIds=[started[0].id])["Reservations"][0]["Instances"][0]
    found = {tag["Key"]: tag["Value"] for tag in one["Tags"]}
    assert (found[TAG_RAY_CLUSTER_NAME], found[TAG_RAY_USER_NODE_TYPE]) == ("cslm", kind)
    assert one["InstanceType"] == node["node_config"]["InstanceType"]
    assert one["IamInstanceProfile"]["Arn"].endswith("cslm-head" if kind == "head" else "cslm-worker")
    groups = [group["GroupId"] for interface in one["NetworkInterfaces"] for group in interface["Groups"]]
    assert groups == [bootstrapped["metadata"]["security_group"]]
    assert (one.get("InstanceLifecycle") == "spot") == (kind in ("tokenize_gpu", "cpu"))
    provider.terminate_node(started[0].id)
    assert not provider.non_terminated_nodes({TAG_RAY_USER_NODE_TYPE: kind})


def test_training_nodes_lie_together_with_their_interface(bootstrapped: dict[str, Any]) -> None:
    node = bootstrapped["available_node_types"]["train_gpu"]["node_config"]
    assert node["Placement"]["GroupName"] == "cslm-train"
    assert [interface["InterfaceType"] for interface in node["NetworkInterfaces"]] == ["efa"]
    assert "InstanceMarketOptions" not in node


def test_a_node_gets_the_token_from_the_account(
    sky: cloud.Cloud, filled: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    load("fetch_token").main("aws")
    token, password = (
        boto3.client("ssm").get_parameter(Name=f"/cslm/{name}", WithDecryption=True)["Parameter"]["Value"]
        for name in ("ray-auth-token", "mlflow-password")
    )
    assert token != password
    assert (tmp_path / ".ray" / "auth_token").read_text() == token
    login = configparser.ConfigParser()
    login.read(tmp_path / ".mlflow" / "credentials")
    assert login["mlflow"]["mlflow_tracking_password"] == password
    assert (tmp_path / ".cslm_home").read_text() == "s3://cslm-123456789012-us-east-1/cslm"
    for name in (".ray/auth_token", ".mlflow/credentials", ".cslm_home"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_ray_up_sets_up_a_head_and_ray_down_ends_it(sky: cloud.Cloud, filled: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "ray_cluster.yaml"
    path.write_text(yaml.safe_dump(filled))
    ray = [str(Path(sys.executable).parent / "ray")]
    log = Path(os.environ["HOME"], "ssh.log")
    log.unlink(missing_ok=True)
    done = subprocess.run(
        [*ray, "up", "-y", "--no-config-cache", str(path)], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    asked = log.read_text()
    for command in ("docker run", "fetch_token.py aws", "ray start --head", "RAY_enable_autoscaler_v2"):
        assert command in asked
    token = boto3.client("ssm").get_parameter(Name="/cslm/ray-auth-token", WithDecryption=True)["Parameter"]["Value"]
    assert token not in asked + done.stdout + done.stderr + json.dumps(filled)
    addresses = set(re.findall(r"ubuntu@([0-9.]+)", asked))
    assert len(addresses) == 1
    assert all(address.startswith("172.31.") for address in addresses)
    subprocess.run([*ray, "down", "-y", str(path)], check=True, capture_output=True)
    states = [
        one["State"]["Name"]
        for reservation in boto3.client("ec2").describe_instances()["Reservations"]
        for one in reservation["Instances"]
    ]
    assert set(states) == {"terminated"}


@pytest.mark.slow
def test_an_account_is_left_as_it_was_but_for_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with cloud.running(tmp_path) as server:
        up()
        bucket = "cslm-123456789012-us-east-1"
        server.client.put_object(Bucket=bucket, Key="units/x", Body=b"x")
        script = load("aws_account")
        script.main(["down"])
        assert f"s3://{bucket}" in capsys.readouterr().out
        account = script.Account("us-east-1", "us-east-1a")
        assert account._groups() == []
        assert server.placement_groups == set()
        assert script.absent(lambda: account.iam.get_role(RoleName="cslm-head"))
        assert script.absent(lambda: account.ssm.get_parameter(Name="/cslm/ray-auth-token"))
        server.client.delete_object(Bucket=bucket, Key="units/x")
        script.main(["down"])
        assert script.absent(lambda: account.s3.head_bucket(Bucket=bucket))
