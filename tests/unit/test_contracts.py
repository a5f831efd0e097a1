from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cslm import contracts, storage
from cslm.errors import ContractError

EVERY_TABLE = sorted(file.stem for file in contracts.SCHEMA_FOLDER.glob("*.yaml"))

UTTERANCE = {"id": "a", "audio": "a.wav", "language": "en"}
UNITS: dict[str, Any] = {
    "id": "a", "units": [3, 1], "durations": [2, 4], "num_frames": 6, "frame_rate_hz": 25.0, "duration_s": 0.24,
    "tokenizer": "f" * 16, "source": "/a.wav", "source_sha256": "0" * 64, "language": "en", "split": "train",
}  # fmt: skip


def values_of(field: pa.Field) -> st.SearchStrategy[Any]:
    """Any value that a column may hold."""
    kind = field.type
    if pa.types.is_list(kind):
        inner: st.SearchStrategy[Any] = st.lists(values_of(pa.field("x", kind.value_type, nullable=False)), max_size=4)
    elif pa.types.is_struct(kind):
        inner = st.fixed_dictionaries({child.name: values_of(child) for child in kind})
    elif pa.types.is_string(kind):
        inner = st.text(max_size=8)
    elif pa.types.is_boolean(kind):
        inner = st.booleans()
    elif pa.types.is_floating(kind):
        inner = st.floats(allow_nan=False, width=kind.bit_width)
    else:
        signed = pa.types.is_signed_integer(kind)
        top = 2 ** (kind.bit_width - signed) - 1
        inner = st.integers(-top - 1 if signed else 0, top)
    return st.none() | inner if field.nullable else inner


@pytest.mark.parametrize("name", EVERY_TABLE)
def test_every_schema_loads_and_says_what_each_column_means(name: str) -> None:
    contract = contracts.load(name)
    assert contract.name == name
    assert set(contract.partition_columns) <= set(contract.schema.names)
    document = storage.read_yaml(str(contracts.SCHEMA_FOLDER / f"{name}.yaml"))
    assert document["meaning"]
    for column in document["columns"]:
        assert column["meaning"], column["name"]
        assert all(field["meaning"] for field in column.get("fields", ()))
    assert contract.schema.metadata[b"cslm.contract"] == f"{name}/{contract.version}".encode()


@pytest.mark.parametrize("name", EVERY_TABLE)
def test_any_row_that_keeps_the_contract_survives_parquet(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    contract = contracts.load(name)
    file = str(tmp_path_factory.mktemp(name) / "part.parquet")

    @settings(deadline=None, max_examples=15)
    @given(st.lists(st.fixed_dictionaries({field.name: values_of(field) for field in contract.schema}), max_size=3))
    def round_trip(rows: list[dict[str, Any]]) -> None:
        table = contract.table(rows)
        storage.write_table(table, file)
        back = storage.read_table(file)
        assert back.schema.equals(contract.schema)
        assert back.schema.metadata == contract.schema.metadata
        assert contract.check(back).equals(table)
        assert back.to_pylist() == table.to_pylist()

    round_trip()


def test_the_units_table_is_what_trainers_and_tools_read() -> None:
    schema = contracts.load("units").schema
    assert schema.field("units").type == pa.list_(pa.uint16())
    assert schema.field("durations").type == pa.list_(pa.uint16())
    assert not schema.field("tokenizer").nullable
    assert contracts.load("units").partition_columns == ("language", "split")


def test_an_unknown_table_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ContractError, match=r"no contract for a table named unit; there are .*units"):
        contracts.load("unit")


def test_columns_that_may_be_null_are_added_and_all_are_put_in_order() -> None:
    given_table = pa.table({"language": ["en"], "audio": ["a.wav"], "id": ["a"]})
    checked = contracts.load("utterances").check(given_table)
    assert checked.schema.equals(contracts.load("utterances").schema)
    assert checked.to_pylist() == [dict.fromkeys(checked.schema.names) | UTTERANCE]


def test_types_are_made_exact_where_no_value_is_lost() -> None:
    loose = pa.Table.from_pylist([UNITS | {"speaker": None, "text": None}])
    assert loose.schema.field("units").type == pa.list_(pa.int64())
    assert contracts.load("units").check(loose).schema.equals(contracts.load("units").schema)
    partition = loose.set_column(
        loose.schema.get_field_index("language"), "language", loose.column("language").dictionary_encode()
    )
    assert contracts.load("units").check(partition).column("language").to_pylist() == ["en"]


def test_every_fault_of_a_table_is_reported_with_the_place() -> None:
    rows = [UNITS | {"units": [70_000], "split": None, "duration_s": "long", "mood": "good"}]
    table = pa.Table.from_pylist(rows).drop_columns(["source"])
    with pytest.raises(ContractError) as caught:
        contracts.load("units").check(table, "s3://bucket/units/part-0.parquet")
    text = str(caught.value)
    assert text.startswith("table units (s3://bucket/units/part-0.parquet) does not keep its contract:")
    for fault in (
        "column mood is not in the contract",
        "column source (string) is missing",
        "column split must not hold nulls, found 1",
        "column units must be list<",
        "column duration_s must be float",
    ):
        assert fault in text
    assert len(text.splitlines()) == 6


@pytest.mark.parametrize(
    ("name", "row", "fault"),
    [
        ("utterances", UTTERANCE | {"lang": "en"}, r"has no columns \['lang'\]"),
        ("utterances", UTTERANCE | {"start_s": "soon"}, "do not fit table utterances"),
        ("utterances", {"id": "a", "audio": "a.wav"}, "column language must not hold nulls, found 1"),
        ("units", UNITS | {"units": [-1]}, "do not fit table units"),
        ("units", UNITS | {"units": [65_536]}, "do not fit table units"),
        ("units", UNITS | {"units": [1, None]}, "column units must not hold null elements, found 1"),
        ("dialogues", {"id": "a", "turns": [None]}, "column turns must not hold null elements, found 1"),
        (
            "dialogues",
            {"id": "a", "turns": [{"role": "user", "language": "en"}]},
            "column turns must not hold nulls in its field text, found 1",
        ),
        (
            "dialogues",
            {"id": "a", "turns": [{"role": "user", "language": "en", "text": "hi", "sound": "x"}]},
            r"column turns of table dialogues has no fields \['sound'\]",
        ),
    ],
)
def test_a_row_that_breaks_the_contract_is_refused(name: str, row: dict[str, Any], fault: str) -> None:
    with pytest.raises(ContractError, match=fault):
        contracts.load(name).table([row])


def test_a_table_without_rows_keeps_the_contract() -> None:
    empty = contracts.load("dialogues").table([])
    assert (empty.num_rows, empty.schema) == (0, contracts.load("dialogues").schema)
