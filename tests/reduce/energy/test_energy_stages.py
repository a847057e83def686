"""Attribution of a whole run directory: boards that draw by a known law, over stages made to tell
its terms apart.
"""

import json

import numpy as np
import pytest

from harness.artifacts import tables
from harness.artifacts.events import EventLog
from harness.artifacts.journal import JournalWriter
from harness.artifacts.layout import RunDir
from harness.reduce import reduce_run
from harness.report.run.energy import energy_view

TRUTH = {"time": 120.0, "computed_input": 0.012, "output": 0.4, "output_x_context": 1e-4}
IDLE_S, STAGE_S, WARMUP_S = 20.0, 26.0, 1.0

# stage -> (streams, input tokens, of which cached, output tokens, seconds between tokens)
STAGES = {
    "prefill": (4, 4000, 0, 2, 0.05),
    "short-2": (2, 50, 0, 100, 0.020),
    "short-4": (4, 50, 0, 100, 0.022),
    "short-8": (8, 50, 0, 100, 0.024),
    "long-2": (2, 3000, 2950, 100, 0.021),
    "long-5": (5, 3000, 2950, 100, 0.026),
}
ONLY_ONE_CONTEXT = {name: STAGES[name] for name in ("prefill", "short-2", "short-4", "short-8")}


@pytest.fixture
def run(new_builder, times, tmp_path):
    """A run whose board draws what the law says of the work at each moment, read by its counter
    every half second.
    """
    t0, second = times

    def make(
        plan,
        *,
        attribute=True,
        bend=0.0,
        told=True,
        events=lambda event: True,
        readings=lambda at_s: True,
    ):
        builder = new_builder(gpus=1, window_s=STAGE_S * len(plan) - WARMUP_S, warmup_s=WARMUP_S)
        end_s = STAGE_S * len(plan) + 2
        edges = np.arange(-IDLE_S - 2, end_s + 0.5, 0.5)
        work = np.zeros((len(edges), 3))  # done before each edge
        for index, (name, (streams, prompt, cached, tokens, gap_s)) in enumerate(plan.items()):
            for stream in range(streams):
                start_s = STAGE_S * index + 0.37 * stream % 1.3
                while start_s < STAGE_S * (index + 1) - 0.5:
                    ttft_s = 0.05 + (prompt - cached) * 1e-4
                    row = builder.request(
                        start_s,
                        stage=name,
                        tokens=tokens,
                        ttft_s=ttft_s,
                        gap_us=round(gap_s * 1e6),
                        input_tok=prompt,
                        cache_read_tok=cached,
                        target_input_tok=prompt,
                        **{"class": name.split("-")[0]},
                    )
                    sent_s = start_s + 0.001
                    first_s = start_s + ttft_s
                    work[:, 0] += (prompt - cached) * np.clip(
                        (edges - sent_s) / (first_s - sent_s), 0, 1
                    )
                    came = np.sort(first_s + gap_s * np.arange(tokens))
                    before = np.searchsorted(came, edges)
                    work[:, 1] += before
                    work[:, 2] += before * prompt + before**2 / 2
                    start_s = (row["done_ns"] - t0) / second + 0.01
        builder.requests.sort(key=lambda row: row["intended_ns"])
        if not told:
            builder.requests[0]["cache_read_tok"] = None
        seconds = edges - edges[0]
        joules = seconds * TRUTH["time"] + work @ np.array(
            [TRUTH[key] for key in ("computed_input", "output", "output_x_context")]
        )
        if bend:
            watts = np.diff(joules, prepend=0.0) / 0.5
            joules = np.cumsum(watts * (1 - bend * watts / watts.max()) * 0.5)
        path = builder.write(tmp_path / "run")
        files = RunDir(path)
        raw = json.loads(files.manifest.read_text())
        raw["profile"]["energy"] = {"attribute": attribute}
        raw["profile"]["traffic"]["load"] = [
            {
                "kind": "concurrency",
                "name": name,
                "concurrency": streams,
                "warmup_s": WARMUP_S,
                "window_s": STAGE_S - WARMUP_S - 1,
            }
            for name, (streams, *_) in plan.items()
        ]
        files.manifest.write_text(json.dumps(raw))
        files.events.unlink()
        log = EventLog(files.events)

        def ns(at_s):
            return t0 + round(at_s * second)

        log.append("idle", t_ns=ns(0), when="ready", start_ns=ns(-IDLE_S - 1), end_ns=ns(-1))
        for index, name in enumerate(plan):
            window = {
                "window_start_ns": ns(STAGE_S * index + WARMUP_S),
                "window_end_ns": ns(STAGE_S * (index + 1) - 1),
            }
            log.append(
                "stage_started",
                t_ns=ns(STAGE_S * index),
                stage=name,
                start_ns=ns(STAGE_S * index),
                **window,
            )
            ended = ns(STAGE_S * (index + 1))
            log.append(
                "stage_ended",
                t_ns=ended,
                stage=name,
                end_ns=ended,
                window_end_ns=window["window_end_ns"],
                turns_not_happened=0,
            )
        empty = {
            "boundary": "gpu_board",
            "device_id": "GPU-0",
            "power_w": None,
            "source": "nvml-counter",
        }
        with JournalWriter(files.power_journal, tables.POWER) as journal:
            rows = [
                {**empty, "t_ns": ns(at), "energy_j": 1e6 + float(j)}
                for at, j in zip(edges, joules, strict=True)
                if readings(at)
            ]
            journal.append(rows)
        lines = files.events.read_text().splitlines(keepends=True)
        files.events.write_text("".join(line for line in lines if events(json.loads(line))))
        return path

    return make


def test_the_law_comes_back_and_splits_the_window_and_its_classes(run):
    energy = reduce_run(run(STAGES)).energy
    found = energy.attribution
    assert found.reason is None
    assert found.stages == ("idle", *STAGES)
    for term, truth in TRUTH.items():
        assert found.coefficients[term].value == pytest.approx(truth, rel=0.05), term
    assert max(map(abs, found.held_out.values())) < 0.05
    assert sum(found.components_j.values()) == pytest.approx(
        energy.boundaries["gpu_board"].joules, rel=1e-9
    )
    assert abs(found.components_j["unexplained"]) < 0.02 * energy.boundaries["gpu_board"].joules
    assert energy.classes.rule == "fitted"
    assert sum(one.joules for one in energy.classes.classes) == pytest.approx(
        energy.boundaries["gpu_board"].joules, rel=1e-9
    )


@pytest.mark.parametrize(
    ("plan", "bend", "said"),
    [(ONLY_ONE_CONTEXT, 0.0, "2 context sizes"), (STAGES, 0.9, "10%")],
    ids=["one context", "another law"],
)
def test_it_is_refused_with_its_reason_and_classes_go_by_time(run, plan, bend, said):
    energy = reduce_run(run(plan, bend=bend)).energy
    assert said in energy.attribution.reason
    assert all(one.value is None for one in energy.attribution.coefficients.values())
    assert energy.attribution.components_j == {}
    assert energy.classes.rule == "service_time"
    if bend:  # it was fitted, and did not hold
        shown = energy_view(energy)
        assert not [table for table in shown.tables if table.caption.startswith("Joules by kind")]
        assert energy.attribution.reason in shown.notes[0]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"attribute": False}, "energy.attribute"),
        ({"told": False}, "computed"),
        ({"events": lambda event: event["event"] != "idle"}, "energy.idle_s)"),
        ({"readings": lambda at: at > -10}, "(energy.idle_s): GPU-0: "),
        ({"readings": lambda at: not 5 < at < 60}, "stage prefill has no energy: GPU-0: "),
    ],
    ids=["not asked for", "input not told", "no idle", "idle not read", "a stage not read"],
)
def test_what_it_cannot_be_made_from_is_said(run, how, said):
    energy = reduce_run(run({name: STAGES[name] for name in ("prefill", "short-2")}, **how)).energy
    assert said in energy.attribution.reason
    assert energy.attribution.components_j == {}
