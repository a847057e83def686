"""Model servers: start, wait until truly ready, watch, stop, and reap what an earlier run left
behind.

`choose_server` turns a profile into a `ModelServer`; its `start` yields a `RunningServer` with
endpoints for traffic and telemetry.
"""
