"""Writes the reference pages from the code while the site is built, and brings its picture.

A page says `<!-- from the code: NAME -->` where the text of `WRITERS[NAME]` goes. What is told of
recipes and catalogs is read through the command line, as anybody could.
"""

import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from factory.cli import main
from factory.core.registry import Registry
from factory.filters import FILTERS
from factory.models.encoders import ENCODERS
from factory.models.generators.families import FAMILIES

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"<!-- from the code: (.+?) -->")
PICTURES = {"assets/quickstart.png": ROOT / "catalogs/models/nano-he/quickstart.png"}
"""Address on the site -> file that lies elsewhere in the repository."""


def on_files(files: Any, config: Any) -> Any:
    """Brings pictures from outside the folder of pages (an event of mkdocs)."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - tests need no mkdocs

    for address, path in PICTURES.items():
        files.append(File.generated(config, address, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Puts what the code says in the place of every mark (an event of mkdocs)."""
    return fill_marks(markdown)


def fill_marks(markdown: str) -> str:
    """Returns a page with every mark replaced.

    Raises:
        KeyError: a mark names no writer.
    """
    return MARK.sub(lambda mark: WRITERS[mark[1]](), markdown)


def ask(*words: str) -> Any:
    """Returns what a command of factory prints, read as JSON.

    Raises:
        RuntimeError: the command failed.
    """
    result = CliRunner().invoke(main, list(words))
    if result.exit_code != 0:
        raise RuntimeError(f"factory {' '.join(words)}: {result.output}")
    return json.loads(result.stdout)


# --- recipes -------------------------------------------------------------------------------------


def write_fields() -> str:
    """Returns every section of a recipe but the filters, each with its fields, in reading order."""
    schema = ask("schema")
    filters, heads = list_filters(schema), name_parts(schema)
    links = {name: f"[{head}](#{head.replace(' ', '-')})" for name, head in heads.items()}
    for name in filters:
        kind = get_const(schema["$defs"][name], "kind")
        links[name] = f"[{kind}](filters.md#{kind})"
    lines = ["## At the top", "", *write_table(schema, links)]
    for name, head in heads.items():
        if name not in filters:
            part = schema["$defs"][name]
            lines += ["", f"## {head}", "", *describe(part), *write_table(part, links)]
    return "\n".join(lines)


def write_filters() -> str:
    """Returns every filter, each with its fields, its scores and how they are measured."""
    schema, (working, _) = ask("schema"), FILTERS.list_all()
    lines: list[str] = []
    for name in list_filters(schema):
        part = schema["$defs"][name]
        kind = str(get_const(part, "kind"))
        if kind not in working:
            continue
        lines += [f"## {kind}", "", *note_plugin(FILTERS, kind)]
        lines += [*describe(part), *write_table(part, {}), ""]
        lines += describe_scores(kind)
    return "\n".join(lines)


def describe_scores(kind: str) -> list[str]:
    """Returns the scores of a filter, and what its module and class say of them."""
    judge = FILTERS.get(kind)
    module = importlib.import_module(judge.__module__)
    told = inspect.cleandoc(module.__doc__ or "").partition("\n\n")[2]
    scores = ", ".join(f"`{score.name}`" for score in judge.scores) or "none"
    method = escape(f"{told}\n\n{inspect.cleandoc(judge.__doc__ or '')}")
    return [f"**Scores**: {scores}", "", method, ""]


def note_plugin(registry: Registry[Any], kind: str) -> list[str]:
    """Returns which package a kind is of, where it is not of this project."""
    plugin = registry.find_plugin(kind)
    return [] if plugin is None else [f"From {plugin}.", ""]


def list_filters(schema: dict[str, Any]) -> list[str]:
    """Returns the names of the definitions that an item of `filters` may be."""
    return list_references(schema["properties"]["filters"])


def list_references(part: Any) -> list[str]:
    """Returns the names of the definitions that a part of the schema refers to, in order."""
    return list(dict.fromkeys(re.findall(r'"#/\$defs/(\w+)"', json.dumps(part))))


def name_parts(schema: dict[str, Any], part: Any = None) -> dict[str, str]:
    """Returns definition -> heading, in the order in which a recipe comes to them.

    A heading is the kind that a person writes, or the field that holds the section.
    """
    found: dict[str, str] = {}
    for field, value in (part or schema).get("properties", {}).items():
        names = list_references(value)
        for name in names:
            inner = schema["$defs"][name]
            const = get_const(inner, "kind") or get_const(inner, "keep")
            head = name if len(names) > 1 else field
            found.setdefault(name, f"{field.removesuffix('s')} {const}" if const else head)
            found = {
                **found,
                **{k: v for k, v in name_parts(schema, inner).items() if k not in found},
            }
    return found


def get_const(part: dict[str, Any], field: str) -> str | None:
    """Returns the one value that a field of an object may have, if it is so."""
    value: str | None = part.get("properties", {}).get(field, {}).get("const")
    return value


def describe(part: dict[str, Any]) -> list[str]:
    """Returns the description of an object as a paragraph, if it has one."""
    told = squeeze(part.get("description") or "")
    return [told, ""] if told else []


def write_table(part: dict[str, Any], links: dict[str, str]) -> list[str]:
    """Returns the fields of an object as a Markdown table with links to other definitions."""
    required = set(part.get("required", ()))
    rows = []
    for name, field in part.get("properties", {}).items():
        default = "" if name in required or "default" not in field else show(field["default"])
        told = squeeze(field.get("description", ""))
        rows.append((f"`{name}`", describe_type(field, links), default, told))
    return tabulate(("field", "takes", "default", ""), rows)


def describe_type(field: dict[str, Any], links: dict[str, str]) -> str:
    """Returns what a field takes, in words."""
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{each}`" for each in field["enum"])
    if "$ref" in field:
        name = str(field["$ref"].rpartition("/")[2])
        return links.get(name, name)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in field:
            parts = [describe_type(each, links) for each in field[key] if each != {"type": "null"}]
            return ", or ".join(dict.fromkeys(parts))
    if field.get("type") in ("array", "object"):
        return describe_container(field, links)
    return describe_scalar(field)


def describe_container(field: dict[str, Any], links: dict[str, str]) -> str:
    """Returns what a list or mapping holds, in words."""
    if field["type"] == "array":
        items = field.get("items", {})
        return f"list of {describe_type(items, links)}" if items else "list"
    values = field.get("additionalProperties") or field.get("patternProperties")
    return "mapping" if values else "object"


def describe_scalar(field: dict[str, Any]) -> str:
    """Returns the type with its bounds."""
    names = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
    }
    text = "path" if field.get("format") == "path" else names.get(field.get("type", ""), "anything")
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field]
    return f"{text} {', '.join(bounds)}".strip()


def show(value: Any) -> str:
    """Returns a default as a person would write it."""
    if value is None or value in ([], {}, ""):
        return "none"
    if isinstance(value, dict):
        return "each field's own"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def write_recipes() -> str:
    """Returns the worked recipes, each with its purpose and its whole text."""
    lines: list[str] = []
    for found in ask("recipes", "list", "--json"):
        name, purpose = found["name"], found["purpose"]
        text = (ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8").strip()
        lines += [f"## {name}", "", purpose, "", "```yaml", text, "```", ""]
    return "\n".join(lines)


# --- catalogs ------------------------------------------------------------------------------------


def write_models() -> str:
    """Returns the catalog of models as a table."""
    rows = []
    for entry in ask("models", "list", "--json"):
        needs, takes = ", ".join(entry["required"]), ", ".join(entry["optional"])
        size = f"{entry['width']} × {entry['height']}"
        rows.append((f"`{entry['id']}`", entry["title"], size, needs, takes, name_terms(entry)))
    return "\n".join(tabulate(("id", "what", "px", "needs", "may take", "licence"), rows))


def write_systems() -> str:
    """Returns every model of the catalog: what works, what was tried, what its output may be."""
    rows = []
    for entry in ask("models", "list", "--json"):
        status, terms = entry["status"], entry["licence"]
        tried = f"**{status['state']}**" + (f": {status['why']}" if status["why"] else "")
        shown = f"`{status['test']}`" if status["test"] else ""
        page = f"[{name_terms(entry)}]({terms['url']})" if terms["url"] else name_terms(entry)
        told = f"{entry['output']}. {terms['note']}".removesuffix(". ")
        rows.append((f"`{entry['id']}`", squeeze(tried), shown, page, squeeze(told)))
    head = ("id", "what works", "shown by", "licence", "what its terms leave the output to be")
    return "\n".join(tabulate(head, rows))


def write_encoders() -> str:
    """Returns the catalog of image encoders as a table."""
    rows = [
        (f"`{entry['id']}`", entry["title"], str(entry["dim"]), name_terms(entry))
        for entry in ask("encoders", "list", "--json")
    ]
    return "\n".join(tabulate(("id", "what", "features", "licence"), rows))


def write_families() -> str:
    """Returns every generator family: what it is, and the streams that its models take."""
    lines: list[str] = []
    for kind, family in FAMILIES.list_all()[0].items():
        required = ", ".join(f"`{name}`" for name in sorted(family.required)) or "nothing"
        optional = ", ".join(f"`{name}`" for name in sorted(family.optional or ()))
        takes = "any stream" if family.optional is None else optional or "nothing"
        lines += [f"### {kind}", "", *note_plugin(FAMILIES, kind)]
        lines += [escape(inspect.cleandoc(family.__doc__ or "")), ""]
        lines += [f"**Needs** {required}; **may take** {takes}.", ""]
    return "\n".join(lines)


def write_pipelines() -> str:
    """Returns the outcomes that `python -m tests.sweep` recorded, counted and as a table."""
    path = ROOT / "docs" / "assets" / "pipelines.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    outcomes = found["pipelines"]
    counts = {
        word: sum(outcome.startswith(word) for outcome in outcomes.values())
        for word in ("kept", "outside", "not tried")
    }
    counted = len(outcomes) - counts["outside"]
    count = (
        f"Of {len(outcomes)} image pipelines of diffusers {found['diffusers']}, "
        f"{counts['outside']} stand outside. Of the other {counted}, {counts['kept']} keep it "
        f"({counts['kept'] / counted:.1%}), {counted - counts['kept'] - counts['not tried']} do "
        f"not, and {counts['not tried']} were not tried."
    )
    rows = [(f"`{name}`", escape(outcome)) for name, outcome in outcomes.items()]
    return "\n".join([count, "", *tabulate(("pipeline", "outcome"), rows)])


def write_encoder_kinds() -> str:
    """Returns every kind of encoders: how its specs are written, and what they load."""
    lines: list[str] = []
    for name, kind in ENCODERS.list_all()[0].items():
        told = escape(inspect.cleandoc(kind.__doc__ or ""))
        lines += [f"### {name}", "", *note_plugin(ENCODERS, name), f"`{kind.form}`: {told}", ""]
    return "\n".join(lines)


def name_terms(entry: dict[str, Any]) -> str:
    """Returns the licence id, with its gate and the date that it was read."""
    terms = entry["licence"]
    gate = ", gated" if terms["gated"] else ""
    return f"{terms['id']}{gate}, read {terms['date_read']}"


# --- commands ------------------------------------------------------------------------------------


def write_commands() -> str:
    """Returns every command with its arguments and options."""
    lines: list[str] = []
    context = click.Context(main, info_name="factory")
    for path, command in list_commands(main, context, ("factory",)):
        told = inspect.cleandoc(command.help or "")
        lines += ["", f"{'#' * (len(path) + 1)} {' '.join(path)}", "", told]
        rows = [describe_parameter(each) for each in command.params]
        if rows and not isinstance(command, click.Group):
            lines += ["", *tabulate(("", "takes", "default", ""), rows)]
    return "\n".join(lines)


def list_commands(
    group: click.Group, context: click.Context, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yields (path, command) of every command below a group, groups first."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None:
            raise RuntimeError(f"{' '.join(path)} lists {name}, which is not there")
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


# --- text ----------------------------------------------------------------------------------------


def tabulate(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Returns a Markdown table as lines."""
    cells = [[each.replace("|", "\\|") for each in row] for row in [head, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], f"|{' --- |' * len(head)}", *lines[1:]]


def escape(text: str) -> str:
    """Returns text whose stars and angles stay what they are in Markdown; code is left alone."""
    return re.sub(r"(`[^`]*`)|([*<])", lambda found: found[1] or f"\\{found[2]}", text)


def squeeze(text: str) -> str:
    """Returns text on one line."""
    return re.sub(r"\s+", " ", text).strip()


WRITERS: dict[str, Callable[[], str]] = {
    "commands": write_commands,
    "recipe fields": write_fields,
    "filters": write_filters,
    "worked recipes": write_recipes,
    "models": write_models,
    "systems": write_systems,
    "encoders": write_encoders,
    "families": write_families,
    "pipelines": write_pipelines,
    "encoder kinds": write_encoder_kinds,
}
"""What a mark names -> what writes the text in its place."""
