"""One process group for all tests of a GPU: DeepSpeed keeps hold of the one that it first saw."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from tests.data import ranks


@pytest.fixture(scope="session", autouse=True)
def process_group() -> Iterator[None]:
    """A group of one rank over NCCL."""
    if not torch.cuda.is_available():
        yield
        return
    ranks.join_alone("nccl")
    yield
    dist.destroy_process_group()


@pytest.fixture(autouse=True)
def loading_whole() -> Iterator[None]:
    """Transformers forgets the DeepSpeed settings of an engine, or it would shard the next model that it loads."""
    yield
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
