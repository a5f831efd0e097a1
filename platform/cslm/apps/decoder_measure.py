"""What the decoder job does last: held-out utterances are spoken by the new decoder, and listened to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from cslm import cluster, storage
from cslm.apps.job import Job
from cslm.config import Section, setting
from cslm.data import clips
from cslm.evaluate import resynthesis
from cslm.speech import decoder as speaking
from cslm.speech.tokenizers.learned import LearnedTokenizer


class MeasureSection(Section):
    """What is measured at the end."""

    split: str = setting("test", "split that is measured; its speakers need not be known")
    max_utterances: int = setting(100, "utterances of each language that are measured, the first by id", ge=0)
    recogniser: str | None = setting(
        None,
        "folder of jobs/fit_tokenizer.py whose recogniser listens; when not given the tokenizer of the units, where "
        "that is of kind learned",
    )
    num_samples: int = setting(3, "utterances whose sound is written, original and resynthesis", ge=0)


def measured(
    section: MeasureSection,
    job: Job,
    folder: str,
    recogniser: str | None,
    shards: Sequence[dict[str, Any]],
    voices: dict[str, np.ndarray],
) -> pa.Table:
    """The rows of `evaluate.resynthesis`, one for each held-out utterance, kept in output.path/predictions."""
    if not any(shard["clips"] for shard in shards):
        job.say(f"note: nothing is measured: there are no utterances of the split {section.split}")
        return resynthesis.SCHEMA.empty_table()
    if recogniser is None:
        job.say("note: nothing listens to the resynthesis; give measure.recogniser, a folder of jobs/fit_tokenizer.py")
    tasks = [
        (
            _measure.remote(
                job.output, shard["name"], folder, recogniser, {name: voices[name] for name in shard["voices"]}
            )
        )
        for shard in shards
        if shard["clips"]
    ]
    tables = []
    num_clips = sum(shard["clips"] for shard in shards)
    with job.progress("measure", num_clips, "utterances") as progress, cluster.workers_faults():
        for task in tasks:
            tables.append(ray.get(task))
            progress.update(tables[-1].num_rows)
    table = pa.concat_tables(tables).sort_by("id")
    storage.write_table(table, storage.join(job.output, "predictions", "part-00000.parquet"))
    return table


@ray.remote
def _measure(output: str, name: str, folder: str, recogniser: str | None, voices: dict[str, np.ndarray]) -> pa.Table:
    from cslm.apps.shard_pipeline import one_thread_a_cpu

    decoder = speaking.load(folder)
    listening = LearnedTokenizer.load(recogniser).recogniser if recogniser else None
    one_thread_a_cpu()
    found = clips.read(output, [name], decoder.sample_rate_hz)
    return resynthesis.measure(decoder, listening, found, voices)


def samples(
    section: MeasureSection, output: str, folder: str, shards: Sequence[dict[str, Any]]
) -> list[tuple[clips.Clip, np.ndarray]]:
    """A few held-out utterances, of each language in turn, and how the decoder says them."""
    by_language: dict[str, list[clips.Clip]] = {}
    decoder = speaking.load(folder)
    for shard in shards:
        of_one = by_language.setdefault(shard["language"], [])
        if shard["clips"] and len(of_one) < section.num_samples:
            of_one += clips.read(output, [shard["name"]], decoder.sample_rate_hz)
    chosen: list[clips.Clip] = []
    for number in range(section.num_samples):
        chosen += [of_one[number] for _, of_one in sorted(by_language.items()) if number < len(of_one)]
    return [(clip, resynthesis.resynthesis(decoder, clip)) for clip in chosen[: section.num_samples]]
