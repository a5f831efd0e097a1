from cslm.speech.recogniser.alphabet import Alphabet

TEXTS = ["Three birds.", "¿Dónde está?", "三隻鳥。"]


def test_all_scripts_stand_together_and_texts_come_back():
    alphabet = Alphabet.of(TEXTS)
    assert alphabet.num_symbols == len(set("three birds dónde está三隻鳥")) + 1
    for text, normal in zip(TEXTS, ["three birds", "dónde está", "三隻鳥"], strict=True):
        assert alphabet.read(alphabet.spell(text)) == normal


def test_what_is_rare_or_unknown_is_left_out():
    alphabet = Alphabet.of(["aab", "ab", "ac"], least=2)
    assert alphabet.characters == ("a", "b")
    assert alphabet.spell("abcx") == [1, 2]


def test_blanks_are_not_read():
    assert Alphabet(("a", "b")).read([0, 1, 0, 2]) == "ab"
