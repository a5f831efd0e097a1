import pickle

import pytest

from cslm import errors
from cslm.errors import AudioError, CheckpointError, ConfigError, ContractError, CslmError, MissingDependency

EVERY_ERROR = [
    ConfigError(["a.b: wrong", "c: missing"]),
    ConfigError("a.b: wrong"),
    ContractError("table units does not keep its contract"),
    AudioError("empty", "the file holds no samples"),
    CheckpointError("no model in /x"),
    MissingDependency("boto3", "s3", "reading s3://"),
]


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_errors_travel_between_processes_whole(error: CslmError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_what_the_user_can_mend_in_the_input_ends_with_two(error: CslmError) -> None:
    bad_input = isinstance(error, ConfigError | ContractError | AudioError)
    assert error.exit_code == (errors.EXIT_BAD_INPUT if bad_input else errors.EXIT_FAILED)


def test_missing_dependency_tells_purpose_and_remedy() -> None:
    text = str(MissingDependency("espeakng-loader", "demo", "the demo corpus"))
    assert text == (
        "the demo corpus needs the package espeakng-loader, which is not installed: pip install 'cslm[demo]'"
    )


def test_config_error_shows_each_fault_on_a_line() -> None:
    assert str(ConfigError(["a: x", "b: y"])) == "a: x\nb: y"
