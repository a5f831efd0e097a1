import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm import contracts
from cslm.data.texts.cleaning import Clean, Cleaner, reverse
from cslm.data.texts.records import Dialogue, Fault, Pair, Turn
from cslm.data.texts.settings import FiltersSection, LanguagesSection, SplitsSection


def cleaner(splits=None, languages=None, **filters):
    section = LanguagesSection(**({"source": "en", "target": "es"} | (languages or {})))
    return Cleaner("corpus", section, SplitsSection(**(splits or {})), FiltersSection(**filters))


def dialogue(*turns, **fields):
    return Dialogue([Turn(role, text if isinstance(text, list) else [text]) for role, text in turns], **fields)


def reason_of(record, **settings):
    found = cleaner(**settings).clean(1, record)
    return found.reason if isinstance(found, Fault) else None


def test_a_pair_becomes_a_row_of_its_table():
    clean = cleaner().clean(12, Pair(" Good\tmorning ", "Buenos di\u0301as"))
    assert clean.row == {
        "id": "corpus-12",
        "source_language": "en",
        "target_language": "es",
        "source": "Good morning",
        "target": "Buenos días",
        "split": "train",
    }
    assert clean.changes == ["line_breaks", "spaces", "nfc"]
    contracts.load("parallel_text").table([clean.row])


def test_what_a_row_names_goes_before_the_settings():
    clean = cleaner().clean(1, Pair("A", "B", 7, "de", "fr-CA", "dev"))
    assert [clean.row[key] for key in ("id", "source_language", "target_language", "split")] == [
        "7",
        "de",
        "fr-CA",
        "dev",
    ]
    assert cleaner().clean(1, Pair("A", "B", float("nan"), "", None, float("nan"))).row["id"] == "corpus-1"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Pair("", "b"), "empty"),
        (Pair("a", None), "empty"),
        (Pair("a", " \u200b\n"), "empty"),
        (Pair("a" * 4001, "b" * 4001), "too_long"),
        (Pair("short", "b" * 46), "length_ratio"),
        (Pair("the same", "the  same"), "identical"),
        (Pair("...!!! 12/12/2012", "Fecha"), "not_text"),
        (Pair("a", "b", split="validation"), "bad_split"),
        (Pair("a", "b", source_language="english language"), "bad_language"),
        (Pair("a", "b", target_language="zh_CN"), "bad_language"),
        (Pair({"text": "a"}, "b"), "bad_content"),
        (Pair(True, "b"), "bad_content"),
        (Pair("a", "b", id="\u200b"), "bad_id"),
        (Pair("a", "b", id="x#reversed"), "bad_id"),
        (Fault("unreadable_row", "why"), "unreadable_row"),
        (dialogue(), "empty"),
        (dialogue(("user", "A?")), "empty"),
        (dialogue(("system", "Be brief."), ("user", "A?")), "empty"),
        (dialogue(("user", "A?"), ("assistant", "")), "empty"),
        (dialogue(("user", ""), ("assistant", "B.")), "empty"),
        (dialogue(("assistant", "B."), ("user", "A?"), ("assistant", "B.")), "not_alternating"),
        (dialogue(("user", "A?"), ("user", "A?"), ("assistant", "B.")), "not_alternating"),
        (dialogue(("user", "A?"), ("assistant", "B."), ("assistant", "B.")), "not_alternating"),
        (dialogue(("user", "A?"), ("tool", "x"), ("assistant", "B.")), "bad_role"),
        (dialogue((None, "A?"), ("assistant", "B.")), "bad_role"),
        (dialogue(("user", "A?"), ("system", "x"), ("assistant", "B.")), "bad_role"),
        (dialogue(("user", "A?"), ("assistant", "b" * 4001)), "too_long"),
        (dialogue(("user", "1 + 1 = ? ?"), ("assistant", "2")), "not_text"),
        (dialogue(("user", "A?"), ("assistant", "B."), language="x" * 9), "bad_language"),
    ],
)
def test_rows_are_rejected_for_one_reason_with_what_must_hold_and_what_was_found(record, reason):
    found = cleaner().clean(3, record)
    assert isinstance(found, Fault)
    assert found.reason == reason
    assert reason == "unreadable_row" or ("found" in found.message or "must" in found.message)


def test_a_row_without_any_language_is_rejected():
    assert reason_of(Pair("a", "b"), languages={"target": None}) == "no_language"
    assert reason_of(dialogue(("user", "A?"), ("assistant", "B.")), languages={"source": None}) == "no_language"


def test_filters_have_thresholds():
    assert reason_of(Pair("ab", "cdefg"), min_chars=3) == "too_short"
    assert reason_of(Pair("abc", "defg"), max_chars=3) == "too_long"
    assert reason_of(Pair("abc", "defgh"), max_length_ratio=1.5) == "length_ratio"
    assert reason_of(Pair("same", "same"), drop_identical=False) is None
    assert reason_of(Pair("1984", "¡1984!"), min_letter_share=0) is None


def test_letters_of_scripts_with_many_marks_are_letters():
    # More than half of it are marks and the spaces between them.
    assert reason_of(Pair("हिन्दी में", "हिंदी"), min_letter_share=0.95) is None
    assert reason_of(Pair("中文。", "Chinese."), min_letter_share=0.5) is None


def test_a_dialogue_of_many_turns_keeps_them_in_order():
    found = cleaner(languages={"target": None}).clean(
        2, dialogue(("Human", "A?"), ("gpt", "B."), ("user", "C?"), ("assistant", "D."), id="x", kind="chat")
    )
    assert found.row["turns"] == [
        {"role": role, "language": "en", "text": text}
        for role, text in (("user", "A?"), ("assistant", "B."), ("user", "C?"), ("assistant", "D."))
    ]
    assert (found.row["id"], found.row["kind"], found.row["split"]) == ("x", "chat", "train")
    assert (found.dropped_turns, found.joined_systems) == (0, 0)
    contracts.load("dialogues").table([found.row])


def test_a_system_goes_in_front_of_the_first_question_and_a_question_without_answer_goes():
    record = dialogue(
        ("system", "Be brief."), ("user", ["A?", "b"]), ("assistant", "C."), ("user", "D?"), ("user", "E?")
    )
    found = cleaner().clean(1, record)
    assert [(turn["role"], turn["text"]) for turn in found.row["turns"]] == [
        ("user", "Be brief. A? b"),
        ("assistant", "C."),
    ]
    assert (found.dropped_turns, found.joined_systems) == (2, 1)
    assert cleaner(keep_layout=True).clean(1, record).row["turns"][0]["text"] == "Be brief.\n\nA?\n\nb"


def test_languages_of_a_dialogue_are_by_turn_unless_the_row_has_one():
    record = dialogue(("user", "A?"), ("assistant", "B."))
    assert [turn["language"] for turn in cleaner().clean(1, record).row["turns"]] == ["en", "es"]
    record.language = "fr"
    assert [turn["language"] for turn in cleaner().clean(1, record).row["turns"]] == ["fr", "fr"]


def test_the_layout_of_texts_can_be_kept():
    record = dialogue(("user", "List two."), ("assistant", "1. one\r\n2. two\n"))
    assert cleaner().clean(1, record).row["turns"][1]["text"] == "1. one 2. two"
    assert cleaner(keep_layout=True).clean(1, record).row["turns"][1]["text"] == "1. one\n2. two"


def test_splits_follow_from_what_is_asked_and_have_the_sizes_asked_for():
    splits = {"dev_fraction": 0.1, "test_fraction": 0.2}
    one = cleaner(splits)
    found = [one.clean(n, Pair(f"sentence number {n}", f"frase {n}")).row["split"] for n in range(2000)]
    assert 150 < found.count("dev") < 250
    assert 330 < found.count("test") < 470
    again = cleaner(splits)
    assert [
        again.clean(0, Pair(f"Sentence  number {n}", f"otra {n}", id="x")).row["split"] for n in range(2000)
    ] == found
    other = cleaner(splits | {"seed": 1})
    assert [other.clean(n, Pair(f"sentence number {n}", "x y")).row["split"] for n in range(2000)] != found
    assert one.clean(1, Pair("sentence number 1", "b c", split="train")).row["split"] == "train"


def test_the_key_of_a_pair_is_the_same_both_ways_when_both_are_written():
    def key(record, **languages):
        return cleaner(languages=languages).clean(1, record).key

    there, back = Pair("a", "b", None, "en", "es"), Pair("b", "a", None, "es", "en")
    assert key(there) != key(back)
    assert key(there, both_directions=True) == key(back, both_directions=True)
    assert key(there) != key(Pair("a", "b", None, "en", "pt"))


def test_a_pair_is_reversed_with_an_id_of_its_own():
    row = cleaner().clean(1, Pair("a", "b", split="dev")).row
    assert reverse(row) == {
        "id": "corpus-1#reversed",
        "source_language": "es",
        "target_language": "en",
        "source": "b",
        "target": "a",
        "split": "dev",
    }


ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=2)


@given(st.builds(Pair, ANYTHING, ANYTHING, ANYTHING, ANYTHING, ANYTHING, ANYTHING))
def test_any_pair_becomes_a_row_or_a_fault(record):
    found = cleaner(min_letter_share=0).clean(1, record)
    if isinstance(found, Clean):
        contracts.load("parallel_text").table([found.row, reverse(found.row)])
    else:
        assert found.reason.isidentifier()


TURNS = st.builds(
    Turn, st.sampled_from(["user", "assistant", "system", "Human", "x", None]), st.lists(ANYTHING, max_size=2)
)


@given(st.builds(Dialogue, st.lists(TURNS, max_size=5), ANYTHING, ANYTHING, ANYTHING, ANYTHING))
def test_any_dialogue_becomes_a_row_that_alternates_and_ends_with_the_assistant_or_a_fault(record):
    found = cleaner(min_letter_share=0).clean(1, record)
    if isinstance(found, Clean):
        contracts.load("dialogues").table([found.row])
        turns = found.row["turns"]
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert turns
        assert all(turn["text"] for turn in turns)
    else:
        assert found.reason.isidentifier()


def test_a_pair_names_the_utterances_that_speak_it():
    clean = cleaner().clean(1, Pair("One.", "Uno.", source_audio="en-7", target_audio=8))
    assert (clean.row["source_audio"], clean.row["target_audio"]) == ("en-7", "8")
    back = reverse(clean.row)
    assert (back["source_audio"], back["target_audio"]) == ("8", "en-7")
    half = reverse(cleaner().clean(1, Pair("One.", "Uno.", source_audio="en-7")).row)
    assert half["target_audio"] == "en-7"
    assert "source_audio" not in half
    contracts.load("parallel_text").table([clean.row, back, half])
    assert reason_of(Pair("One.", "Uno.", source_audio={"path": "x.wav"})) == "bad_audio"


def test_a_turn_names_its_utterance_and_its_language():
    turns = [Turn("user", ["What is it?"], "q1", "en"), Turn("assistant", ["Es rojo."], "a1", "es")]
    clean = cleaner(languages={"source": None}).clean(1, Dialogue(turns))
    assert [(turn["language"], turn["audio"]) for turn in clean.row["turns"]] == [("en", "q1"), ("es", "a1")]
    contracts.load("dialogues").table([clean.row])
    other = [Turn("user", ["What is it?"], "q2", "en"), turns[1]]
    assert cleaner().clean(2, Dialogue(other)).key != clean.key
    assert reason_of(Dialogue([Turn("user", ["A?"], ["x"]), turns[1]])) == "bad_audio"


def test_a_question_with_a_system_in_front_is_no_longer_what_was_spoken():
    turns = [Turn("system", ["Be brief."]), Turn("user", ["What is it?"], "q1"), Turn("assistant", ["Red."], "a1")]
    clean = cleaner().clean(1, Dialogue(turns))
    assert ["audio" in turn for turn in clean.row["turns"]] == [False, True]
