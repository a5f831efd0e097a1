"""The account of an epoch: its table, its notes and its metrics."""

import io

import pytest
from rich.console import Console

from cslm.apps import training_report

STATS = {
    **{"num_rows": 10, "row_length": 100, "num_tokens": 990, "efficiency": 0.99},
    "set_aside": {"asr/en": {"too_long": 3, "no_units": 1}},
    "tasks": {
        "asr/en": {
            **{"held": 104, "size": 1.5, "repeats": 1.0, "bounded_from": None},
            **{"examples": 100, "tokens": 660, "targets": 200, "share": 2 / 3},
        },
        "mt/en-zh": {
            **{"held": 5, "size": 80.0, "repeats": 4.0, "bounded_from": 6.25},
            **{"examples": 20, "tokens": 330, "targets": 100, "share": 1 / 3},
        },
    },
}


def test_the_table_has_every_group_its_repeats_and_what_was_set_aside():
    out = io.StringIO()
    Console(file=out, width=120).print(training_report.epoch_table(STATS))
    lines = {line.split()[1]: line.split() for line in out.getvalue().splitlines() if line.startswith("│")}
    assert [one for one in lines["asr/en"] if one != "│"] == ["asr/en", "104", "1", "100", "660", "200", "66.7%", "4"]
    assert [one for one in lines["mt/en-zh"] if one != "│"][2] == "4*"
    assert [one for one in lines["total"] if one != "│"] == ["total", "120", "990", "300", "4"]


def test_bounded_groups_and_reasons_are_told():
    assert training_report.notes_of(STATS) == [
        "* mt/en-zh: bounded to 4 repeats by data.mixture.max_repeats, would have been 6.25",
        "set aside of asr/en: 3 too_long, 1 no_units",
    ]


def test_metrics_name_figure_and_group():
    metrics = training_report.metrics_of(STATS)
    assert metrics["data/tokens/asr/en"] == 660
    assert metrics["data/repeats/mt/en-zh"] == 4
    assert metrics["data/set_aside/asr/en"] == 4
    assert metrics["data/efficiency"] == pytest.approx(0.99)
