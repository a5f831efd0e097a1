"""Times: cron's meaning of weekdays, what is kept over a restart, what is made up for, and the same for systemd."""

import queue
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cslm.errors import ConfigError
from cslm.languages import schedule
from cslm.languages.schedule import ScheduleSection

FRIDAY = datetime(2026, 11, 27, tzinfo=UTC)
TICK = "tests.unit.languages.test_schedule:tick"
ticks: "queue.Queue[list[str]]" = queue.Queue()


def tick(command: list[str]) -> None:
    ticks.put(command)


@pytest.mark.parametrize(
    ("every", "weekday", "day"),
    [
        ("0 3 * * 1", "Mon", 30),  # APScheduler by itself would take 1 for Tuesday
        ("0 3 * * 0", "Sun", 29),
        ("0 3 * * 7", "Sun", 29),
        ("0 3 * * sat", "Sat", 28),
        ("0 3 * * 6-1", "Sat", 28),
        ("30 2 28 * *", "Sat", 28),
        ("*/15 * * * *", "Fri", 27),
    ],
)
def test_weekdays_are_those_of_cron(every: str, weekday: str, day: int) -> None:
    found = schedule.trigger(every, "UTC").get_next_fire_time(None, FRIDAY)
    assert found is not None
    assert (found.strftime("%a"), found.day) == (weekday, day)


@pytest.mark.parametrize("every", ["0 3 * *", "61 3 * * *", "0 3 * * 9", "0 3 1 * 1", "at noon on all days"])
def test_what_is_no_time_is_refused(every: str) -> None:
    with pytest.raises(ConfigError, match="every"):
        schedule.trigger(every, "UTC")
    with pytest.raises(ConfigError, match="timezone"):
        schedule.trigger("0 3 * * *", "Mars/Olympus")


def test_the_time_is_kept_over_a_restart_and_what_was_missed_is_made_up_for_once(tmp_path: Path) -> None:
    section = ScheduleSection()

    def opened(every: str = "0 3 * * 1", command: str = "now"):  # type: ignore[no-untyped-def]
        return schedule.opened(every, section, str(tmp_path), TICK, [command])

    first = opened()
    missed = datetime.now(UTC) - timedelta(days=15)
    # Left as by a process that was killed: nothing is shut down.
    first.modify_job("retrain", next_run_time=missed)
    # Three Mondays went by; the same command finds the time that it missed.
    again = opened()
    assert again.get_job("retrain").next_run_time == missed
    told: queue.Queue[datetime] = queue.Queue()
    schedule.when_ended(again, told.put)
    again.resume()
    assert ticks.get(timeout=60) == ["now"]
    assert told.get(timeout=60) > datetime.now(UTC)
    again.shutdown(wait=True)
    assert ticks.empty()
    # It goes on with the next one; other times or another command begin anew.
    after = opened()
    assert after.get_job("retrain").next_run_time > datetime.now(UTC)
    after.modify_job("retrain", next_run_time=missed)
    other = opened("0 4 * * 1", "other")
    assert other.get_job("retrain").next_run_time > datetime.now(UTC)
    assert other.get_job("retrain").args == (["other"],)
    other.shutdown()


def test_the_database_cannot_lie_in_an_object_store() -> None:
    with pytest.raises(ConfigError, match=r"schedule\.database"):
        schedule.opened("0 3 * * 1", ScheduleSection(), "s3://bucket/retrain", TICK, [])


@pytest.mark.parametrize(
    ("every", "calendar"),
    [
        ("0 3 * * 1", "Mon *-*-* 3:0:00 UTC"),
        ("*/15 * * * *", "*-*-* *:0/15:00 UTC"),
        ("30 2 1,15 * *", "*-*-1,15 2:30:00 UTC"),
        ("0 3 * * 1-5", "Mon,Tue,Wed,Thu,Fri *-*-* 3:0:00 UTC"),
    ],
)
def test_systemd_is_told_the_same_times(every: str, calendar: str) -> None:
    assert schedule.calendar(every, "UTC") == calendar
    if shutil.which("systemd-analyze"):
        done = subprocess.run(
            ["systemd-analyze", "calendar", "--base-time=2026-11-27 00:00:00 UTC", calendar],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        ours = schedule.trigger(every, "UTC").get_next_fire_time(None, FRIDAY + timedelta(seconds=1))
        assert ours is not None
        assert f"{ours:%a %Y-%m-%d %H:%M:%S} UTC" in done.stdout


def test_units_for_systemd_hold_the_command_and_its_environment() -> None:
    text = schedule.systemd(
        "0 3 * * 1", ScheduleSection(), "cslm-retrain", ["python", "jobs/retrain.py", "--languages", "my cards"],
        "/srv/cslm", {"CSLM_HOME": "/data/100%"},
    )  # fmt: skip
    for line in (
        "ExecStart=python jobs/retrain.py --languages 'my cards'",
        'Environment="CSLM_HOME=/data/100%%"',
        "OnCalendar=Mon *-*-* 3:0:00 UTC",
        "Persistent=true",
        "SuccessExitStatus=3",
    ):
        assert line in text.splitlines()
