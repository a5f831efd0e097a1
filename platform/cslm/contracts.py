"""Data contracts: `schemas/<table>.yaml` is the one hand-written source of every table's columns and types.

A table is checked against its contract whenever it is written or read, so that a drift shows at the table's door
and not in a training run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cslm import storage
from cslm.errors import ContractError

# In a checkout this is a symbolic link to /schemas; Ray's code shipping and the wheel turn it into a plain folder.
SCHEMA_FOLDER = Path(__file__).parent / "schemas"

_SCALARS = {
    "string": pa.string(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "bool": pa.bool_(),
}


@dataclass(frozen=True)
class Contract:
    """One table: its Arrow schema and the columns that name its hive folders."""

    name: str
    version: int
    schema: pa.Schema
    partition_columns: tuple[str, ...]

    def check(self, table: pa.Table, where: str = "") -> pa.Table:
        """Return `table` with columns in contract order and exact types.

        Columns that may be null are added where missing; other columns than the contract's are faults. Raises
        ContractError listing every fault.
        """
        unknown = [column for column in table.column_names if column not in self._names]
        faults = [f"column {column} is not in the contract" for column in unknown]
        columns = []
        for field in self.schema:
            if field.name not in table.column_names:
                if not field.nullable:
                    faults.append(f"column {field.name} ({field.type}) is missing")
                columns.append(pa.nulls(table.num_rows, field.type))
                continue
            column = table.column(field.name)
            if not field.nullable and column.null_count:
                faults.append(f"column {field.name} must not hold nulls, found {column.null_count}")
            if column.type != field.type:
                try:
                    column = column.cast(field.type)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    faults.append(f"column {field.name} must be {field.type}, found {column.type}: {error}")
            if column.type == field.type:
                faults += [f"column {field.name} {fault}" for fault in _faults_inside_lists(column)]
            columns.append(column)
        if faults:
            place = f" ({where})" if where else ""
            raise ContractError(f"table {self.name}{place} does not keep its contract:\n  " + "\n  ".join(faults))
        return pa.table(columns, schema=self.schema)

    def only(self, columns: Sequence[str]) -> "Contract":
        """The contract of some of the columns, for reading no more of a table than is needed."""
        fields = [self.schema.field(column) for column in columns]
        return Contract(self.name, self.version, pa.schema(fields, metadata=self.schema.metadata), ())

    def table(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Build a table from rows. Raises ContractError for unknown columns, nulls and wrong types."""
        unknown = sorted({key for row in rows for key in row} - set(self._names))
        if unknown:
            raise ContractError(f"table {self.name} has no columns {unknown}")
        # Arrow would drop what a struct does not know, without a word.
        for field in self.schema:
            if pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type):
                known = {child.name for child in field.type.value_type}
                found = {key for row in rows for one in row.get(field.name) or () for key in one or ()}
                if found - known:
                    raise ContractError(
                        f"column {field.name} of table {self.name} has no fields {sorted(found - known)}"
                    )
        try:
            data = [pa.array([row.get(field.name) for row in rows], field.type) for field in self.schema]
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise ContractError(f"rows do not fit table {self.name}: {error}") from error
        return self.check(pa.table(data, schema=pa.schema([field.with_nullable(True) for field in self.schema])))

    @property
    def _names(self) -> list[str]:
        return list(self.schema.names)


@cache
def load(name: str) -> Contract:
    """Load the contract of a table by name. Raises ContractError when there is none."""
    path = SCHEMA_FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in SCHEMA_FOLDER.glob("*.yaml"))
        raise ContractError(f"no contract for a table named {name}; there are {known}")
    document = storage.read_yaml(str(path))
    fields = [_field(column) for column in document["columns"]]
    schema = pa.schema(fields, metadata={"cslm.contract": f"{document['table']}/{document['version']}"})
    return Contract(document["table"], document["version"], schema, tuple(document.get("partitioned_by", ())))


def _faults_inside_lists(column: pa.ChunkedArray) -> list[str]:
    """Nulls where a list must hold a value; Arrow finds them only when it writes the table, or never."""
    if not pa.types.is_list(column.type):
        return []
    values = pc.list_flatten(column)
    faults = [f"must not hold null elements, found {values.null_count}"] if values.null_count else []
    for child in values.type if pa.types.is_struct(values.type) else ():
        missing = pc.struct_field(values, child.name).null_count - values.null_count
        if not child.nullable and missing:
            faults.append(f"must not hold nulls in its field {child.name}, found {missing}")
    return faults


def _field(column: Mapping[str, Any]) -> pa.Field:
    return pa.field(column["name"], _type(column), nullable=column.get("nullable", True))


def _type(column: Mapping[str, Any]) -> pa.DataType:
    text = column["type"]
    is_list = text.startswith("list<")
    inner = text[5:-1] if is_list else text
    if "fields" in column:
        value: pa.DataType = pa.struct([_field(field) for field in column["fields"]])
    else:
        value = _SCALARS[inner]
    return pa.list_(value) if is_list else value
