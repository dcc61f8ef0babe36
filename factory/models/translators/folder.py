"""Writes a translator's folder: weights, configuration, catalog entry and model card."""

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from factory.catalog.captions.grid import ID_PATTERN
from factory.catalog.licences.known import UNANSWERED
from factory.core.errors import InputError
from factory.core.files.atomic import write_atomically, write_file
from factory.core.markdown import escape, fence, write_line
from factory.core.plain import write_json
from factory.models.translators.config import CONFIG, WEIGHTS, TranslatorConfig

if TYPE_CHECKING:
    from torch import Tensor

_ASKED = (
    "Fill in from the page of the weights: id, url, commercial_use, redistribution_of_outputs, "
    "training_on_outputs, dataset_generation. Until then nothing made with it is published."
)


@dataclass(frozen=True, slots=True)
class About:
    """What entry and card tell of a translator.

    Attributes:
        name: id of the entry.
        title: one line.
        writer: command that writes the folder.
        lines: what the card says of its origin, an item each, in Markdown.
        data: training images, a line each.
        licence: terms of the weights; None: nobody read them.
        labels_seen: whether it learnt from labels; None: not told.
    """

    name: str
    title: str
    writer: str
    lines: tuple[str, ...]
    data: tuple[str, ...] = ()
    licence: Mapping[str, Any] | None = None
    labels_seen: bool | None = None


def check_name(out: Path) -> str:
    """Returns the id of the entry: the name of the folder.

    Raises:
        InputError: it is no id.
    """
    name = out.absolute().name
    if re.fullmatch(ID_PATTERN, name) is None:
        raise InputError(
            f"{out}: {name!r} is no id of a catalog entry: name the folder with small letters, "
            "digits, -, _ and . only"
        )
    return name


def save_translator(
    state: Mapping[str, "Tensor"], config: TranslatorConfig, about: About, out: Path
) -> None:
    """Writes `config.json`, `model.safetensors`, `models/NAME.yaml` and `README.md`.

    Args:
        state: weights by the names of the network.
        config: of the network, and how pixels enter it.
        about: what entry and card tell.
        out: folder; its entry names it by a relative path.

    Raises:
        StoreError: disk full, permission.
    """
    from safetensors.torch import save_file

    kept = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write_file(out / CONFIG, f"{write_json(config.model_dump(mode='json'))}\n".encode())
    entry = _describe_entry(config, about)
    text = yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=100)
    written = f"# Written by `{about.writer}`.\n{text}"
    write_file(out / "models" / f"{about.name}.yaml", written.encode())
    write_file(out / "README.md", _write_card(config, about).encode())
    with write_atomically(out / WEIGHTS) as path:
        save_file(kept, path)


def _describe_entry(config: TranslatorConfig, about: About) -> dict[str, Any]:
    today = datetime.date.today().isoformat()
    fields: dict[str, Any] = {
        "id": about.name,
        "title": about.title,
        "source": "..",
        "family": "translator",
        "required": ["source"],
        "optional": ["class_name"],
        "width": config.width,
        "height": config.height,
        "steps": config.path_steps or 1,
        "guidance": 1.0,
        "dtype": "float32",
    }
    fields |= {} if config.mpp is None else {"mpp": config.mpp}
    if config.channels is not None:
        fields["channels"] = config.channels.model_dump(mode="json", exclude_none=True)
    fields |= {"training_data": list(about.data)} if about.data else {}
    fields |= {} if about.labels_seen is None else {"labels_seen": about.labels_seen}
    unread = {"id": UNANSWERED, "date_read": today, "note": _ASKED}
    return {**fields, "licence": unread if about.licence is None else dict(about.licence)}


def _write_card(config: TranslatorConfig, about: About) -> str:
    network = config.network
    recipe = [
        "catalogs: [PATH_OF_THIS_FOLDER]",
        write_line("generator", {"model": about.name}),
        write_line("conditions", [{"kind": "translate", "images": "YOUR_IMAGES"}]),
    ]
    told = {key: value for key, value in network.model_dump().items() if key != "kind"}
    made = ", ".join(config.channel_names) or "RGB"
    licence = UNANSWERED if about.licence is None else about.licence["id"]
    lines = [
        "---",
        write_line("license", "other" if licence == UNANSWERED else licence),
        "tags: [pathology, image-to-image]",
        "---",
        "",
        f"# {escape(about.title)}",
        "",
        *(f"- {line}" for line in about.lines),
        *(f"- training images: {escape(line)}" for line in about.data),
        f"- network: `{network.kind}` ({escape(write_json(told, indent=None))})",
        f"- in: RGB, mean {list(config.mean)}, standard deviation {list(config.std)}",
        f"- out: {escape(made)}, {config.output}",
        f"- size: {config.width}x{config.height} px, or any multiples of {network.multiple}",
        f"- terms: {escape(licence)}",
        "",
        "## Use",
        "",
        f"{_tell_way(config)} In a recipe:",
        "",
        fence("\n".join(recipe), "yaml"),
        "",
    ]
    return "\n".join(lines)


def _tell_way(config: TranslatorConfig) -> str:
    if config.path_steps is None:
        return "One pass: the same source gives the same image, whatever the seed."
    return f"{config.path_steps} Euler steps from noise beside the source: an image for each seed."
