"""Every kind of tokenizer in two tables: how quick it is, and what its units carry.

Speed: every kind of network at its published size with random weights, which cost what trained ones cost.
Quality: tokenizers fitted here, and saved ones given as `--tokenizer NAME=FOLDER`, all on the same speech: digits said
by people (or by synthetic voices, where that corpus is not at hand) and sentences of the demo corpus.
"""

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

# This folder goes to the end: this file has the name of a package that transformers imports.
sys.path.append(sys.path.pop(0))
ROOT = Path(__file__).resolve().parents[2]
for folder in (str(ROOT), str(ROOT / "platform")):
    sys.path.insert(0, folder)

import sklearn
import torch
import transformers

from cslm.evaluate.units.probe import NUM_STEPS
from tests.benchmarks import _tokenizer_quality, _tokenizer_speed


def main() -> None:
    """Run, print the tables, and the JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="less audio, fewer steps, one turn, and not all tokenizers"
    )
    parser.add_argument("--part", choices=("speed", "quality", "both"), default="both")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--tokenizer",
        action="append",
        default=[],
        type=_named_folder,
        metavar="NAME=FOLDER",
        help="a saved tokenizer to measure the quality of; can be given several times",
    )
    parser.add_argument("--only", action="store_true", help="quality of the baseline and the given folders alone")
    parser.add_argument("--probe_steps", type=int, help=f"steps of the recognition probe; {NUM_STEPS}, --quick 200")
    parser.add_argument("--digits", default=str(ROOT.parent / "shared/data/fsdd"), help="folder of spoken digits")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ratios: dict[str, dict[str, Any]] = {}
    if options.part != "quality":
        ratios |= _tokenizer_speed.run(quick=options.quick, threads=options.threads, device=options.device)
    if options.part != "speed":
        ratios |= _tokenizer_quality.run(
            quick=options.quick,
            device=options.device,
            folders=dict(options.tokenizer),
            only=options.only,
            digits=Path(options.digits),
            num_probe_steps=options.probe_steps or (200 if options.quick else NUM_STEPS),
        )
    on_gpu = options.device != "cpu" and torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else options.device
    machine = {"processor": platform.processor() or platform.machine(), "threads": options.threads, "device": device}
    versions = {module.__name__: module.__version__ for module in (torch, transformers, sklearn)}
    print(json.dumps({"benchmark": "tokenizers", "ratios": ratios, "machine": machine, "versions": versions}))


def _named_folder(argument: str) -> tuple[str, str]:
    name, equals, folder = argument.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"must be NAME=FOLDER, found {argument!r}")
    return name, folder


if __name__ == "__main__":
    main()
