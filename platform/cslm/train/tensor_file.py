"""Safetensors files written and read piece by piece, through the one door to storage.

The library writes from tensors that are all in memory and reads from local files. Here tensors come one after the
other, and any stretch of one is read alone, also from an object store.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cslm import storage

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}
_WINDOW_BYTES = 32 << 20


@dataclass(frozen=True)
class Entry:
    """What a header says of a tensor."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of its values."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write(uri: str, entries: Sequence[Entry], tensors: Iterable[torch.Tensor], metadata: dict[str, str]) -> int:
    """Write a file of `entries` whose tensors come in their order, one at a time; returns its size in bytes."""
    return storage.write_parts(uri, _parts(entries, tensors, metadata))


def offsets(entries: Sequence[Entry], metadata: dict[str, str]) -> list[int]:
    """Where in the file each tensor's values begin."""
    found, place = [], len(_header(entries, metadata))
    for entry in entries:
        found.append(place)
        place += entry.num_bytes
    return found


def _parts(entries: Sequence[Entry], tensors: Iterable[torch.Tensor], metadata: dict[str, str]) -> Iterator[Any]:
    yield _header(entries, metadata)
    for entry, tensor in zip(entries, tensors, strict=True):
        assert tensor.dtype == entry.dtype, entry.name
        assert tensor.numel() * tensor.itemsize == entry.num_bytes, entry.name
        if entry.num_bytes:
            yield tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def _header(entries: Sequence[Entry], metadata: dict[str, str]) -> bytes:
    document: dict[str, Any] = {"__metadata__": metadata}
    place = 0
    for entry in entries:
        span = [place, place + entry.num_bytes]
        document[entry.name] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": span}
        place = span[1]
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text


class Window:
    """Reads stretches of one file that mostly follow each other: in an object store, many by one request."""

    def __init__(self, uri: str, num_bytes: int) -> None:
        self._uri, self._num_bytes = uri, num_bytes
        self._ahead = _WINDOW_BYTES if storage.is_uri(uri) else 0
        self._start, self._held = 0, b""

    def read_into(self, values: torch.Tensor, place: int, dtype: torch.dtype) -> None:
        """Fill `values` [N] from what lies at a place of the file in a type."""
        size = values.numel() * dtype.itemsize
        if not self._start <= place <= place + size <= self._start + len(self._held):
            wanted = min(max(size, self._ahead), self._num_bytes - place)
            self._start, self._held = place, storage.read_range(self._uri, place, wanted)
        begin = place - self._start
        # A copy, since PyTorch would warn of memory that must not be written to.
        read = torch.frombuffer(bytearray(memoryview(self._held)[begin : begin + size]), dtype=dtype)
        values.copy_(read)
