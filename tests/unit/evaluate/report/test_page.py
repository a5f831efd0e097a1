import math
import re

from cslm.evaluate.figures import Figure
from cslm.evaluate.report import page, wording

FIGURES = [
    Figure("asr/en", "cer", 0.0312, 0.02, 0.04, 100),
    Figure("answer/en-zh", "accuracy", 0.5, 0.4, 0.6, 20),
    Figure("answer/en-zh", "speech_accuracy", 0.25, math.nan, math.nan, 20),
    Figure("answer/en-zh", "first_speech_s", 0.25, 0.2, 0.3, 4),
    Figure("mt/en-zh", "bleu", 31.5, 30, 33, 10),
    Figure("units/en", "perplexity", 1234.5, 1000, 1500, 10),
    Figure("alignment/en", "gap", 0.15, 0.1, 0.2, 50),
]
CURVES = {"alignment/en": {"parallel": [0.5, 0.7], "random": [0.4, 0.5], "retrieval": [0.1, 0.9]}}
PREDICTION = {
    "id": "d1", "task": "answer/en-zh", "question": "<script>alert(1)</script>", "heard": "two", "reference": "五。",
    "output": "五。", "spoken": "五", "right": True,
}  # fmt: skip


def test_figures_stand_in_a_table_of_their_family():
    tables = {table["title"]: table for table in page.tables(FIGURES)}
    assert list(tables) == [
        "Recognition", "Translation", "Dialogue", "Speech and text in the model", "Foretelling", "Waiting",
    ]  # fmt: skip
    dialogue = tables["Dialogue"]
    assert dialogue["columns"] == ["right", "right in speech"]
    assert [cell["value"] for cell in dialogue["rows"][0]["cells"]] == ["50.0%", "25.0%"]
    assert dialogue["rows"][0]["cells"][0]["interval"] == "40.0 to 60.0%"
    assert dialogue["rows"][0]["cells"][1]["interval"] == "-"
    assert tables["Foretelling"]["rows"][0]["cells"][0]["value"] == "1,234"


def test_a_page_shows_figures_pictures_samples_and_what_made_them_and_lets_nothing_out_of_its_place():
    shown = page.sample(PREDICTION, {"question": b"RIFFx", "reference": None, "answer": b"fLaCx"})
    html = page.render("A model", FIGURES, {"model": "m/model", "sampling": {"temperature": 0}}, CURVES, [shown])
    assert "31.50" in html
    assert "n = 100" in html
    assert html.count("<svg") == len(re.findall("</svg>", html)) == 2
    assert 'src="data:audio/wav;base64,' in html
    assert 'src="data:audio/flac;base64,' in html
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "m/model" in html
    assert not re.search(r'(src|href)="(?!data:|#)', html)


def test_a_page_of_nothing_is_a_page():
    html = page.render("Nothing", [], {}, {}, [])
    assert "<h1>Nothing</h1>" in html


def test_values_are_written_as_people_read_them():
    assert wording.number("wer", 0.1234) == "12.3%"
    assert wording.number("chrf", 45.678) == "45.68"
    assert wording.number("first_speech_s", 0.0123) == "0.012"
    assert wording.number("wer", math.nan) == "-"
    assert wording.meaning("some_new_measure") == "some new measure"
