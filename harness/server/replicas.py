"""Starts replicas as child processes, waits until all are ready, and stops them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.artifacts.layout import RunDir
from harness.core.clock import now_ns, seconds
from harness.core.records import Api, Endpoint, ServerInfo
from harness.processes.child import stop_all
from harness.server.base import RunContext, Settings
from harness.server.process import ReplicaPlan, ServerProcess, loopback, redact
from harness.server.ready import Deadline, NotReadyError, Served, wait_ready

_RECORD_EVERY_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """All replicas, and what applies to each of them.

    Attributes:
        served_name: the model's name in requests.
        api: of the first request.
        ready_timeout_s: for the start of all of them.
        stop_timeout_s: for a clean end of each.
    """

    kind: str
    replicas: tuple[ReplicaPlan, ...]
    served_name: str
    api: Api
    api_key: str | None
    ready_timeout_s: float
    stop_timeout_s: float
    software: dict[str, str]
    settings: Settings


@dataclass(slots=True, eq=False)
class ManagedServer:
    """A `RunningServer` of replicas that were started here."""

    endpoints: tuple[Endpoint, ...]
    info: ServerInfo
    processes: Sequence[ServerProcess]
    stop_timeout_s: float

    def pids(self) -> dict[str, int]:
        children = [one.child for one in self.processes]
        return {child.spec.name: child.pid for child in children if child.alive()}

    def check(self) -> None:
        _check_alive(self.processes, was_ready=True)

    def stop(self) -> None:
        """Stop all replicas; raises the first `ServerError`, after trying all."""
        stop_all(self.processes, self.stop_timeout_s)


def _check_alive(processes: Sequence[ServerProcess], *, was_ready: bool) -> None:
    for one in processes:
        if not one.child.alive():
            raise one.died(was_ready=was_ready)


def log_path(run_dir: RunDir, position: int, count: int) -> Path:
    """logs/server.log, or logs/server-<n>.log with several replicas."""
    return run_dir.logs_dir / ("server.log" if count == 1 else f"server-{position}.log")


@contextmanager
def serve(plan: ServicePlan, context: RunContext) -> Iterator[ManagedServer]:
    """Start all replicas at once, wait until each is ready, yield, stop.

    Raises:
        ServerError: one did not start or was not ready in time; by then all are stopped.
    """
    began_ns = now_ns()
    deadline = Deadline(plan.ready_timeout_s)
    count = len(plan.replicas)
    processes: list[ServerProcess] = []
    try:
        for position, one in enumerate(plan.replicas):
            path = log_path(context.run_dir, position, count)
            secrets = (plan.api_key,) if plan.api_key else ()
            processes.append(ServerProcess.start(one, path, context.registry, secrets))
        endpoints = tuple(
            Endpoint(
                name=one.name,
                base_url=(base := f"http://{loopback(one.host)}:{one.port}"),
                model=plan.served_name,
                metrics_url=f"{base}/metrics",
                gpu_uuids=tuple(gpu.uuid for gpu in one.gpus),
                pid=process.child.pid,
            )
            for one, process in zip(plan.replicas, processes, strict=True)
        )
        served = [
            _wait_one(plan, endpoint, process, processes, deadline)
            for endpoint, process in zip(endpoints, processes, strict=True)
        ]
        info = ServerInfo(
            kind=plan.kind,
            version=served[0].version,
            argv=tuple(redact(one.argv) for one in plan.replicas),
            software=plan.software,
            settings=plan.settings
            | {"max_model_len": served[0].max_context_tok or plan.settings.get("max_model_len")},
            log_paths=tuple(
                str(process.log.relative_to(context.run_dir.root)) for process in processes
            ),
            ready_s=seconds(now_ns() - began_ns),
        )
        yield ManagedServer(endpoints, info, processes, plan.stop_timeout_s)
    finally:
        stop_all(processes, plan.stop_timeout_s)


def _wait_one(
    plan: ServicePlan,
    endpoint: Endpoint,
    process: ServerProcess,
    all_processes: Sequence[ServerProcess],
    deadline: Deadline,
) -> Served:
    recorded_ns = 0

    def watch() -> None:
        nonlocal recorded_ns
        _check_alive(all_processes, was_ready=False)
        if now_ns() - recorded_ns > _RECORD_EVERY_NS:
            for one in all_processes:
                one.child.record()
            recorded_ns = now_ns()

    try:
        served = wait_ready(endpoint, plan.api, plan.api_key, deadline, watch)
    except NotReadyError as error:
        raise process.failure(
            f"the server {endpoint.name} {error.what}",
            was_ready=False,
            cause=error.cause,
            next_step=error.next_step,
        ) from error
    if process.listens() is False:
        raise process.failure(
            f"something else answers on port {process.plan.port} in place of the server"
            f" {endpoint.name}",
            was_ready=False,
            cause="another server took the same port at the same time",
            next_step="start again, or set server.port",
        )
    process.child.record()
    return served
