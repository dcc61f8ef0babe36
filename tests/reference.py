"""Writes the reference of recipes and of commands from the code: `python -m tests.reference`."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from factory.cli import main
from factory.cli.shipped import read_purpose
from factory.recipe_file import build_recipe_schema

ROOT = Path(__file__).parents[1]
NOTE = "<!-- Written from the code by `python -m tests.reference`; a test compares. -->"
FILTERS_END = "Filter"


# --- recipes -------------------------------------------------------------------------------------


def write_recipes() -> str:
    """Returns `recipes/README.md`: the worked recipes, then every field."""
    schema = build_recipe_schema()
    lines = ["# Recipes", "", NOTE, "", "## Worked recipes", ""]
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        lines.append(f"- [`{path.name}`]({path.name}): {read_purpose(path)}")
    lines += ["", "Those in [`training/`](training) train what ships.", "", "## Fields", ""]
    lines += [
        "Fields without a default are required. `factory schema` writes the same as JSON Schema.",
        "",
    ]
    lines += ["### At the top", "", *write_table(schema)]
    for name, part in schema["$defs"].items():
        lines += ["", f"### {name_part(name, part)}", ""]
        described = (part.get("description") or "").strip()
        lines += [squeeze(described), ""] if described else []
        lines += write_table(part)
    return "\n".join(lines) + "\n"


def name_part(name: str, part: dict[str, Any]) -> str:
    """Returns a heading: the kind that a person writes, or the name of the section."""
    kind = part.get("properties", {}).get("kind", {}).get("const")
    keep = part.get("properties", {}).get("keep", {}).get("const")
    if kind is not None:
        return f"{'filter' if name.endswith(FILTERS_END) else 'condition'} `{kind}`"
    return f"pick `{keep}`" if keep is not None else name


def write_table(part: dict[str, Any]) -> list[str]:
    """Returns the fields of an object as a Markdown table."""
    lines = ["| field | takes | default | |", "| --- | --- | --- | --- |"]
    required = set(part.get("required", ()))
    for name, field in part.get("properties", {}).items():
        default = "" if name in required or "default" not in field else show(field["default"])
        told = squeeze(field.get("description", ""))
        cells = [f"`{name}`", describe_type(field), default, told]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def describe_type(field: dict[str, Any]) -> str:
    """Returns what a field takes, in words."""
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{each}`" for each in field["enum"])
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in field:
            parts = [describe_type(each) for each in field[key] if each.get("type") != "null"]
            return ", or ".join(dict.fromkeys(parts))
    if field.get("type") == "array":
        items = field.get("items", {})
        return f"list of {describe_type(items)}" if items else "list"
    if field.get("type") == "object":
        values = field.get("additionalProperties") or field.get("patternProperties")
        return "mapping" if values else "object"
    return describe_scalar(field)


def describe_scalar(field: dict[str, Any]) -> str:
    """Returns the type with its bounds."""
    names = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
    }
    text = "path" if field.get("format") == "path" else names.get(field.get("type", ""), "anything")
    bounds = [
        f"{sign} {field[key]:g}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in field
    ]
    return f"{text} {', '.join(bounds)}".strip()


def show(value: Any) -> str:
    """Returns a default as a person would write it."""
    if value is None or value in ([], {}, ""):
        return "none"
    if isinstance(value, dict):
        return "each field's own"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def squeeze(text: str) -> str:
    """Returns text on one line."""
    return re.sub(r"\s+", " ", text).strip()


# --- commands ------------------------------------------------------------------------------------


def write_commands() -> str:
    """Returns `factory/cli/README.md`: every command with its arguments and options."""
    lines = ["# Commands", "", NOTE, "", squeeze(main.help or ""), ""]
    context = click.Context(main, info_name="factory")
    for path, command in list_commands(main, context, ("factory",)):
        lines += [f"## `{' '.join(path)}`", "", squeeze(command.help or ""), ""]
        if isinstance(command, click.Group):
            continue
        rows = [describe_parameter(each) for each in command.params]
        if rows:
            lines += ["| | | default | |", "| --- | --- | --- | --- |"]
            lines += [
                f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
                for row in rows
            ]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def list_commands(
    group: click.Group, context: click.Context, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yields (path, command) of every command below a group, groups first."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from list_commands(command, context, (*path, name))


def describe_parameter(parameter: click.Parameter) -> tuple[str, str, str, str]:
    """Returns names, what it takes, default, help."""
    many = ", repeatable" if getattr(parameter, "multiple", False) or parameter.nargs == -1 else ""
    if isinstance(parameter, click.Option):
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        takes = "flag" if parameter.is_flag else name_type(parameter)
        told = squeeze(parameter.help or "")
    else:
        names, takes = f"`{parameter.human_readable_name}`", name_type(parameter)
        told = "" if parameter.required else "optional"
    given = parameter.default
    is_plain = isinstance(given, str | int | float) and not isinstance(given, bool)
    default = "required" if parameter.required else f"`{given}`" if is_plain else ""
    return names, takes + many, default, told


def name_type(parameter: click.Parameter) -> str:
    """Returns the type's own name, or the choices."""
    if isinstance(parameter.type, click.Choice):
        return " or ".join(f"`{each}`" for each in parameter.type.choices)
    kind = parameter.type
    text = kind.name.replace("range", "").replace("integer", "whole number")
    text = text.replace("float", "number").replace("directory", "folder").strip()
    if isinstance(kind, click.IntRange | click.FloatRange) and kind.min is not None:
        sign = ">" if kind.min_open else "≥"
        return f"{text} {sign} {kind.min}, {'<' if kind.max_open else '≤'} {kind.max}"
    return text


PAGES = {
    ROOT / "recipes" / "README.md": write_recipes,
    ROOT / "factory" / "cli" / "README.md": write_commands,
}
"""File -> what writes it."""

if __name__ == "__main__":
    for page, write in PAGES.items():
        page.write_text(write(), encoding="utf-8")
