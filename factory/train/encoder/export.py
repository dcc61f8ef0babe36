"""What a trained encoder leaves: weights that `load_encoder` reads, and the model card."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from factory.core.files.atomic import write_atomically, write_file
from factory.core.markdown import escape
from factory.core.plain import write_json
from factory.data.patients import write_patients
from factory.models.encoders.small_resnet import SmallResNet
from factory.train.cards import write_foot, write_head, write_heading
from factory.train.encoder.settings import EncoderRecipe
from factory.train.images import TrainingImages

_READOUTS = {"last": "", "stages": " (mean and standard deviation of every stage)"}


def export_encoder(
    recipe: EncoderRecipe,
    images: TrainingImages,
    network: SmallResNet,
    result: dict[str, Any],
    out: Path,
) -> None:
    """Writes `encoder.safetensors` (float16), `encoder.json`, patients and `README.md` to `out`."""
    write_patients(images.patients, out)
    state = {
        name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in network.state_dict().items()
    }
    with write_atomically(out / "encoder.safetensors") as path:
        save_file(state, path)
    described = {
        "architecture": "small-resnet",
        "channels": list(recipe.network.channels),
        "name": recipe.name,
        "method": recipe.method.kind,
        "image_size": recipe.views.size,
        "labels_seen": False,
    }
    if recipe.network.readout != "last":
        described["readout"] = recipe.network.readout
    if recipe.teacher is not None:
        described["teacher"] = recipe.teacher.encoder
    write_file(out / "encoder.json", f"{write_json(described)}\n".encode())
    write_file(out / "README.md", write_card(recipe, images, network, result).encode())


def write_card(
    recipe: EncoderRecipe, images: TrainingImages, network: SmallResNet, result: dict[str, Any]
) -> str:
    """Returns the model card, from the recipe and what was measured without labels."""
    parameters = sum(value.numel() for value in network.parameters())
    options, export = recipe.training, recipe.export
    kept = int((~images.held_out).sum())
    sets = export.training_data or tuple(source.images.name for source in recipe.data.sources)
    lines = [
        *write_head(recipe.name, export, "[pathology, self-supervised, image-feature-extraction]"),
        f"- **Network**: `small-resnet`, {'-'.join(map(str, recipe.network.channels))} channels, "
        f"{parameters / 1e6:.2f} M parameters in float16; {network.dim} features"
        f"{_READOUTS[network.readout]} of RGB images as they are, 64 px or larger",
        "- **Labels seen**: none",
        "- **Data**:",
        *(f"  - {escape(line)}" for line in sets),
        f"  - {kept:,} cuts of {recipe.data.image_size} px to learn from, "
        f"{len(images.labels) - kept:,} held out",
        f"- **Method**: {recipe.method.describe()}",
        *_describe_teacher(recipe),
        f"- **Views**: {_describe_views(recipe)}",
        f"- **Training**: {options.steps:,} steps of {options.batch_size} images, AdamW, cosine "
        f"decay, running average {options.ema_decay}, {options.precision}, seed {recipe.seed}; "
        "the whole recipe is `training/recipe.json`",
        *write_heading("Measured"),
        _describe_result(result),
        "",
        "How well classes are told apart by these features is not measured yet: "
        "`tests/benchmarks/encoders.py` does it.",
        *write_heading("Limits"),
        f"- Trained at {recipe.views.size} px; features of larger images are averages over them "
        "at their own scale.",
        "- Flips, quarter turns, mild differences of stain and of scale are partly overlooked, as "
        "trained.",
        *write_foot(export),
    ]
    return "\n".join(lines)


def _describe_teacher(recipe: EncoderRecipe) -> list[str]:
    teacher = recipe.teacher
    if teacher is None:
        return []
    return [
        f"- **Teacher**: `{teacher.encoder}`, whose features of the whole cut are foretold "
        "linearly from either view (mean squared error of the standardised features, weight "
        f"{teacher.weight:g}); its terms hold for these weights too"
    ]


def _describe_views(recipe: EncoderRecipe) -> str:
    views = recipe.views
    parts = [
        f"{views.size} px out of {recipe.data.image_size} px, {views.unscaled:.0%} pixel by pixel, "
        f"else a square of {views.scale[0]:g} to {views.scale[1]:g} of the side",
        "the eight flips and quarter turns",
    ]
    parts += [f"HED stain jitter {views.stain_jitter:g}"] if views.stain_jitter else []
    parts += [f"contrast and brightness ±{views.contrast:g}"] if views.contrast else []
    parts += [f"{views.blur:.0%} blurred"] if views.blur else []
    parts += [f"noise up to {views.noise:g}"] if views.noise else []
    return "; ".join(parts)


def _describe_result(result: dict[str, Any]) -> str:
    on = "images to learn from"
    chosen = f"The weights of the last step, {result['step']:,}, without held-out images to choose."
    if "held_out_loss" in result:
        on = "held-out images"
        chosen = (
            f"The weights of step {result['best_step']:,}, with the lowest self-supervised loss on "
            f"held-out images, {result['held_out_loss']:.4g}."
        )
    return (
        f"{chosen} On {on}: spread of the features {result['feature_spread']:.2f} (0: collapsed, "
        f"all images alike), effective rank {result['feature_rank']:.0f} (RankMe, arXiv "
        "2210.02885)."
    )
