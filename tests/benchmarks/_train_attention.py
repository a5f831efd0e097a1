"""Forward and backward of one process: padded batches against packed rows, block mask against attention in segments."""

import statistics
import time

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from cslm.data.feed import IGNORE, Batch
from cslm.lm import attention, packing
from cslm.lm.model import SHAPES
from cslm.train.objective import PackedObjective
from tests.benchmarks._train_data import MIXES, VOCABULARY, lengths_of


def batch_of(rows: list[list[int]], row_length: int) -> Batch:
    """Rows of segment lengths -> a batch in which half of every segment's tokens are targets."""
    generator = torch.Generator().manual_seed(len(rows))
    input_ids = torch.randint(0, VOCABULARY, (len(rows), row_length), generator=generator)
    position_ids = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORE)
    group_ids = torch.full_like(input_ids, -1)
    for row, sizes in enumerate(rows):
        start = 0
        for size in sizes:
            end = start + size
            position_ids[row, start:end] = torch.arange(size)
            group_ids[row, start:end] = 0
            labels[row, start + size // 2 : end - 1] = input_ids[row, start + size // 2 + 1 : end]
            start = end
        position_ids[row, start:] = torch.arange(row_length - start)
    return Batch(input_ids, position_ids, labels, group_ids)


def padded(lengths: list[int], micro_batch: int) -> list[Batch]:
    """The usual recipe: examples in order, each batch padded to its longest."""
    starts = range(0, len(lengths), micro_batch)
    return [
        batch_of([[size] for size in lengths[s : s + micro_batch]], max(lengths[s : s + micro_batch])) for s in starts
    ]


def packed(lengths: list[int], row_length: int, rows: int) -> list[Batch]:
    """Ours: whole examples packed best-fit into rows."""
    laid = [[lengths[item] for item in row] for row in packing.best_fit(lengths, row_length)]
    return [batch_of(laid[start : start + rows], row_length) for start in range(0, len(laid), rows)]


class MaskedObjective(PackedObjective):
    """The same loss with transformers' own block-diagonal mask over whole rows."""

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """As PackedObjective, attention by mask."""
        hidden = self.lm.base_model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        ).last_hidden_state
        wanted = batch.labels != IGNORE
        logits = self.lm.get_output_embeddings()(hidden[wanted])
        return torch.nn.functional.cross_entropy(logits.float(), batch.labels[wanted], reduction="sum"), torch.zeros(())


def seconds(objective: PackedObjective, batches: list[Batch]) -> float:
    """Time of forward and backward over the batches."""
    started_s = time.perf_counter()
    for batch in batches:
        objective(batch)[0].backward()
        objective.zero_grad(set_to_none=True)
    return time.perf_counter() - started_s


def measure(quick: bool) -> dict[str, float]:
    """Print the table and return the ratios."""
    torch.manual_seed(0)
    attention.register()
    num_examples, turns = (40, 3) if quick else (120, 5)
    config = LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **SHAPES["tiny"])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").bfloat16()
    ratios: dict[str, float] = {}
    print(f"{'mix':<8}{'forward and backward, one process':<40}{'useful tokens/s':>16}{'filled':>9}")
    for mix, shape in MIXES.items():
        lengths = lengths_of(mix, num_examples)
        rows = packed(lengths, shape.row_length, 4)
        cases = {
            "padded, micro batch 2": (MaskedObjective, "sdpa", padded(lengths, 2)),
            "padded, micro batch 8": (MaskedObjective, "sdpa", padded(lengths, 8)),
            "packed, block mask": (MaskedObjective, "sdpa", rows),
            "packed, segments": (PackedObjective, attention.NAME, rows),
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        for turn in range(turns + 1):
            for name, (objective, kind, batches) in cases.items():
                model.set_attn_implementation(kind)
                taken_s = seconds(objective(model, 1), batches)
                if turn:  # the first turn warms up
                    times[name].append(taken_s)
        rate = {name: sum(lengths) / statistics.median(taken) for name, taken in times.items()}
        for name, (_, _, batches) in cases.items():
            size = sum(batch.input_ids.numel() for batch in batches)
            print(f"{mix:<8}{name:<40}{rate[name]:>16,.0f}{sum(lengths) / size:>9.1%}")
        best_padded = max(rate["padded, micro batch 2"], rate["padded, micro batch 8"])
        ratios[f"packed_over_padded_{mix}"] = round(rate["packed, segments"] / best_padded, 3)
        ratios[f"segments_over_mask_{mix}"] = round(rate["packed, segments"] / rate["packed, block mask"], 3)
    return ratios
