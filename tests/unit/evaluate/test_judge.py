import json

import pytest

from cslm.errors import CslmError
from cslm.evaluate import judge
from cslm.evaluate.judge import Case, Judge, JudgeSection
from tests.data.endpoint import Endpoint

CASE = Case("d1", "Two plus three?", "Five.", "It is five.", "en")


@pytest.fixture
def endpoint(request, monkeypatch):
    monkeypatch.setattr(judge, "_FIRST_WAIT_S", 0.0)
    with Endpoint(request.param) as server:
        yield server


@pytest.mark.parametrize("endpoint", [["5"]], indirect=True)
def test_the_judge_is_asked_in_the_form_of_chat_completions_and_the_key_goes_into_its_header_only(
    endpoint, monkeypatch
):
    monkeypatch.setenv("A_KEY", "secret-of-the-judge")
    one = Judge(JudgeSection(url=endpoint.url, model="judge-1", key_variable="A_KEY"))
    assert list(one.grades([CASE])) == [(CASE, 5)]
    [(path, key, body)] = endpoint.seen
    assert path == "/v1/chat/completions"
    assert key == "Bearer secret-of-the-judge"
    assert body["model"] == "judge-1"
    asked = body["messages"][-1]["content"]
    assert all(told in asked for told in (CASE.question, CASE.reference, CASE.answer, CASE.language))
    assert "secret" not in json.dumps(body) + one.name


@pytest.mark.parametrize("endpoint", [["3"]], indirect=True)
def test_without_a_key_none_is_sent_and_an_empty_answer_is_not_asked_about(endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    one = Judge(JudgeSection(url=endpoint.url))
    assert one.grade(CASE._replace(answer=" ")) == 1
    assert endpoint.seen == []
    assert one.grade(CASE) == 3
    assert endpoint.seen[0][1] is None


@pytest.mark.parametrize(
    ("endpoint", "grade"),
    [(["Grade: 4"], 4), (["4/5"], 4), (["no idea"], None), (["10"], None), (["4.5"], None), ([""], None)],
    indirect=["endpoint"],
)
def test_a_reply_holds_a_grade_or_none(endpoint, grade):
    assert Judge(JudgeSection(url=endpoint.url)).grade(CASE) == grade


@pytest.mark.parametrize("endpoint", [[(503, {}), (429, {}), "2"]], indirect=True)
def test_what_may_pass_is_tried_again(endpoint):
    assert Judge(JudgeSection(url=endpoint.url)).grade(CASE) == 2
    assert len(endpoint.seen) == 3


@pytest.mark.parametrize("endpoint", [[(401, {"error": "bad key"})]], indirect=True)
def test_what_will_not_pass_is_told_without_the_key(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-the-judge")
    with pytest.raises(CslmError, match="found status 401") as raised:
        Judge(JudgeSection(url=endpoint.url)).grade(CASE)
    assert "secret" not in str(raised.value)
    assert len(endpoint.seen) == 1


@pytest.mark.parametrize("endpoint", [[{"answer": 4}]], indirect=True)
def test_a_reply_of_another_form_is_told(endpoint):
    with pytest.raises(CslmError, match="in the form of OpenAI's chat completions, found keys"):
        Judge(JudgeSection(url=endpoint.url)).grade(CASE)


def test_a_judge_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(judge, "_FIRST_WAIT_S", 0.0)
    with pytest.raises(CslmError, match="found ConnectionError"):
        Judge(JudgeSection(url="http://127.0.0.1:9/v1")).grade(CASE)
