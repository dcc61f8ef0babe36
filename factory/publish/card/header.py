"""The YAML header of the card: licence, tags, configurations and features for the Hub."""

from collections.abc import Mapping
from typing import Any

from factory.core.markdown import write_yaml
from factory.publish.card.facts import CONFIGS, Facts

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
OWN_KEYS = frozenset(
    {
        "license",
        "license_name",
        "license_link",
        "pretty_name",
        "tags",
        "task_categories",
        "annotations_creators",
        "size_categories",
        "source_datasets",
        "configs",
        "dataset_info",
    }
)
"""Keys that factory writes; a user's other keys are kept."""
LICENCE_FILE = "LICENSE.md"


def build_header(facts: Facts, kept: Mapping[str, Any] | None = None) -> str:
    """Returns the YAML header without its fences.

    Args:
        facts: of the run.
        kept: the header that was there: keys that are not ours, and tags, are kept.
    """
    from huggingface_hub import DatasetCardData

    recipe, summary, kept = facts.recipe, facts.summary, kept or {}
    has_captions = any(block.is_caption for block in recipe.blocks)
    tasks = ["text-to-image"] if has_captions else []
    tasks += ["image-classification"] if summary.class_names else []
    synthetic = ["synthetic"] if facts.is_synthetic else []
    tags = [*synthetic, "pathology", "histology", "medical", "factory", *recipe.card.tags]
    others = kept.get("tags") or []
    tags += [tag for tag in others if tag not in tags and tag != "synthetic"]
    card = DatasetCardData(
        license=facts.license_id,
        pretty_name=facts.title,
        tags=list(dict.fromkeys(tags)),
        task_categories=tasks or (["unconditional-image-generation"] if synthetic else None),
        annotations_creators=["machine-generated" if synthetic else "found"],
        size_categories=[choose_size_category(summary.accepted)],
        source_datasets=list_source_datasets(facts),
        configs=_list_configs(facts),
        **describe_own_licence(facts),
    )
    _add_info(card, facts)
    for key, value in kept.items():
        if key not in OWN_KEYS:
            card[key] = value
    return write_yaml(str(card.to_yaml()).rstrip())


def choose_size_category(rows: int) -> str:
    """Returns the Hub's size category."""
    return next((name for limit, name in SIZE_CATEGORIES if rows < limit), "n>1T")


def list_source_datasets(facts: Facts) -> list[str]:
    """Returns the data sets that images come from; `original` where none is varied or judged."""
    named = list(facts.recipe.card.source_datasets)
    if facts.varies_real_images or not facts.is_synthetic:
        return named or ["extended"]
    return named or ["original"]


def describe_own_licence(facts: Facts) -> dict[str, Any]:
    """Returns name and link of a licence that the Hub has no id for."""
    if facts.license_id != "other":
        return {}
    card = facts.recipe.card
    return {
        "license_name": card.license_name or "terms-of-its-makers",
        "license_link": card.license_link or LICENCE_FILE,
    }


def _list_configs(facts: Facts) -> list[dict[str, Any]]:
    found = []
    for folder, (config, split) in CONFIGS.items():
        if facts.list_files(folder):
            path = f"{folder}/{split}-*.parquet"
            described: dict[str, Any] = {"config_name": config}
            if config == "default":
                described["default"] = True
            found.append({**described, "data_files": [{"split": split, "path": path}]})
    return found


def _add_info(card: Any, facts: Facts) -> None:
    """Adds features and splits with counts of rows and bytes, as `datasets` writes them."""
    from datasets import DatasetInfo, Features, SplitDict, SplitInfo
    from datasets.info import DatasetInfosDict

    found = {}
    for folder, (config, split) in CONFIGS.items():
        files = facts.list_files(folder)
        if files:
            rows, size = sum(file.rows for file in files), sum(file.data_bytes for file in files)
            splits = SplitDict({split: SplitInfo(split, num_bytes=size, num_examples=rows)})
            found[config] = DatasetInfo(
                features=Features.from_arrow_schema(facts.schemas[folder]),
                splits=splits,
                download_size=sum(file.size for file in files),
                dataset_size=size,
            )
    for config, info in found.items():
        info.config_name = config
    DatasetInfosDict(found).to_dataset_card_data(card)
