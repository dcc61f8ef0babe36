"""How many workers a cluster holds: by what each node has, never by the sum."""

import time
from collections.abc import Mapping, Sequence

from factory.core.errors import InputError
from factory.engine.executors.cluster import Cluster, can_grow, list_nodes
from factory.recipe.recipe import Workers

JOIN = 30.0
"""Seconds that further nodes of a given cluster have to join it, before it counts as too small."""


def wait_for_nodes(workers: Workers, cluster: Cluster) -> tuple[int, float]:
    """Returns what `size_cluster` says, once the nodes of a given cluster had time to join it.

    Raises:
        InputError: see `size_cluster`.
    """
    deadline = time.monotonic() + (0.0 if cluster.address is None else JOIN)
    while True:
        try:
            return size_cluster(workers, list_nodes(), can_grow())
        except InputError:
            if time.monotonic() > deadline:
                raise
        time.sleep(1.0)


def size_cluster(
    workers: Workers, nodes: Sequence[Mapping[str, float]], grows: bool = False
) -> tuple[int, float]:
    """Returns the number of actors and the GPUs of each.

    Args:
        workers: how many are asked for, and what each needs.
        nodes: resources of each.
        grows: whether an autoscaler may add nodes; then only what workers need is known.

    Raises:
        InputError: more workers than the nodes can ever hold.
    """
    has_gpus = any(node.get("GPU") for node in nodes)
    gpus = float(has_gpus) if workers.gpus == "auto" else float(workers.gpus)
    fits = sum(_count_fitting(node, workers.cpus, gpus) for node in nodes)
    if workers.count == "auto":
        if fits or grows:
            return max(fits, 1), gpus
    elif workers.count <= fits or grows:
        return workers.count, gpus
    asked = describe_ask(1 if workers.count == "auto" else workers.count, workers.cpus, gpus)
    where = "this machine holds" if len(nodes) < 2 else f"the {len(nodes)} nodes hold"
    if fits:
        raise InputError(
            f"workers.count: {asked} do not fit: {where} {fits}: lower workers.count, "
            "workers.cpus or workers.gpus"
        )
    largest = max(nodes, key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)), default={})
    raise InputError(
        f"workers: no node can hold one: asked for {asked}; the largest has "
        f"{largest.get('CPU', 0.0):g} CPUs and {largest.get('GPU', 0.0):g} GPUs: lower "
        "workers.cpus or workers.gpus"
    )


def describe_ask(count: int, cpus: float, gpus: float) -> str:
    """Returns what workers need, in words."""
    return f"{count} worker{'s' if count > 1 else ''} with {cpus:g} CPUs and {gpus:g} GPUs"


def _count_fitting(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    slack = 1e-9  # 0.3 fits three times into 0.9
    fits = int(node.get("CPU", 0.0) / cpus + slack)
    return min(fits, int(node.get("GPU", 0.0) / gpus + slack)) if gpus else fits
