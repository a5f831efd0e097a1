import pytest
import torch
import torch.distributed as dist


@pytest.fixture
def process_group(tmp_path):
    """A process group of one rank, found through a file, as the training loop expects one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    torch.manual_seed(0)
    yield
    dist.destroy_process_group()
