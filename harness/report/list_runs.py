"""Lists the runs below a folder."""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from harness.artifacts.layout import RunDir
from harness.artifacts.run_result import RunResult, load_result
from harness.core.errors import ArtifactError, ProfileError
from harness.core.units import human_duration, human_number

LIST_COLUMNS: Final = (
    "run",
    "state",
    "verdict",
    "model",
    "hardware",
    "output tok/s",
    "per GPU",
    "tok/J",
    "TTFT p50",
    "TTFT p99",
    "USD/Mtok",
)
_METRICS: Final = (
    "output_tok_s",
    "output_tok_s_per_gpu",
    "output_tok_per_j",
    "usd_per_mtok",
    "slo_met_ratio",
)
KEYS: Final = (
    "run",
    "state",
    "verdict",
    "purpose",
    "profile",
    "model",
    "engine",
    "gpu",
    "gpus",
    *_METRICS,
    "ttft_p50_s",
    "ttft_p99_s",
    "tpot_p50_s",
)
"""Keys by which listed runs can be selected and sorted."""


def list_results(folder: Path) -> list[dict[str, Any]]:
    """Every run below a folder, by name, which begins with its time; unknown values are None.

    Raises:
        ArtifactError: the folder does not exist.
    """
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder} is not a directory",
            next_step="name the folder given to --out; the default is results",
        )
    found = []
    # The runs of a series of repeats, sweep or search lie one folder deeper.
    places = ("*", "*-repeats-*/*", "*-sweep-*/*", "*-search-*/*")
    for manifest_path in sorted(
        {path for place in places for path in folder.glob(f"{place}/manifest.json")}
    ):
        path = manifest_path.parent
        name = str(path.relative_to(folder))
        try:
            found.append({**_row(load_result(path)), "run": name})
        except ArtifactError as error:
            found.append({**dict.fromkeys(KEYS), "run": name, "state": _state(path, error)})
    return found


def _state(path: Path, error: ArtifactError) -> str:
    """State of a run without a summary: from its manifest, if that is readable."""
    run_dir = RunDir(path)
    try:
        manifest = json.loads(run_dir.manifest.read_text(encoding="utf-8"))
        if not run_dir.summary.exists() and isinstance(manifest.get("state"), str):
            return str(manifest["state"])
    except (OSError, ValueError, AttributeError, RecursionError):
        pass  # reported below
    return f"unreadable: {error.what}"


def _row(result: RunResult) -> dict[str, Any]:
    return {
        "run": result.path.name,
        "state": result.summary.state or result.manifest.state,
        "verdict": str(result.status),
        "purpose": result.purpose,
        "profile": result.summary.profile.name,
        "model": result.model.model_id or None,
        "engine": result.server and result.server.kind,
        "gpu": result.gpus[0].name if result.gpus else None,
        "gpus": len(result.gpus),
        **{key: result.figure(key).value for key in _METRICS},
        "ttft_p50_s": result.statistic("ttft_s", "p50").value,
        "ttft_p99_s": result.statistic("ttft_s", "p99").value,
        "tpot_p50_s": result.statistic("tpot_s", "p50").value,
    }


def selected(
    rows: Sequence[Mapping[str, Any]], where: Mapping[str, str], sort: str
) -> list[dict[str, Any]]:
    """Rows of `list_results` that match all of `where`, sorted by a key (with a leading minus in
    descending order; runs without it come last).

    `where` maps keys to values, case-insensitive, with the wildcards `*` and `?`; an empty value
    matches unknown ones.

    Raises:
        ProfileError: unknown key.
    """
    key = sort.removeprefix("-")
    for name in (*where, key):
        if name not in KEYS:
            raise ProfileError(f"unknown key {name!r}", next_step=f"use one of {', '.join(KEYS)}")

    def like(row: Mapping[str, Any]) -> bool:
        return all(
            fnmatchcase("" if row[name] is None else str(row[name]).lower(), value.lower())
            for name, value in where.items()
        )

    kept = [dict(row) for row in rows if like(row)]
    known = sorted(
        (row for row in kept if row[key] is not None),
        key=lambda row: row[key],
        reverse=sort.startswith("-"),
    )
    return known + [row for row in kept if row[key] is None]


def list_row(run: Mapping[str, Any]) -> tuple[str, ...]:
    """One run under `LIST_COLUMNS`; for a run of a series only its own name."""
    unknown = human_number(None)
    gpus = f"{run['gpus']} × {run['gpu']}" if run["gpu"] else "CPU" if run["gpus"] == 0 else unknown
    times = [
        unknown if run[key] is None else human_duration(run[key])
        for key in ("ttft_p50_s", "ttft_p99_s")
    ]
    series, _, own = run["run"].rpartition("/")
    return (
        f"…/{own}" if series else own,
        run["state"],
        run["verdict"] or "not reduced",
        run["model"] or unknown,
        gpus,
        human_number(run["output_tok_s"]),
        human_number(run["output_tok_s_per_gpu"]),
        human_number(run["output_tok_per_j"]),
        *times,
        human_number(run["usd_per_mtok"]),
    )
