"""Keys and values of what was read and written, in room that is taken ahead.

transformers' own cache lays all of it anew at every token: for a batch of 64 that is more memory moved than the
model's weights, and a third of the time. Here a token is written to its place, and a row whose output has ended makes
room for another prompt without the others being touched.
"""

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache, DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values [B, H, T, D], as views of a buffer with room for more places."""

    def __init__(self, room: int) -> None:
        """`room`: places behind the first tokens; more are taken when they are needed."""
        super().__init__()
        self._room = room
        self._length = 0
        self._buffers: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put keys and values of some tokens behind the others; returns all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            room = key_states.shape[-2] + self._room
            self._buffers = [self._empty(states, room) for states in (key_states, value_states)]
        end = self._length + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._buffers = [self._grown(buffer, end * 2) for buffer in self._buffers]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._length : end] = states
        self._length = end
        self._view()
        return self.keys, self.values

    def replace(self, rows: torch.Tensor, other: "RoomyLayer") -> None:
        """Give some rows what another layer read, its last place behind all others' last."""
        for buffer, states in zip(self._buffers, (other.keys, other.values), strict=True):
            buffer[rows, :, self._length - states.shape[-2] : self._length] = states

    def trim(self, places: int) -> None:
        """Forget the first places of all rows."""
        for buffer in self._buffers:
            buffer[:, :, : self._length - places] = buffer[:, :, places : self._length].clone()
        self._length -= places
        self._view()

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some of the rows."""
        # Only what is filled is worth the copy.
        for place, buffer in enumerate(self._buffers):
            kept = self._empty(buffer[: len(indices)], buffer.shape[-2])
            kept[:, :, : self._length] = buffer[indices, :, : self._length]
            self._buffers[place] = kept
        self._view()

    def _grown(self, buffer: torch.Tensor, room: int) -> torch.Tensor:
        grown = self._empty(buffer, room)
        grown[:, :, : self._length] = buffer[:, :, : self._length]
        return grown

    @staticmethod
    def _empty(like: torch.Tensor, room: int) -> torch.Tensor:
        return like.new_empty((*like.shape[:2], room, like.shape[-1]))

    def _view(self) -> None:
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in self._buffers)


class RoomyCache(Cache):  # type: ignore[misc]
    """The layers of a model with full attention."""

    layers: Sequence[RoomyLayer]

    def __init__(self, num_layers: int, room: int) -> None:
        super().__init__(layers=[RoomyLayer(room) for _ in range(num_layers)])

    def replace(self, rows: torch.Tensor, other: "RoomyCache") -> None:
        """Give some rows what another cache holds (see `RoomyLayer.replace`)."""
        for layer, its in zip(self.layers, other.layers, strict=True):
            layer.replace(rows, its)

    def trim(self, places: int) -> None:
        """Forget the first places of all rows."""
        for layer in self.layers:
            layer.trim(places)
