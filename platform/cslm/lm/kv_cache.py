"""Keys and values of what was read and written, in room that is taken ahead.

transformers' own cache lays all of it anew at every token: for a batch of 64 that is more memory moved than the
model's weights, and a third of the time. Here a token is written to its place.
"""

import torch
from transformers.cache_utils import Cache, DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values [B, H, T, D], as views of a buffer with room for `room` places, more when needed."""

    def __init__(self, room: int) -> None:
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
            self._buffers = [self._empty(states, self._room) for states in (key_states, value_states)]
        end = self._length + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._buffers = [self._grown(buffer, end * 2) for buffer in self._buffers]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._length : end] = states
        self._length = end
        self._view()
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some of the rows."""
        # Only what is filled is worth the copy.
        for place, buffer in enumerate(self._buffers):
            kept = self._empty(buffer[: len(indices)], buffer.shape[-2])
            torch.index_select(buffer[:, :, : self._length], 0, indices, out=kept[:, :, : self._length])
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


def roomy(num_layers: int, room: int) -> Cache:
    """A cache of layers with full attention with room for so many places."""
    return Cache(layers=[RoomyLayer(room) for _ in range(num_layers)])
