"""The retrain job: looks which languages are due, and brings each from its data to a promoted or a refused model."""

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from cslm import storage
from cslm.apps import provenance, retrain_chain, retrain_report, retrain_schedule
from cslm.apps.job import SUMMARY, Job, run_job
from cslm.apps.retrain_chain import Chain, Made, NoGo
from cslm.apps.retrain_commands import Commands, OverBudget, variables
from cslm.apps.retrain_settings import Config, Recipe
from cslm.errors import ConfigError, CslmError, Refused
from cslm.languages import card, drops, lease, planning, state
from cslm.languages.card import Card
from cslm.languages.drops import Drop
from cslm.languages.gate import Verdict
from cslm.languages.lease import Lease
from cslm.languages.planning import Planned
from cslm.languages.state import Attempt, Champion, Ending
from cslm.lm import prompts
from cslm.tracking import Registry, Run, TrackingSection, Version

_RECORD = "champion.json"
_FLAGS = {"--print-systemd": "--print_systemd"}


@dataclass(frozen=True)
class Tick:
    """What is there when a tick looks: cards, their data, and the model in use."""

    cards: dict[str, Card]
    drops: dict[str, Drop]
    missing: dict[str, str]
    recipe: Recipe
    version: Version | None
    champion: Champion | None


def body(config: Config, job: Job) -> None:
    """Trains new languages into the champion: a card and data are enough, and nobody who uses it today loses.

    For every card in --languages that is due: tokenize, ceiling test, one set of tables with a share of the old
    languages, align, pretrain and sft from the champion, evaluate both, gate, promotion in MLflow's registry, and a
    report. The same command again goes on where a run was interrupted, and does nothing when nothing is due. Exit
    codes: 0 done, 1 a run failed, 2 bad cards or settings, 3 refused by gate or ceiling test: the champion stays.
    """
    if config.print_systemd:
        retrain_schedule.print_systemd(config, job.output)
        return
    if config.rollback:
        with lease.hold(job.output, config.schedule.lease_s, "a rollback"):
            _rollback(config, job)
        return
    if config.every is not None:
        _ = _look(config)  # faults of cards and settings are told now and not at night
        retrain_schedule.stay(config, job)
        return
    if config.plan:
        _show_plan(_look(config), config, job)
        return
    with lease.hold(job.output, config.schedule.lease_s, "a tick of retraining") as held:
        _tick(config, job, held)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from a command line and return its exit code."""
    arguments = [_FLAGS.get(one, one) for one in (sys.argv[1:] if argv is None else argv)]
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, _interrupt)
    return run_job("retrain", Config, body, arguments)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _look(config: Config) -> Tick:
    if config.languages is None:
        raise ConfigError("languages: required, not given (--languages DIR, a folder of language cards)")
    faults: list[str] = []
    cards: dict[str, Card] = {}
    recipe: Recipe | None = None
    try:
        cards = card.load_all(storage.absolute(config.languages))
    except ConfigError as error:
        faults += error.faults
    try:
        recipe = Recipe(config)
    except ConfigError as error:
        faults += error.faults
    for one in cards.values():
        try:
            _prompts(one)
        except (ConfigError, OSError) as error:
            faults.append(f"{one.code}: prompts: {error}")
    if faults or recipe is None:
        raise ConfigError(faults)
    found: dict[str, Drop] = {}
    missing: dict[str, str] = {}
    for code, one in cards.items():
        try:
            found[code] = drops.look(one)
        except CslmError as error:
            missing[code] = str(error)
    version = Registry(config.registry.name).champion()
    return Tick(cards, found, missing, recipe, version, _champion_of(version, config.registry.name))


def _champion_of(version: Version | None, name: str) -> Champion | None:
    if version is None:
        return None
    record = version.tags.get("cslm.record")
    if record is None or not storage.exists(record):
        raise ConfigError(
            f"registry.name: version {version.number} of {name} must be one that this job promoted, with its record, "
            f"found {record or 'none'}; move the alias champion back, or give another registry.name"
        )
    return Champion.load(record)


def _prompts(one: Card) -> None:
    if one.prompts:
        prompts.read(storage.absolute(one.prompts), one.code)
    else:
        prompts.templates(one.code)


def _plan(look: Tick, config: Config, job: Job) -> tuple[list[Planned], dict[str, str]]:
    return planning.plan(
        look.cards, look.drops, state.attempts(job.output), look.champion, look.recipe.made, config.due
    )


def _show_plan(look: Tick, config: Config, job: Job) -> list[Planned]:
    planned, waiting = _plan(look, config, job)
    champion = "none yet"
    if look.version is not None and look.champion is not None:
        champion = f"version {look.version.number}, {', '.join(look.champion.languages)}"
    job.say(f"champion of {config.registry.name}: {champion}")
    for code, reason in [*waiting.items(), *look.missing.items()]:
        job.say(f"{code} is not due: {reason}")
    for one in planned:
        job.say(f"{', '.join(one.languages)}: due, {one.reason}; run {one.run}")
        for number, step in enumerate(retrain_chain.outline(one, look.cards, look.champion, look.recipe), 1):
            job.say(f"  {number}. {step}")
    if not planned:
        job.say("nothing is due")
    return planned


def _tick(config: Config, job: Job, held: Lease) -> None:
    started_s = time.time()
    endings: dict[str, dict[str, Any]] = {}
    look = _look(config)
    _show_plan(look, config, job)
    done: set[str] = set()
    while True:
        # After each run, as another champion makes others of those that wait.
        planned = [one for one in _plan(look, config, job)[0] if one.name not in done]
        if not planned:
            break
        one = planned[0]
        done.add(one.name)
        ending, reasons, run = _run(one, look, config, job, held)
        endings[one.name] = {"run": one.run, "languages": one.languages, "ending": ending, "reasons": reasons, **run}
        look = _look(config)
    # Data that cannot be looked at is a failure of its language, as a step's would be.
    summary = {
        "job": job.name,
        "status": "done",
        "at_s": round(started_s, 1),
        "wall_s": round(time.time() - started_s, 1),
        "champion": look.version.number if look.version else None,
        "languages": sorted(look.champion.languages) if look.champion else [],
        "runs": endings,
        "missing": look.missing,
    }
    record = storage.join(job.output, SUMMARY)
    storage.write_json(record, summary)
    ended = [f"{run['run']} {run['ending']}" for run in endings.values()] or ["nothing was due"]
    champion = f"version {look.version.number}" if look.version else "none yet"
    job.say(f"{job.name}: done: {', '.join(ended)}; the champion is {champion}; {record}")
    _end(endings, look.missing)


def _end(endings: Mapping[str, Mapping[str, Any]], missing: Mapping[str, str]) -> None:
    """Raise what the exit code follows from: failures before refusals."""
    failed = [f"{one['run']}: {one['ending']}: {'; '.join(one['reasons'])}" for one in endings.values()
              if one["ending"] in ("failed", "over budget")]  # fmt: skip
    failed += missing.values()
    refused = [f"{one['run']}: {reason}" for one in endings.values() if one["ending"] in ("refused", "no-go")
               for reason in one["reasons"]]  # fmt: skip
    if failed:
        raise CslmError("\n".join([*failed, *refused]))
    if refused:
        raise Refused("the champion stays:\n" + "\n".join(f"  {one}" for one in refused))


def _run(
    planned: Planned, look: Tick, config: Config, job: Job, held: Lease
) -> tuple[Ending, list[str], dict[str, Any]]:
    """One run to its end; what goes wrong in it is told and kept from the others."""
    folder = retrain_chain.run_folder(job.output, planned)
    tracking = TrackingSection(experiment=config.tracking.experiment, run_name=f"retrain {planned.run}")
    parent = Run.open(tracking, job="retrain", output=folder)
    tags = {"cslm.languages": ",".join(planned.languages), "cslm.reason": planned.reason}
    parent.set_tags({**provenance.tags(), **tags})
    environment = variables(_own_prompts(look.cards, job.output))
    commands = Commands(folder, job, config.cluster, config.budget, environment)
    chain = Chain(planned, look.cards, look.drops, look.champion, config, look.recipe, job, commands, parent.run_id)
    state.remember(job.output, planned.name, Attempt(planned.key, planned.run, "running"))
    ending: Ending = "failed"
    reasons: list[str] = []
    made: Made | None = None
    verdict: Verdict | None = None
    version: Version | None = None
    try:
        made = chain.make()
        verdict = chain.judge(made)
        if verdict.passed:
            version = _promote(planned, look, made, folder, parent, config, held)
            ending = "promoted"
        else:
            ending, reasons = "refused", verdict.reasons
    except NoGo as error:
        ending, reasons = "no-go", [str(error)]
    except OverBudget as error:
        ending, reasons = "over budget", [str(error)]
    except lease.Lost:
        raise
    except CslmError as error:
        reasons = [str(error)]
    except OSError as error:
        if not storage.is_fault(error):
            raise
        reasons = [str(storage.fault(error))]
    report = retrain_report.write(
        planned, look.cards, look.champion, chain, made, verdict, ending, reasons, commands.spent
    )
    parent.log_text(storage.read_text(report), "report.html")
    parent.log_metrics(retrain_report.metrics(verdict, commands.spent))
    parent.set_tags({"cslm.ending": ending})
    parent.finish("FAILED" if ending == "failed" else "FINISHED")
    state.remember(job.output, planned.name, Attempt(planned.key, planned.run, ending, reasons))
    job.say(f"{planned.run}: {ending}" + (f" as version {version.number}" if version else "") + f"; {report}")
    for reason in reasons:
        job.say(f"  {reason}")
    return ending, reasons, {"report": report, "version": version.number if version else None}


def _promote(
    planned: Planned, look: Tick, made: Made, folder: str, parent: Run, config: Config, held: Lease
) -> Version:
    """Register the candidate and make it the champion. Raises CslmError when the champion is another one meanwhile."""
    registry = Registry(config.registry.name)
    now = registry.champion()
    before = look.version.number if look.version else None
    record = storage.join(folder, _RECORD)
    if now is not None and now.tags.get("cslm.record") == record:
        return now  # promoted before an interruption
    if (now.number if now else None) != before:
        raise CslmError(
            f"promotion: the champion must be version {before}, from which {planned.run} started, found "
            f"{now.number if now else None}: somebody moved the alias; the next tick starts from there"
        )
    recipe = look.recipe
    Champion(
        run=planned.run,
        model=made.model,
        tokenizer=recipe.made.tokenizer,
        recipe=recipe.made.recipe,
        languages=made.languages,
        tables=made.tables,
        decoder=recipe.decoder,
    ).save(record)
    drops_of = {code: known.drop for code, known in made.languages.items()}
    tags = {
        "cslm.run": planned.run,
        "cslm.record": record,
        "cslm.languages": ",".join(sorted(made.languages)),
        "cslm.data": ",".join(f"{code}:{drop}" for code, drop in sorted(drops_of.items())),
        "cslm.tokenizer": recipe.made.tokenizer,
        "cslm.recipe": recipe.made.recipe,
        **({"cslm.parent_version": before} if before else {}),
    }
    version = registry.register(made.model, run_id=parent.run_id, tags=tags)
    held.check()
    registry.promote(version)
    return version


def _own_prompts(cards: Mapping[str, Card], home: str) -> str | None:
    """A folder with the prompts that cards bring, None when they bring none."""
    folder = storage.join(home, "prompts")
    own = {code: storage.absolute(one.prompts) for code, one in cards.items() if one.prompts}
    for code, uri in own.items():
        storage.write_bytes(storage.join(folder, f"{code}.yaml"), storage.read_bytes(uri))
    return folder if own else None


def _rollback(config: Config, job: Job) -> None:
    taken, champion = Registry(config.registry.name).rollback()
    job.say(
        f"version {taken.number} of {config.registry.name} is taken back; the champion is version {champion.number} "
        f"again ({champion.tags.get('cslm.languages', 'languages not known')})"
    )
