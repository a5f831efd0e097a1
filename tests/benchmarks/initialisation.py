"""What new rows begin as: held-out loss after the same number of tokens, for every value of `model.initialisation`.

A text model is trained on the demo's texts first, then given the demo's units by each way and trained on with packed
rows; a model from scratch starts from each of its two. Every way sees the same rows in the same order, for several
seeds, in one process of one thread, with AdamW in bf16 on fp32 masters. `--data` is the output of
a finished `make demo`.
"""

import sys

# This folder holds a tokenize.py, which must not stand for the standard library's.
sys.path.pop(0)

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT)]
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])

import numpy as np
import torch
import transformers
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig

from cslm.apps.training import corpus_texts
from cslm.data import pack, sources
from cslm.data.feed import Batch, PackedFeed
from cslm.lm import model as lm_model
from cslm.lm import packing, text_tokenizer, vocabulary
from cslm.lm.model import SHAPES, ModelSection
from cslm.speech import tokenizer as speech
from cslm.train.objective import PackedObjective

TASKS = ("asr", "tts", "mt", "text")
# Speaking has four times the targets of hearing; at this weight both have about as many.
WEIGHTS = {"asr": 1.0, "tts": 0.25, "mt": 0.05, "text": 0.3}
ROW_LENGTH, ROWS = 512, 4
HELD_OUT_ROWS, LOOKS = 12, 5
# Peak rates of AdamW, for matrices and for embeddings.
GIVEN_RATES, SCRATCH_RATES = (2e-3, 4e-3), (2e-3, 2e-2)
# As the platform did before there was a choice: units from the codebook, their head at the mean.
BEFORE = "codebook, head mean"
GIVEN_WAYS = ("default", "mean", "covariance", "codebook", BEFORE)
# (tokens, loss for each task and in total) as training goes on.
Course = list[tuple[int, dict[str, float]]]


def main() -> None:
    """Run, print the tables, and the JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, and one seed")
    parser.add_argument("--data", default=str(ROOT / "runs" / "demo"), help="output of `make demo`")
    parser.add_argument("--shape", default="micro", choices=list(SHAPES), help="of the text model that is extended")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="of 2,048 tokens, after the text model is given units")
    parser.add_argument("--scratch-steps", type=int, default=15, help="of the model from scratch (mini)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    ratios: dict[str, float | None] = {}
    share, seeds = (0.1, 1) if options.quick else (1.0, options.seeds)
    if not (Path(options.data) / "tokenize" / "summary.json").exists():
        print(f"left out: it needs the output of `make demo`, found none at {options.data}")
    else:
        with tempfile.TemporaryDirectory() as folder:
            steps = max(LOOKS, round(options.steps * share)), max(LOOKS, round(options.scratch_steps * share))
            ratios = compare(Path(folder), Path(options.data).absolute(), options.shape, seeds, steps, share)
    machine = {"processor": platform.processor() or platform.machine(), "cpus": os.cpu_count()}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({"benchmark": "initialisation", "ratios": ratios, "machine": machine, "versions": versions}))


def compare(
    root: Path, data: Path, shape: str, seeds: int, steps: tuple[int, int], share: float
) -> dict[str, float | None]:
    """All ways, with tables; returns ratios."""
    section = _data_section(data)
    texts = corpus_texts(section)
    text_model(root / "text", shape, texts, round(240 * share))
    home = sources.tokenizer_folder(section)
    described = speech.describe(home)
    assert described is not None
    facts: dict[str, Any] = {
        "num_units": int(described["codebook_size"]),
        "unit_tokenizer": described["fingerprint"],
        "frame_rate_hz": described["frame_rate_hz"],
        "codebook": lambda: speech.load(described["kind"], home).codebook,
        "texts": lambda: texts,
    }
    start = str(root / "start")
    lm_model.prepare(start, ModelSection(path=str(root / "text")), seed=0, **facts)
    _pack(section, start, root)

    def given(way: str, seed: int) -> PackedObjective:
        if way == BEFORE:
            objective, mean = given("codebook", seed), given("mean", seed)
            objective.lm.get_output_embeddings().load_state_dict(mean.lm.get_output_embeddings().state_dict())
            return objective
        target = str(root / f"{way}-{seed}")
        lm_model.prepare(target, ModelSection(path=str(root / "text"), initialisation=way), seed=seed, **facts)
        return PackedObjective(lm_model.load(target, torch.bfloat16, packed=True), 1)

    def scratch(way: str, seed: int) -> PackedObjective:
        target = str(root / f"scratch-{way}-{seed}")
        lm_model.prepare(target, ModelSection(shape="mini", initialisation=way), seed=seed, **facts)
        return PackedObjective(lm_model.load(target, torch.bfloat16, packed=True), 1)

    vocabulary_hash = vocabulary.load(start).hash
    ratios: dict[str, float | None] = {}
    for name, ways, make, rates, count in (
        (f"a text model ({shape})", GIVEN_WAYS, given, GIVEN_RATES, steps[0]),
        ("from scratch (mini)", ("default", "codebook"), scratch, SCRATCH_RATES, steps[1]),
    ):
        courses: dict[str, list[Course]] = {way: [] for way in ways}
        for seed in range(seeds):
            for way in ways:
                courses[way].append(train(make(way, seed), root, vocabulary_hash, seed, count, rates))
                found = ", ".join(f"{task} {loss:.3f}" for task, loss in courses[way][-1][-1][1].items())
                print(f"  seed {seed}, {way}: {found}", flush=True)
        ratios |= show(name, courses, "given" if make is given else "scratch")
    return ratios


def text_model(folder: Path, shape: str, texts: list[str], steps: int) -> None:
    """A Llama that knows the demo's texts, with Hugging Face's initialisation, as a folder."""
    tokenizer = text_tokenizer.train(texts, vocab_size=2000)
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    examples = [[begin, *text_tokenizer.encode(tokenizer, text), end][:ROW_LENGTH] for text in sorted(set(texts))]
    rows = packing.best_fit([len(example) for example in examples], ROW_LENGTH)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=False, **SHAPES[shape])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    objective = PackedObjective(lm_model.load(str(folder), torch.bfloat16, packed=True), 1)
    order = np.random.default_rng(0)
    started_s, losses = time.perf_counter(), []
    for _ in _steps(objective, steps, GIVEN_RATES, lambda step: [_text_batch(examples, rows, order)], losses.append):
        pass
    print(
        f"text model: {len(examples):,} texts, {steps} steps, loss {losses[0]:.2f} -> "
        f"{statistics.mean(losses[-20:]):.2f} in {time.perf_counter() - started_s:.0f} s",
        flush=True,
    )
    objective.lm.save_pretrained(folder)


def train(
    objective: PackedObjective, root: Path, vocabulary_hash: str, seed: int, steps: int, rates: tuple[float, float]
) -> Course:
    """Train on packed rows and look at the held-out loss `LOOKS` times."""
    feed, held_out = (
        PackedFeed(
            str(root / folder),
            row_length=ROW_LENGTH,
            rows_per_step=rows,
            micro_batch_rows=rows,
            rank=0,
            world_size=1,
            seed=order,
            pad_id=0,
            vocabulary=vocabulary_hash,
        )
        for folder, rows, order in (("packed", ROWS, seed), ("held_out", HELD_OUT_ROWS, 0))
    )
    batch, course = held_out.batches(0)[0], []
    for step in _steps(objective, steps, rates, feed.batches, lambda loss: None, len(feed.groups)):
        if (step + 1) % (steps // LOOKS) == 0 or step + 1 == steps:
            course.append(((step + 1) * ROWS * ROW_LENGTH, _losses(objective, batch, held_out.groups)))
    for one in (feed, held_out):
        one.close()
    return course


def show(name: str, courses: dict[str, list[Course]], key: str) -> dict[str, float | None]:
    """Print one table: medians (ranges) over seeds; returns ratios to the default."""
    tokens = courses["default"][0][-1][0]
    tasks = [task for task in (*TASKS, "total") if task in courses["default"][0][-1][1]]
    print(f"\n{name}: held-out loss after {tokens:,} tokens, median (range) of {len(courses['default'])} seeds")
    heads = "".join(f"{task:>22}" for task in tasks)
    print(f"{'way':<22}{heads}{'tokens to default':>24}")
    finals: dict[str, float] = {}
    needed: dict[str, float | None] = {}
    for way, found in courses.items():
        cells = ""
        for task in tasks:
            values = [course[-1][1][task] for course in found]
            cells += f"{statistics.median(values):>8.3f} ({min(values):.3f}-{max(values):.3f})".rjust(22)
        reached = [
            _tokens_to(course, default[-1][1]["total"])
            for course, default in zip(found, courses["default"], strict=True)
        ]
        whole = [one for one in reached if one is not None]
        needed[way] = statistics.median(whole) if len(whole) == len(reached) else None
        told = f"{needed[way]:,.0f}" if needed[way] is not None else f"not in {len(reached) - len(whole)}"
        finals[way] = statistics.median(course[-1][1]["total"] for course in found)
        print(f"{way:<22}{cells}{told:>24}", flush=True)
    best = min((way for way in finals if way != "default"), key=lambda way: finals[way])
    print(f"least loss: {best}")
    share = needed[best]
    return {
        f"{key} loss_best_over_default": round(finals[best] / finals["default"], 4),
        f"{key} tokens_best_over_default": None if share is None else round(share / tokens, 3),
    }


def _steps(
    objective: PackedObjective,
    steps: int,
    rates: tuple[float, float],
    batches: Callable[[int], list[Batch]],
    tell: Callable[[float], None],
    num_groups: int = 1,
) -> Iterator[int]:
    """Yields after every step: AdamW, warm-up over a twentieth, then linear to zero."""
    weights = list(objective.parameters())
    masters = [weight.detach().float() for weight in weights]
    embedding = objective.lm.get_input_embeddings().weight
    optimizer = torch.optim.AdamW(
        [
            {"params": [master], "lr": rates[weight is embedding]}
            for weight, master in zip(weights, masters, strict=True)
        ],
        betas=(0.9, 0.98),
        weight_decay=0.0,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(1, steps // 20), (steps - step) / steps)
    )
    for step in range(steps):
        targets, summed = 0, 0.0
        for batch in batches(step):
            total, _ = objective(batch, num_groups)
            total.backward()
            targets, summed = targets + batch.num_targets, summed + total.item()
        for weight, master in zip(weights, masters, strict=True):
            assert weight.grad is not None
            master.grad, weight.grad = weight.grad.float() / targets, None
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for weight, master in zip(weights, masters, strict=True):
                weight.copy_(master)
        tell(summed / targets)
        yield step


@torch.no_grad()
def _losses(objective: PackedObjective, batch: Batch, groups: list[str]) -> dict[str, float]:
    """Mean loss a target, for each task and in total."""
    sums_2G = objective(batch, len(groups))[1]
    found = {}
    for task in TASKS:
        members = [number for number, group in enumerate(groups) if group.split("/")[0] == task]
        of_task = sums_2G[:, members].sum(1)
        if of_task[1] > 0:
            found[task] = float(of_task[0] / of_task[1])
    total = sums_2G.sum(1)
    return {**found, "total": float(total[0] / total[1])}


def _tokens_to(course: Course, wanted: float) -> float | None:
    """Tokens after which a course is at a loss, between looks in a straight line; None when it never is."""
    before: tuple[int, float] | None = None
    for tokens, losses in course:
        loss = losses["total"]
        if loss <= wanted:
            if before is None:
                return float(tokens)
            return before[0] + (tokens - before[0]) * (before[1] - wanted) / (before[1] - loss)
        before = tokens, loss
    return None


def _text_batch(examples: list[list[int]], rows: list[list[int]], order: np.random.Generator) -> Batch:
    """Some packed rows of text, every token but the first a target."""
    shape = (ROWS, ROW_LENGTH)
    ids, labels, positions = np.zeros(shape, np.int64), np.full(shape, -100), np.zeros(shape, np.int64)
    groups = np.full(shape, -1)
    for place, row in enumerate(order.choice(len(rows), ROWS)):
        begin = 0
        for example in (examples[item] for item in rows[row]):
            here = slice(begin, begin + len(example))
            ids[place, here], positions[place, here], groups[place, here] = example, np.arange(len(example)), 0
            labels[place, begin : begin + len(example) - 1] = example[1:]
            begin += len(example)
        positions[place, begin:] = np.arange(ROW_LENGTH - begin)
    return Batch(*(torch.from_numpy(array) for array in (ids, positions, labels, groups)))


def _data_section(data: Path) -> sources.DataSection:
    written = yaml.safe_load((data / "pretrain" / "config.yaml").read_text())["data"]
    tables: dict[str, Any] = {"units": str(data / "tokenize"), "alignments": None}
    tables |= {name: str(data / "corpus" / name) for name in ("parallel_text", "dialogues")}
    weights = {**dict.fromkeys(written["weights"], 0.0), **WEIGHTS}
    return sources.DataSection(**{**written, **tables, "row_length": ROW_LENGTH, "weights": weights})


def _pack(section: sources.DataSection, start: str, root: Path) -> None:
    """Rows of the training split and of the held-out one."""
    import ray

    from cslm import cluster
    from cslm.cluster import ClusterSection

    cluster.connect(ClusterSection(num_cpus=2))
    for split, folder in ((section.split, "packed"), ("dev", "held_out")):
        pack.build(section.model_copy(update={"split": split}), TASKS, start, str(root / folder), seed=0)
    ray.shutdown()


if __name__ == "__main__":
    main()
