"""What made a data set, and under which terms: sections of the card, and LICENSE.md."""

from collections.abc import Callable, Mapping
from typing import Any

from factory.core.markdown import escape, write_code
from factory.core.places import shorten_places
from factory.data.channels import name_channels
from factory.data.summary import Maker, Summary
from factory.models.generators.families import does_generate
from factory.publish.card.facts import Facts
from factory.publish.card.text import join_blocks
from factory.recipe.licences import Permissions, collect_summary_terms, combine_terms, find_known

LICENCE_MARK = "<!-- Written by factory; remove this line to keep the file as you edit it. -->"


Sampled = Mapping[str, tuple[tuple[str, int | None], ...]]
"""Model -> scheduler and steps of its rows, which an inversion chooses by itself."""


def write_makers(summary: Summary, sampled: Sampled) -> str:
    """Returns the section on models, sampling, libraries and the terms of each part."""
    lines = ["## Where it comes from" if summary.judged else "## What made it"]
    for maker in summary.makers:
        generator = maker.generator
        if not does_generate(maker.generator.family):
            lines += ["", "Nothing was generated: each row names its file and the file's sha256."]
            continue
        own = ((generator.scheduler, generator.num_inference_steps),)
        steps = sampled.get(generator.model) or own
        lines += [
            "",
            f"- model {write_code(shorten_places(generator.model))}, revision "
            f"{write_code(generator.model_revision)}, weights sha256 "
            f"{write_code(generator.weights_sha256)}",
            f"- {'; '.join(f'{escape(name)}, {count} steps' for name, count in steps)}, "
            f"guidance {escape(generator.guidance_scale)}, "
            f"{generator.width}x{generator.height} px, "
            f"{generator.dtype} on {generator.device}",
            f"- scale of its training images: {escape(_describe_scale(maker))}",
        ]
        channels = generator.channels
        if channels is not None:
            lines.append(
                f"- {len(channels.named)} channels beside RGB, {channels.dtype}: "
                f"{escape(name_channels(channels))}; the RGB image is their composite "
                f"({escape(channels.composite)})"
            )
        for adapter in generator.adapters:
            source = write_code(shorten_places(adapter.source))
            what = f"adapter {source}, sha256 {write_code(adapter.sha256)}"
            lines.append(f"- {what}, scale {adapter.scale:g}")
        guide = generator.classifier_guidance
        if guide is not None:
            lines.append(
                "- guided to the class asked for by classifier "
                f"{write_code(shorten_places(guide['model']))} (classifier.json sha256 "
                f"{write_code(guide['revision'])}), scale {guide['scale']:g}"
            )
        if generator.cache is not None:
            told = [f"{key} {each}" for key, each in generator.cache.items() if key != "kind"]
            cached = escape(f"{generator.cache['kind']}: {', '.join(told)}")
            lines.append(f"- parts of the network were left out at some steps by {cached}")
        if generator.speed is not None:
            ways = {key: each for key, each in generator.speed.items() if each}
            told = [key if each is True else f"{key} {each}" for key, each in ways.items()]
            lines.append(f"- its network ran with {', '.join(map(write_code, told))}")
        libraries = generator.libraries
        lines.append("- " + ", ".join(f"{name} {libraries[name]}" for name in sorted(libraries)))
        lines.append("- " + describe_licence("the model", maker.licence, escape))
        parts = [*maker.components, *(maker.other_terms or ())]
        for part in parts:
            what = f"the {part.role} {shorten_places(part.source)}"
            lines.append("- " + describe_licence(what, part.licence, escape))
    return "\n".join(lines)


def describe_licence(
    what: str, licence: Mapping[str, Any] | None, say: Callable[[str], str] = str
) -> str:
    """Says a component's terms as recorded when the images were made; what is grave between `**`.

    Args:
        what: the component.
        licence: its terms; None: none were recorded.
        say: writes what comes from catalogs and recipes, e.g. `escape` for Markdown.
    """
    what = say(what)
    if licence is None:
        return f"licence of {what}: **not recorded** (no catalog entry); check it before sharing"
    text = f"licence of {what}: {say(licence['id'])}, as read on {say(licence['date_read'])}"
    named = ("commercial_use", "redistribution_of_outputs", "training_on_outputs")
    for name in (*named, "dataset_generation"):
        if licence.get(name) is False:
            text += f"; **{name.replace('_', ' ')}: not allowed**"
    if licence["attribution"]:
        text += "; " + "; ".join(map(say, licence["attribution"]))
    return text


def write_terms(facts: Facts) -> str:
    """Returns the section on what the data set may be, with approvals and overrides."""
    summary, verdict = facts.summary, combine_terms(collect_summary_terms(facts.summary))
    known = find_known(facts.license_id)
    link = f" ({known.url})" if known.url else ""
    mine = f"Licence of this data set: {write_code(facts.license_id)}{link}."
    made = "made it, as read when the images were made"
    if not facts.is_synthetic:
        made = "it comes from and was judged by, as read when it was judged"
    if facts.license_id == "other":
        mine = "Licence of this data set: its makers' terms together, as listed here."
    approval = summary.approval
    said = [f"- approved: making this data set, by {escape(approval)}"] if approval else []
    for entry in summary.overrides:
        said.append(
            f"- **overridden** to publish it as {escape(entry.license)}, approved by: "
            f"{escape(entry.approved)}. What it overrides: {escape('; '.join(entry.terms))}"
        )
    return join_blocks(
        [
            "## Licence and terms",
            f"{mine} The terms of all that {made}, leave it "
            "this (no legal advice; check them again before you rely on them):",
            "\n".join(f"- {line}" for line in _list_limits(verdict)),
            "\n".join(said),
            "To name:\n\n" + "\n".join(f"- {escape(text)}" for text in verdict.attribution)
            if verdict.attribution
            else "",
        ]
    )


def write_licence_file(facts: Facts) -> str:
    """Returns LICENSE.md of a data set without a common licence: the terms of its makers."""
    name = facts.recipe.card.license_name or "The terms of its makers"
    text = write_terms(facts).removeprefix("## Licence and terms\n\n")
    return f"{LICENCE_MARK}\n\n# {escape(facts.title)}: {escape(name)}\n\n{text}\n"


def _list_limits(verdict: Permissions) -> list[str]:
    lines = [f"**{escape(each)}**" for each in verdict.limits]
    rest = verdict.describe()[len(lines) :]
    rest = tuple(escape(line) for line in rest if not line.startswith("attribution: "))
    return [*lines, *rest]


def _describe_scale(maker: Maker) -> str:
    mpp = maker.generator.mpp
    return f"{mpp:g} µm per pixel" if mpp else maker.scale or "not stated (µm per pixel)"
