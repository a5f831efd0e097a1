"""Small tables by contract, whose speech is an exact code of the text: made at once, and a model can learn from it."""

from pathlib import Path

import numpy as np

from cslm import contracts, storage
from cslm.speech.tokenizers import KMeansSection
from cslm.speech.tokenizers.kmeans import KMeansTokenizer

WORDS = ["one", "two", "three", "four", "five", "red", "blue", "green", "cat", "dog"]
NUM_UNITS = 40
# Its units are not those of any audio: the tables give each word units of its own.
TOKENIZER = KMeansTokenizer(
    KMeansSection(codebook_size=NUM_UNITS),
    np.random.default_rng(0).normal(size=(NUM_UNITS, 39)).astype(np.float32),
)


def write(root: Path, *, num_utterances: int = 120, seed: int = 0) -> None:
    """Write `units/` (with its tokenizer), `parallel_text/` and `dialogues/` below `root`."""
    rng = np.random.default_rng(seed)
    codes = {word: rng.integers(0, NUM_UNITS, 5).tolist() for word in WORDS}
    units, parallel, dialogues = [], [], []
    for number in range(num_utterances):
        words = rng.choice(WORDS, rng.integers(2, 5)).tolist()
        text, split = " ".join(words), "test" if number % 10 == 0 else "train"
        spoken = [code for word in words for code in codes[word]]
        units.append(
            {
                "id": f"u{number}",
                "language": "en",
                "split": split,
                "text": text,
                "units": spoken,
                "durations": [1] * len(spoken),
                "num_frames": len(spoken),
                "frame_rate_hz": 50.0,
                "duration_s": len(spoken) / 50,
                "tokenizer": TOKENIZER.fingerprint,
                "source": f"u{number}.wav",
                "source_sha256": "0" * 64,
            }
        )
        pair = {"source_language": "en", "target_language": "es", "source": text, "target": " ".join(reversed(words))}
        parallel.append({"id": f"p{number}", "split": split, **pair})
        question = {"role": "user", "language": "en", "text": text, "audio": f"u{number}" if number % 3 else None}
        answer = {"role": "assistant", "language": "en", "text": words[0], "audio": None}
        turns = [question, answer]
        dialogues.append({"id": f"d{number}", "kind": "first", "turns": turns, "accepted": [words[0]], "split": split})
    for split in ("train", "test"):
        table = contracts.load("units").table([row for row in units if row["split"] == split])
        folder = root / "units" / "units" / "language=en" / f"split={split}"
        storage.write_table(table.drop_columns(["language", "split"]), str(folder / "shard-00000.parquet"))
    TOKENIZER.save(str(root / "units" / "tokenizer"))
    storage.write_table(contracts.load("parallel_text").table(parallel), str(root / "parallel_text" / "part-0.parquet"))
    storage.write_table(contracts.load("dialogues").table(dialogues), str(root / "dialogues" / "part-0.parquet"))
