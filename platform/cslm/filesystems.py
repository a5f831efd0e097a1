"""Which file system a path or URI lies on, and the clients of object stores.

Credentials come from the usual chains. For `s3://` the variables AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION,
AWS_DEFAULT_REGION, AWS_MAX_ATTEMPTS and AWS_CA_BUNDLE mean what they mean to AWS's own tools; for `gs://`
STORAGE_EMULATOR_HOST names another server of Google's interface, which is asked without credentials.
"""

import os
import re
from datetime import timedelta
from functools import cache

from pyarrow import fs as pafs

_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://")
_S3_ATTEMPTS = 6
_GCS_RETRY = timedelta(seconds=60)


def is_uri(path: str) -> bool:
    """Whether `path` names a scheme (`s3://...`) rather than a local path."""
    return bool(_SCHEME.match(path))


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow file system of a path or URI and the path inside it; what follows a bucket's name is taken verbatim.

    Raises ValueError for a scheme that is not known.
    """
    scheme, has_scheme, inner = uri.partition("://")
    if not has_scheme or not is_uri(uri):
        return pafs.LocalFileSystem(), os.path.abspath(uri)
    if scheme == "s3":
        setting = os.environ.get
        endpoint = setting("AWS_ENDPOINT_URL_S3") or setting("AWS_ENDPOINT_URL")
        region = setting("AWS_REGION") or setting("AWS_DEFAULT_REGION")
        attempts = int(setting("AWS_MAX_ATTEMPTS") or _S3_ATTEMPTS)
        bucket = None if endpoint or region else inner.partition("/")[0]
        return _s3(endpoint, region, bucket, attempts, setting("AWS_CA_BUNDLE")), inner
    if scheme == "gs":
        return _gcs(os.environ.get("STORAGE_EMULATOR_HOST")), inner
    system, inner = pafs.FileSystem.from_uri(uri)
    return system, inner


@cache
def _s3(
    endpoint: str | None, region: str | None, bucket: str | None, attempts: int, authorities: str | None
) -> pafs.FileSystem:
    """One client for each set of settings: connections are kept for the next request."""
    return pafs.S3FileSystem(
        endpoint_override=endpoint,
        region=region or ("us-east-1" if bucket is None else pafs.resolve_s3_region(bucket)),
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        tls_ca_file_path=authorities,
        # A small object then is one request and not three.
        allow_delayed_open=True,
    )


@cache
def _gcs(endpoint: str | None) -> pafs.FileSystem:
    if not endpoint:
        return pafs.GcsFileSystem(retry_time_limit=_GCS_RETRY)
    scheme, _, host = endpoint.rpartition("://")
    return pafs.GcsFileSystem(
        anonymous=True, scheme=scheme or "http", endpoint_override=host.rstrip("/"), retry_time_limit=_GCS_RETRY
    )
