"""What goes beside trained weights: the catalog entry that a recipe names, and the model card."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from factory.core.markdown import escape, fence, write_code, write_line
from factory.train.cards import write_foot, write_head, write_heading
from factory.train.generator.settings import TrainingRecipe
from factory.train.generator.setup import Material

if TYPE_CHECKING:
    from factory.train.multi.settings import MultiRecipe


def build_entry(recipe: TrainingRecipe, material: Material) -> dict[str, Any]:
    """Returns the catalog entry of what a training gave."""
    streams = ["class_name"]  # without classes, a label beside other streams
    streams += ["caption"] if material.tokenizer is not None else []
    entry = describe_entry(recipe, "flow", [*streams, "reference"], material.class_names)
    if recipe.data.mpp is not None:
        entry["mpp"] = recipe.data.mpp
    return entry


def describe_entry(
    recipe: "TrainingRecipe | MultiRecipe",
    family: str,
    streams: Sequence[str],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Returns the fields of the catalog entry of a trained model."""
    size = recipe.data.image_size
    return {
        "id": recipe.name,
        "title": recipe.export.title or recipe.name,
        "source": "..",
        "family": family,
        "optional": list(streams),
        "class_names": list(class_names),
        "width": size,
        "height": size,
        "steps": recipe.sampling.steps,
        "guidance": recipe.sampling.guidance,
        "dtype": "float32",
        "training_data": list(list_data(recipe)),
        "labels_seen": any(source.labels for source in recipe.data.sources),
        "licence": {
            "id": recipe.export.license,
            "date_read": datetime.date.today().isoformat(),
            "attribution": list(recipe.export.attribution),
        },
    }


def save_entry(entry: dict[str, Any], out: Path) -> None:
    """Writes `out/models/NAME.yaml`, so that a recipe says `catalogs: [OUT]`, `model: NAME`."""
    path = out / "models" / f"{entry['id']}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=100)
    path.write_text(f"# Written by factory train generator.\n{text}", encoding="utf-8")


def list_facts(recipe: TrainingRecipe, material: Material, result: dict[str, Any]) -> list[str]:
    """Returns the lines of the model card of what a training gave."""
    images, options = material.images, recipe.training
    kept = int((~images.held_out).sum())
    return [
        "![Samples, not picked](samples.png)",
        *write_heading("Data"),
        *(f"- {escape(line)}" for line in list_data(recipe)),
        f"- {kept:,} views to learn from, {len(images.labels) - kept:,} held out to validate on",
        f"- classes learned: {escape(', '.join(images.class_names)) or 'none; no label was seen'}",
        f"- captions: {_describe_captions(recipe)}",
        *write_heading("Training"),
        f"- {_describe_network(recipe)}",
        "- flow matching (arXiv 2210.02747), velocity of the straight path, times "
        f"{options.times} (arXiv 2403.03206), condition left out of {options.dropout:.0%} of the "
        "images for classifier-free guidance (arXiv 2207.12598)",
        f"- {result['step']:,} steps of {options.batch_size * options.accumulate} images a "
        f"process, running average {options.ema_decay}, {options.precision}, seed {recipe.seed}",
        *list_origins(recipe),
        *write_heading("Measured"),
        _describe_quality(recipe, result),
    ]


def list_origins(recipe: "TrainingRecipe | MultiRecipe") -> tuple[str, ...]:
    """Returns lines that say what a training began with, and where the rest is told."""
    return (
        f"- went on from: {escape(recipe.init or 'nothing, from scratch')}",
        "- the whole recipe is `training/recipe.json`",
    )


def save_card(recipe: "TrainingRecipe | MultiRecipe", lines: Sequence[str], out: Path) -> None:
    """Writes `out/README.md`: lines, then how the model is used, and its limits."""
    tags = "[pathology, synthetic, flow-matching]"
    use = write_line("catalogs", [out.name]), write_line("generator", {"model": recipe.name})
    text = [
        *write_head(recipe.name, recipe.export, tags, "diffusers"),
        *lines,
        *write_heading("Use"),
        fence("\n".join(use), "yaml"),
        *write_heading("Limits"),
        f"- {recipe.data.image_size} px; what is rare in the data is rare or wrong in the samples.",
        "- Memorisation was not studied: use the filter `training_copy` with the real images.",
        *write_foot(recipe.export),
    ]
    (out / "README.md").write_text("\n".join(text), encoding="utf-8")


def list_data(recipe: "TrainingRecipe | MultiRecipe") -> tuple[str, ...]:
    """Returns a line for each training set."""
    if recipe.export.training_data:
        return recipe.export.training_data
    return tuple(source.images.name for source in recipe.data.sources)


def _describe_captions(recipe: TrainingRecipe) -> str:
    if recipe.captions is None:
        return "none"
    if recipe.captions.kind == "given":
        return "given with the images"
    grid = write_code(recipe.captions.grid)
    return f"measured in the pixels and worded with the caption grid {grid}"


def _describe_network(recipe: TrainingRecipe) -> str:
    network = recipe.network
    where = f"pixels folded by {network.fold}" if network.vae is None else "latents"
    channels = "-".join(str(each) for each in network.channels)
    return f"`UNet2DModel` on {where}, {channels} channels, pipeline `FlowPipeline` of factory"


def _describe_quality(recipe: TrainingRecipe, result: dict[str, Any]) -> str:
    if result["kid"] is None:
        return "Not validated: no images were held out."
    return (
        f"At step {result['best_step']:,}, the best of those validated: kernel distance (KID) "
        f"{result['kid']:.4g} and Fréchet distance {result['fd']:.4g} between "
        f"{result['validated']} samples and as many held-out images, on features of "
        f"{write_code(recipe.validation.encoder)} standardised on the held-out images. Chosen on "
        "these images, so a little optimistic; the Fréchet distance of so few images is biased "
        "upwards."
    )
