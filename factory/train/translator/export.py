"""What the training of a flow leaves: weights, an encoder's catalog entry, and the model card."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import nn

from factory.core.files.atomic import write_atomically, write_file
from factory.core.markdown import escape, fence, write_code, write_line
from factory.core.plain import write_json
from factory.models.encoders.kinds.flow import CONFIG, FlowConfig
from factory.models.encoders.latent_flow import WEIGHTS
from factory.models.session import Session
from factory.models.translators.folder import About
from factory.train.cards import write_foot, write_head, write_heading
from factory.train.translator.settings import CutRecipe, FlowRecipe, PairedRecipe


def describe_translator(
    recipe: CutRecipe | PairedRecipe, way: str, step: int, how: str, lines: Sequence[str]
) -> About:
    """Returns what card and catalog entry of a trained network say.

    Args:
        recipe: that it was trained by.
        way: of the training, for the title.
        step: of the exported weights.
        how: it was fitted, in words.
        lines: of the card, before those of the fit.
    """
    export, options = recipe.export, recipe.training
    fitted = (
        f"{step:,} of {options.steps:,} steps of {options.batch_size}, {how}, seed {recipe.seed}; "
        "the whole recipe is `training/recipe.json`"
    )
    licence = {"id": export.license, "date_read": datetime.date.today().isoformat()}
    return About(
        name=recipe.name,
        title=export.title or f"{recipe.name}, {way}",
        writer="factory train translator",
        lines=(*lines, fitted),
        data=export.training_data,
        licence={**licence, "attribution": list(export.attribution)},
        labels_seen=False,
    )


def export_flow(
    recipe: FlowRecipe, network: nn.Module, result: dict[str, Any], session: Session, out: Path
) -> None:
    """Writes `flow.safetensors`, `flow.json`, `encoders/NAME.yaml` and `README.md` to `out`."""
    encoder, sha256 = recipe.data.encoder, None
    if recipe.data.source.images is not None:
        sha256 = session.encoders.load(encoder, session.base).describe()["weights_sha256"]
    config = FlowConfig(
        encoder=encoder,
        encoder_sha256=sha256,
        dim=result["dim"],
        width=recipe.network.width,
        blocks=recipe.network.blocks,
        steps=recipe.sampling_steps,
    )
    state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    with write_atomically(out / WEIGHTS) as path:
        save_file(state, path)
    write_file(out / CONFIG, f"{write_json(config.model_dump())}\n".encode())
    text = yaml.safe_dump(
        _describe_entry(recipe, config, session), sort_keys=False, allow_unicode=True, width=100
    )
    written = f"# Written by `factory train translator`.\n{text}"
    write_file(out / "encoders" / f"{recipe.name}.yaml", written.encode())
    write_file(out / "README.md", _write_card(recipe, config, result).encode())


def _describe_entry(recipe: FlowRecipe, config: FlowConfig, session: Session) -> dict[str, Any]:
    """Returns the entry; the terms of the encoder before the flow are found by `space`."""
    export, before = recipe.export, session.catalogs.get_encoder(config.encoder)
    return {
        "id": recipe.name,
        "title": export.title or f"{recipe.name}, a flow of {config.encoder}",
        "source": "flow:..",
        "dim": config.dim,
        "space": config.encoder,
        "training_data": [*(() if before is None else before.training_data), *export.training_data],
        "licence": {
            "id": export.license,
            "date_read": datetime.date.today().isoformat(),
            "attribution": list(export.attribution),
            "note": f"Of the flow; those of {config.encoder} stand beside it.",
        },
    }


def _write_card(recipe: FlowRecipe, config: FlowConfig, result: dict[str, Any]) -> str:
    options, export = recipe.training, recipe.export
    block = {"kind": "embedding", "images": "YOUR_IMAGES", "encoder": recipe.name}
    use = ["catalogs: [PATH_OF_THIS_FOLDER]", write_line("conditions", [block])]
    lines = [
        *write_head(recipe.name, export, "[pathology, virtual-staining, flow-matching]"),
        f"- **Moves**: embeddings of {write_code(config.encoder)}, {config.dim} numbers each, by "
        f"{config.steps} Euler steps of a residual MLP, {config.blocks} blocks of {config.width}",
        "- **After**: the virtual staining of PixCell (arXiv 2506.05127)",
        *(f"- **Data**: {escape(line)}" for line in export.training_data),
        f"- **Pairs**: {result['pairs']:,} to learn from, {result['held_out']:,} held out, "
        f"{result['passed']:,} rows or images without a partner",
        f"- **Training**: {options.steps:,} steps of {options.batch_size}, AdamW, running average "
        f"{options.ema_decay}, seed {recipe.seed}; the whole recipe is `training/recipe.json`",
        *write_heading("Use"),
        "An encoder: images are encoded, then moved. A generator that takes embeddings of "
        f"{write_code(config.encoder)} draws them:",
        "",
        fence("\n".join(use), "yaml"),
        *write_heading("Measured"),
        *_describe_result(result),
        *write_heading("Limits"),
        "- An embedding holds little of where things are: what is drawn of it is an image of such "
        "tissue, not the same cells.",
        *write_foot(export),
    ]
    return "\n".join(lines)


def _describe_result(result: dict[str, Any]) -> list[str]:
    if "error" not in result:
        return [f"The weights of step {result['best_step']:,}; no pairs were held out to measure."]
    rows = {"moved by the flow": "", "moved by the mean of all pairs": "_shift", "left": "_source"}
    return [
        f"The weights of step {result['best_step']:,}, on held-out pairs: mean squared distance to "
        "the target over that of the source to it, and mean cosine to the target.",
        "",
        "| embeddings | error | cosine |",
        "| --- | --- | --- |",
        *(
            f"| {n} | {result['error' + k]:.3f} | {result['cosine' + k]:.3f} |"
            for n, k in rows.items()
        ),
    ]
