"""What the tokenize job does to a shard of its manifest: decode it, turn it into units, write these.

How the steps are laid over the cluster is a matter of `shard_pipeline`.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from cslm import storage
from cslm.apps import shard_pipeline
from cslm.apps.shard_pipeline import ActorsSection, Compute, Steps
from cslm.config import Section, group, setting
from cslm.data import manifest, recordings
from cslm.data.intake import Intake
from cslm.data.ledger import Entry, write_piece
from cslm.data.units import tokenize_piece
from cslm.speech import tokenizer as speech
from cslm.speech.tokenizers import (
    HubertSection,
    KindSection,
    KMeansSection,
    LearnedSection,
    MimiSection,
    S3Section,
)


class _KindsSection(Section):
    kind: str | None = setting(
        None,
        f"one of: {', '.join(speech.KINDS)}; or your own class as package.module:Class. When not given, that of what "
        "lies at path, or kmeans",
    )
    path: str | None = setting(None, "saved tokenizer; where there is none one is made and saved there")
    learned: LearnedSection = group(LearnedSection, "nothing but tokenizer.path, a folder of jobs/fit_tokenizer.py")
    kmeans: KMeansSection = group(KMeansSection, "what a k-means tokenizer is fitted with")
    s3: S3Section = group(S3Section, "which of CosyVoice's S3 tokenizers")
    hubert: HubertSection = group(HubertSection, "which HuBERT-style network, and how its units are fitted")
    mimi: MimiSection = group(MimiSection, "which Mimi codec")
    options: dict[str, Any] = setting({}, "what your own class is made with, as --tokenizer.options.NAME VALUE")


# The last base's settings are told first: which tokenizer, then its actors.
class TokenizerSection(ActorsSection, _KindsSection):
    """Which tokenizer, and what its actors get."""

    @property
    def section(self) -> KindSection | None:
        """The settings of the chosen kind, None when it is a user's own class."""
        kind = self.settled_kind
        return None if speech.is_own(kind) else getattr(self, kind)

    @property
    def settled_kind(self) -> str:
        """The kind, once it is known where none was given."""
        assert self.kind is not None
        return self.kind


class DecodeSection(Section):
    """How audio is read and decoded."""

    apart: bool | None = setting(
        None,
        "decode and write in tasks beside the actors, not in them; on cuda when not given. Pays on slow storage too",
    )
    num_cpus: float = setting(1.0, "logical CPUs of a decoding task that stands apart", gt=0)
    piece_s: float = setting(1200.0, "audio that is held decoded at a time; bounds memory", unit="s", gt=0)


def run(
    pending: Sequence[Entry],
    output: str,
    described: dict[str, Any],
    *,
    tokenizer: TokenizerSection,
    decode: DecodeSection,
    intake: Intake,
) -> Iterator[dict[str, Any]]:
    """Tokenize shards; yields {shard, piece, last, counts} once the tables of a piece are written.

    `described` is what the tokenizer's own file says (see `speech.tokenizer.describe`).
    """
    rate_hz = described["sample_rate_hz"]
    steps = Steps(
        decode=partial(_decode, output=output, sample_rate_hz=rate_hz, intake=intake, piece_s=decode.piece_s),
        load=partial(_load, kind=described["kind"], output=output),
        write=partial(_write, output=output),
        piece_bytes=decode.piece_s * rate_hz * 4,
    )
    return shard_pipeline.run(pending, steps, tokenizer, apart=decode.apart, decode_cpus=decode.num_cpus)


def _decode(
    shard: Entry, output: str, sample_rate_hz: int, intake: Intake, piece_s: float
) -> Iterator[tuple[pa.Table, bool]]:
    return recordings.decode_shard(manifest.read_shard(output, shard["name"]), sample_rate_hz, intake, piece_s)


def _load(device: str, kind: str, output: str) -> Compute:
    tokenizer = speech.load(kind, storage.join(output, "tokenizer"), device)

    def compute(piece: pa.Table) -> tuple[Mapping[str, pa.Table], Entry]:
        units, rejects, counts = tokenize_piece(piece, tokenizer)
        return {"units": units, "rejects": rejects}, counts

    return compute


def _write(shard: Entry, piece: int, tables: Mapping[str, pa.Table], output: str) -> None:
    write_piece(output, shard, piece, tables["units"], tables["rejects"])
