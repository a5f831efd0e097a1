import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm.evaluate import similarity
from cslm.evaluate.similarity import SimilaritySection, of_layer


def test_vectors_that_are_the_same_are_found_and_others_are_not_like_them():
    found = of_layer(np.eye(5, dtype=np.float32), 3 * np.eye(5, dtype=np.float32))
    assert found["parallel"].tolist() == pytest.approx([1] * 5)
    assert found["random"].tolist() == pytest.approx([0] * 5)
    assert found["gap"].tolist() == pytest.approx([1] * 5)
    assert found["retrieval"].tolist() == [1] * 5


@given(st.integers(2, 12), st.integers(0, 100))
def test_vectors_that_are_all_the_same_are_found_by_chance(count, seed):
    vector = np.random.default_rng(seed).normal(size=(1, 8)).astype(np.float32)
    found = of_layer(np.repeat(vector, count, 0), np.repeat(vector, count, 0))
    assert found["retrieval"].mean() == pytest.approx(1 / count)
    assert found["gap"].mean() == pytest.approx(0, abs=1e-9)


def test_vectors_without_relation_have_no_gap_and_are_found_by_chance():
    rng = np.random.default_rng(0)
    found = of_layer(*rng.normal(size=(2, 400, 64)).astype(np.float32))
    assert abs(found["gap"].mean()) < 0.02
    assert found["retrieval"].mean() < 0.02


def rows(task, vectors_NLH):
    return [
        {"task": task, "id": f"u{number}", "num_layers": len(one), "speech": one.reshape(-1), "text": one.reshape(-1)}
        for number, one in enumerate(vectors_NLH)
    ]


def test_the_figure_is_that_of_the_chosen_layer_and_curves_show_all():
    vectors = np.random.default_rng(0).normal(size=(6, 4, 8)).astype(np.float32)
    vectors[:, 2] = 1.0  # in the third layer all are alike
    table = pa.Table.from_pylist(rows("alignment/en", vectors), similarity.VECTORS)
    found, curves = similarity.scores(table, SimilaritySection(layer=3))
    assert [one["statistics"][0] for one in found if one["metric"] == "gap"] == pytest.approx([0] * 6, abs=1e-6)
    assert curves["alignment/en"]["retrieval"] == pytest.approx([1, 1, 1 / 6, 1], abs=1e-4)
    middle, _ = similarity.scores(table, SimilaritySection())
    assert all(one["statistics"][0] > 0.3 for one in middle if one["metric"] == "gap")


def test_texts_that_are_heard_alike_stand_once_and_one_utterance_alone_has_no_figure():
    texts = ["Two.", "two", "Three.", "Four."]
    table = pa.table({"id": list("abcd"), "language": ["en"] * 4, "text": texts, "units": [[1]] * 4})
    assert [case["id"] for case in similarity.cases(table, SimilaritySection())] == ["a", "c", "d"]
    assert [case["id"] for case in similarity.cases(table, SimilaritySection(max_pairs=2))] == ["a", "c"]
    one = pa.Table.from_pylist(rows("alignment/en", np.ones((1, 2, 3), np.float32)), similarity.VECTORS)
    assert similarity.scores(one, SimilaritySection()) == ([], {})
