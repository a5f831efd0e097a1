"""Gives a node that has just started what it needs to join: `fetch_token.py aws` or `gcp`.

The cluster's token goes where Ray looks for it, MLflow's password where its client looks, and the place of results to
~/.cslm_home. They lie in the cloud's own store of secrets, which the node's role may read: in no file of the cluster's
definition, on no command line and in no log. Its owner runs the same on a laptop.
"""

import base64
import json
import os
import sys
import urllib.request
from pathlib import Path

NAMES = ("ray-auth-token", "mlflow-password", "bucket")
_SCHEMES = {"aws": "s3", "gcp": "gs"}
_AWS_METADATA = "http://169.254.169.254/latest"
_GCP_METADATA = "http://metadata.google.internal/computeMetadata/v1"


def main(cloud: str) -> None:
    """Read all three, and write them with rights for this user alone."""
    token, password, bucket = {"aws": of_aws, "gcp": of_gcp}[cloud]()
    home = Path.home()
    keep(Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or home / ".ray" / "auth_token"), token)
    login = f"[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = {password}\n"
    keep(home / ".mlflow" / "credentials", login)
    keep(home / ".cslm_home", f"{_SCHEMES[cloud]}://{bucket}/cslm")


def keep(target: Path, content: str) -> None:
    """Write a file that nobody else may read."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.touch(mode=0o600)
    target.chmod(0o600)
    target.write_text(content)


def of_aws() -> list[str]:
    """From the parameter store of the node's region."""
    import boto3

    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or _aws_region()
    store = boto3.client("ssm", region_name=region)
    return [str(store.get_parameter(Name=f"/cslm/{name}", WithDecryption=True)["Parameter"]["Value"]) for name in NAMES]


def _aws_region() -> str:
    ticket = _read(f"{_AWS_METADATA}/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT")
    return _read(f"{_AWS_METADATA}/meta-data/placement/region", {"X-aws-ec2-metadata-token": ticket})


def of_gcp() -> list[str]:
    """From the secret manager of the node's project, as the node's service account."""
    mark = {"Metadata-Flavor": "Google"}
    project = _read(f"{_GCP_METADATA}/project/project-id", mark)
    ticket = json.loads(_read(f"{_GCP_METADATA}/instance/service-accounts/default/token", mark))["access_token"]
    found = []
    for name in NAMES:
        secret = (
            f"https://secretmanager.googleapis.com/v1/projects/{project}/secrets/cslm-{name}/versions/latest:access"
        )
        answer = json.loads(_read(secret, {"Authorization": f"Bearer {ticket}"}))
        found.append(base64.b64decode(answer["payload"]["data"]).decode())
    return found


def _read(url: str, headers: dict[str, str], method: str = "GET") -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=30) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    main(sys.argv[1])
