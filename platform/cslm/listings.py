"""What lies where, locally and in object stores: paths put together, listings, and digests of listings.

Nothing is opened here; `cslm.storage`, the door to files, gives all of it under its own name.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

from pyarrow import fs as pafs

from cslm.filesystems import filesystem
from cslm.storage_faults import about, retried


class Entry(NamedTuple):
    """A file in a listing: its path or URI, size, and time of change."""

    uri: str
    size: int
    mtime_ns: int | None


def join(base: str, *parts: str) -> str:
    """Join path parts below a local folder or a URI."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def parent(path: str) -> str:
    """The folder that holds `path`."""
    return path.rstrip("/").rpartition("/")[0] or "/"


def name(path: str) -> str:
    """The last part of `path`."""
    return path.rstrip("/").rpartition("/")[2]


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    system, path = filesystem(uri)
    with about(uri):
        return bool(system.get_file_info(path).type != pafs.FileType.NotFound)


def is_folder(uri: str) -> bool:
    """Whether `uri` is a folder (for an object store: whether any object lies below it)."""
    system, path = filesystem(uri)
    with about(uri):
        return bool(system.get_file_info(path).type == pafs.FileType.Directory)


def list_entries(uri: str, suffix: str = "") -> list[Entry]:
    """Every file below a folder whose name ends with `suffix`, sorted by name, by one recursive listing.

    Empty when the folder is not there. Files whose own name, or a folder's name below `uri`, starts with '.' or '_'
    are left out, as Parquet readers do.
    """
    system, path = filesystem(uri)
    with about(uri):
        infos = system.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    base, start = uri.rstrip("/"), len(path.rstrip("/")) + 1
    found = []
    for info in infos:
        inner = info.path[start:]
        if not info.is_file or inner[:1] in (".", "_") or "/." in inner or "/_" in inner:
            continue
        if inner.endswith(suffix):
            found.append(Entry(f"{base}/{inner}", info.size, info.mtime_ns))
    return sorted(found)


def list_files(uri: str, suffix: str = "") -> list[str]:
    """The paths of `list_entries`."""
    return [entry.uri for entry in list_entries(uri, suffix)]


def list_folder(uri: str) -> tuple[list[str], list[Entry]]:
    """Names of the folders right in a folder, and the files right in it; both sorted, nothing hidden."""
    system, path = filesystem(uri)
    if system.type_name == "gcs":
        # pyarrow lists a folder of Google's only where an object stands for it, which uploads do not make.
        below = [(one.uri.removeprefix(uri.rstrip("/") + "/"), one) for one in list_entries(uri)]
        return sorted({inner.partition("/")[0] for inner, _ in below if "/" in inner}), [
            one for inner, one in below if "/" not in inner
        ]
    with about(uri):
        infos = system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    shown = [info for info in infos if not info.base_name.startswith((".", "_"))]
    folders = sorted(info.base_name for info in shown if info.type == pafs.FileType.Directory)
    return folders, sorted(Entry(join(uri, i.base_name), i.size, i.mtime_ns) for i in shown if i.is_file)


def entry(uri: str) -> Entry | None:
    """Size and time of change of a file, None when there is no file of that name."""
    system, path = filesystem(uri)
    with about(uri):
        info = retried(lambda: system.get_file_info(path))
    return Entry(uri, info.size, info.mtime_ns) if info.is_file else None


def listing_digest(uri: str, suffix: str = "") -> str:
    """16 hex digits over the names, sizes and times of change of a file or of all files below a folder."""
    if is_folder(uri):
        return digest(uri, list_entries(uri, suffix))
    found = entry(uri)
    return digest(uri, [found] if found else [])


def digest(uri: str, entries: Iterable[Entry]) -> str:
    """16 hex digits over the names below `uri`, sizes and times of change of files."""
    total = hashlib.sha256()
    for one in entries:
        total.update(json.dumps([one.uri.removeprefix(uri), one.size, one.mtime_ns]).encode())
    return total.hexdigest()[:16]
