"""The group `factory evaluate`."""

import click

from factory.cli import LazyGroup

EVALUATIONS: dict[str, str] = {
    "fidelity": "factory.cli.evaluate.fidelity:fidelity",
    "copies": "factory.cli.evaluate.copies:copies",
    "fewshot": "factory.cli.evaluate.fewshot:fewshot",
    "retrieval": "factory.cli.evaluate.retrieval:retrieval",
    "control": "factory.cli.evaluate.control:control",
    "all": "factory.cli.evaluate.all:every",
}
"""Command -> where it is; imported on use."""


@click.group(cls=LazyGroup, table=EVALUATIONS)
def evaluate() -> None:
    """Measures what synthetic data is worth: fidelity, copies, few-shot use, retrieval."""
