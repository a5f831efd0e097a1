"""Alpaca, ShareGPT and messages: three ways to write the same dialogues."""

import re

import pytest

from cslm.data.texts import alpaca, messages, sharegpt
from cslm.data.texts.records import Dialogue, Fault, Turn


def read(reader, *rows):
    return list(reader.read(iter(rows)))


def test_alpaca_asks_by_instruction_and_input():
    rows = [{"instruction": "Add.", "input": "1 and 2", "output": "3", "id": 5}, {"instruction": "Hi", "output": "Yes"}]
    assert read(alpaca, *rows) == [
        Dialogue([Turn("user", ["Add.", "1 and 2"]), Turn("assistant", ["3"])], 5),
        Dialogue([Turn("user", ["Hi", None]), Turn("assistant", ["Yes"])]),
    ]


def test_alpaca_may_hold_earlier_turns_and_a_system():
    row = {"system": "Be brief.", "history": [["A?", "B."]], "instruction": "C?", "input": "", "output": "D."}
    (found,) = read(alpaca, row)
    assert [(turn.role, turn.parts[0]) for turn in found.turns] == [
        ("system", "Be brief."),
        ("user", "A?"),
        ("assistant", "B."),
        ("user", "C?"),
        ("assistant", "D."),
    ]


def test_sharegpt_and_messages_keep_turns_in_order_with_what_the_row_says():
    beside = {"id": "x", "language": "en", "split": "dev", "kind": "chat"}
    share = [{"from": "human", "value": "A?"}, {"from": "gpt", "value": "B."}, {"from": "human", "value": "C?"}]
    roles = [{"role": "human", "content": "A?"}, {"role": "gpt", "content": "B."}, {"role": "human", "content": "C?"}]
    expected = [Dialogue([Turn("human", ["A?"]), Turn("gpt", ["B."]), Turn("human", ["C?"])], "x", "en", "dev", "chat")]
    assert read(sharegpt, {"conversations": share, **beside}) == expected
    assert read(messages, {"messages": roles, **beside}) == expected


def test_a_content_may_be_a_list_of_text_parts():
    parts = [{"type": "text", "text": "Look:"}, {"text": "here"}, "now"]
    (found,) = read(messages, {"messages": [{"role": "user", "content": parts}]})
    assert found.turns == [Turn("user", ["Look:", "here", "now"])]


@pytest.mark.parametrize(
    ("reader", "row", "reason", "message"),
    [
        (alpaca, {"instruction": "A"}, "unreadable_row", "must have instruction and output, found"),
        (
            alpaca,
            {"instruction": "A", "output": "B", "history": ["C"]},
            "unreadable_row",
            "pairs of question and answer",
        ),
        (sharegpt, {"id": 1}, "unreadable_row", "conversations must be a list of turns, found None"),
        (sharegpt, {"conversations": "A"}, "unreadable_row", "must be a list of turns"),
        (messages, {"messages": ["A"]}, "unreadable_row", r"messages\[1\] must be an object"),
        (messages, {"messages": [{"content": "A"}]}, "unreadable_row", "must say who speaks"),
        (
            messages,
            {"messages": [{"role": "user", "content": {"a": 1}}]},
            "bad_content",
            r"must hold text only, found an object with \['a'\]",
        ),
        (
            messages,
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}], "id": "x"},
            "bad_content",
            "found a part of type 'image_url'",
        ),
    ],
)
def test_rows_of_another_form_are_faults_that_say_why(reader, row, reason, message):
    (fault,) = read(reader, row)
    assert (fault.reason, fault.id) == (reason, row.get("id"))
    assert re.search(message, fault.message)


def test_faults_pass():
    fault = Fault("unreadable_row", "why")
    for reader in (alpaca, sharegpt, messages):
        assert read(reader, fault) == [fault]
