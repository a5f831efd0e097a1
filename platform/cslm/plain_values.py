"""Tables hold plain values: a column of pickled Python objects is refused before anything of it is looked at.

Ray Data registers a type with Arrow whose values are unpickled, so run as code, by whoever looks at one. A table that
somebody gives us must not be able to name it.
"""

import pyarrow as pa

from cslm.errors import ContractError

_OBJECTS = "ray.data.arrow_pickled_object"


def plain_only(schema: pa.Schema, uri: str) -> pa.Schema:
    """The same schema; raises ContractError where a column holds Python objects."""
    found = [field.name for field in schema if _holds_objects(field.type)]
    if found:
        raise ContractError(
            f"{uri} must hold plain values, found pickled Python objects in {', '.join(found)}; looking at them would "
            "run code of whoever wrote them: write the columns as text, numbers or lists"
        )
    return schema


def _holds_objects(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return kind.extension_name == _OBJECTS or _holds_objects(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _holds_objects(kind.value_type)
    return any(_holds_objects(kind.field(number).type) for number in range(kind.num_fields))
