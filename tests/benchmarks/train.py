"""The training engine against the usual recipe, transformers' Trainer with DeepSpeed on padded batches, on two ranks.

- useful_tokens_over_trainer, demo_mix_over_trainer: useful tokens/s of ours over the recipe at its better micro batch.
- step_over_bare: our step without the optimizer's over forward and backward of the bare model.
- data_wait_fraction: share of our time spent waiting for batches.
- time_to_loss_over_trainer: wall-clock until the validation loss that the recipe ends with, over the recipe's.
- resume_deep_over_shallow: process start to first step after a resume at step 10,000 over one at step 10.
- packed_over_padded_*, segments_over_mask_*: forward and backward of one process, of packing and of attention alone.

Both sides run in turns in the same processes on one model; medians over the turns are compared.
"""

import sys

# This folder holds a tokenize.py, which must not stand for the standard library's.
sys.path.pop(0)

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATHS = [str(ROOT / "platform"), str(ROOT)]
sys.path[:0] = PATHS
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# Processes that are started find the same modules.
os.environ["PYTHONPATH"] = os.pathsep.join(PATHS)

import torch

from tests.benchmarks._train_data import world
from tests.data import ranks

PARTS = ("attention", "speed", "loss", "resume")
RANKS = 2


def main() -> None:
    """Run, print the tables, and the JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer tokens, steps and turns")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts alone")
    parser.add_argument("--data", help="output of `make demo` for the part `loss`; runs/demo when not given")
    parser.add_argument("--tune", action="store_true", help="try every learning rate in the part `loss`; takes long")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    if options.device == "cuda":
        from tests.benchmarks import _train_cuda

        found = _train_cuda.measure(quick=options.quick)
        mfu = {f"mfu {name}": figures["mfu"] for name, figures in found.items() if "mfu" in figures}
        _tell(mfu, {"device": torch.cuda.get_device_name()})
        return
    torch.set_num_threads(1)
    ratios: dict[str, float | None] = {}
    if "attention" in options.only:
        from tests.benchmarks import _train_attention

        ratios |= _train_attention.measure(options.quick)
    with tempfile.TemporaryDirectory() as folder:
        parts = [part for part in options.only if part in ("speed", "loss")]
        if "loss" in parts:
            from tests.benchmarks import _train_loss

            data = Path(options.data or ROOT / "runs" / "demo")
            if _train_loss.has_demo(data):
                _train_loss.prepare(data, Path(folder))
            else:
                print(
                    f"time_to_loss_over_trainer is left out: it needs the output of `make demo`, found none at {data}"
                )
                parts.remove("loss")
        if parts:
            settings = {"root": folder, "quick": options.quick, "parts": parts, "tune": options.tune}
            torch.multiprocessing.spawn(_rank_main, args=(ranks.free_port(), settings), nprocs=RANKS)
            ratios |= json.loads((Path(folder) / "ratios.json").read_text())
        if "resume" in options.only:
            from tests.benchmarks import _train_resume

            _save_model(str(Path(folder) / "micro"), "micro")
            ratios["resume_deep_over_shallow"] = round(
                _train_resume.measure(Path(folder), ranks.free_port(), options.quick), 3
            )
    _tell(ratios, {"ranks": RANKS})


def _tell(ratios: dict[str, Any], more: dict[str, Any]) -> None:
    machine = {"processor": platform.processor() or platform.machine(), "cpus": os.cpu_count(), **more}
    print(json.dumps({"benchmark": "train", "ratios": ratios, "machine": machine, "versions": _versions()}))


def _rank_main(rank: int, port: int, settings: dict[str, Any]) -> None:
    os.environ.update(world(rank, port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    from tests.benchmarks import _train_loss, _train_speed
    from tests.benchmarks._train_ours import quiet

    quiet()
    root = Path(settings["root"])
    model_folder = str(root / "model")
    if rank == 0:
        size = _save_model(model_folder, "tiny")
        print(f"\n{RANKS} ranks over gloo, bf16, Llama of {size / 1e6:.1f} M parameters")
    torch.distributed.barrier()
    ratios: dict[str, float | None] = {}
    if "speed" in settings["parts"]:
        found = _train_speed.measure(root, model_folder, settings["quick"])
        ratios["useful_tokens_over_trainer"] = round(found["mixed"]["over_trainer"][3], 3)
        ratios["demo_mix_over_trainer"] = round(found["demo"]["over_trainer"][3], 3)
        ratios["step_over_bare"] = round(max(mix["over_bare"][3] for mix in found.values()), 3)
        ratios["data_wait_fraction"] = round(max(mix["data_wait_fraction"] for mix in found.values()), 5)
    if "loss" in settings["parts"]:
        ratios["time_to_loss_over_trainer"] = _train_loss.measure(root, settings["quick"], settings["tune"])
    if rank == 0:
        (root / "ratios.json").write_text(json.dumps(ratios))
    torch.distributed.barrier()


def _save_model(folder: str, shape: str) -> int:
    """A Llama with random weights; returns how many."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    from cslm.lm.model import SHAPES
    from tests.benchmarks._train_data import VOCABULARY

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **SHAPES[shape])
    )
    model.save_pretrained(folder)
    return int(model.num_parameters())


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "deepspeed", "accelerate")}


if __name__ == "__main__":
    main()
