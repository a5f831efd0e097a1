"""Puts the cluster's token where Ray looks for it on a node that has just started: `fetch_token.py aws` or `gcp`.

The token lies in the cloud's own store of secrets, which the node's role may read. It is in no file of the cluster's
definition, on no command line and in no log.
"""

import base64
import json
import os
import sys
import urllib.request
from pathlib import Path

TOKEN = {"aws": "/cslm/ray-auth-token", "gcp": "cslm-ray-auth-token"}
_AWS_METADATA = "http://169.254.169.254/latest"
_GCP_METADATA = "http://metadata.google.internal/computeMetadata/v1"


def main(cloud: str) -> None:
    """Read the token and write it to RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token when not given."""
    token = {"aws": of_aws, "gcp": of_gcp}[cloud]()
    target = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.touch(mode=0o600)
    target.chmod(0o600)
    target.write_text(token)


def of_aws() -> str:
    """From the parameter store of the node's region."""
    import boto3

    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or _aws_region()
    store = boto3.client("ssm", region_name=region)
    return str(store.get_parameter(Name=TOKEN["aws"], WithDecryption=True)["Parameter"]["Value"])


def _aws_region() -> str:
    ticket = _read(f"{_AWS_METADATA}/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT")
    return _read(f"{_AWS_METADATA}/meta-data/placement/region", {"X-aws-ec2-metadata-token": ticket})


def of_gcp() -> str:
    """From the secret manager of the node's project, as the node's service account."""
    mark = {"Metadata-Flavor": "Google"}
    project = _read(f"{_GCP_METADATA}/project/project-id", mark)
    ticket = json.loads(_read(f"{_GCP_METADATA}/instance/service-accounts/default/token", mark))["access_token"]
    secret = f"https://secretmanager.googleapis.com/v1/projects/{project}/secrets/{TOKEN['gcp']}/versions/latest:access"
    answer = json.loads(_read(secret, {"Authorization": f"Bearer {ticket}"}))
    return base64.b64decode(answer["payload"]["data"]).decode()


def _read(url: str, headers: dict[str, str], method: str = "GET") -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=30) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    main(sys.argv[1])
