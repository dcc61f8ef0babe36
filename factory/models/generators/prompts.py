"""What a text model is sent: the prompt of a condition, and the tokens kept and dropped of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from factory.catalog.entries import ModelEntry
from factory.core.errors import InputError
from factory.data.records import Condition
from factory.models.generators.settings import GeneratorSettings

CLIP_TOKENS = 77
"""max_position_embeddings of the CLIP text encoders (Radford et al. 2021)."""
DEFAULT_TEMPLATE = "H&E histopathology patch, {class_name}"


def choose_wording(
    settings: GeneratorSettings, entry: ModelEntry | None
) -> tuple[str, Mapping[str, str]]:
    """Returns the prompt template of recipe or catalog, and the catalog's words for classes.

    Raises:
        InputError: a template without {class_name}.
    """
    template = settings.prompt_template or (entry.prompt_template if entry is not None else None)
    words = entry.class_prompts if entry is not None else {}
    return check_template(template or DEFAULT_TEMPLATE), words


def check_template(template: str) -> str:
    """Returns the template.

    Raises:
        InputError: it has no {class_name}.
    """
    if "{class_name}" not in template:
        raise InputError(
            f"generator.prompt_template: must hold {{class_name}}, got {template!r}: "
            "without it every class would get the same prompt"
        )
    return template


def write_prompt(condition: Condition, template: str, class_prompts: Mapping[str, str]) -> str:
    """Returns the caption, else the class, in its words, in the template, else the empty prompt."""
    if condition.caption is not None:
        return condition.caption
    if condition.class_name is not None:
        words = class_prompts.get(condition.class_name, condition.class_name)
        return template.replace("{class_name}", words)
    return ""


def find_token_limits(
    index: Mapping[str, Any], arguments: Mapping[str, Any]
) -> dict[str, int | None]:
    """Returns the limits of tokenizers, where they are known; None is `max_sequence_length`.

    Args:
        index: the model's model_index.json.
        arguments: of every call.
    """
    found: dict[str, int | None] = {}
    for name, value in index.items():
        kind = str(value[-1]) if isinstance(value, list) and value else ""
        if kind.startswith("CLIPTokenizer"):
            found[name] = CLIP_TOKENS
        elif "Tokenizer" in kind and "max_sequence_length" in arguments:
            found[name] = None
    return found


def count_tokens(
    prompts: Sequence[str], tokenizers: Mapping[str, Any], limits: Mapping[str, int]
) -> list[dict[str, tuple[int, int]]]:
    """Counts each prompt's tokens as each tokenizer sees them, its special tokens included.

    Args:
        prompts: texts as sent.
        tokenizers: component name -> transformers tokenizer.
        limits: component name -> tokens that the pipeline keeps.

    Returns:
        For each prompt, component name -> (kept, dropped).
    """
    counts: list[dict[str, tuple[int, int]]] = [{} for _ in prompts]
    for name, tokenizer in tokenizers.items():
        rows = tokenizer(list(prompts), truncation=False, verbose=False)["input_ids"]
        for count, row in zip(counts, rows, strict=True):
            kept = min(len(row), limits[name])
            count[name] = (kept, len(row) - kept)
    return counts
