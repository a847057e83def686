"""Starts model servers, waits until they are ready, watches and stops them, and ends what an
earlier run left behind.

`choose_server` turns a profile into a `ModelServer`; its `start` yields a `RunningServer` with
endpoints for traffic and telemetry.
"""
