"""How many workers a cluster holds: by what each node has, never by the sum."""

import time
from collections.abc import Mapping, Sequence

from factory.core.errors import InputError
from factory.engine.executors.cluster import Cluster, list_nodes
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
            return size_now(workers)
        except InputError:
            if time.monotonic() > deadline:
                raise
        time.sleep(1.0)


def size_now(workers: Workers) -> tuple[int, float]:
    """Returns what `size_cluster` says of the cluster as it is.

    Raises:
        InputError: see `size_cluster`.
    """
    return size_cluster(workers, list_nodes(), workers.autoscales)


def size_cluster(
    workers: Workers, nodes: Sequence[Mapping[str, float]], grows: bool = False
) -> tuple[int, float]:
    """Returns the number of actors and the GPUs of each.

    Args:
        workers: how many are asked for, and what each needs.
        nodes: resources of each.
        grows: whether an autoscaler adds nodes for workers that wait; then `auto` is one more than
            there is room for.

    Raises:
        InputError: more workers than the nodes can ever hold.
    """
    has_gpus = any(node.get("GPU") for node in nodes)
    gpus = float(has_gpus) if workers.gpus == "auto" else float(workers.gpus)
    needs = {"CPU": workers.cpus, "GPU": gpus, **workers.resources}
    fits = sum(_count_fitting(node, needs) for node in nodes)
    if workers.count == "auto":
        if fits or grows:
            return fits + grows, gpus
    elif workers.count <= fits or grows:
        return workers.count, gpus
    asked = describe_ask(1 if workers.count == "auto" else workers.count, workers, gpus)
    where = "this machine holds" if len(nodes) < 2 else f"the {len(nodes)} nodes hold"
    fields = "workers.cpus, workers.gpus or workers.resources"
    if fits:
        raise InputError(
            f"workers.count: {asked} do not fit: {where} {fits}: lower workers.count, {fields}"
        )
    largest = max(nodes, key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)), default={})
    has = "".join(f" and {largest.get(name, 0.0):g} {name}" for name in workers.resources)
    raise InputError(
        f"workers: no node can hold one: asked for {asked}; the largest has "
        f"{largest.get('CPU', 0.0):g} CPUs and {largest.get('GPU', 0.0):g} GPUs{has}: lower "
        f"{fields}"
    )


def describe_ask(count: int, workers: Workers, gpus: float) -> str:
    """Returns what workers need, in words."""
    more = "".join(f" and {amount:g} {name}" for name, amount in workers.resources.items())
    plural = "s" if count > 1 else ""
    return f"{count} worker{plural} with {workers.cpus:g} CPUs and {gpus:g} GPUs{more}"


def _count_fitting(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
    slack = 1e-9  # 0.3 fits three times into 0.9
    fits = [int(node.get(name, 0.0) / each + slack) for name, each in needs.items() if each]
    return min(fits)
