"""Head and foot of the model cards of what is trained here."""

from factory.core.markdown import escape, write_line
from factory.train.generator.settings import ExportSettings


def write_head(name: str, export: ExportSettings, tags: str, library: str = "") -> list[str]:
    """Returns the lines of a card's header and title; `library` loads the weights."""
    lines = ["---", write_line("license", export.license)]
    lines += [f"library_name: {library}"] if library else []
    lines += [f"tags: {tags}", "---", "", f"# {escape(name)}", ""]
    return lines + ([escape(export.title), ""] if export.title else [])


def write_heading(title: str) -> list[str]:
    """Returns the lines of a section's heading."""
    return ["", f"## {title}", ""]


def write_foot(export: ExportSettings) -> list[str]:
    """Returns the last limit of any model, licence and attribution."""
    return [
        "- For research on software and methods, not for diagnosis.",
        *write_heading("Licence and attribution"),
        escape(f"Weights: {export.license}. " + " ".join(export.attribution)),
        "",
    ]
