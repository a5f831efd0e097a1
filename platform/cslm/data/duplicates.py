"""Utterances with the same samples as another: found in the finished units table, and all but the first set aside.

What is set aside lies whole in `<output>/duplicates`, one file a shard, and stands in `rejects` with the id that was
kept. The result follows from the rows of both places alone: doing it again changes nothing, a row whose first is no
longer there comes back, and a process killed anywhere between two writes is made good by the next. That is why rows
are set aside and told before they leave the table.
"""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cslm import contracts, storage
from cslm.data.counts import utterance_counts
from cslm.data.ledger import Entry, negative, shard_of, units_file
from cslm.speech.audio import Waveform

FOLDER = "duplicates"
_AT_ONCE = 16
# Audio fainter than this is told apart by more than its 16-bit rounding, which may be nothing but zeros.
_FAINT = 0.01
_SAMPLES_APART = 4


def audio_digest(samples: Waveform) -> str:
    """32 hex digits of samples (T,), rounded to 16 bits so that the container they came in makes no difference.

    Every fourth sample and their number are looked at: no two recordings agree in these and not in the others.
    """
    picked = samples[::_SAMPLES_APART]
    lowest, highest = float(picked.min(initial=0)), float(picked.max(initial=0))
    if max(highest, -lowest) < _FAINT:
        return hashlib.sha256(samples.tobytes()).hexdigest()[:32]
    rounded = picked * np.float32(32768)
    np.rint(rounded, out=rounded)
    if highest > 0.9999 or lowest < -1:
        np.clip(rounded, -32768, 32767, out=rounded)
    digest = hashlib.sha256(rounded.astype("<i2").data)
    digest.update(len(samples).to_bytes(8, "little"))
    return digest.hexdigest()[:32]


def remove(output: str, shards: Sequence[Entry], codebook_size: int, *, enabled: bool = True) -> dict[str, Entry]:
    """Set aside all but the first of utterances with equal samples, in the order of shards and of ids in a shard.

    `shards` are those of the manifest, all of them finished. Returns what to add to the counts of each shard that
    loses any (see `ledger.add_counts`): its duplicates move from accepted to rejected. With `enabled` false every row
    that was set aside comes back.
    """
    place = {shard["name"]: number for number, shard in enumerate(shards)}
    files: list[list[str]] = [[] for _ in shards]
    for path in storage.list_files(storage.join(output, "units"), ".parquet"):
        if (name := shard_of(path)) in place:
            files[place[name]].append(path)
    asides = {shard_of(path): path for path in storage.list_files(storage.join(output, FOLDER), ".parquet")}
    whole = [[*files[number], *([asides[shard["name"]]] if shard["name"] in asides else [])]
             for number, shard in enumerate(shards)]  # fmt: skip
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        wanted = _wanted(whole, pool) if enabled else {}
        touched = [number for number, shard in enumerate(shards) if number in wanted or shard["name"] in asides]
        deltas = pool.map(
            lambda number: _Shard(output, shards[number], files[number]).settle(wanted.get(number, {}), codebook_size),
            touched,
        )
        return {shards[number]["name"]: delta for number, delta in zip(touched, deltas, strict=True) if delta}


def first_of_each(keys_N2: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For every key, a pair of numbers, the position of the first one that is equal."""
    if not len(keys_N2):
        return np.empty(0, np.int64)
    order_N = np.lexsort((keys_N2[:, 1], keys_N2[:, 0]))
    sorted_N2 = keys_N2[order_N]
    is_first_N = np.concatenate(([True], (sorted_N2[1:] != sorted_N2[:-1]).any(1)))
    first_N = np.empty(len(keys_N2), np.int64)
    first_N[order_N] = order_N[is_first_N][np.cumsum(is_first_N) - 1]
    return first_N


def digest_keys(digests: pa.ChunkedArray | pa.Array) -> NDArray[np.uint64]:
    """Digests (N) of 32 hex digits without nulls as pairs of numbers (N, 2)."""
    text = pa.concat_arrays(digests.chunks) if isinstance(digests, pa.ChunkedArray) else digests
    if not len(text):
        return np.empty((0, 2), np.uint64)
    offsets = np.frombuffer(text.buffers()[1], np.int32)[text.offset : text.offset + len(text) + 1]
    hex_NH = np.frombuffer(text.buffers()[2], np.uint8)[offsets[0] : offsets[-1]].reshape(len(text), 32)
    nibble_NH = (hex_NH & 15) + 9 * (hex_NH >> 6)
    keys_N2: NDArray[np.uint64] = (nibble_NH[:, ::2] << 4 | nibble_NH[:, 1::2]).view(">u8").astype(np.uint64)
    return keys_N2


def _wanted(whole: Sequence[Sequence[str]], pool: ThreadPoolExecutor) -> dict[int, dict[str, str]]:
    """Of each shard by its number: the ids to set aside, and the id that is kept for each.

    Half of every digest, 8 bytes a row, is held to find those that may occur twice; of these alone the rest.
    """
    halves = np.concatenate([np.empty(0, np.uint64), *pool.map(_halves, whole)])
    halves.sort()
    repeated = np.unique(halves[1:][halves[1:] == halves[:-1]])
    del halves
    if not len(repeated):
        return {}
    found = list(pool.map(lambda paths: _suspects(paths, repeated), whole))
    first = first_of_each(np.concatenate([keys for keys, _ in found]))
    ids = pa.concat_arrays([ids for _, ids in found])
    wanted: dict[int, dict[str, str]] = {}
    start = 0
    for number, (keys, _) in enumerate(found):
        here = np.arange(start, start + len(keys))
        start += len(keys)
        if len(later := here[first[here] != here]):
            kept = ids.take(pa.array(first[later])).to_pylist()
            wanted[number] = dict(zip(ids.take(pa.array(later)).to_pylist(), kept, strict=True))
    return wanted


def _digests(paths: Sequence[str]) -> pa.Table:
    """Ids and digests of the rows of a shard that have one, each id once, in the order of ids."""
    tables = []
    for path in paths:
        # Tables made before there were digests have no such column.
        if "audio_digest" in storage.dataset(path).schema.names:
            tables.append(storage.read_table(path, ["id", "audio_digest"], pc.field("audio_digest").is_valid()))
    if not tables:
        return pa.table({"id": pa.array([], pa.string()), "audio_digest": pa.array([], pa.string())})
    table = pa.concat_tables(tables).sort_by("id")
    if len(paths) > 1:
        ids = table.column("id")
        again = pc.equal(ids.slice(1), ids.slice(0, max(0, len(ids) - 1)))
        table = table.filter(pa.chunked_array([pa.array([True][: len(ids)], pa.bool_()), *pc.invert(again).chunks]))
    return table


def _halves(paths: Sequence[str]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(digest_keys(_digests(paths).column("audio_digest"))[:, 0])


def _suspects(paths: Sequence[str], repeated: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], pa.Array]:
    table = _digests(paths)
    keys = digest_keys(table.column("audio_digest"))
    suspect = np.isin(keys[:, 0], repeated)
    ids = table.column("id").filter(pa.array(suspect))
    return keys[suspect], pa.concat_arrays([pa.array([], pa.string()), *ids.chunks])


class _Shard:
    """One shard's rows, those of the units table and those set aside."""

    def __init__(self, output: str, shard: Entry, files: Sequence[str]) -> None:
        self._output, self._shard = output, shard
        self._units = contracts.load("units")
        self._tables = {path: self._placed(storage.read_table(path), path) for path in files}
        self._aside_path = storage.join(output, FOLDER, f"{shard['name']}.parquet")
        self._rejects_path = storage.join(output, "rejects", f"duplicate-{shard['name']}.parquet")
        self._old_aside = self._read(self._aside_path, "units")

    def settle(self, wanted: Mapping[str, str], codebook_size: int) -> Entry:
        """Bring the files to the state where just the `wanted` ids are set aside; returns what to add to counts."""
        standing = pa.concat_tables([self._units.table([]), *self._tables.values()])
        missing = self._old_aside.filter(_not_in(self._old_aside, standing.column("id")))
        rows = pa.concat_tables([standing, missing])
        going = pc.is_in(rows.column("id"), pa.array(list(wanted), pa.string()))
        aside = rows.filter(going).sort_by("id")
        back = missing.filter(_not_in(missing, aside.column("id")))
        lost = self._lost_sources(rows.filter(pc.invert(going)), aside)
        rejects = self._rejects(aside, wanted, lost)
        if pc.any(going.slice(0, standing.num_rows)).as_py():
            self._write(pa.concat_tables([aside, back]), self._aside_path)
        if not rejects.equals(self._read(self._rejects_path, "rejects")):
            self._write(rejects, self._rejects_path)
        self._rewrite(aside, back)
        if not aside.column("id").equals(self._read(self._aside_path, "units").column("id")):
            self._write(aside, self._aside_path)
        return _moved(aside, len(lost), codebook_size) if aside.num_rows else {}

    def _rewrite(self, aside: pa.Table, back: pa.Table) -> None:
        """The units files without what is set aside, and with what comes back."""
        first = units_file(self._output, self._shard, 0)
        for path, table in ({first: self._units.table([])} | self._tables).items():
            stay = table.filter(_not_in(table, aside.column("id")))
            if path == first and back.num_rows:
                stay = pa.concat_tables([stay, back]).sort_by("id")
            elif stay.num_rows == table.num_rows:
                continue
            self._write(stay.drop_columns(list(self._units.partition_columns)), path)

    def _lost_sources(self, staying: pa.Table, aside: pa.Table) -> dict[str, str]:
        """Rows of the manifest none of whose utterances stays, with their audio."""
        cut = aside.filter(pc.is_valid(aside.column("part_of")))
        kept = set(staying.column("part_of").to_pylist())
        sources = zip(cut.column("part_of").to_pylist(), cut.column("source").to_pylist(), strict=True)
        return {name: audio for name, audio in sources if name not in kept}

    def _rejects(self, aside: pa.Table, wanted: Mapping[str, str], lost: Mapping[str, str]) -> pa.Table:
        rows: list[dict[str, Any]] = []
        for row in aside.select(["id", "source", "part_of", "start_s", "end_s"]).to_pylist():
            kept = wanted[row["id"]]
            message = (
                f"audio must be there once (filters.duplicate_audio), found the samples of {kept}, which is kept; drop "
                "the row, or switch the filter off to keep both"
            )
            rows.append({**row, "stage": "duplicates", "error": "duplicate_audio", "message": message})
        for name, audio in lost.items():
            message = "one utterance of a recording must be taken, found that all are elsewhere or rejected; see each"
            row = {"id": name, "source": audio, "stage": "duplicates", "error": "no_span_taken", "message": message}
            rows.append(row)
        return contracts.load("rejects").table(rows)

    def _placed(self, table: pa.Table, path: str) -> pa.Table:
        for column in self._units.partition_columns:
            table = table.append_column(column, pa.array([self._shard[column]] * table.num_rows, pa.string()))
        return self._units.check(table, path)

    def _read(self, path: str, contract: str) -> pa.Table:
        if not storage.exists(path):
            return contracts.load(contract).table([])
        return contracts.load(contract).check(storage.read_table(path), path)

    def _write(self, table: pa.Table, path: str) -> None:
        if table.num_rows:
            storage.write_table(table, path)
        else:
            storage.remove(path)


def _moved(aside: pa.Table, num_lost: int, codebook_size: int) -> Entry:
    num_spans = aside.num_rows - aside.column("part_of").null_count
    num_rows = aside.num_rows - num_spans
    counts = utterance_counts(aside, codebook_size)
    reasons = {"duplicate_audio": num_rows, "no_span_taken": num_lost}
    return {
        **negative(counts),
        "accepted": -(num_rows + num_lost),
        "rejected": num_rows + num_lost,
        "reasons": {reason: count for reason, count in reasons.items() if count},
        "rejected_spans": num_spans,
        "span_reasons": {"duplicate_audio": num_spans} if num_spans else {},
        "rejected_s": counts["audio_s"],
    }


def _not_in(table: pa.Table, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.invert(pc.is_in(table.column("id"), pa.concat_arrays([pa.array([], pa.string()), *ids.chunks])))
