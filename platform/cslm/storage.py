"""One door to files: local paths, `s3://` and `gs://` by the same names, and writes that are whole or absent.

The only module that opens files. Local writes go to a temporary name beside the target and are renamed; object
stores publish an object only when its upload is complete, so there one upload of the whole is atomic.
"""

import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import yaml
from pyarrow import fs as pafs

from cslm.errors import ConfigError
from cslm.filesystems import filesystem as filesystem
from cslm.filesystems import is_uri as is_uri
from cslm.listings import Entry as Entry
from cslm.listings import digest as digest
from cslm.listings import entry as entry
from cslm.listings import exists as exists
from cslm.listings import is_folder as is_folder
from cslm.listings import join as join
from cslm.listings import list_entries as list_entries
from cslm.listings import list_files as list_files
from cslm.listings import list_folder as list_folder
from cslm.listings import listing_digest as listing_digest
from cslm.listings import name as name
from cslm.listings import parent as parent
from cslm.plain_values import plain_only
from cslm.storage_faults import about, retried
from cslm.storage_faults import fault as fault
from cslm.storage_faults import is_fault as is_fault
from cslm.storage_faults import named as named

HOME_VARIABLE = "CSLM_HOME"
# Where Ray unpacks `--working-dir`: what a job writes there vanishes with the job.
_RAY_COPY = "runtime_resources/working_dir_files"
_CHUNK_BYTES = 64 << 20


def inside_ray_copy(path: str | None = None) -> bool:
    """Whether `path` (or the working directory) lies in Ray's own copy of a submitted working directory."""
    return _RAY_COPY in (path or os.getcwd())


def absolute(path: str) -> str:
    """Turn a path that a user named into an absolute one: URIs stay, relative paths hang from `CSLM_HOME` or here.

    Raises ConfigError for a relative path inside Ray's copy of the working directory, where results would be lost.
    """
    if is_uri(path):
        return path.rstrip("/")
    if os.path.isabs(path):
        return os.path.normpath(path)
    home = os.environ.get(HOME_VARIABLE, "")
    if is_uri(home):
        return join(home, path)
    if inside_ray_copy() and not os.path.isabs(home):
        raise ConfigError(
            f"{path}: a submitted job runs in Ray's own copy of the working directory, where a relative path is lost; "
            f"give an absolute path or URI, or submit with {HOME_VARIABLE} set (--runtime-env-json "
            f'\'{{"env_vars": {{"{HOME_VARIABLE}": "/where/results/live"}}}}\')'
        )
    return os.path.abspath(os.path.join(home, path))


def open_input(uri: str) -> pa.NativeFile:
    """Open a file for reading bytes, seekable. Raises FileNotFoundError when it is not there."""
    system, path = filesystem(uri)
    with about(uri):
        return retried(lambda: system.open_input_file(path))


def open_mapped(uri: str) -> pa.NativeFile:
    """Open a file so that what is read of a local one is not copied and what is not read costs nothing."""
    return open_input(uri) if is_uri(uri) else pa.memory_map(uri)


def read_bytes(uri: str) -> bytes:
    """The whole content of a file. Errors that may pass are retried."""
    if not is_uri(uri):
        return retried(Path(uri).read_bytes)
    with open_input(uri) as stream:
        return bytes(stream.readall())


def read_range(uri: str, start: int, num_bytes: int) -> bytes:
    """`num_bytes` of a file from `start` on, fewer where it ends before. Errors that may pass are retried."""

    def local() -> bytes:
        with Path(uri).open("rb", buffering=0) as stream:
            stream.seek(start)
            parts = []
            left = num_bytes
            while left and (part := stream.read(left)):
                parts.append(part)
                left -= len(part)
            return b"".join(parts)

    if not is_uri(uri):
        return retried(local)
    with open_input(uri) as stream:
        return bytes(stream.read_at(num_bytes, start)) if start < stream.size() else b""


def read_text(uri: str) -> str:
    """The whole content of a UTF-8 file; a byte-order mark is dropped."""
    return read_bytes(uri).decode("utf-8-sig")


def read_json(uri: str) -> Any:
    """The value in a JSON file."""
    return json.loads(read_text(uri))


def read_yaml(uri: str) -> Any:
    """The value in a YAML file."""
    return yaml.safe_load(read_text(uri))


def write_bytes(uri: str, data: bytes | pa.Buffer) -> None:
    """Write a whole file or nothing."""
    if is_uri(uri):
        system, path = filesystem(uri)
        # By default pyarrow would compress what is named like a compressed file.
        with about(uri), system.open_output_stream(path, compression=None) as stream:
            stream.write(data)
        return
    _write_local(uri, lambda temporary: temporary.write_bytes(data))


def write_parts(uri: str, parts: Iterable[Any]) -> int:
    """Write a file from buffers that come one after the other, and return its size in bytes.

    Locally whole or absent, and on the disk when this returns. In an object store what came before a fault may stay, so
    a reader must know the size from elsewhere. Nothing is retried: parts come once.
    """
    size = 0
    if is_uri(uri):
        system, path = filesystem(uri)
        with about(uri), system.open_output_stream(path, compression=None) as stream:
            for part in parts:
                stream.write(part)
                size += memoryview(part).nbytes
        return size
    target = Path(uri)
    temporary = _temporary(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for part in parts:
                size += file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise named(error, uri) from error
    finally:
        temporary.unlink(missing_ok=True)
    return size


def write_text(uri: str, text: str) -> None:
    """Write a whole UTF-8 file or nothing."""
    write_bytes(uri, text.encode())


def write_json(uri: str, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(uri, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_table(table: pa.Table, uri: str) -> None:
    """Write one Parquet file (zstd), whole or not at all."""
    write_row_groups([table], uri)


def write_row_groups(tables: Sequence[pa.Table], uri: str) -> None:
    """Write tables of one schema as the row groups of one Parquet file (zstd), whole or not at all."""
    if is_uri(uri):
        # A stream into an object store would publish what it got so far when a later table cannot be written.
        whole = pa.BufferOutputStream()
        _write_parquet(tables, whole)
        write_bytes(uri, whole.getvalue())
        return
    _write_local(uri, lambda temporary: _write_parquet(tables, str(temporary)))


def _write_local(uri: str, write: Callable[[Path], Any]) -> None:
    """Have `write` make a file beside the target, and give it the target's name when it is whole."""
    target = Path(uri)
    temporary = _temporary(target)

    def attempt() -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    try:
        retried(attempt)
    except OSError as error:
        raise named(error, uri) from error


def _write_parquet(tables: Sequence[pa.Table], target: Any) -> None:
    with pq.ParquetWriter(target, tables[0].schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)


def dataset(uri: str | Sequence[str]) -> pads.Dataset:
    """A lazily read Parquet table: one file, a list of files, or a folder partitioned hive-style by strings."""
    if not isinstance(uri, str):
        system, _ = filesystem(uri[0])
        found = pads.dataset([filesystem(one)[1] for one in uri], format="parquet", filesystem=system)
        plain_only(found.schema, uri[0])
        return found
    system, path = filesystem(uri)
    files = [filesystem(one)[1] for one in list_files(uri, ".parquet")] if is_folder(uri) else [path]
    if not files:
        raise FileNotFoundError(f"{uri} must hold Parquet files, found none")
    keys = dict.fromkeys(key for file in files for key in re.findall(r"/([a-z_]+)=[^/]*(?=/)", file[len(path) :]))
    hive = pads.partitioning(pa.schema([(key, pa.string()) for key in keys]), flavor="hive") if keys else None
    found = pads.dataset(files, format="parquet", filesystem=system, partitioning=hive, partition_base_dir=path)
    plain_only(found.schema, uri)
    return found


def read_table(uri: str | Sequence[str], columns: Sequence[str] | None = None, filter: Any = None) -> pa.Table:
    """Read a Parquet table (see `dataset`) into memory; `filter` is a pyarrow.dataset expression."""
    return dataset(uri).to_table(columns=list(columns) if columns is not None else None, filter=filter)


def read_rows(uri: str, columns: Sequence[str], start: int = 0, stop: int | None = None) -> pa.Table:
    """Rows `start` to `stop` of one Parquet file, with those of `columns` that it has.

    Row groups that lie outside are not read.
    """
    with about(uri), pq.ParquetFile(open_input(uri)) as file:
        known = [column for column in columns if column in plain_only(file.schema_arrow, uri).names]
        groups: list[int] = []
        first, place = 0, 0
        for number in range(file.num_row_groups):
            end = place + file.metadata.row_group(number).num_rows
            if end > start and (stop is None or place < stop):
                if not groups:
                    first = place
                groups.append(number)
            place = end
        return _groups(file, groups, known).slice(start - first, None if stop is None else stop - start)


def read_row_groups(uri: str, numbers: Sequence[int], columns: Sequence[str]) -> pa.Table:
    """Some row groups of one Parquet file, in the order of `numbers`."""
    with about(uri), pq.ParquetFile(open_input(uri)) as file:
        plain_only(file.schema_arrow, uri)
        return _groups(file, numbers, columns)


def _groups(file: pq.ParquetFile, numbers: Sequence[int], columns: Sequence[str]) -> pa.Table:
    # One file at a time a process: the tasks of a cluster are what runs side by side.
    return file.read_row_groups(list(numbers), columns=list(columns), use_threads=False)


def parquet_schema(uri: str) -> tuple[pa.Schema, int]:
    """The schema of one Parquet file with its metadata, and the number of its rows."""
    with about(uri), pq.ParquetFile(open_input(uri)) as file:
        return plain_only(file.schema_arrow, uri), int(file.metadata.num_rows)


def remove(uri: str) -> None:
    """Delete a file or a folder and all below it; nothing happens when it is not there."""
    system, path = filesystem(uri)
    with about(uri):
        kind = system.get_file_info(path).type
        if kind == pafs.FileType.Directory and system.type_name == "gcs":
            # Its client insists on an object that stands for the folder, which uploads do not make.
            system.delete_dir_contents(path)
        elif kind == pafs.FileType.Directory:
            system.delete_dir(path)
        elif kind != pafs.FileType.NotFound:
            system.delete_file(path)


@contextmanager
def local_folder(uri: str) -> Iterator[str]:
    """A local path with the content of a folder: the folder itself, or for a URI a copy that lives as long."""
    if not is_uri(uri):
        yield uri
        return
    with tempfile.TemporaryDirectory() as copy:
        for file in list_files(uri):
            target = Path(copy) / file.removeprefix(uri).strip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(read_bytes(file))
        yield copy


@contextmanager
def published_folder(uri: str) -> Iterator[str]:
    """A local folder to fill; when the block ends well its content replaces the folder at `uri`.

    Locally that is one rename. In an object store files appear one by one, so a reader must look for the file that
    the caller writes last.
    """
    if is_uri(uri):
        with tempfile.TemporaryDirectory() as folder:
            yield folder
            for file in sorted(Path(folder).rglob("*"), key=lambda path: path.stat().st_mtime_ns):
                if file.is_file():
                    write_parts(join(uri, str(file.relative_to(folder))), _chunks(file))
        return
    target = Path(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target)
    temporary.mkdir()
    try:
        yield str(temporary)
        remove(uri)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _chunks(file: Path) -> Iterator[bytes]:
    """A file's content piece by piece: a shard of a model need not fit into memory."""
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def move(source: str, target: str) -> None:
    """Give a file another name in the same storage, in place of a file that has it."""
    system, path = filesystem(source)
    system.move(path, filesystem(target)[1])


def copy(source: str, target: str) -> None:
    """Give the content of a file a second name, whole or not at all; on one local disk without copying a byte.

    What is written by this module is never changed in place, so both names stay what they are.
    """
    if is_uri(source) or is_uri(target):
        with open_input(source) as stream:
            write_parts(target, iter(lambda: stream.read(_CHUNK_BYTES), b""))
        return

    def link(temporary: Path) -> None:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copy2(source, temporary)

    _write_local(target, link)


def replace_folder(source: str, target: str, names: Sequence[str]) -> None:
    """Put the folder `source`, which holds the files `names`, in the place of `target`; without names, of nothing.

    Locally that is one rename. In an object store each file is copied by the store itself. Called again after an
    interruption, it finishes.
    """
    if not names:
        remove(target)
    elif not is_uri(target):
        if exists(source):
            remove(target)
            Path(source).rename(target)
    else:
        for file in list_files(source):
            move(file, join(target, name(file)))
        for file in list_files(target):
            if name(file) not in names:
                remove(file)


def make_folder(uri: str) -> None:
    """Make a folder and its parents where folders exist; on object stores they do not and nothing is needed."""
    if not is_uri(uri):
        Path(uri).mkdir(parents=True, exist_ok=True)


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
