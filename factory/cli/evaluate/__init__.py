"""The group `factory evaluate`: a command for each evaluation, those of plug-ins too."""

import click

from factory.cli import LazyGroup
from factory.evaluate import EVALUATIONS


class Evaluations(LazyGroup):
    """Builds the command of an evaluation when it is asked for."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Builds one command."""
        from factory.cli.evaluate.command import build_command

        if cmd_name in EVALUATIONS.names:
            return build_command(cmd_name)
        return super().get_command(ctx, cmd_name)


@click.group(
    cls=Evaluations,
    table={**dict.fromkeys(EVALUATIONS.names, ""), "all": "factory.cli.evaluate.all:every"},
)
def evaluate() -> None:
    """Measures what synthetic data is worth: fidelity, copies, few-shot use, retrieval."""
