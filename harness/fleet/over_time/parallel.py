"""Independent tasks in this process, in several, or on a Ray cluster. Each task has its own seed,
so results do not depend on where it runs.
"""

import multiprocessing
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from harness.core.errors import PreflightError

Task = TypeVar("Task")
Result = TypeVar("Result")


def spread(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    processes: int = 1,
    ray_address: str | None = None,
) -> list[Result]:
    """Results of a function for tasks, in their order.

    Args:
        function: at the top of a module, so that other processes can import it.
        tasks: its arguments.
        processes: on this machine; 1: this process.
        ray_address: of a Ray cluster (`ray://host:10001`, `host:6379`, `auto`), or `local` for one
            of `processes` workers on this machine.

    Raises:
        PreflightError: Ray is not installed, or no cluster at the address.
    """
    if ray_address is not None:
        return _on_ray(function, tasks, processes, ray_address)
    if processes <= 1 or len(tasks) <= 1:
        return [function(task) for task in tasks]
    # Not forked: the caller may have threads (a live view, telemetry).
    with ProcessPoolExecutor(
        min(processes, len(tasks)), mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        return list(pool.map(function, tasks))


def _check_reachable(address: str) -> None:
    """Check the address first: Ray itself would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> PreflightError:
    return PreflightError(
        f"no Ray cluster at {address}",
        cause=str(error).split("\n", 1)[0],
        next_step="start one: ray start --head, or give HOST:PORT",
    )


def _on_ray(
    function: Callable[[Task], Result], tasks: Sequence[Task], processes: int, address: str
) -> list[Result]:
    try:
        import ray
    except ImportError as error:
        raise PreflightError(
            "Ray is not installed",
            cause=str(error),
            next_step="pip install 'colossus-harness[ray]', or omit --ray-address",
        ) from error
    if address not in {"local", "auto"}:
        _check_reachable(address)
    where: dict[str, Any] = {"address": address}
    if address == "local":
        where = {"num_cpus": max(1, processes), "include_dashboard": False}
    try:
        ray.init(**where, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise _no_cluster(address, error) from error
    try:
        remote = ray.remote(function)
        found: list[Result] = ray.get([remote.remote(task) for task in tasks])
        return found
    finally:
        ray.shutdown()
