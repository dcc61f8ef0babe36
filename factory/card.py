"""The dataset card: README.md made from measurements, with a sample grid and the filter funnel."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from factory import __version__
from factory.images import decode_image
from factory.recipe import Recipe, is_judging
from factory.store.run_folder import RunFolder

GRID_COLUMNS = 8
GRID_ROWS_MAX = 12
SIZE_CATEGORIES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
    (10_000_000_000, "1B<n<10B"),
    (100_000_000_000, "10B<n<100B"),
    (1_000_000_000_000, "100B<n<1T"),
)


def write_card(folder: RunFolder, recipe: Recipe, summary: dict[str, Any]) -> None:
    """Writes README.md and `assets/samples.png` of a finalized run folder.

    Raises:
        StoreError: the data cannot be read or the card not be written.
    """
    grid = draw_sample_grid(folder)
    if grid is not None:
        folder.files.write("assets/samples.png", grid)
    folder.files.write("README.md", build_card(recipe, summary, grid is not None).encode())


def build_card(recipe: Recipe, summary: dict[str, Any], has_grid: bool) -> str:
    """Returns the whole text of the card, YAML header included."""
    sections = [
        _write_title(recipe, summary),
        "![Samples, one row per class](assets/samples.png)" if has_grid else "",
        _write_funnel(summary),
        _write_makers(recipe, summary),
        _write_columns(recipe),
        _write_reproduction(recipe, summary),
        "" if summary["judged"] else _write_limits(),
        f"## Citation\n\n```\n{recipe.card.citation.strip()}\n```" if recipe.card.citation else "",
    ]
    body = "\n\n".join(section for section in sections if section)
    return f"---\n{build_header(recipe, summary)}\n---\n\n{body}\n"


def build_header(recipe: Recipe, summary: dict[str, Any]) -> str:
    """Returns the YAML header: licence, tags and the configurations of `load_dataset`."""
    from huggingface_hub import DatasetCardData

    has_captions = any(block.kind == "caption" for block in recipe.conditions)
    tasks = ["text-to-image"] if has_captions else []
    tasks += ["image-classification"] if summary["class_names"] else []
    configs = [
        {
            "config_name": "default",
            "default": True,
            "data_files": [{"split": "train", "path": "data/train-*.parquet"}],
        },
        {
            "config_name": "rejected",
            "data_files": [{"split": "rejected", "path": "rejected/rejected-*.parquet"}],
        },
    ]
    synthetic = [] if summary["judged"] else ["synthetic"]
    card = DatasetCardData(
        license=recipe.card.license,
        pretty_name=recipe.card.pretty_name or recipe.name,
        tags=[*synthetic, "pathology", "histology", "medical", "factory", *recipe.card.tags],
        task_categories=tasks or ["unconditional-image-generation"],
        annotations_creators=["machine-generated"],
        size_categories=[choose_size_category(summary["accepted"])],
        configs=configs,
    )
    return str(card.to_yaml()).rstrip()


def choose_size_category(rows: int) -> str:
    """Returns the Hub's size category."""
    return next((name for limit, name in SIZE_CATEGORIES if rows < limit), "n>1T")


def draw_sample_grid(folder: RunFolder) -> bytes | None:
    """Draws the first accepted images, one row per class or caption block, as PNG."""
    rows = list(_pick_samples(folder))
    if not rows:
        return None
    height, width = rows[0][0].shape[:2]
    zoom = max(1, 128 // max(height, width))
    cell_height, cell_width, gap = height * zoom, width * zoom, 4
    canvas = Image.new(
        "RGB",
        (
            max(map(len, rows)) * (cell_width + gap) - gap,
            len(rows) * (cell_height + gap) - gap,
        ),
        "white",
    )
    for y, images in enumerate(rows):
        for x, pixels in enumerate(images):
            image = Image.fromarray(pixels).resize((cell_width, cell_height))
            canvas.paste(image, (x * (cell_width + gap), y * (cell_height + gap)))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def _pick_samples(folder: RunFolder) -> Iterator[list[np.ndarray[Any, Any]]]:
    """Yields up to GRID_COLUMNS images of each class, from the first files only."""
    names = folder.files.list("data")
    wanted: dict[str, list[np.ndarray[Any, Any]]] = {}
    for name in names[:1]:
        with folder.files.open(f"data/{name}", "rb") as file:
            table = pq.ParquetFile(file)
            for batch in table.iter_batches(256, columns=["image", "class_name", "sample_id"]):
                for row in batch.to_pylist():
                    images = wanted.setdefault(row["class_name"] or "", [])
                    if len(images) < GRID_COLUMNS:
                        images.append(decode_image(row["image"]["bytes"], row["sample_id"]))
    yield from list(wanted.values())[:GRID_ROWS_MAX]


def _write_title(recipe: Recipe, summary: dict[str, Any]) -> str:
    title = recipe.card.pretty_name or recipe.name
    models = ", ".join(sorted({maker["generator"]["model"] for maker in summary["makers"]}))
    varied = sum(part["references"]["used"] for part in summary["series"] if part["references"])
    nearness = "None is a photograph of tissue; a model can still repeat what it was trained on."
    if varied:
        nearness = (
            f"**They vary {varied:,} real images**, resemble them, and may carry what identifies "
            "them: the terms of those images hold."
        )
    made = (
        f"{summary['accepted']:,} **synthetic** histopathology images, made with {models} by "
        f"factory {__version__}. {nearness}"
    )
    if summary["judged"]:
        made = (
            f"{summary['accepted']:,} of {summary['asked']:,} given histopathology images, "
            f"**judged, not generated**, by factory {__version__}: they were made elsewhere or are "
            "real, and their own terms hold."
        )
    blocks = [
        f"# {title}",
        f"{made} For research; not for diagnosis.",
        recipe.description.strip(),
        recipe.card.description.strip(),
    ]
    return "\n\n".join(block for block in blocks if block)


def _write_funnel(summary: dict[str, Any]) -> str:
    filters = sorted({name for part in summary["series"] for name in part["rejected"]})
    head = ["condition", "asked", "accepted", "generated", "spare"]
    head += [f"rejected: {name}" for name in filters]
    table = [_join(head), _join(["---"] * len(head))]
    notes = []
    for part in summary["series"]:
        counts = [part["rejected"].get(name, 0) for name in filters]
        made = [part[name] for name in ("label", "asked", "accepted", "generated", "spare")]
        table.append(_join([*made, *counts]))
        if part["short"]:
            notes.append(f"- **Shortfall**: {describe_shortfall(part)}")
        if part["references"]:
            text = describe_references(part)
            notes.append(f"- **{text}**" if is_one_sided(part) else f"- {text}")
    spare = sum(part["spare"] for part in summary["series"])
    done = "judged" if summary["judged"] else "generated"
    is_short = any(part["short"] for part in summary["series"])
    blocks = [
        "## What was asked, made and kept",
        "\n".join(table),
        "" if summary["judged"] else f"{'Not every' if is_short else 'Every'} request was filled.",
        "\n".join(notes),
        f"{summary['generated']:,} candidates were {done}; rejected ones are in the "
        f"configuration `rejected` with every score and the reason; so are the {spare:,} spare "
        "ones, whose request an earlier attempt had filled or that were not picked.",
        "\n".join([*_describe_filters(summary["filters"]), *_describe_rules(summary)]),
        "\n".join(f"- **Not independent**: {text}" for text in summary.get("warnings", ())),
    ]
    return "\n\n".join(block for block in blocks if block)


def _describe_filters(filters: list[dict[str, Any]]) -> list[str]:
    lines = []
    for settings in filters:
        named = {k: v for k, v in settings.items() if k != "kind" and v is not None}
        options = ", ".join(f"{key} {shorten_path(value)}" for key, value in named.items())
        lines.append(f"- filter `{settings['kind']}`: {options}")
    return lines or ["**No filter was used.**"]


def _describe_rules(summary: dict[str, Any]) -> list[str]:
    lines = []
    if summary.get("accept"):
        lines.append(f"- accepted where `{summary['accept']}`; other filters only score")
    pick = summary.get("pick")
    if pick:
        how = (
            f"ranked by `{pick['by']}`"
            if pick["keep"] == "best"
            else (
                f"chosen to cover the others by {pick['method'].replace('_', ' ')} on features of "
                f"`{shorten_path(pick['encoder'])}`"
            )
        )
        lines.append(f"- of each series, one of {pick['pool']:g} accepted images is kept, {how}")
    return lines


def describe_shortfall(part: dict[str, Any]) -> str:
    """Says by how much a series fell short, and the commonest reasons."""
    reasons = ", ".join(
        f"{reason} ({count})" for reason, count in list(part["reasons"].items())[:3]
    )
    why = f"; most candidates were rejected for: {reasons}" if reasons else ""
    return f"{part['label']}: {part['short']} short of {part['asked']}{why}"


def count_rejected(summary: dict[str, Any]) -> dict[str, int]:
    """Returns filter -> candidates that it rejected, over all series, most first."""
    total: Counter[str] = Counter()
    for part in summary["series"]:
        total.update(part["rejected"])
    return dict(total.most_common())


ONE_SIDED = 0.5
"""Share of a series that varies one real image from which people are told."""


def is_one_sided(part: dict[str, Any]) -> bool:
    """Whether most accepted images of a series vary one and the same real image."""
    return bool(part["references"]) and part["references"]["largest_share"] > ONE_SIDED


def describe_references(part: dict[str, Any]) -> str:
    """Says how many real images a series varies, and how evenly."""
    used, share = part["references"]["used"], part["references"]["largest_share"]
    return f"{part['label']}: varies {used} real images; one gives {share:.1%}"


def _write_makers(recipe: Recipe, summary: dict[str, Any]) -> str:
    lines = ["## What made it"]
    for maker in summary["makers"]:
        generator = maker["generator"]
        if generator.get("family") == "given":
            lines += ["", "Nothing was generated: each row names its file and the file's sha256."]
            continue
        lines += [
            "",
            f"- model `{generator['model']}`, revision `{generator['model_revision']}`, weights "
            f"sha256 `{generator['weights_sha256']}`",
            f"- {generator['scheduler']}, {generator['num_inference_steps']} steps, guidance "
            f"{generator['guidance_scale']}, {generator['width']}x{generator['height']} px, "
            f"trained at {generator.get('mpp') or 'unknown'} µm per pixel, {generator['dtype']} "
            f"on {generator['device']}",
        ]
        for adapter in generator.get("adapters", ()):
            what = f"adapter `{adapter['source']}`, sha256 `{adapter['sha256']}`"
            lines.append(f"- {what}, scale {adapter['scale']:g}")
        libraries = generator.get("libraries", {})
        lines.append("- " + ", ".join(f"{name} {libraries[name]}" for name in sorted(libraries)))
        lines.append("- " + describe_licence("the model", maker["licence"]))
        for part in maker["components"]:
            lines.append(
                "- " + describe_licence(f"{part['role']} {part['source']}", part["licence"])
            )
    return "\n".join(lines)


def describe_licence(what: str, licence: dict[str, Any] | None) -> str:
    """Says a component's terms as recorded when the images were made."""
    if licence is None:
        return f"licence of {what}: **not recorded** (no catalog entry); check it before sharing"
    text = f"licence of {what}: {licence['id']}, as read on {licence['date_read']}"
    for name in ("commercial_use", "redistribution_of_outputs", "training_on_outputs"):
        if licence[name] is False:
            text += f"; **{name.replace('_', ' ')}: not allowed**"
    if licence["attribution"]:
        text += "; " + "; ".join(licence["attribution"])
    return text


def _write_columns(recipe: Recipe) -> str:
    mark, said = ", each marked as `trainedAlgorithmicMedia` (IPTC)", "what was asked for"
    if is_judging(recipe):
        mark, said = "", "what the images came with"
    return (
        f"## Rows\n\nImages are lossless {recipe.output.image_format.upper()}{mark}. "
        f"`label` and `class_name` or `caption` say {said}, "
        "not what a pathologist saw. `scores` holds every filter's number, `seed`, "
        "`attempt`, `model`, `weights_sha256` and `provenance` (JSON) how the image was made, "
        "`image_sha256` the hash of its file.\n\n```python\nfrom datasets import load_dataset\n\n"
        'accepted = load_dataset("PATH_OR_REPO", split="train")\n'
        'rejected = load_dataset("PATH_OR_REPO", "rejected", split="rejected")\n```'
    )


def _write_reproduction(recipe: Recipe, summary: dict[str, Any]) -> str:
    plain = shorten_path(recipe.model_dump(mode="json", exclude_defaults=True))
    text = json.dumps(plain, indent=1)
    again = "judges the same images" if summary["judged"] else "makes it"
    return (
        f"## Recipe\n\nFingerprint `{summary['recipe_sha256']}`; whole in `recipe.json`. "
        f"`factory run recipe.json` {again} again.\n\n```json\n{text}\n```"
    )


def shorten_path(value: Any) -> Any:
    """Returns plain data with absolute paths cut to their last part: a card tells no one's disk."""
    if isinstance(value, dict):
        return {key: shorten_path(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shorten_path(each) for each in value]
    is_path = isinstance(value, str) and value.startswith(("/", "~"))
    return f".../{value.rsplit('/', 1)[-1]}" if is_path else value


def _write_limits() -> str:
    return (
        "## Limits\n\nSynthetic images inherit the biases of the data that the model was trained "
        "on, and add errors of their own. Whether they help a task must be measured on real, "
        "patient-disjoint data. They are not validated for diagnosis and must not be used for it."
    )


def _join(cells: list[Any]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
