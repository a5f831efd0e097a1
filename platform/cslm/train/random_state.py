"""The states of all random generators of a process as JSON: PyTorch's, CUDA's, NumPy's and Python's own."""

import base64
import random
from typing import Any

import numpy as np
import torch


def take() -> dict[str, Any]:
    """The states now, as plain values."""
    numpy_state: Any = np.random.get_state(legacy=False)
    keys = np.asarray(numpy_state["state"]["key"], np.uint32)
    version, internal, gauss = random.getstate()
    return {
        "torch": _encoded(torch.get_rng_state().numpy().tobytes()),
        "cuda": _encoded(torch.cuda.get_rng_state().numpy().tobytes()) if torch.cuda.is_available() else None,
        "numpy": {
            "bit_generator": numpy_state["bit_generator"],
            "key": _encoded(keys.tobytes()),
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "python": [version, _encoded(np.array(internal, np.uint32).tobytes()), gauss],
    }


def put(states: dict[str, Any]) -> None:
    """Set what `take` gave; CUDA's only where there is a GPU now as well."""
    torch.set_rng_state(_bytes(states["torch"]))
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes(states["cuda"]))
    saved = states["numpy"]
    key = np.frombuffer(base64.b64decode(saved["key"]), np.uint32)
    inner = {"key": key, "pos": saved["pos"]}
    gauss = {name: saved[name] for name in ("bit_generator", "has_gauss", "gauss")}
    np.random.set_state({**gauss, "state": inner})
    version, internal, next_gauss = states["python"]
    numbers = np.frombuffer(base64.b64decode(internal), np.uint32).tolist()
    random.setstate((version, tuple(numbers), next_gauss))


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
