"""What a row recorded, put together again: generator, real images, and the try that made it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from factory.core.errors import GenerationError, InputError
from factory.core.fields import Folder, ImageColumn, Images, Option, Options
from factory.core.files.paths import resolve_path
from factory.data.images import SourceImage, list_images
from factory.data.provenance import Provenance
from factory.data.records import STOPPED, Job, Request
from factory.data.varied import Varied, find_varied
from factory.models.generators import build_generator
from factory.models.generators.base import Generator
from factory.models.generators.settings import GeneratorSettings, find_entry
from factory.models.session import Session
from factory.recipe.conditions import find_stream, restore_condition
from factory.recipe.conditions.family_looks import list_domains
from factory.recipe.recipe import Recipe

_COMMIT_LENGTH = 40


class Places(Options):
    """Where things lie on this machine."""

    model: str | None = Field(
        None, description="The model, where it lies elsewhere now: id or folder."
    )
    guide: str | None = Field(
        None, description="Likewise the classifier that guides it: id or folder."
    )
    catalogs: Annotated[tuple[Folder, ...], Option("--catalog")] = Field(
        (), description="Catalog folder with the model; may be given again."
    )
    references: tuple[Images, ...] = Field(
        (), description="Real images that rows vary, found by hash; may be given again."
    )
    image_column: ImageColumn = None
    base: Folder = Field(
        Path(),
        description="Folder of the recipe, where its relative paths start.",
    )


# --- what made it --------------------------------------------------------------------------------


def restore_generator(
    record: Provenance, recipe: Recipe, places: Places, session: Session
) -> Generator:
    """Builds the generator that a row recorded, from weights that are here.

    Args:
        record: of the row.
        recipe: of its data set.
        places: where things lie now.
        session: with the catalogs of both.

    Raises:
        InputError: a model that is not here.
    """
    settings = recipe.generator
    if places.model is not None:
        settings = settings.model_copy(update={"model": places.model, "revision": None})
    if places.guide is not None and settings.classifier_guidance is not None:
        guidance = settings.classifier_guidance.model_copy(update={"model": places.guide})
        settings = settings.model_copy(update={"classifier_guidance": guidance})
    entry = find_entry(settings, session.catalogs)
    known = entry.scheduler if entry is not None else None
    settings = _restore_settings(settings, known, record)
    try:
        return build_generator(settings, entry, places.base, session)
    except (InputError, GenerationError) as error:
        raise InputError(
            f"{error}\nwhere the recipe's model is now: --base (folder of the recipe), --catalog, "
            "--model or --guide (the classifier that guides it)"
        ) from error


def _restore_settings(
    settings: GeneratorSettings, catalog_scheduler: str | None, record: Provenance
) -> GeneratorSettings:
    """Returns the recipe's generator section with all that a row recorded put in."""
    recorded = record.generator
    revision = recorded.model_revision or ""
    named = settings.scheduler or catalog_scheduler
    is_guided = recorded.guidance_scale is not None
    update = {
        "revision": revision if len(revision) == _COMMIT_LENGTH else settings.revision,
        "steps": recorded.num_inference_steps or None,
        "guidance": recorded.guidance_scale if is_guided else settings.guidance,
        "scheduler": None if named is None else recorded.scheduler,
        "negative_prompt": recorded.negative_prompt,
        "prompt_template": recorded.prompt_template or settings.prompt_template,
        "width": recorded.width,
        "height": recorded.height,
        "dtype": "auto" if recorded.dtype == "none" else recorded.dtype,
        "device": _choose_device(recorded.device),
        "batch_size": record.batch_size,
    }
    return GeneratorSettings.model_validate({**settings.model_dump(), **update})


def _choose_device(recorded: str) -> str:
    """Returns the recorded type of device where this machine has it, else what it has."""
    if recorded == "cpu":
        return "cpu"
    import torch

    has: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    return recorded if recorded in has and has[recorded]() else "auto"


@contextmanager
def use_threads(record: Provenance) -> Iterator[None]:
    """Samples on a CPU with as many threads as a row recorded, if it did."""
    if record.generator.threads is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(record.generator.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- what it was to show -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sources:
    """Real images by the recorded sha256 of their bytes, and where they were looked for."""

    images: Mapping[str, SourceImage]
    searched: tuple[str, ...]

    def explain(self, sha256: str) -> str:
        """Says that an image is missing, and what to do."""
        places = ", ".join(self.searched) or "no folder"
        return (
            f"needs --references: the real image with sha256 {sha256} was not found (searched: "
            f"{places}): give the folder that holds it, or the recipe's folder with --base"
        )


def find_sources(wanted: Sequence[Varied | None], recipe: Recipe, places: Places) -> Sources:
    """Looks for real images by hash: in the folders given, then in those that the recipe names.

    Raises:
        SourceError: a folder given that holds no images.
    """
    if not any(wanted):
        return Sources({}, ())
    listed: list[SourceImage] = []
    searched: list[str] = []
    own = {
        resolve_path(places.base, images.path): images.columns.get("image_column")
        for block in recipe.blocks
        for images in (*block.list_read(), *list_domains(block))
    }
    given = dict.fromkeys(places.references, places.image_column)
    for folder, column in {**given, **{k: v for k, v in own.items() if k not in given}}.items():
        if folder not in places.references and not folder.exists():
            searched.append(f"{folder}, which is not here")
            continue
        searched.append(str(folder))
        listed += list_images(folder, image_column=column)
    return Sources(find_varied(wanted, listed), tuple(searched))


def restore_job(
    row: Mapping[str, Any], record: Provenance, images: Mapping[str, SourceImage]
) -> Job:
    """Returns the try that made a row; one that was stopped part-way ends there again.

    Raises:
        StoreError: a stream that nothing here knows.
        DamageError: the row does not hold what it was made from.
    """
    condition = restore_condition(record.condition, images, row)
    request = Request("regenerated", 0, condition, row["ordinal"])
    notes = (record.model_extra or {}).get("notes") or {}
    return Job(request, row["attempt"], row["seed"], notes.get(STOPPED))


def list_sources(record: Provenance) -> tuple[Varied, ...]:
    """Returns the real images that a row is made again from, by its provenance.

    Raises:
        StoreError: a stream that nothing here knows.
    """
    described = record.condition.items()
    found = (find_stream(key).list_sources(identity, record) for key, identity in described)
    return tuple(source for sources in found for source in sources)
