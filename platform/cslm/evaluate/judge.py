"""Grades by a language model behind any endpoint of OpenAI's chat form, as the paper grades answers, from 1 to 5.

The key comes from an environment variable of this process, goes into one header and nowhere else: it is in no config,
log, table or worker.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import requests

from cslm.config import Section, setting
from cslm.errors import CslmError

_INSTRUCTIONS = (
    "You grade answers of a voice assistant. You are given a question, an answer that is known to be good where there "
    "is one, the language that the answer must be in, and the assistant's answer. Grade the answer from 1 to 5: "
    "1 wrong, empty, or not understandable; 2 mostly wrong or off the point; 3 partly right; 4 right with small "
    "faults; 5 right, clear, and in the language that was asked for. An answer in another language gets at most 2. "
    "Reply with the number alone."
)
_GRADE = re.compile(r"(?<![\d.])[1-5](?!\d|\.\d)")
_PASSING = frozenset({408, 409, 429, 500, 502, 503, 504})
_TRIES, _FIRST_WAIT_S = 4, 1.0


class JudgeSection(Section):
    """The judge of answers."""

    url: str | None = setting(
        None, "base address of an OpenAI-compatible API (up to and with /v1); no judge when not given"
    )
    model: str = setting("gpt-4o-mini", "model to ask there")
    key_variable: str = setting("OPENAI_API_KEY", "environment variable that holds the key; none is sent without it")
    max_questions: int = setting(50, "answers to grade of each pair of languages, at most", ge=0)
    parallel: int = setting(8, "questions to the judge at a time", ge=1)
    timeout_s: float = setting(60.0, "longest wait for one reply", unit="s", gt=0)


class Case(NamedTuple):
    """One answer to grade."""

    id: str
    question: str
    reference: str
    answer: str
    language: str


class Judge:
    """Asks for grades; a reply without one gives None."""

    def __init__(self, section: JudgeSection) -> None:
        assert section.url is not None
        self._section = section
        self._address = section.url.rstrip("/") + "/chat/completions"
        self._session = requests.Session()
        # No proxy settings, netrc or other key of this machine is taken along.
        self._session.trust_env = False
        if key := os.environ.get(section.key_variable):
            self._session.headers["Authorization"] = f"Bearer {key}"

    @property
    def name(self) -> str:
        """Who judges, for reports."""
        return f"{self._section.model} at {self._section.url}"

    def grades(self, cases: Iterable[Case]) -> Iterator[tuple[Case, int | None]]:
        """Cases with their grades, in order. Raises CslmError when the judge cannot be asked."""
        with ThreadPoolExecutor(self._section.parallel) as pool:
            yield from pool.map(lambda case: (case, self.grade(case)), cases)

    def grade(self, case: Case) -> int | None:
        """The grade of one answer. An empty answer is not sent: it gets 1."""
        if not case.answer.strip():
            return 1
        told = (
            f"Language of the answer: {case.language}\nQuestion: {case.question}\n"
            f"Good answer: {case.reference}\nAssistant's answer: {case.answer}"
        )
        messages = [{"role": "system", "content": _INSTRUCTIONS}, {"role": "user", "content": told}]
        reply = self._ask({"model": self._section.model, "messages": messages, "temperature": 0})
        try:
            content = str(reply["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError) as error:
            raise CslmError(
                f"judge.url: {self._address} must reply in the form of OpenAI's chat completions, found keys "
                f"{sorted(reply) if isinstance(reply, dict) else type(reply).__name__}"
            ) from error
        found = _GRADE.search(content)
        return int(found[0]) if found else None

    def _ask(self, body: dict[str, Any]) -> Any:
        wait_s = _FIRST_WAIT_S
        fault = ""
        for number in range(_TRIES):
            if number:
                time.sleep(wait_s)
                wait_s *= 2
            try:
                response = self._session.post(self._address, json=body, timeout=self._section.timeout_s)
            except (requests.ConnectionError, requests.Timeout) as error:
                fault = type(error).__name__
                continue
            if response.ok:
                return response.json()
            fault = f"status {response.status_code}"
            if response.status_code not in _PASSING:
                break
        raise CslmError(
            f"judge.url: {self._address} must give grades, found {fault}; the same command goes on from what is graded"
        )
