"""A report as JSON: what `show --json` says of the study, and what else a report stands on."""

from collections import Counter
from typing import Any

from kdbench.records import plain
from kdbench.report.courses import busy_s
from kdbench.report.gather import Gathered
from kdbench.report.json_view import (
    Json,
    bd_rate_json,
    complexity_json,
    energy_json,
    rd_json,
    study_json,
)
from kdbench.report.paper import Row


def report_json(study: Gathered) -> Json:
    """The study, its settings, the machine's part of them, other codecs, seconds and folders."""
    found = study.found
    seconds = Counter[str]()
    for result in found.results.values():
        seconds.update(result.seconds)
    return {
        "study": study_json(found),
        "settings": plain(study.stored.settings),
        "fixed": dict(study.stored.fixed),
        "photos": list(study.photos),
        "codecs": [_codec(row) for row in study.codecs],
        "codecs_from": list(study.codecs_from),
        "left_out": list(study.left_out),
        "seconds": dict(seconds),
        "busy_s": sum(busy_s(result) for result in found.results.values()),
        "folders": {
            str(trial.number): f"{found.study}/trials/{trial.number}" for trial in found.trials
        },
    }


def _codec(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "rd": rd_json(row.rd),
        "bd_rate": bd_rate_json(row.bd_rate),
        "complexity": complexity_json(row.complexity),
        "energy": energy_json(row.energy),
    }
