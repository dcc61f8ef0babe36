"""Text from people, models and data, written into Markdown so that it stays text.

    escape(text)      a name, reason or file name: shows as it is, on one line
    escape_cell(text) the same in a table
    write_code(text)  the same in a code span
    soften(text)      a description in Markdown, by whoever wrote the recipe: no HTML, no pictures
                      from elsewhere, no links but to pages
    fence(text)       a block of code that its text cannot end
    write_inert_json(value), write_yaml(text)    data without markup in it, the same when read back

A card is shown on pages of others: what a class is called must not run there, load a picture from
elsewhere, or break a table. Tables: `join_row` of
`factory.publish.card.text`, which keeps bars in cells.
"""

import html
import json
import re
import unicodedata
from typing import Any

from factory.core.plain import write_json

_ACTIVE = re.compile(r"[\\`*\[\]~$]|(?<![^\W_])_|_(?![^\W_])")
"""Always markup, but for an underscore inside a word."""
_MARKUP = re.compile(r"<(?=[A-Za-z/!?])|!(?=\[)|\](?=\()")
"""What begins a tag or a picture, or gives a link its target."""
_HTML = re.compile(r"<(?=\S)|&(?=#?\w+;)")
_LINK = re.compile(r"(?<=:)//|(?<=www)\.", re.IGNORECASE)
"""What makes an address a link without any markup."""
_LEAD = re.compile(r"(?P<lead>[#>+=-]|\d+(?=[.)]))")
"""What begins a heading, quote, list or rule."""
_PICTURE = re.compile(r"!(?=\[)(?!\[[^\[\]]*\]\(\s*[\w.-]+(?:/[\w.-]+)*\s*\))")
"""A picture, but one that lies below the card itself."""
_TARGET = re.compile(r"\](?P<kind>\(|:)\s*(?P<place>[^\s)]*)")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
PAGES = ("http:", "https:", "mailto:")
"""Schemes that a link may have."""
ENTITIES = {"<": "&lt;", "&": "&amp;"}


def escape(text: Any) -> str:
    """Returns a text that Markdown shows as it is, on one line."""
    line = join_lines(text)
    line = _HTML.sub(lambda found: ENTITIES[found[0]], line)
    line = _ACTIVE.sub(r"\\\g<0>", line)
    line = _LINK.sub(lambda found: f"&#{ord(found[0][0])};{found[0][1:]}", line)
    lead = _LEAD.match(line)
    if lead is None:
        return line
    place = lead.end() if line[0].isdigit() else 0
    return f"{line[:place]}\\{line[place:]}"


def escape_cell(text: Any) -> str:
    """Returns the same for a cell of a table that is written without `join_row`."""
    return escape(text).replace("|", "\\|")


def write_code(text: Any) -> str:
    """Returns a text as a code span; as HTML where Markdown's own cannot hold it."""
    line = join_lines(text)
    if not re.search(r"[`|\\<&\[]", line):
        return f"`{line}`" if line else ""
    coded = "".join(each if each.isalnum() or each == " " else f"&#{ord(each)};" for each in line)
    return f"<code>{coded}</code>"


def soften(text: str) -> str:
    """Returns Markdown without HTML, pictures from elsewhere, and links but to pages."""
    kept = "".join(each for each in text if each in "\n\t" or not _is_control(each))
    kept = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", kept)
    kept = _PICTURE.sub("&#33;", kept)
    return _TARGET.sub(_check_target, kept).strip()


def write_inert_json(value: Any) -> str:
    """Returns JSON in which no markup stands: read back it is the same."""
    text = write_json(value, ensure_ascii=False)
    return _MARKUP.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def split_header(text: str) -> tuple[dict[str, Any], str]:
    """Returns the YAML header of a card, as the Hub reads it, and the text below it.

    A text that has none, or whose first rule encloses other words, is returned whole.

    Raises:
        ValueError: the header is no readable YAML.
    """
    if not text.lstrip().startswith("---"):
        return {}, text
    import yaml
    from huggingface_hub import RepoCard

    try:
        card = RepoCard(text)
    except (yaml.YAMLError, TypeError) as error:
        raise ValueError(f"its header is no readable YAML ({error})") from error
    except ValueError:  # words between two rules
        return {}, text
    header: dict[str, Any] = card.data.to_dict()  # type: ignore[no-untyped-call]
    return header, card.text


def write_yaml(text: str) -> str:
    """Returns YAML in which no markup stands, for headers that some pages show as text."""
    import yaml

    if not _MARKUP.search(text):
        return text

    class Quoting(yaml.SafeDumper):
        """Quotes texts that hold markup, so that it can be written by its number."""

    def represent(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = '"' if _MARKUP.search(value) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Quoting.add_representer(str, represent)
    dumped: str = yaml.dump(
        yaml.safe_load(text), Dumper=Quoting, sort_keys=False, allow_unicode=True, width=10**6
    )
    return _MARKUP.sub(lambda found: f"\\x{ord(found[0]):02x}", dumped).rstrip()


def fence(text: str, language: str = "") -> str:
    """Returns a block of code, fenced by more backticks than stand in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{text}\n{marks}"


def write_line(name: str, value: Any) -> str:
    """Returns `name: value` as one line of YAML, quoted where it must be."""
    import yaml

    text: str = yaml.safe_dump({name: value}, allow_unicode=True, width=10**6, sort_keys=False)
    if "\n" in text.strip():
        flow = yaml.safe_dump(
            value, allow_unicode=True, width=10**6, sort_keys=False, default_flow_style=True
        )
        text = f"{name}: {flow if flow.count(chr(10)) == 1 else json.dumps(value)}"
    return text.strip()


def join_lines(text: Any) -> str:
    """Returns a text on one line, without characters that control how it is shown."""
    line = " ".join(str(text).split())
    return "".join(each for each in line if not _is_control(each))


def _is_control(character: str) -> bool:
    """Whether it is of no shape: control characters, and those that turn the reading around."""
    kind = unicodedata.category(character)
    return kind in ("Cc", "Cs") or unicodedata.bidirectional(character) in (
        "LRE",
        "RLE",
        "LRO",
        "RLO",
        "PDF",
        "LRI",
        "RLI",
        "FSI",
        "PDI",
    )


def _check_target(found: re.Match[str]) -> str:
    """Leaves a link to a page, or below the card; takes the brackets off any other."""
    place = html.unescape(found["place"]).replace("\\", "").lstrip("<")
    place = "".join(each for each in place if not _is_control(each))
    scheme = _SCHEME.match(place)
    if scheme is None or scheme[0].lower() in PAGES:
        return found[0]
    return found[0].replace("]", "&#93;", 1)
