"""How to cite a data set: CITATION.cff (format 1.2.0) and the card's section."""

import re
from typing import Any

import yaml

from factory import __version__
from factory.core.markdown import fence, join_lines
from factory.publish.card.facts import Facts
from factory.recipe.licences import find_known

CITATION_FILE = "CITATION.cff"
CITATION_MARK = "# Written by factory; remove this line to keep the file as you edit it.\n"
SPDX = {"apache-2.0": "Apache-2.0", "mit": "MIT"}
"""Hub id -> SPDX id, where upper case is not it."""


def write_citation(facts: Facts) -> str:
    """Returns the card's section: the user's own text, or an entry made from the recipe."""
    text = facts.recipe.card.citation.strip() or build_bibtex(facts)
    return f"## Citation\n\n{fence(text)}\n\nAlso in `CITATION.cff`."


def build_bibtex(facts: Facts) -> str:
    """Returns a BibTeX entry of what is known; a year is not."""
    named = (_write_field(name) for name in facts.recipe.card.authors)
    title = _write_field(facts.title)
    authors = " and ".join(named) or f"{{The makers of {title}}}"
    address = [f"  url = {{{_write_field(facts.url)}}},"] if facts.url else []
    return "\n".join(
        [
            f"@misc{{{re.sub(r'[^A-Za-z0-9_.:-]+', '-', facts.recipe.name)},",
            f"  title = {{{title}}},",
            f"  author = {{{authors}}},",
            *address,
            f"  note = {{Recipe {facts.summary.recipe_sha256[:16]}, factory {__version__}}},",
            "}",
        ]
    )


def _write_field(text: str) -> str:
    """Returns a text that ends no field: on one line, without braces."""
    return join_lines(text).translate({ord("{"): "(", ord("}"): ")"})


def build_cff(facts: Facts) -> str:
    """Returns CITATION.cff: what citing tools and archives read."""
    card, summary = facts.recipe.card, facts.summary
    own = card.citation.strip()
    fields: dict[str, Any] = {
        "cff-version": "1.2.0",
        "message": f"Please cite this data set as: {own}" if own else "Please cite this data set.",
        "title": facts.title,
        "type": "dataset",
        "authors": [_name_author(name) for name in card.authors]
        or [{"name": f"The makers of {facts.title}"}],
        "abstract": _describe(facts),
        "keywords": [
            *(["synthetic"] if facts.is_synthetic else []),
            "pathology",
            "histology",
            *card.tags,
        ],
        "version": summary.recipe_sha256[:16],
    }
    spdx = find_spdx(facts.license_id)
    if spdx:
        fields["license"] = spdx
    if facts.url:
        fields["url"] = facts.url
    fields["keywords"] = list(dict.fromkeys(fields["keywords"]))
    text: str = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100)
    return CITATION_MARK + text


def find_spdx(license_id: str) -> str | None:
    """Returns the SPDX id of a licence in factory's table, or None where it has none."""
    if license_id in SPDX:
        return SPDX[license_id]
    is_common = license_id.startswith(("cc-by", "cc0-")) and find_known(license_id).url
    return license_id.upper() if is_common else None


def _describe(facts: Facts) -> str:
    kind = "synthetic" if facts.is_synthetic else "given and judged"
    text = facts.recipe.card.description.strip() or facts.recipe.description.strip()
    return f"{facts.summary.accepted:,} {kind} histopathology images. {text}".strip()


def _name_author(name: str) -> dict[str, str]:
    """Returns `Family, Given` as a person, anything else as a name."""
    family, comma, given = (part.strip() for part in name.partition(","))
    return {"family-names": family, "given-names": given} if comma and given else {"name": name}
