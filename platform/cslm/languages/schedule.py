"""When retraining is looked at again: APScheduler with its state in a database, and the same times for systemd.

The only module that imports apscheduler. A job that is kept in the database has its next time there too: a process that
comes back after that time runs once, however many times it missed. `add_job` of a known job would set the time anew and
forget what was missed, so a job is added only when its times or its command are other ones.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cslm import storage
from cslm.config import Section, setting
from cslm.errors import ConfigError

if TYPE_CHECKING:
    from apscheduler.schedulers.background import BackgroundScheduler
    from apscheduler.triggers.cron import CronTrigger

_JOB = "retrain"
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = ("minute", "hour", "day", "month", "weekday")


class ScheduleSection(Section):
    """How `every` keeps its times, and the lease."""

    timezone: str = setting("UTC", "time zone of `every`, as Europe/Berlin")
    database: str | None = setting(
        None, "SQLAlchemy URL of the database that keeps the times; schedule.db in output.path when not given"
    )
    lease_s: float = setting(
        300.0, "how long a lease outlives the machine that held it; it is renewed four times as often", unit="s", ge=1
    )


def trigger(every: str, timezone: str) -> "CronTrigger":
    """The times of a cron line. Raises ConfigError when it is none.

    APScheduler counts weekdays from Monday as 0 where cron counts from Sunday, so numbers become names here; and when
    both day and weekday are given it wants both, where cron takes either: such lines are refused.
    """
    from apscheduler.triggers.cron import CronTrigger

    fields = every.split()
    if len(fields) != len(_FIELDS):
        raise ConfigError(
            f"every: must have cron's five fields ({' '.join(_FIELDS)}), as '0 3 * * 1', found {len(fields)} in "
            f"{every!r}"
        )
    if fields[2] != "*" and fields[4] != "*":
        raise ConfigError(f"every: must give a day of the month or a weekday, not both, found {every!r}")
    try:
        minute, hour, day, month = fields[:4]
        return CronTrigger(
            minute=minute, hour=hour, day=day, month=month, day_of_week=_weekdays(fields[4]), timezone=timezone
        )
    except (ValueError, LookupError) as error:
        raise ConfigError(
            f"every, schedule.timezone: must be times that there are, found {every!r}: {error}"
        ) from error


def opened(
    every: str, section: ScheduleSection, home: str, function: str, command: Sequence[str]
) -> "BackgroundScheduler":
    """A scheduler that, once resumed, calls `function` (module:name) with `command` at its times, one call at a time.

    What was missed while nothing ran is made up for by one call at once. Raises ConfigError for times that are none.
    """
    from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
    from apscheduler.schedulers.background import BackgroundScheduler

    wanted = trigger(every, section.timezone)
    url = section.database
    if url is None:
        if storage.is_uri(home):
            raise ConfigError(f"schedule.database: must be given, as a database cannot lie in an object store ({home})")
        url = f"sqlite:///{storage.join(home, 'schedule.db')}"
    scheduler = BackgroundScheduler(jobstores={"default": SQLAlchemyJobStore(url=url)}, timezone=section.timezone)
    scheduler.start(paused=True)
    known = scheduler.get_job(_JOB)
    if known is None or str(known.trigger) != str(wanted) or tuple(known.args) != (list(command),):
        scheduler.add_job(
            function,
            wanted,
            args=[list(command)],
            id=_JOB,
            replace_existing=True,
            coalesce=True,
            misfire_grace_time=None,
            max_instances=1,
        )
    return scheduler


def when_ended(scheduler: "BackgroundScheduler", tell: Callable[[datetime], None]) -> None:
    """Call `tell` with the next time whenever a call has ended, well or not."""
    from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, JobExecutionEvent

    def ended(event: JobExecutionEvent) -> None:
        # Not the time that is kept: a short call ends before that is moved on.
        tell(scheduler.get_job(event.job_id).trigger.get_next_fire_time(None, datetime.now(UTC)))

    scheduler.add_listener(ended, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)


def systemd(
    every: str, section: ScheduleSection, name: str, command: Sequence[str], folder: str, variables: Mapping[str, str]
) -> str:
    """A service and a timer of systemd that run `command` in `folder` at the same times, to be copied to two files."""
    # Percent signs begin specifiers of systemd.
    line = " ".join(shlex.quote(part) for part in command).replace("%", "%%")
    given = "".join(f'Environment="{key}={value}"\n'.replace("%", "%%") for key, value in sorted(variables.items()))
    return f"""# /etc/systemd/system/{name}.service
[Unit]
Description=Retraining for new languages
After=network-online.target

[Service]
Type=oneshot
WorkingDirectory={folder}
{given}ExecStart={line}
# Refused by the gate (3) is an answer, not a failure.
SuccessExitStatus=3
TimeoutStartSec=infinity

# /etc/systemd/system/{name}.timer
[Unit]
Description=Times of retraining for new languages

[Timer]
OnCalendar={calendar(every, section.timezone)}
# What was missed while the machine was off is made up for once.
Persistent=true

[Install]
WantedBy=timers.target

# systemctl daemon-reload && systemctl enable --now {name}.timer
"""


def calendar(every: str, timezone: str) -> str:
    """A cron line as systemd writes times. Raises ConfigError for what it cannot write."""
    trigger(every, timezone)
    minute, hour, day, month, weekday = every.split()
    if any("-" in field or "L" in field for field in (minute, hour, day, month)):
        raise ConfigError(
            f"every: ranges of minutes, hours, days and months have no form for systemd here, found {every!r}"
        )
    names = "" if weekday == "*" else _weekdays(weekday).title().replace("-", "..") + " "
    zone = f" {timezone}"
    return f"{names}*-{_stepped(month, 1)}-{_stepped(day, 1)} {_stepped(hour, 0)}:{_stepped(minute, 0)}:00{zone}"


def _stepped(field: str, first: int) -> str:
    return field.replace("*/", f"{first}/")


def _weekdays(field: str) -> str:
    """A cron field of weekdays with names for its numbers: 0 and 7 are Sunday. Raises ConfigError for others."""
    found = []
    for part in field.split(","):
        ends = part.lower().split("-")
        if part == "*":
            found.append(part)
            continue
        named = [_WEEKDAYS[int(end) % 7] if end.isdecimal() and int(end) <= 7 else end for end in ends]
        if not set(named) <= set(_WEEKDAYS) or len(named) > 2:
            raise ConfigError(f"every: weekdays must be 0 to 7 or sun to sat, alone or as 1-5, found {part!r}")
        if len(named) == 1:
            found += named
        else:
            # From Sunday on, as cron's week begins, but APScheduler's does not.
            first, last = (_WEEKDAYS.index(one) for one in named)
            last += 7 if last < first or (ends[1] == "7") else 0
            found += [_WEEKDAYS[day % 7] for day in range(first, last + 1)][:7]
    return ",".join(found)
