"""Grades of a judge for the answers of an evaluation, asked from this process and kept a few at a time."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cslm import contracts, storage
from cslm.apps import evaluate_pipeline
from cslm.apps.job import Job
from cslm.config import fingerprint
from cslm.evaluate.judge import Case, Judge, JudgeSection

_GRADED_TOGETHER = 32


def graded(section: JudgeSection, job: Job, predictions: pa.Table, made_of: Mapping[str, Any]) -> pa.Table:
    """Predictions with the judge's grades of text and speech; those of an earlier run are not asked for again."""
    judge = Judge(section)
    folder = storage.join(job.output, evaluate_pipeline.KEPT, "grades", fingerprint([made_of, judge.name]))
    grades: dict[str, int | None] = {}
    for file in storage.list_files(folder, ".json"):
        grades |= storage.read_json(file)
    rows = predictions.to_pylist()
    cases: list[Case] = []
    seen: dict[str, int] = {}
    for row in rows:
        if not row["task"].startswith("answer/"):
            continue
        seen[row["task"]] = seen.get(row["task"], 0) + 1
        if seen[row["task"]] > section.max_questions:
            continue
        for column in ("output", "spoken"):
            if row[column] is not None:
                name = f"{row['task']}|{row['id']}|{column}"
                cases.append(Case(name, row["question"], row["reference"], row[column], row["language"]))
    left = [case for case in cases if case.id not in grades]
    with job.progress("judge", len(cases), "answers", len(cases) - len(left)) as progress:
        for start in range(0, len(left), _GRADED_TOGETHER):
            part = left[start : start + _GRADED_TOGETHER]
            given = {case.id: grade for case, grade in judge.grades(part)}
            storage.write_json(storage.join(folder, f"{fingerprint(sorted(given))}.json"), given)
            grades |= given
            progress.update(len(part))
    for row in rows:
        for column, target in (("output", "grade"), ("spoken", "spoken_grade")):
            row[target] = grades.get(f"{row['task']}|{row['id']}|{column}")
    without = sum(grades.get(case.id) is None for case in cases)
    if without:
        job.say(f"note: {without:,} of {len(cases):,} replies of the judge held no grade and are left out")
    return contracts.load("predictions").table(rows)
