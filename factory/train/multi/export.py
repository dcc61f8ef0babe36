"""What a training of parallel streams leaves: catalog entry and model card."""

from typing import Any

from factory.core.markdown import escape, write_code
from factory.models.generators.query_text import QueryTextEncoder
from factory.train.cards import write_heading
from factory.train.generator.export import describe_entry, list_data, list_origins
from factory.train.multi.settings import MultiRecipe
from factory.train.multi.setup import MultiMaterial


def build_entry(recipe: MultiRecipe, material: MultiMaterial) -> dict[str, Any]:
    """Returns the catalog entry of what a training gave."""
    collection = material.collection
    streams = ["class_name"]  # without classes, a label beside other streams
    streams += ["caption"] if material.tokenizer is not None else []
    streams += ["reference", "scale"]
    streams += ["embedding"] if material.embedding_dim else []
    streams += ["vector"] if collection.vector_names else []
    streams += ["control"] if collection.control_labels else []
    entry = describe_entry(recipe, "multi", streams, collection.class_names)
    if material.embedding_dim:
        entry["embedding"] = {"encoder": recipe.data.encoder, "dim": material.embedding_dim}
    if collection.vector_names:
        entry["vector"] = {"names": list(collection.vector_names)}
    return entry


def list_facts(recipe: MultiRecipe, material: MultiMaterial, result: dict[str, Any]) -> list[str]:
    """Returns the lines of the model card of what a training gave."""
    collection, options = material.collection, recipe.training
    views = [(len(each.held_out), int(each.held_out.sum())) for each in collection.sets]
    total, held = sum(each for each, _ in views), sum(each for _, each in views)
    return [
        "![Held-out views, and what each stream alone makes of them](samples.png)",
        *write_heading("Data"),
        *(f"- {escape(line)}" for line in list_data(recipe)),
        f"- {total - held:,} views to learn from, {held:,} held out to validate on",
        f"- classes learned: {escape(', '.join(collection.class_names)) or 'none, no label seen'}",
        f"- embeddings: {write_code(recipe.data.encoder) if recipe.data.encoder else 'none'}",
        f"- named values: {len(collection.vector_names)}",
        f"- captions read by: {_describe_reader(recipe, material)}",
        f"- labels of masks: {escape(', '.join(collection.control_labels)) or 'none'}",
        *write_heading("Training"),
        f"- pipeline `MultiPipeline` of factory, {recipe.network.attention} attention to streams, "
        f"prediction of the {recipe.network.prediction}, {recipe.data.image_size} px",
        f"- {result['step']:,} steps of {options.batch_size * options.accumulate} images, running "
        f"average {options.ema_decay}, seed {recipe.seed}; each stream left out of "
        f"{options.stream_dropout:.0%} of the images, all of {options.dropout:.0%}",
        *list_origins(recipe),
        *write_heading("Measured"),
        *_describe_losses(result),
    ]


def _describe_reader(recipe: MultiRecipe, material: MultiMaterial) -> str:
    text = recipe.network.text
    if recipe.captions is None:
        return "nothing, there are none"
    if material.start is not None and isinstance(material.start.text_encoder, QueryTextEncoder):
        return f"the learned queries of {write_code(str(recipe.init))}, trained on, and its model"
    if text is None:
        return "a text model of its own, trained with it"
    model = write_code(text.encoder.name)
    return f"{text.queries} learned queries behind the frozen language model {model}, saved with it"


def _describe_losses(result: dict[str, Any]) -> list[str]:
    """Says the loss on held-out views, and what each stream is worth."""
    if result.get("validation_loss") is None:
        return ["Not validated: no images were held out."]
    lines = [
        f"At step {result['best_step']:,}, mean squared error of the velocity on held-out views: "
        f"{result['validation_loss']:.4f}. It rises, on the views that have the stream, by",
        "",
    ]
    gaps = {name.removeprefix("gap_"): v for name, v in result.items() if name.startswith("gap_")}
    return lines + [f"- {value:.4f} without {name}" for name, value in gaps.items()]
