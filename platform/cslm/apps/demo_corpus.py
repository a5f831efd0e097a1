"""The job that makes the demo corpus: settings, cluster, progress and summary around `cslm.demo.corpus`."""

import sys
from collections.abc import Sequence

from cslm import storage
from cslm.apps.job import Job, JobConfig, run_job
from cslm.cluster import connect
from cslm.config import group
from cslm.demo.corpus import REPORT, make
from cslm.demo.plan import CorpusSection, plan_of


class Config(JobConfig):
    """Settings of the demo corpus."""

    corpus: CorpusSection = group(CorpusSection, "what the corpus consists of")


def demo_corpus(config: Config, job: Job) -> None:
    """Make a corpus of synthetic speech, translations and dialogues whose answers a program can check."""
    plan = plan_of(config.corpus)
    if job.finished(plan.fingerprint):
        return
    connect(config.cluster)
    with job.progress("speaking", plan.num_utterances, "utterances") as progress:
        report = make(job.output, config.corpus, progress.update)
    for key, hours in report["hours_by_language_and_split"].items():
        job.say(f"  {key:<10} {report['utterances_by_language_and_split'][key]:>7,} utterances {hours:>8.3f} h")
    job.say(f"{report['hours']:.2f} hours of speech; all counts in {storage.join(job.output, REPORT)}")
    job.complete(plan.fingerprint, report)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from a command line and return its exit code."""
    return run_job("demo_corpus", Config, demo_corpus, argv)


if __name__ == "__main__":
    sys.exit(main())
