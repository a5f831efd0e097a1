"""Tables that may be broken: what is wrong inside a file becomes a row that says so."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from cslm import storage
from cslm.data.containers import StorageFault
from cslm.data.corpora.source import Row, fault
from cslm.errors import ContractError


@contextmanager
def readable(uri: str) -> Iterator[list[Row]]:
    """A block that reads a container; gives a list that afterwards holds a fault where its content is broken.

    A fault of the storage is raised as the OSError that it is.
    """
    problems: list[Row] = []
    try:
        yield problems
    except StorageFault as error:
        raise storage.named(error.args[0], uri) from error
    except (pa.ArrowException, OSError, EOFError, ContractError) as error:
        problems.append(_broken(uri, error))


def _broken(uri: str, error: Exception) -> Row:
    found = str(error).splitlines()[0] if str(error) else type(error).__name__
    message = f"{uri} must be a whole file of its kind, found damage: {found}; copy the file again"
    return fault("unreadable_container", message, audio=uri, container=True)
