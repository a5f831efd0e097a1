import json
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cslm import config
from cslm.config import REQUIRED, Section, group, setting
from cslm.errors import ConfigError


class Optimiser(Section):
    lr: float = setting(1e-3, "peak learning rate", gt=0)
    warm_up_s: float = setting(0.5, "time until the peak", unit="s", ge=0)
    kind: Literal["adam", "lion"] = setting("adam", "rule of the step")


class Train(Section):
    max_steps: int = setting(REQUIRED, "steps in all", ge=1)
    resume: bool = setting(False, "go on from the last checkpoint")
    optimiser: Optimiser = group(Optimiser, "how weights move")


class Job(Section):
    name: str = setting("cslm", "name of the job")
    note: str | None = setting(None, "a word on it")
    weights: dict[str, float] = setting({}, "weight of each task")
    train: Train = group(Train, "the training")


def parse(*argv: str) -> Job:
    return config.parse(Job, argv, prog="jobs/test.py", description="A job for tests.")


def faults_of(*argv: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(*argv)
    return caught.value.faults


def write(folder: Path, text: str) -> str:
    file = folder / "job.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_command_line_wins_over_file_and_file_over_default(tmp_path: Path) -> None:
    file = write(tmp_path, "name: file\ntrain: {max_steps: 3, optimiser: {lr: 0.1, warm_up_s: 7}}\n")
    job = parse("--config", file, "--train.optimiser.lr", "0.2")
    assert (job.name, job.train.max_steps) == ("file", 3)
    assert (job.train.optimiser.lr, job.train.optimiser.warm_up_s) == (0.2, 7.0)
    assert job.train.optimiser.kind == "adam"


def test_every_fault_is_reported_at_once_with_its_dotted_path(tmp_path: Path) -> None:
    file = write(tmp_path, "train: {optimiser: {lr: -1, kind: sgd, momentum: 0.9}}\nnam: x\n")
    faults = faults_of("--config", file, "--train.resume", "maybe", "stray")
    for path in ("stray", "nam", "train.max_steps", "train.resume", "train.optimiser.lr", "train.optimiser.kind"):
        assert sum(fault.startswith(f"{path}: ") for fault in faults) == 1, path
    assert "train.max_steps: required, not given" in faults
    assert "train.optimiser.momentum: unknown setting; --help lists all" in faults
    assert any(fault.startswith("train.optimiser.lr") and fault.endswith("found -1") for fault in faults)
    assert len(faults) == 7


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("train.max_step", "train.max_steps"),
        ("nam", "name"),
        ("train.optimiser.warmup_s", "train.optimiser.warm_up_s"),
        ("train.lr", "train.optimiser.lr"),
    ],
)
def test_a_misspelt_or_misplaced_setting_is_answered_with_the_right_one(wrong: str, meant: str) -> None:
    assert faults_of("--train.max_steps", "1", f"--{wrong}", "1") == [
        f"{wrong}: unknown setting; did you mean {meant}?"
    ]


def test_a_misspelt_section_is_answered_with_the_right_one() -> None:
    faults = faults_of("--train.max_steps", "1", "--train.optimizer.lr", "1")
    assert faults == ["train.optimizer: unknown setting; did you mean train.optimiser?"]


def test_a_missing_section_is_missed_by_the_full_path_of_its_fields() -> None:
    assert faults_of() == ["train.max_steps: required, not given"]


@pytest.mark.parametrize("text", ["- a list\n", "just text\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert "must hold a mapping" in faults_of("--config", write(tmp_path, text))[0]


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    assert faults_of("--config", str(tmp_path / "none.yaml"))[0].startswith("--config: must be a readable YAML file")
    assert faults_of("--config", write(tmp_path, "a: [1, 2"))[0].startswith("--config: must be a readable YAML file")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00name")
    assert faults_of("--config", str(tmp_path / "binary.yaml"))[0].startswith("--config: must be a readable YAML file")


def test_a_setting_without_a_value_is_a_fault_and_a_bare_switch_is_true() -> None:
    assert faults_of("--name", "--train.max_steps", "1") == ["name: needs a value, as in --name VALUE"]
    assert parse("--train.resume", "--train.max_steps", "1").train.resume is True
    assert parse("--train.max_steps=1", "--train.resume=false").train.resume is False


def test_text_settings_take_their_value_as_written() -> None:
    job = parse("--train.max_steps", "1", "--name", "007", "--note", "yes")
    assert (job.name, job.note) == ("007", "yes")
    job = parse("--train.max_steps", "1", "--name", "null", "--note", "null")
    assert (job.name, job.note) == ("null", None)


def test_numbers_in_scientific_notation_and_entries_of_a_mapping(tmp_path: Path) -> None:
    file = write(tmp_path, "train: {max_steps: 1, optimiser: {lr: 2e-3}}\nweights: {asr: 1, tts: 2}\n")
    job = parse("--config", file, "--weights.asr", "3e-1")
    assert job.train.optimiser.lr == 2e-3
    assert job.weights == {"asr": 0.3, "tts": 2.0}


def test_a_value_where_a_section_must_be_is_a_fault(tmp_path: Path) -> None:
    file = write(tmp_path, "train: 5\n")
    assert any(fault.startswith("train") for fault in faults_of("--config", file, "--train.max_steps", "1"))


def test_help_lists_every_field_with_type_default_unit_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for path, field, inner in config.fields_of(Job):
        assert (f"{path}:" if inner else f"--{path} ") in text
        assert (field.description or "?") in text
    assert "--train.optimiser.warm_up_s float [s]  (default 0.5)" in text
    assert "--train.optimiser.kind adam|lion  (default " in text
    assert "--train.max_steps int  (required)" in text


def test_printed_config_is_read_back_as_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--train.max_steps", "9", "--name", "名前", "--weights.asr", "2"]
    with pytest.raises(SystemExit) as stopped:
        parse(*arguments, "--print-config")
    assert stopped.value.code == 0
    file = write(tmp_path, capsys.readouterr().out)
    assert parse("--config", file) == parse(*arguments)


def test_a_bad_config_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert faults_of("--print-config")
    assert capsys.readouterr().out == ""


def test_config_is_frozen() -> None:
    job = parse("--train.max_steps", "1")
    with pytest.raises(pydantic.ValidationError):
        job.train.max_steps = 2  # type: ignore[misc]


def test_flatten_gives_every_value_by_its_dotted_path() -> None:
    flat = config.flatten(parse("--train.max_steps", "4", "--weights.asr", "2"))
    assert flat["train.max_steps"] == 4
    assert flat["train.optimiser.lr"] == 1e-3
    assert flat["weights.asr"] == 2.0


def test_a_default_that_breaks_its_own_rule_is_refused() -> None:
    class Broken(Section):
        size: int = setting(0, "must be positive", ge=1)

    with pytest.raises(ConfigError, match="size"):
        config.parse(Broken, [], prog="x", description="x")


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(json_values)
def test_fingerprint_depends_on_content_not_on_order(value: Any) -> None:
    def reversed_keys(one: Any) -> Any:
        if isinstance(one, dict):
            return {key: reversed_keys(one[key]) for key in reversed(one)}
        return [reversed_keys(inner) for inner in one] if isinstance(one, list) else one

    found = config.fingerprint(value)
    assert found == config.fingerprint(reversed_keys(value)) == config.fingerprint(json.loads(json.dumps(value)))
    assert len(found) == 16
    assert config.fingerprint([value]) != found


def test_fingerprint_of_a_section_is_that_of_its_values_and_stays_the_same() -> None:
    job = parse("--train.max_steps", "1")
    assert config.fingerprint(job) == config.fingerprint(job.model_dump(mode="json"))
    assert config.fingerprint(job) != config.fingerprint(parse("--train.max_steps", "2"))
    # Written down: finished work of earlier versions is known by these digits.
    assert config.fingerprint({"a": [1, 2.5, "ü"], "b": None}) == "9235ac36a7f51da8"


@settings(deadline=None)
@given(
    lr=st.floats(min_value=1e-9, max_value=1e3),
    steps=st.integers(1, 10**9),
    name=st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" "), min_size=1),
    resume=st.booleans(),
)
def test_any_value_survives_file_and_command_line(lr: float, steps: int, name: str, resume: bool) -> None:
    by_hand = Job(name=name, train=Train(max_steps=steps, resume=resume, optimiser=Optimiser(lr=lr)))
    values = (f"--train.max_steps={steps}", f"--train.resume={resume}", f"--train.optimiser.lr={lr}")
    assert parse(f"--name={name}", *values) == by_hand
    assert Job.model_validate(yaml.safe_load(config.to_yaml(by_hand))) == by_hand
