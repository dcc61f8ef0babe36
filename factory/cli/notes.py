"""What a command prints beside its result: notes of the library, each once."""

import click

from factory.core.notes import listen


def print_notes(ctx: click.Context) -> None:
    """Prints every note of a command on stderr while it runs."""

    def show(text: str) -> None:
        click.echo(f"note: {text}", err=True)

    ctx.obj = ctx.with_resource(listen(show))


def list_notes() -> list[str]:
    """Returns what the running command was told so far, for its JSON."""
    return [*(click.get_current_context().find_root().obj or ())]
