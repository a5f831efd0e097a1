import json

import pytest

from cslm.errors import ConfigError
from cslm.evaluate import minimal_pairs


def write(folder, name, text):
    (folder / name).write_text(text)


def test_words_and_made_up_words_of_zerospeech(tmp_path):
    lines = ["id,filename,voice,frequency,word,phones,length_phone,correct"]
    for number in range(3):
        for voice in ("A", "B"):
            lines.append(f"{number},good{number}{voice},{voice},12,word,W ER D,3,1")
            lines.append(f"{number},bad{number}{voice},{voice},0,werd,W EH D,3,0")
    lines.append("9,alone,A,1,word,W,1,1")
    write(tmp_path, "gold.csv", "\n".join(lines))
    pairs = minimal_pairs.read("swuggy", str(tmp_path), "en", 100)
    assert len(pairs) == 6
    assert pairs[0] == {
        "task": "swuggy/en",
        "id": "0/A",
        "correct": f"{tmp_path}/good0A.wav",
        "incorrect": f"{tmp_path}/bad0A.wav",
    }
    assert len(minimal_pairs.read("swuggy", str(tmp_path), "en", 4)) == 4


def test_sentences_of_zerospeech_are_pairs_within_their_type(tmp_path):
    lines = ["id,filename,voice,type,subtype,transcription,correct"]
    for kind in ("anaphora", "negation"):
        lines += [f"1,{kind}1,A,{kind},s,he runs,1", f"1,{kind}2,A,{kind},s,he run,0"]
    write(tmp_path, "gold.csv", "\n".join(lines))
    assert [pair["id"] for pair in minimal_pairs.read("sblimp", str(tmp_path), "en", 9)] == [
        "anaphora/s/1/A",
        "negation/s/1/A",
    ]


def test_stories_by_their_names(tmp_path):
    for name in ("0_correct.wav", "0_incorrect.wav", "12_story_correct.wav", "12_story_incorrect.wav", "7_correct.wav"):
        write(tmp_path, name, "")
    pairs = minimal_pairs.read("storycloze", str(tmp_path), "en", 9)
    assert {pair["id"]: (pair["correct"], pair["incorrect"]) for pair in pairs} == {
        "0": (f"{tmp_path}/0_correct.wav", f"{tmp_path}/0_incorrect.wav"),
        "12": (f"{tmp_path}/12_story_correct.wav", f"{tmp_path}/12_story_incorrect.wav"),
    }


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_a_table_of_ones_own(form, tmp_path):
    row = {"id": "a", "correct": "x.wav", "incorrect": "s3://bucket/y.wav"}
    mark = "\t" if form == "tsv" else ","
    text = json.dumps(row) if form == "jsonl" else f"{mark.join(row)}\n{mark.join(row.values())}\n"
    write(tmp_path, f"pairs.{form}", text)
    [pair] = minimal_pairs.read("mine", str(tmp_path), "zh", 9)
    assert pair == {"task": "mine/zh", "id": "a", "correct": f"{tmp_path}/x.wav", "incorrect": "s3://bucket/y.wav"}


def test_what_is_no_set_of_pairs_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"pairs\.folders\.mine: must hold a gold\.csv"):
        minimal_pairs.read("mine", str(tmp_path), "en", 9)
    write(tmp_path, "gold.csv", "id,name\n1,x\n")
    with pytest.raises(ConfigError, match="correct, filename missing"):
        minimal_pairs.read("mine", str(tmp_path), "en", 9)
    write(tmp_path, "pairs.csv", "id,correct,incorrect\na,x.wav,\n")
    with pytest.raises(ConfigError, match="row 1 must have incorrect"):
        minimal_pairs.read("mine", str(tmp_path), "en", 9)
