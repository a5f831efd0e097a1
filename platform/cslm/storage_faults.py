"""What storage says when it fails: what may pass, what is its own fault and no missing file, and how to tell it."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from cslm.errors import CslmError

# What a network file system or a disk says when it may well answer the next time. Object stores' clients retry by
# themselves, request by request.
_TRANSIENT = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.EIO,
    errno.ENETUNREACH,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
# What it says when it takes or gives nothing until someone mends that: no room, no right.
_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}
_PAUSES_S = (0.1, 0.4, 1.6)

T = TypeVar("T")


def named(error: OSError, uri: str) -> OSError:
    """The same error with the file that it is about in its text."""
    if uri in str(error):
        return error
    if error.errno is None:
        return OSError(f"{uri}: {error}")
    # In the text and not as its file name: that is lost when the error crosses from one process to another.
    return OSError(error.errno, f"{error.strerror or error}: {uri}")


@contextmanager
def about(uri: str) -> Iterator[None]:
    """Object stores' clients do not say what they were asked for when they get no answer."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise named(error, uri) from error


def is_fault(error: OSError) -> bool:
    """Whether an error is the storage's own: not a missing file, nor another process that cannot be reached."""
    if error.errno is None:
        # Object stores' clients give no number, and raise no class of their own.
        return type(error) is OSError
    return error.errno in _TRANSIENT | _REFUSED


def fault(error: OSError) -> CslmError:
    """What to tell of a storage that fails: one sentence."""
    # Ray appends advice of its own to the text of what failed in a worker.
    said = error.strerror or str(error).partition("\nFailed to ")[0]
    if error.filename is not None:
        said += f": {error.filename}"
    return CslmError(
        f"storage must answer and have room while a job runs, found {type(error).__name__}: {said}; no row is rejected "
        "for it: mend it, and the same command goes on from what is done"
    )


def retried(call: Callable[[], T]) -> T:
    """What `call` gives, tried again after a pause where the storage may answer the next time."""
    for pause_s in _PAUSES_S:
        try:
            return call()
        except OSError as error:
            if error.errno not in _TRANSIENT:
                raise
            time.sleep(pause_s)
    return call()
