"""What each concern and each exit code means, why it matters and how to fix it.

`harness explain` prints this table and docs/reference/concerns.md is generated from it. tests/cli checks that
it has every code that the package raises, and no other.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from harness.core.errors import EXIT_MEANINGS, ExitCode, ProfileError


@dataclass(frozen=True, slots=True)
class Explained:
    """A concern of a verdict, or an exit code.

    Attributes:
        code: as reports and summary.json show it; of an exit code the number.
        meaning: what was found.
        why: why it matters.
        fix: what to do.
    """

    code: str
    meaning: str
    why: str
    fix: str


_RUN_DIRECTORY: Final = (
    Explained(
        "failed",
        "The run ended with an error, or its manifest has no state.",
        "What was measured before the error may be incomplete or untypical.",
        "Read `error` in manifest.json and the files in logs/, remove the cause and rerun.",
    ),
    Explained(
        "killed",
        "The manifest still has the state `running`: the harness was killed, or the run is still in progress.",
        "The end of the load, the last scrape and the final checks are missing.",
        "Wait for a run in progress. Otherwise rerun, and check the kernel log for the OOM killer.",
    ),
    Explained(
        "interrupted",
        "A signal ended the run before its load was complete.",
        "Later stages are missing and the measurement window may be short.",
        "Rerun without interruption. `harness repeat --resume DIR` continues an interrupted series.",
    ),
    Explained(
        "manifest_missing",
        "The run directory has no manifest.json.",
        "Profile, purpose, hardware and server of the run are unknown, so no value can be interpreted.",
        "Copy the complete run directory again from where it was measured, or rerun.",
    ),
    Explained(
        "manifest_unreadable",
        "manifest.json is damaged, was edited, or has a schema version that no release wrote.",
        "Profile, purpose and hardware of the run cannot be trusted.",
        "Restore the file from the original run directory, or rerun.",
    ),
    Explained(
        "purpose_unknown",
        "The manifest does not record whether the run was a smoke run or a measurement.",
        "The criteria of the verdict depend on the purpose.",
        "Rerun with `purpose: smoke` or `purpose: measure` in the profile.",
    ),
    Explained(
        "requests_missing",
        "The run directory has no request records.",
        "Latency, throughput and goodput are computed from them.",
        "Copy requests.parquet or requests/ from the original directory. If it has none, read logs/ for the load generator's error.",
    ),
    Explained(
        "requests_torn",
        "A journal of request records of a complete run ends in the middle.",
        "Records are missing, so rates and percentiles are wrong.",
        "Copy the run directory again; an interrupted copy or a full disk is the usual cause.",
    ),
    Explained(
        "events_torn",
        "events.jsonl of a complete run has damaged lines.",
        "Stage boundaries, idle periods and timer lags in those lines are lost.",
        "Copy events.jsonl again from the original run directory, then run `harness reduce`.",
    ),
    Explained(
        "table_unreadable",
        "A Parquet table cannot be read; its journal is used instead, if there is one.",
        "Without the journal, the metrics of that table are not available.",
        "Copy the table again from the original run directory, or accept the journal's data.",
    ),
    Explained(
        "rows_damaged",
        "Rows without a timestamp or an identity were dropped from a table.",
        "Metrics of that table cover fewer samples than were recorded.",
        "Copy the run directory again; if the original is damaged too, rerun.",
    ),
)

_REQUESTS: Final = (
    Explained(
        "no_requests",
        "No request was recorded.",
        "There is nothing to measure.",
        "Check the load with `harness plan PROFILE`, and read logs/ for the load generator's error.",
    ),
    Explained(
        "no_answer",
        "No request received a complete response.",
        "Latency and throughput are undefined.",
        "Run `harness check PROFILE --start`. Check URL, API, model name, key and timeouts.",
    ),
    Explained(
        "requests_failed",
        "Requests failed: above 1% a measurement is degraded, above 10% invalid. In a smoke run one is enough.",
        "The remaining requests ran under less load than planned, which makes latency look better.",
        "Read `outcome` and `error` in requests.parquet and the server's log. Reduce the load or raise `traffic.timeouts`.",
    ),
    Explained(
        "requests_dropped",
        "Requests were not sent: `max_in_flight` was reached, or they were overdue at the end of the load.",
        "The server received less load than scheduled, so latency at the scheduled rate is unknown.",
        "Lower the rate, or raise `max_in_flight` of the stage. If `late_sends` is present too, add load generator workers.",
    ),
    Explained(
        "duplicate_requests",
        "Request ids occur more than once.",
        "Records of two runs are mixed in one directory.",
        "Reduce each run in its own directory; do not copy journals of one run into another.",
    ),
    Explained(
        "turns_not_happened",
        "Planned turns were skipped, because an earlier turn of their session failed or was dropped.",
        "The load was lighter than planned and its contexts shorter.",
        "Fix the cause of the failed or dropped requests.",
    ),
    Explained(
        "times_backwards",
        "Timestamps of records are out of order, such as a first token before the request was sent.",
        "The clock jumped or records are damaged, so latencies are wrong.",
        "Rerun on a host with a stable monotonic clock. In a virtual machine, check the clock source and live migration.",
    ),
    Explained(
        "usage_impossible",
        "The server's usage has impossible token counts, such as more cached input tokens than input tokens.",
        "Token throughput and cache hit rate are computed from these counts.",
        "Upgrade the server or the gateway in front of it, and report the defect to its project.",
    ),
    Explained(
        "usage_missing",
        "Responses came without the server's count of output tokens.",
        "Their tokens are not counted exactly, so token throughput is uncertain.",
        "Let the server or gateway send usage in streams (`stream_options.include_usage` on OpenAI APIs).",
    ),
    Explained(
        "usage_zero",
        "Responses with content report 0 output tokens, or 0 prompt tokens.",
        "A 0 next to content is no count, so these tokens are treated as unknown.",
        "Upgrade the server or the gateway, or let it pass the engine's usage through.",
    ),
    Explained(
        "usage_unusable",
        "Responses report token counts that are not whole numbers, or no object at all.",
        "These counts are not used, so token throughput is incomplete.",
        "Upgrade the server or the gateway, or let it pass the engine's usage through.",
    ),
    Explained(
        "usage_disagrees",
        "Token counts within one response contradict each other, such as a prompt that shrinks.",
        "The last count is used. If it is the wrong one, token throughput is wrong.",
        "Read `error` of these requests in requests.parquet, and compare with the server's counters.",
    ),
    Explained(
        "usage_repeated",
        "Every chunk of a response repeats its final usage.",
        "Tokens per chunk are unknown, so inter-chunk latency replaces ITL.",
        "Nothing, unless ITL is needed: then use a server with `stream_options.continuous_usage_stats`.",
    ),
    Explained(
        "response_form",
        "Responses deviate from their API, such as a missing end marker, pings that are not JSON, or content as parts.",
        "They were read as what they mean. Stricter clients may fail on them.",
        "Nothing for this result. Report the deviation to the project of the server or gateway.",
    ),
    Explained(
        "response_compressed",
        "Responses were compressed, although the requests asked for none.",
        "Compression can hold back tokens, which raises TTFT and blurs ITL.",
        "Turn compression of `text/event-stream` off in the proxy in front of the server.",
    ),
    Explained(
        "no_content",
        "Responses report several output tokens but carried no content.",
        "TTFT and TPOT do not cover them. Hidden reasoning or a parser that drops output is the usual cause.",
        "Let the server stream reasoning (`reasoning_content`), and check its tool and reasoning parsers.",
    ),
    Explained(
        "stream_in_bursts",
        "Several events with content arrived together, long after the previous ones.",
        "Something between server and client buffers the stream, or, if they are few, the load generator was busy. TTFT includes the wait; TPOT and ITL omit these responses.",
        "Turn buffering off (nginx: `proxy_buffering off`), or measure without the proxy.",
    ),
    Explained(
        "no_arrival_times",
        "The kernel does not report when packets arrived (SO_TIMESTAMPNS).",
        "Tokens are timed when they are read, so a busy load generator makes them late.",
        "Run the load generator on Linux without gVisor, or rely on the reference server's error of this run.",
    ),
    Explained(
        "chunk_tokens_disagree",
        "The tokens in the streamed chunks of a response differ from its usage by more than 2% and one token.",
        "TPOT and inter-token latency are computed from the chunks.",
        "Check whether a gateway merges or drops chunks, and whether the server hides reasoning or special tokens.",
    ),
    Explained(
        "chunk_times_disagree",
        "The recorded gaps between chunks do not add up to the time of the last token.",
        "Gaps in another unit or damaged records make inter-token latency wrong.",
        "Reduce the run with the version that recorded it, or copy the run directory again.",
    ),
    Explained(
        "output_length",
        "Responses are longer or shorter than the plan forces.",
        "Runs with forced lengths are compared token for token, and these do not match.",
        "Use a server and API that accept `ignore_eos`, or set `traffic.output_length: natural`.",
    ),
    Explained(
        "input_length",
        "Prompts differ from their planned length by more than 5%.",
        "The workload is heavier or lighter than the profile describes.",
        "Set `model.tok_per_word` to the tokenizer's value, or make the tokenizer available on this machine.",
    ),
    Explained(
        "lengths_scaled",
        "All lengths of the workload were multiplied by one factor to fit the model's context.",
        "The results are not those of the workload at full length.",
        "Serve a longer context (`model.max_context_tok`), or choose a shorter workload. `traffic.context_policy: refuse` rejects such runs.",
    ),
    Explained(
        "lengths_clipped",
        "Planned requests exceeded the context and were shortened to it; above 5% of them this degrades the run.",
        "The distribution of lengths is not the one that the profile describes.",
        "Raise `model.max_context_tok` or the workload's `context_limit_tok`, or choose shorter lengths.",
    ),
    Explained(
        "tokenizer_disagrees",
        "The model's tokenizer and the server count different numbers of input tokens for the same requests.",
        "Input token counts may be wrong, or the server adds or removes text.",
        "Check that `model.id` is the model that is served, and that chat template and tokenizer have the same version.",
    ),
    Explained(
        "client_limit",
        "The load generator ran out of file descriptors, ports or memory.",
        "These requests never reached the server; their failure is not the server's.",
        "Raise the limit (`ulimit -n`, net.ipv4.ip_local_port_range), or lower the concurrency.",
    ),
)

_WINDOW: Final = (
    Explained(
        "no_window",
        "No load stage reached its measurement window.",
        "There is nothing to measure.",
        "Read logs/ for the reason why the load ended early, or shorten `warmup_s`.",
    ),
    Explained(
        "empty_window",
        "No request was scheduled within the measurement window.",
        "Latency and throughput of the window are undefined.",
        "Lengthen `window_s` or raise the load, and check it with `harness plan PROFILE`.",
    ),
    Explained(
        "window_cut",
        "The run ended before a stage's measurement window did.",
        "The window covers less than planned, and possibly the failure itself.",
        "Fix the cause of the early end and rerun.",
    ),
    Explained(
        "window_short",
        "The measurement window is shorter than 600 s, or than 10 times the p95 of end-to-end latency.",
        "Short windows give wide confidence intervals and hide slow drift. The verdict stays `preliminary`.",
        "Set `window_s: 10m` or longer on each stage (`--duration 10m` with `harness bench`).",
    ),
    Explained(
        "few_completions",
        "Fewer than 20 requests per concurrency slot completed in the window.",
        "Each slot contributes few samples, so start and end effects dominate.",
        "Lengthen `window_s`, or use shorter outputs.",
    ),
    Explained(
        "window_with_ramp",
        "The window ends with the last session and includes the ramp-down.",
        "Throughput falls while the last sessions finish.",
        "Set `window_s` on the stage, so that the load continues to the end of the window.",
    ),
    Explained(
        "steady_state_untested",
        "The steady-state test could not be made.",
        "Warm-up or drift in the window may be undetected.",
        "Lengthen `window_s` until it has enough requests, and keep server metrics on.",
    ),
    Explained(
        "not_stationary",
        "A signal drifts over the measurement window, such as throughput or queue length.",
        "The average depends on when the window started; a longer run would give another value.",
        "Lengthen `warmup_s`. If the queue grows steadily, the load exceeds capacity: lower it.",
    ),
    Explained(
        "warmup_in_window",
        "The start of the window still looks like warm-up, although `warmup_s` was given.",
        "Warm-up values bias the average.",
        "Raise `warmup_s` by the duration in the message, or leave it out to have it detected.",
    ),
    Explained(
        "stopped_early",
        "A probe of a search was ended before its window was over, because its load certainly missed the SLOs or saturated the server.",
        "The window is short, and requests in flight at its end count as misses. A search uses only that the load was too high.",
        "Nothing: the search needs no more of this probe. To measure this load completely, use `harness run`.",
    ),
    Explained(
        "fresh_start",
        "All sessions of a closed-loop stage start together at their first turn.",
        "Contexts are shorter than in steady operation, which understates prefill and KV cache load.",
        "Remove `start: fresh` from the stage, or use a long `warmup_s`.",
    ),
)

_LOAD_GENERATOR: Final = (
    Explained(
        "late_sends",
        "Requests were sent or dropped late: p99 of schedule lag above 5% of the TTFT SLO (50 ms without one).",
        "The load generator did not keep its schedule. Beyond the SLO itself (1 s) the run is invalid.",
        "Add workers (`traffic.workers`) or cores, move the load generator off the server's host, or lower the rate.",
    ),
    Explained(
        "client_saturated",
        "A load generator process used more than 85% of a core (p95 over the window).",
        "A saturated client adds its own delay to every latency.",
        "Raise `traffic.workers`, use a host with more cores, or lower the load.",
    ),
    Explained(
        "client_not_watched",
        "CPU use of the load generator was not recorded, or only for a part of the window.",
        "A saturated client would go unnoticed.",
        "Look for `telemetry_*` concerns and in logs/telemetry.log, then rerun.",
    ),
    Explained(
        "client_error",
        "The canaries' timing error is too large: p99 above 5% of the TTFT SLO, or 10 ms.",
        "Measured latencies include this much error from the client.",
        "Give the load generator its own cores or host, raise `traffic.workers`, or lower the load.",
    ),
    Explained(
        "canary_missing",
        "The manifest lists canaries, but none was recorded.",
        "The load generator's timing error during the run is unknown.",
        "Read the load generator's logs in logs/, then rerun.",
    ),
    Explained(
        "canary_failed",
        "Canary requests failed, or do not match the reference server's records.",
        "The reference server or the load generator malfunctioned, so the timing error is not reliable.",
        "Check that the host is not out of memory, sockets or CPU, then rerun.",
    ),
    Explained(
        "event_loop_lag",
        "A timer of the load generator fired late: above 5% of the TTFT SLO (50 ms without one).",
        "Everything that was timed during this stall may be late by as much.",
        "Reserve cores for the load generator, and stop other processes on its host.",
    ),
    Explained(
        "calibration_missing",
        "The run has no certificate of the load generator.",
        "The load that this host can generate without distortion is unknown.",
        "Rerun without `--no-calibrate`, and without `traffic.calibrate: false`.",
    ),
    Explained(
        "calibration_insufficient",
        "During calibration the load generator exceeded its error bounds at the profile's load.",
        "Latencies may include delays of the client.",
        "Use a host with more or idle cores, or lower the load. `harness calibrate PROFILE` shows the limit.",
    ),
    Explained(
        "calibration_stale",
        "The certificate is more than 30 days older than the run, or from another processor.",
        "Kernel, packages and neighbors change, so the certificate may no longer apply.",
        "Run `harness calibrate PROFILE` on this host, then rerun.",
    ),
    Explained(
        "calibration_unreadable",
        "calibration.json of the run directory is damaged.",
        "The capacity of the load generator is unknown.",
        "Copy calibration.json again from the original run directory, then run `harness reduce`.",
    ),
    Explained(
        "beyond_certificate",
        "Events per second or request sizes exceeded the certified load by more than 10%.",
        "The accuracy of the load generator at this load was not tested.",
        "Run `harness calibrate PROFILE`, which tests up to 8 times the load. Or set `slos.tpot_s` near the server's real pace, then rerun.",
    ),
)

_SERVER: Final = (
    Explained(
        "not_reconciled",
        "Client and server counted different numbers of requests or tokens, or the server's counters are not available.",
        "Requests from elsewhere, lost responses or restarts make the results wrong.",
        "Stop all other traffic to the server. Check `metrics_urls`, and that every replica is listed.",
    ),
    Explained(
        "window_not_reconciled",
        "Within the measurement window, client and server token counts differ by more than 1%.",
        "Tokens are attributed to the wrong period, or another client uses the server.",
        "Stop other traffic, shorten `telemetry.scrape_interval_s`, and check for buffering proxies.",
    ),
    Explained(
        "server_ttft_above_client",
        "The server's mean TTFT exceeds the longest wait that the client measured.",
        "The histogram has another unit, or the client takes an empty chunk for the first token.",
        "Check the server's version and its TTFT histogram, and whether a gateway sends early chunks.",
    ),
    Explained(
        "server_ttft_below_client",
        "Mean TTFT at the client is far above that of the server's own histogram.",
        "Requests wait in front of the server, or a proxy buffers its stream.",
        "Measure without the proxy, or turn its buffering off (nginx: `proxy_buffering off`).",
    ),
    Explained(
        "server_warm",
        "The server had processed prompt tokens before this run.",
        "Its prefix cache may hold this run's prompts, which makes TTFT look better.",
        "Restart the server, use another `seed`, or set `traffic.cache: cold`.",
    ),
    Explained(
        "server_restarted",
        "The server's counters were reset, or its process changed during the run.",
        "Requests failed or waited meanwhile, and counts across the restart are wrong.",
        "Find the crash in the server's log (out of memory, watchdog), fix it and rerun.",
    ),
    Explained(
        "metrics_mixed",
        "One metrics URL returned the counters of several processes in turn.",
        "A balancer is in between: increases of such counters mean nothing, so none is used.",
        "Name each replica's own URL in `server.urls` or `server.metrics_urls`.",
    ),
    Explained(
        "server_unusual",
        "An attached server gave an unusual response before the run, but serves.",
        "Usually nothing. The message quotes the response.",
        "Check that the message describes the server that you expect.",
    ),
    Explained(
        "target_unreachable",
        "A metrics endpoint never answered.",
        "Prefix cache hit rate, queue length and reconciliation are not available for this replica.",
        "Open the URL with curl from this host, and set `server.metrics_urls` and the API key.",
    ),
    Explained(
        "scrapes_missed",
        "More than 5% of the metrics scrapes failed.",
        "Values from the server's counters may be inaccurate.",
        "Raise `telemetry.scrape_timeout_s` or `telemetry.scrape_interval_s`. An overloaded server answers `/metrics` late.",
    ),
    Explained(
        "scrapes_failed",
        "Some metrics scrapes failed, at most 5%.",
        "Counters are interpolated over the gap, which has little effect.",
        "No action is needed. If it recurs, raise `telemetry.scrape_timeout_s`.",
    ),
    Explained(
        "scrape_gap",
        "Server metrics were missing for more than 5 scrape intervals within the window.",
        "Rates and queue lengths in this gap are unknown.",
        "Raise `telemetry.scrape_timeout_s`, and give the recorder a free core.",
    ),
    Explained(
        "scrape_problem",
        "The metrics page has samples that cannot be used, such as duplicates, or several targets match one selector.",
        "Unused samples may belong to metrics that the report needs.",
        "Upgrade the server, or narrow `telemetry.selectors` to one target.",
    ),
)

_PROMETHEUS: Final = (
    Explained(
        "prometheus_clock",
        "The clock of Prometheus differs from this host's by more than 0.5 s.",
        "Its samples are assigned to the wrong time, by this difference.",
        "Synchronize both hosts with NTP or chrony.",
    ),
    Explained(
        "prometheus_unreachable",
        "Prometheus did not answer a query.",
        "Server metrics may be missing for this period.",
        "Check URL, network and `telemetry.prometheus_auth_env`.",
    ),
    Explained(
        "prometheus_not_read",
        "Samples could not be read from Prometheus.",
        "Server metrics of the run are incomplete.",
        "Raise the query limits of Prometheus, check its retention, and rerun.",
    ),
    Explained(
        "prometheus_no_target",
        "The selector of an endpoint matches nothing in Prometheus.",
        "The server's metrics are not available.",
        "Try the selector in the Prometheus UI, and correct `telemetry.selectors`.",
    ),
    Explained(
        "prometheus_warning",
        "Prometheus or Thanos warned that its results are incomplete.",
        "A store that is away hides samples.",
        "Fix the store named in the message, or use `telemetry.prometheus: embedded`.",
    ),
    Explained(
        "prometheus_restarted",
        "The managed Prometheus ended during the run and was restarted.",
        "Scrapes are missing in between.",
        "Read its log in logs/. Out of memory or a full disk is the usual cause.",
    ),
    Explained(
        "prometheus_died",
        "The managed Prometheus ended during the run and could not be restarted.",
        "There are no server metrics from then on.",
        "Read its log in logs/, or use `telemetry.prometheus: embedded`.",
    ),
    Explained(
        "selector_missing",
        "`telemetry.selectors` has no entry for an endpoint.",
        "The server's metrics are not available for this endpoint.",
        "Add the endpoint to `telemetry.selectors`.",
    ),
    Explained(
        "selector_ambiguous",
        "A selector matches several targets, and their values are added.",
        "Counts include other servers or count one server twice.",
        'Narrow the selector to one target, such as `instance="host:8000"`.',
    ),
)

_TELEMETRY: Final = (
    Explained(
        "telemetry_died",
        "The telemetry recorder ended during the run; it is restarted only once.",
        "Scrapes, power and host readings are missing from then on.",
        "Read logs/telemetry.log, and check memory and disk space.",
    ),
    Explained(
        "telemetry_restarted",
        "The telemetry recorder ended during the run and was restarted once.",
        "Readings are missing in between.",
        "Read logs/telemetry.log, and check memory and disk space.",
    ),
    Explained(
        "telemetry_not_written",
        "Telemetry could not be written to the run directory.",
        "Readings are missing from then on.",
        "Free disk space, or choose another folder with `--out`.",
    ),
    Explained(
        "telemetry_rows_lost",
        "Rows of telemetry were lost because they could not be written.",
        "Power, host or server metrics have gaps.",
        "Free disk space, or choose another folder with `--out`.",
    ),
    Explained(
        "telemetry_control",
        "Supervisor and telemetry recorder exchanged a message that could not be read.",
        "A target or a process may not be recorded.",
        "Rerun. If it recurs, report it with logs/telemetry.log: it is a defect of the harness.",
    ),
    Explained(
        "telemetry_loop_failed",
        "Readings of the host or of the live view failed within the recorder.",
        "These readings are missing; power and scrapes continue.",
        "Rerun. If it recurs, report it with logs/telemetry.log: it is a defect of the harness.",
    ),
    Explained(
        "telemetry_scope_gone",
        "A process had ended before its CPU and memory could be recorded.",
        "Host metrics of this process are missing.",
        "No action is needed if the process was short-lived. Otherwise read its log in logs/.",
    ),
)

_POWER: Final = (
    Explained(
        "power_missing",
        "The deployment has GPUs, but their power was not read.",
        "Power, energy per token and tokens per joule are not available.",
        "Run `harness check --system`. For servers elsewhere, add a meter to `telemetry.power`.",
    ),
    Explained(
        "power_source_missing",
        "A source in `telemetry.power` provides no readings on this machine.",
        "Its power boundary is not available.",
        "Run `harness check --system` for the reason, or remove the source from the profile.",
    ),
    Explained(
        "power_reading_failed",
        "A power source stopped answering or returned errors.",
        "Readings are missing for this time, and energy may be too.",
        "Check permissions, driver and network of the source named in the message.",
    ),
    Explained(
        "power_gap",
        "Power readings of a device were missing for a while within the window.",
        "Energy over the gap is interpolated.",
        "Give the recorder a free core, and look for `power_reading_failed` and the reason in its message.",
    ),
    Explained(
        "power_implausible",
        "Power of a device is higher than it can draw, or below 1 W for a GPU.",
        "The unit or the device is wrong, so its energy is left out.",
        "Check unit, column and device of the meter in `telemetry.power`.",
    ),
    Explained(
        "power_below_idle",
        "Power under load was lower than without load.",
        "One of the two readings covers something else, so energy per token is wrong.",
        "Keep the machine idle before the run, and check which devices the meter covers.",
    ),
    Explained(
        "power_part_above_whole",
        "An inner power boundary drew more than the outer one that contains it.",
        "One of the meters has a wrong unit or covers other devices.",
        "Check `boundary`, unit and columns of the meters in `telemetry.power`.",
    ),
    Explained(
        "power_replayed",
        "Power was played back from a recording.",
        "It contains no information about this run.",
        "Use a real source in `telemetry.power`. Replay is for tests and demonstrations.",
    ),
    Explained(
        "energy_absent",
        "Energy of the GPUs is not available, for the reason in the message.",
        "Energy per token and tokens per joule are missing.",
        "Fix the reason: window of at least 5 s, all GPUs of the deployment, readings without errors.",
    ),
    Explained(
        "energy_window_short",
        "Energy was integrated over less than 30 s.",
        "Sensor lag and sampling dominate, so the value is preliminary.",
        "Set `window_s` to at least 30 s, and to 10 minutes for a result.",
    ),
    Explained(
        "energy_disagrees",
        "Energy counter and integrated power of a device differ by more than 5%.",
        "One of them is wrong, or the power readings are too coarse for this load.",
        "Lengthen the window. If it persists, calibrate with `harness energy calibrate` and check the driver version.",
    ),
    Explained(
        "energy_sources_disagree",
        "Two sources for the same power boundary differ by more than 5%.",
        "Energy per token depends on which source is right.",
        "Check that both cover the same devices, or calibrate with `harness energy calibrate`.",
    ),
    Explained(
        "energy_counter_reset",
        "A GPU's energy counter was reset during the run.",
        "The driver was reloaded, and energy across the reset is lost.",
        "Enable persistence mode (`nvidia-smi -pm 1`), and do not reset GPUs during a run.",
    ),
    Explained(
        "gpu_set",
        "Power was read for other GPUs than those of the deployment.",
        "Missing GPUs make the deployment's energy unknown; extra ones are left out.",
        "Set `server.gpus` or `server.gpu_count` to the GPUs that serve, and meter all of them.",
    ),
    Explained(
        "meter_calibration_unreadable",
        "The meter calibration cannot be used, and default sensor errors apply.",
        "Uncertainties of power and energy are wider than they need to be.",
        "Create it again with `harness energy calibrate`, and set `energy.calibration`.",
    ),
    Explained(
        "double_hardware",
        "GPU or power source is simulated (a test double).",
        "The values describe no real hardware.",
        "Remove the simulated library or meter from the environment, then rerun.",
    ),
)

_GPUS: Final = (
    Explained(
        "throttled",
        "GPUs were slowed down by heat, a hardware slowdown or a power brake.",
        "Throughput and energy are not those of this hardware in normal operation.",
        "Improve cooling and power supply, check with `nvidia-smi -q -d PERFORMANCE`, and rerun.",
    ),
    Explained(
        "throttling_not_watched",
        "Clock-event reasons of some GPUs were not read for most of the window.",
        "Throttling may be undetected.",
        "Run the harness where NVML can read these GPUs, and check `harness check --system`.",
    ),
    Explained(
        "power_limit",
        "A GPU ran at a power limit other than its default.",
        "Results are comparable only with runs at the same limit.",
        "For default conditions, reset it with `nvidia-smi -pl WATTS`. Otherwise report the limit with the results.",
    ),
    Explained(
        "power_capped",
        "A GPU was at its default power limit for a part of the window.",
        "This is normal under full load; clocks are then limited by power.",
        "No action is needed.",
    ),
    Explained(
        "foreign_processes",
        "Other processes used the deployment's GPUs.",
        "They take compute and memory, and their energy is counted here.",
        "Stop them (`nvidia-smi` lists them), or choose other GPUs with `server.gpus`.",
    ),
    Explained(
        "ecc_errors",
        "A GPU had uncorrected memory errors during the run.",
        "The GPU may be defective, and results or responses may be wrong.",
        "Reset the GPU, run `dcgmi diag -r 3`, and replace it if errors recur.",
    ),
    Explained(
        "xid",
        "The NVIDIA driver reported an XID error during the run.",
        "XID errors indicate hardware, driver or application faults.",
        "Look up the number in NVIDIA's XID documentation and the kernel log (`dmesg`).",
    ),
)

_QUALITY: Final = (
    Explained(
        "quality_missing",
        "The responses were not checked, or the check is incomplete.",
        "A fast server with wrong output would go unnoticed.",
        "Remove `quality.check: false`, and let the server answer the check's requests.",
    ),
    Explained(
        "quality_unverified",
        "Responses were compared with each other only, not with a reference; or the weights are dummies.",
        "The load did not change the output, but it may have been wrong from the start.",
        "Record a reference with `harness quality record` at the best precision, and set `quality.reference`.",
    ),
    Explained(
        "quality_failed",
        "Responses differ from the reference, or changed under load, by more than the tolerance.",
        "The speed of a server with wrong output is not a result.",
        "Check quantization, kernels and model version. If the difference is expected, record a new reference.",
    ),
)

_NETWORK: Final = (
    Explained(
        "through_proxy",
        "Requests passed through an HTTP proxy.",
        "Its delay and buffering are part of every latency.",
        "Set `traffic.proxy: none`, or add the host to NO_PROXY.",
    ),
    Explained(
        "tls_unverified",
        "The server's TLS certificate was not verified.",
        "The identity of the server that responded is not certain.",
        "Set `traffic.tls.ca_file` to the private CA, and remove `traffic.tls.verify: false`.",
    ),
)

GROUPS: Final[Mapping[str, tuple[Explained, ...]]] = {
    "Run directory": _RUN_DIRECTORY,
    "Requests and tokens": _REQUESTS,
    "Measurement window": _WINDOW,
    "Load generator": _LOAD_GENERATOR,
    "Server and its metrics": _SERVER,
    "Prometheus": _PROMETHEUS,
    "Telemetry recorder": _TELEMETRY,
    "Power and energy": _POWER,
    "GPU state": _GPUS,
    "Quality of responses": _QUALITY,
    "Network": _NETWORK,
}
"""Concerns by subject, in the order of the documentation."""

CONCERNS: Final[Mapping[str, Explained]] = {
    one.code: one for group in GROUPS.values() for one in group
}


def _exit(code: ExitCode, why: str, fix: str) -> Explained:
    return Explained(str(code.value), EXIT_MEANINGS[code], why, fix)


EXITS: Final[Mapping[str, Explained]] = {
    one.code: one
    for one in (
        _exit(
            ExitCode.OK,
            "Scripts and CI jobs may continue.",
            "No action is needed. Read the verdict before using the results.",
        ),
        _exit(
            ExitCode.PROFILE,
            "Nothing was started.",
            "Fix every error in the message. `harness COMMAND --help` and docs/reference/profile.md list options and keys.",
        ),
        _exit(
            ExitCode.PREFLIGHT,
            "Nothing was started, so no GPU time was spent.",
            "Follow the next step in the message. `harness check PROFILE` lists all problems at once.",
        ),
        _exit(
            ExitCode.SERVER,
            "The run has no result, or only a part of one.",
            "Read the last lines of the server's log in the message, and logs/ in the run directory.",
        ),
        _exit(
            ExitCode.TRAFFIC,
            "The run has no result, or only a part of one.",
            "Read the load generator's logs in logs/ of the run directory.",
        ),
        _exit(
            ExitCode.TELEMETRY,
            "A source in `telemetry.require` is not available, so the results would lack its metrics.",
            "Run `harness check PROFILE --system`, or remove the source from `telemetry.require`.",
        ),
        _exit(
            ExitCode.ARTIFACTS,
            "Results cannot be stored, or a stored run cannot be evaluated.",
            "Check path, permissions and disk space, or choose another folder with `--out`.",
        ),
        _exit(
            ExitCode.NOT_COMPARABLE,
            "The runs differ in workload, model, SLOs or another identity key, so ratios would mislead.",
            "Make the key in the message equal, or pass `--allow-mismatch KEY` if the difference is deliberate.",
        ),
        _exit(
            ExitCode.INVALID_RUN,
            "The results must not be used; summary and report are written for diagnosis.",
            "Run `harness explain CODE` for each concern of severity `invalid` in the report.",
        ),
        _exit(
            ExitCode.THRESHOLD_FAILED,
            "The results are usable, but miss a requirement. CI jobs use this code as a regression.",
            "Read the failed thresholds on stderr or in the comparison report.",
        ),
        _exit(
            ExitCode.INTERRUPTED,
            "What was measured until then is kept and reduced.",
            "Rerun, or continue a series with `harness repeat --resume DIR`.",
        ),
    )
}
"""Exit codes of the command, by their number."""


def find(code: str) -> Explained:
    """The entry of a concern or an exit code.

    Raises:
        ProfileError: there is no such code; names near ones.
    """
    wanted = code.strip().lower().replace("-", "_")
    found = CONCERNS.get(wanted) or EXITS.get(wanted)
    if found is not None:
        return found
    codes = [*CONCERNS, *EXITS]
    near = difflib.get_close_matches(wanted, codes, n=3, cutoff=0.5)
    near += [one for one in CONCERNS if wanted and wanted in one and one not in near][:3]
    raise ProfileError(
        f"unknown code {code!r}",
        next_step=(f"use {', '.join(near)}; or run" if near else "run")
        + " `harness explain` for a list of all codes",
    )
