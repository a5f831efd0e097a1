"""What the decoder job does first: utterances of the units table, with their sound, become clips of the output."""

from collections.abc import Sequence
from typing import Any

import ray

from cslm import cluster, contracts
from cslm.apps import drawn_shards
from cslm.apps.job import Job
from cslm.config import REQUIRED, Section, fingerprint, setting
from cslm.data import clips
from cslm.data.ledger import Entry
from cslm.errors import ContractError
from cslm.speech.decoder.mel import MelShape
from cslm.speech.decoder.voices import VoiceSums
from cslm.train.decoder.loop import FitSection


class DataSection(Section):
    """Which utterances are learned from, and which are held out."""

    units: str = setting(
        REQUIRED, "units table made by jobs/tokenize.py: its folder `units`, or the job's output folder"
    )
    languages: tuple[str, ...] | None = setting(None, "BCP-47 tags of the languages to learn; all when not given")
    speakers: tuple[str, ...] | None = setting(None, "speakers to learn from; all when not given")
    default_speaker: str | None = setting(
        None, "who speaks where nobody is asked for; when not given who is heard longest"
    )
    split: str = setting("train", "split that is learned from")
    max_hours: float = setting(100.0, "audio that is learned from at most, every language alike", unit="h", gt=0)


def learned(
    section: DataSection, fit: FitSection, job: Job, units: str, tokenizer: str, mel: MelShape, shards: Sequence[Entry]
) -> list[dict[str, Any]]:
    """The shards that are learned from, with their counts: in a drawn order, until there are enough hours."""
    ordered = drawn_shards.drawn([one for one in shards if one["split"] == section.split], fit.seed)
    job.run.log_input_table(
        units,
        "units",
        schema=contracts.load("units").schema,
        num_rows=sum(shard["rows"] for shard in ordered),
        digest=fingerprint([shard["digest"] for shard in ordered]),
    )
    left_s = {shard["language"]: 0.0 for shard in ordered}
    left_s = dict.fromkeys(left_s, section.max_hours * 3600 / max(len(left_s), 1))

    def start(shard: dict[str, Any]) -> Any:
        return _write_clips.remote(job.output, units, shard, tokenizer, mel, section.speakers)

    taken: list[dict[str, Any]] = []
    num_rows = sum(shard["rows"] for shard in ordered)
    with job.progress("clips", num_rows, "utterances") as progress, cluster.workers_faults():
        for shard, counts in drawn_shards.in_order(ordered, start):
            progress.update(shard["rows"])
            if counts["clips"] + counts["rejected"] and left_s[shard["language"]] > 0:
                taken.append({**shard, **counts})
                left_s[shard["language"]] -= counts["audio_s"]
            if all(rest_s <= 0 for rest_s in left_s.values()):
                break
    if sum(shard["clips"] for shard in taken) < fit.num_workers:
        raise ContractError(
            f"data: must leave at least one utterance for each of {fit.num_workers} workers, found "
            f"{sum(shard['clips'] for shard in taken)} of split {section.split} in {len(ordered)} files; look at "
            "data.speakers, data.languages and the table rejects"
        )
    return taken


def held_out(
    split: str, most: int, output: str, units: str, tokenizer: str, mel: MelShape, shards: Sequence[Entry]
) -> list[dict[str, Any]]:
    """The shards that are measured, with their counts: of each language as many utterances as are asked for."""
    waiting = []
    left = {shard["language"]: most for shard in shards}
    for shard in sorted(shards, key=lambda shard: shard["name"]):
        count = min(left[shard["language"]], shard["rows"])
        if shard["split"] == split and count:
            left[shard["language"]] -= count
            waiting.append((shard, _write_clips.remote(output, units, shard, tokenizer, mel, None, count)))
    with cluster.workers_faults():
        return [{**shard, **ray.get(task)} for shard, task in waiting]


@ray.remote
def _write_clips(*arguments: Any) -> dict[str, Any]:
    from cslm.apps.shard_pipeline import one_thread_a_cpu

    one_thread_a_cpu()
    return clips.write_shard(*arguments)


def voices(shards: Sequence[dict[str, Any]]) -> dict[str, VoiceSums]:
    """What each speaker sounds like, by name."""
    found: dict[str, VoiceSums] = {}
    for shard in shards:
        for name, sums in shard["voices"].items():
            found[name] = found[name] + VoiceSums(**sums) if name in found else VoiceSums(**sums)
    return dict(sorted(found.items()))
