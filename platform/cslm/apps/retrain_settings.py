"""The settings of jobs/retrain.py."""

from pathlib import Path
from typing import Any

from cslm import storage
from cslm.apps.ceiling import LookSection
from cslm.apps.job import JobConfig
from cslm.config import Section, fingerprint, group, setting
from cslm.data.mixture import ReplaySection
from cslm.errors import ConfigError
from cslm.languages.budget import BudgetSection
from cslm.languages.ceiling import CeilingSection
from cslm.languages.gate import GateSection
from cslm.languages.planning import DueSection, Made
from cslm.languages.schedule import ScheduleSection
from cslm.speech import tokenizer as speech

ROOT = str(Path(__file__).resolve().parents[3])


class RecipeSection(Section):
    """How a model is made: configs of the chain's jobs, in which paths of tables, models and results are replaced."""

    tokenizer: str | None = setting(
        None, "speech tokenizer that makes the units of all languages (output of jobs/fit_tokenizer.py, or any other)"
    )
    decoder: str | None = setting(None, "speech decoder of these units; without it speech is neither made nor heard")
    recogniser: str | None = setting(
        None, "who listens to speech: the tokenizer where it is learned, or a Whisper folder"
    )
    tokenize: str = setting("jobs/configs/tokenize/default.yaml", "config of jobs/tokenize.py")
    align: str | None = setting(
        "jobs/configs/align/default.yaml", "config of jobs/align.py; null: answers of the form full need no alignments"
    )
    base_model: str | None = setting(
        None, "Hugging Face causal LM that the first champion is made from; what `pretrain` says when not given"
    )
    pretrain: str | None = setting(None, "config of jobs/pretrain.py from the base model")
    sft: str | None = setting(None, "config of jobs/sft.py behind it")
    continued_pretrain: str | None = setting(
        None, "config of jobs/pretrain.py from the champion; `pretrain` when not given"
    )
    continued_sft: str | None = setting(None, "config of jobs/sft.py behind that; `sft` when not given")
    evaluate: str = setting("jobs/configs/evaluate/full.yaml", "config of jobs/evaluate.py")


class ReplayingSection(Section):
    """What is trained again of the languages that the champion has."""

    share: float = setting(0.5, "share of every task that is replayed, the rest being the new language", ge=0, lt=1)
    beta: float = setting(0.5, "temperature over the replayed languages: 1 as their data lies, 0 all alike", ge=0, le=1)

    def of(self, languages: tuple[str, ...]) -> ReplaySection:
        """As a setting of the mixture."""
        return ReplaySection(languages=languages, share=self.share, beta=self.beta)


class RegistrySection(Section):
    """Where models are promoted."""

    name: str = setting("cslm", "registered model of MLflow, whose alias `champion` is the model in use")


class Config(JobConfig):
    """Settings of jobs/retrain.py."""

    languages: str | None = setting(None, "folder of language cards, <code>.yaml each")
    plan: bool = setting(False, "show what is due and the steps of it, and stop")
    rollback: bool = setting(False, "make the previous champion the champion again, and stop")
    every: str | None = setting(
        None, "stay and run at these times, in cron's five fields (minute hour day month weekday): '0 3 * * 1'"
    )
    print_systemd: bool = setting(False, "print a systemd service and timer for this command (with `every`), and stop")
    recipe: RecipeSection = group(RecipeSection, "how a model is made")
    replay: ReplayingSection = group(ReplayingSection, "what is trained again of the languages that the champion has")
    due: DueSection = group(DueSection, "when a language is trained again")
    look: LookSection = group(LookSection, "how much the ceiling test looks at")
    ceiling: CeilingSection = group(CeilingSection, "from where on the ceiling test tells a language with caution")
    gate: GateSection = group(GateSection, "what a candidate may lose")
    budget: BudgetSection = group(BudgetSection, "what a run may cost")
    registry: RegistrySection = group(RegistrySection, "where models are promoted")
    schedule: ScheduleSection = group(ScheduleSection, "how `every` keeps its times, and the lease")


class Recipe:
    """The recipe with its files read: what each job of the chain starts from, and fingerprints of it."""

    def __init__(self, config: Config) -> None:
        section = config.recipe
        faults: list[str] = []
        self.section = section
        self.tokenizer = storage.absolute(section.tokenizer) if section.tokenizer else ""
        described = speech.describe(self.tokenizer) if self.tokenizer else None
        if described is None:
            faults.append(f"recipe.tokenizer: must be the folder of a speech tokenizer, found {section.tokenizer}")
        self.described: dict[str, Any] = described or {}
        self.decoder = storage.absolute(section.decoder) if section.decoder else None
        learned = self.tokenizer if self.described.get("kind") == "learned" else None
        self.recogniser = storage.absolute(section.recogniser) if section.recogniser else learned
        names = ("tokenize", "align", "pretrain", "sft", "continued_pretrain", "continued_sft", "evaluate")
        faults += [f"recipe.{name}: required, not given" for name in ("pretrain", "sft") if not getattr(section, name)]
        self._documents = {name: _document(name, getattr(section, name), faults) for name in names}
        if faults:
            raise ConfigError(faults)
        self.made = Made(
            tokenizer=str(self.described["fingerprint"]),
            recipe=fingerprint([section.base_model, self._documents["pretrain"], self._documents["sft"]]),
            tables=fingerprint([self._documents["tokenize"], self._documents["align"]]),
            continuing=fingerprint(
                [
                    config.replay.model_dump(),
                    *(self._documents[name] for name in ("continued_pretrain", "continued_sft")),
                ]
            ),
            judging=fingerprint(
                [
                    self._documents["evaluate"],
                    config.model_dump(mode="json", include={"look", "ceiling", "gate"}),
                    self.decoder and storage.listing_digest(self.decoder),
                ]
            ),
        )

    @property
    def aligns(self) -> bool:
        """Whether words are aligned."""
        return self._documents["align"] is not None

    def of(self, job: str, *, continues: bool = False) -> dict[str, Any]:
        """The settings of a job, before paths are put in."""
        document = self._documents.get(f"continued_{job}") if continues else None
        return dict(document or self._documents[job] or {})


def _document(name: str, path: str | None, faults: list[str]) -> dict[str, Any] | None:
    if path is None:
        return None
    # Those that come with the platform are found wherever the job is started.
    places = [storage.join(ROOT, path), path] if not storage.is_uri(path) else [path]
    found = next((place for place in places if storage.exists(place)), None)
    if found is None:
        faults.append(f"recipe.{name}: must be a config file, found nothing at {path}")
        return None
    document = storage.read_yaml(found)
    if not isinstance(document, dict):
        faults.append(f"recipe.{name}: {path} must hold a mapping of sections")
        return None
    return document
