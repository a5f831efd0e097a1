"""The errors a user can meet, and the exit code each one ends a job with.

Every message says what must hold, what was found and what to do. Anything that is not a `CslmError` is a fault of
the platform, of a device or of storage, and is never turned into a rejected record.
"""

from collections.abc import Sequence

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_REFUSED = 3


class CslmError(Exception):
    """Base of all errors that carry a message for the user."""

    exit_code = EXIT_FAILED


class ConfigError(CslmError):
    """Settings that cannot be used. `faults` lists every one of them, `dotted.path: what is wrong`."""

    exit_code = EXIT_BAD_INPUT

    def __init__(self, faults: Sequence[str] | str) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[list[str]]]:
        return (ConfigError, (self.faults,))


class ContractError(CslmError):
    """A table that does not keep its contract in `schemas/`."""

    exit_code = EXIT_BAD_INPUT


class AudioError(CslmError):
    """Audio that cannot be taken. `reason` is the short machine-readable name that goes to the rejects table.

    `audio_s` is the length of the audio where that is known, else 0.
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(self, reason: str, message: str, audio_s: float = 0.0) -> None:
        self.reason, self.audio_s = reason, audio_s
        super().__init__(message)

    def __reduce__(self) -> tuple[type["AudioError"], tuple[str, str, float]]:
        return (AudioError, (self.reason, str(self), self.audio_s))


class Refused(CslmError):
    """A model that a gate did not let through, or a language that the ceiling test did not."""

    exit_code = EXIT_REFUSED


class CheckpointError(CslmError):
    """A checkpoint, model or tokenizer folder that is incomplete or belongs to something else."""


class MissingDependency(CslmError):
    """An optional package that this setting needs is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.package, self.extra, self.purpose = package, extra, purpose
        super().__init__(f"{purpose} needs the package {package}, which is not installed: pip install 'cslm[{extra}]'")

    def __reduce__(self) -> tuple[type["MissingDependency"], tuple[str, str, str]]:
        return (MissingDependency, (self.package, self.extra, self.purpose))
