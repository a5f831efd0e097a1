"""One process group for all tests of a GPU: DeepSpeed keeps hold of the one that it first saw."""

import os
import socket
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist


@pytest.fixture(scope="session", autouse=True)
def process_group() -> Iterator[None]:
    """A group of one rank over NCCL."""
    if not torch.cuda.is_available():
        yield
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(autouse=True)
def loading_whole() -> Iterator[None]:
    """Transformers forgets the DeepSpeed settings of an engine, or it would shard the next model that it loads."""
    yield
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
