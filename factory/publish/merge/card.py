"""The card of a merged set: how many images of what are where, and how they were split."""

from collections.abc import Mapping
from typing import Any

from factory.core.markdown import escape, write_code, write_yaml


def build_card(name: str, summary: Mapping[str, Any]) -> str:
    """Returns README.md of a merged set, YAML header included."""
    from huggingface_hub import DatasetCardData

    header = DatasetCardData(
        license="other",
        pretty_name=name,
        tags=["synthetic", "pathology", "histology", "medical", "factory"],
        task_categories=["image-classification"] if summary["class_names"] else [],
        configs=[
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"data/{split}-*.parquet"}
                    for split in summary["splits"]
                ],
            }
        ],
    )
    sections = [
        f"# {escape(name)}",
        "Real and synthetic histopathology images in one data set; `is_synthetic` tells them "
        "apart. For research; not for diagnosis.",
        f"## Images\n\n{_write_counts(summary)}",
        "## How it was split\n\n" + "\n".join(f"- {line}" for line in describe_splits(summary)),
        "## Where they come from\n\n" + "\n".join(_describe_sources(summary)),
        "## Rows\n\n`image` (stored bytes, not encoded anew), `label`, `class_name`, `caption`, "
        "`is_synthetic`, `source`, `group_sha256` (hash of the patient or slide), `image_sha256`; "
        "of synthetic images made by factory also `sample_id`, `model`, `reference_sha256` (the "
        "real image that was varied) and `provenance`.",
    ]
    return (
        f"---\n{write_yaml(str(header.to_yaml()).rstrip())}\n---\n\n" + "\n\n".join(sections) + "\n"
    )


def describe_splits(summary: Mapping[str, Any]) -> list[str]:
    """Says how images were split, what was left out, and what could not be known."""
    units = ", ".join(f"{count:,} in {split}" for split, count in summary["units"].items())
    what = "patients or slides" if summary["groups"] else "single images"
    lines = [f"seed {summary['seed']}; {what}, which stay whole: {units}"]
    if not summary["groups"]:
        lines.append(
            "**no patient or slide is known**: images of one patient may be in several splits"
        )
    lines.append(
        "synthetic images that vary a real one are where its patient is; the others in train"
        + ("" if summary["test_synthetic"] else "; none is in test")
    )
    for reason, count in summary["left_out"].items():
        lines.append(f"left out: {count:,} synthetic images that {reason}")
    if summary["unplaced"]:
        lines.append(
            f"**{summary['unplaced']:,} synthetic images vary a real image that is not here**; "
            "they are in train, and its patient may be in another split"
        )
    for classes, count in summary["conflicts"].items():
        lines.append(
            f"**{count:,} images stand under {escape(classes)}**, with the same pixels: all are "
            "kept, in one split"
        )
    lines.append(
        "what a generator, filter or classifier was trained on is not known here: test images must "
        "not be among it"
    )
    return lines


def _write_counts(summary: Mapping[str, Any]) -> str:
    names = [*summary["class_names"], *(["no class"] if summary["unclassed"] else [])]
    heads = ["split", "", *map(escape, names), "all"]
    lines = [_join(heads), _join(["---"] * (len(names) + 3))]
    for split, counts in summary["splits"].items():
        for kind in ("real", "synthetic"):
            found = [counts[kind].get(name, 0) for name in names]
            lines.append(_join([escape(split), kind, *(f"{n:,}" for n in (*found, sum(found)))]))
    return "\n".join(lines)


def _describe_sources(summary: Mapping[str, Any]) -> list[str]:
    lines = []
    for source in summary["sources"]:
        kind = "synthetic" if source["is_synthetic"] else "real"
        terms = "; ".join(source["licences"]) or "its own terms hold"
        named = f"{write_code(source['name'])}: {source['images']:,} {kind} images"
        lines.append(f"- {named}; {escape(terms)}")
    return lines


def _join(cells: list[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
