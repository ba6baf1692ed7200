"""A study as one CSV table: a row a trial, plain numbers, empty where nobody measured."""

import csv
from collections.abc import Mapping
from io import StringIO
from typing import Any

from kdbench.codec_table import CodecTable
from kdbench.records import plain
from kdbench.report.courses import busy_s
from kdbench.report.gather import Gathered
from kdbench.report.paper import Row
from kdbench.store import StoredTrial

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would compute what begins so
Line = dict[str, Any]


def study_csv(*studies: Gathered) -> str:
    """Every trial, whatever its state, then anchor and other codecs (`kind` says which)."""
    lines: list[Line] = []
    for study in studies:
        found = study.found
        name = {"study": found.study}
        lines += [name | _trial(study, trial) for trial in found.trials]
        if found.anchor:
            row = Row.of_codec(found.anchor)
            lines.append(name | {"kind": "anchor", "name": row.name, **_figures(row)})
        lines += [
            name | {"kind": "codec", "name": row.name, **_figures(row)} for row in study.codecs
        ]
    return _table(lines)


def codec_csv(table: CodecTable) -> str:
    """Every codec that a study lists and has measured."""
    lines = []
    for name, figures in table.figures.items():
        reference = None if name == table.anchor else table.reference
        lines.append({"kind": "codec", "name": name, **_figures(Row.of_codec(figures, reference))})
    return _table(lines)


def _trial(study: Gathered, trial: StoredTrial) -> Line:
    found, result = study.found, trial.result
    line: Line = {
        "kind": "trial",
        "name": f"trial {trial.number}",
        "trial": trial.number,
        "state": trial.state,
        "on_front": int(trial.number in found.on_front),
        **found.values(trial),
    }
    if result is not None:
        row = Row.of_trial(trial.number, result, ())
        line |= _figures(row) | {"busy_s": busy_s(result)}
        line |= {f"{name}_s": value for name, value in result.seconds.items()}
    line |= {f"spec.{name}": value for name, value in _flat(plain(trial.spec)).items()}
    return line | {"spec_hash": trial.spec.hash, "reason": trial.reason}


def _figures(row: Row) -> Line:
    """Quality and costs, units in the names."""
    rate, costs, energy = row.bd_rate, row.complexity, row.energy
    line: Line = {
        "bd_rate_pct": rate and rate.pct,
        "bd_rate_low_pct": rate and rate.low_pct,
        "bd_rate_high_pct": rate and rate.high_pct,
        "params": costs and costs.params,
        "kmac_per_px": costs and costs.kmac_per_px,
        "encoder_kmac_per_px": costs and costs.encoder_kmac_per_px,
        "decoder_kmac_per_px": costs and costs.decoder_kmac_per_px,
        "peak_memory_bytes": costs and costs.peak_memory_bytes,
        "energy_source": energy and energy.source,
        "energy_j_per_mpx": energy and energy.j_per_mpx,
        "encode_j_per_mpx": energy and energy.encode.mean_j_per_mpx,
        "decode_j_per_mpx": energy and energy.decode.mean_j_per_mpx,
        "encode_s_per_mpx": row.rd.encode_s_per_mpx,
        "decode_s_per_mpx": row.rd.decode_s_per_mpx,
    }
    for i, point in enumerate(row.rd.points):
        line |= {
            f"bpp_{i}": point.bpp,
            f"psnr_db_{i}": point.psnr_db,
            f"ms_ssim_{i}": point.ms_ssim,
        }
    return line


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Line:
    found: Line = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = (
                " ".join(map(str, value)) if isinstance(value, list) else value
            )
    return found


def _table(lines: list[Line]) -> str:
    names = list(dict.fromkeys(name for line in lines for name in line))
    file = StringIO()
    writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in line.items()} for line in lines)
    return file.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return "" if value is None else value
