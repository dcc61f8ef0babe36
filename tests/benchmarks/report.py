"""The numbers of `nano_he.py` as Markdown tables."""

from collections.abc import Iterator
from typing import Any

from measures import write_table

_CONTROL = (
    "attribute",
    "asked by",
    "Spearman rho",
    "within one bin",
    "same bin",
    "within one, if ignored",
    "same, if ignored",
    "mean for the low value",
    "medium",
    "high",
)


def write_tables(found: dict[str, Any]) -> str:
    """Returns one table or more for each part that was measured."""
    told = "\n".join(f"- {name}: {value}" for name, value in found["model"].items())
    writers = {
        "distribution": write_distribution,
        "use": write_use,
        "control": write_control,
        "copies": write_copies,
    }
    tables = [each for part in writers if part in found for each in writers[part](found[part])]
    return "\n".join([told, *tables])


def write_distribution(part: dict[str, Any]) -> Iterator[str]:
    """Yields a table for each encoder."""
    for name, one in part["encoders"].items():
        told = f"{one['encoder']['dim']} features, revision {one['encoder']['revision']}"
        title = f"Distance to {part['images']:,} real test patches: {name} ({told})"
        rows = [
            [key, value["fd"], one["fd_over_floor"][key], value["kid"]]
            for key, value in one["sets"].items()
        ]
        yield write_table(title, ["set", "FD", "FD / real train", "KID"], rows)


def write_use(part: dict[str, Any]) -> Iterator[str]:
    """Yields a table for each encoder whose features a classifier was fitted on."""
    keys = ("balanced_accuracy", "interval", "over_real", "over_real_interval")
    headers = ["fitted on", "balanced accuracy", "95 %", "over real", "95 %"]
    for encoder, one in part.get("encoders", {}).items():
        rows = [[name, *(value[key] for key in keys)] for name, value in one["sets"].items()]
        yield write_table(f"Classifier on {encoder}, tested on real patches", headers, rows)


def write_control(part: dict[str, Any]) -> Iterator[str]:
    """Yields one table of all attributes."""
    rows = []
    for name, one in part.items():
        for way in ("wordings", "paraphrases"):
            scored = one[way]
            shares = (scored["spearman"], scored["within_one_bin"], scored["same_bin"])
            chance, means = scored["if_ignored"].values(), scored["mean_measured"].values()
            rows.append([name, way, *shares, *chance, *means])
    yield write_table("Control", _CONTROL, rows)


def write_copies(part: dict[str, Any]) -> Iterator[str]:
    """Yields one table."""
    rows = [[name, *part[name].values()] for name in ("samples", "real test")]
    headers = ["set", *part["samples"]]
    yield write_table("Similarity to the nearest training patch", headers, rows)
    nearer = part["samples_nearer_than_nearest_1_percent_of_test"]
    yield f"\nNearer than the nearest 1 % of real test patches: {nearer:.2%} of samples."
