"""The group `factory evaluate`."""

import click

from factory.cli import LazyGroup

EVALUATIONS: dict[str, str] = {
    "fidelity": "factory.cli.evaluate_fidelity:fidelity",
    "copies": "factory.cli.evaluate_copies:copies",
    "fewshot": "factory.cli.evaluate_fewshot:fewshot",
    "retrieval": "factory.cli.evaluate_retrieval:retrieval",
    "control": "factory.cli.evaluate_control:control",
    "all": "factory.cli.evaluate_all:every",
}
"""Command -> where it is; imported on use."""


@click.group(cls=LazyGroup, table=EVALUATIONS)
def evaluate() -> None:
    """Measures what synthetic data is worth: fidelity, copies, few-shot use, retrieval."""
