"""What expected work costs: hours of workers, money, energy and carbon, with how sure that is."""

from typing import Any

from pydantic import Field

from factory.core.fields import MANY, Options

HOUR = 3600.0


class CostOptions(Options):
    """What a worker costs, of whoever lends it; what is not given is not reckoned."""

    price: float | None = Field(
        None, ge=0.0, le=MANY, description="Money for an hour of one worker, in any currency."
    )
    watts: float | None = Field(
        None, gt=0.0, le=MANY, description="Power of one worker, its share of the machine included."
    )
    carbon: float | None = Field(
        None, ge=0.0, le=MANY, description="g of CO2 equivalent of a kWh of the grid; with --watts."
    )

    def find_problem(self, calibrate: bool) -> str | None:
        """Says why nothing can be reckoned of what is given, or None."""
        if self == CostOptions():
            return None
        if not calibrate:
            return "--price, --watts and --carbon need the time: leave --no-calibrate out"
        if self.carbon is not None and self.watts is None:
            return "--carbon: give --watts too, the power that a worker draws"
        return None


def reckon_costs(
    seconds: tuple[float, float, float], options: CostOptions, workers: int | None
) -> dict[str, Any]:
    """Returns worker hours, and what they cost: each as (expected, low, high).

    Args:
        seconds: of one worker alone: expected, and the ends of what is likely.
        options: what a worker costs.
        workers: that have a shard; None: as many as there is room for.

    Returns:
        `worker_hours`; `hours` of so many workers, where their number is known; `money`;
        `energy_kwh`; `carbon_kg`.
    """

    def scale(factor: float) -> list[float]:
        return [each * factor for each in seconds]

    found = {"worker_hours": scale(1 / HOUR)}
    if workers is not None:
        found["hours"] = scale(1 / HOUR / workers)
    if options.price is not None:
        found["money"] = scale(options.price / HOUR)
    if options.watts is not None:
        found["energy_kwh"] = scale(options.watts / HOUR / 1000)
        if options.carbon is not None:
            found["carbon_kg"] = scale(options.watts / HOUR / 1000 * options.carbon / 1000)
    return found


def describe_costs(costs: dict[str, list[float]]) -> list[str]:
    """Returns a line for each cost: what is expected, and between what it likely lies."""
    named = {
        "worker_hours": "hours of one worker like this one",
        "hours": "hours with the workers asked for",
        "money": "at the price given",
        "energy_kwh": "kWh",
        "carbon_kg": "kg CO2 equivalent",
    }
    told = ((words, costs[key]) for key, words in named.items() if key in costs)
    return [f"{mean:.3g} {words} ({low:.3g} to {high:.3g})" for words, (mean, low, high) in told]
