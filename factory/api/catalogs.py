"""What recipes can name: recipes that ship, models and encoders, and whether these run here."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from factory.api.shown import Figures, Listing
from factory.api.words import AnyPath
from factory.core.errors import GenerationError, InputError

if TYPE_CHECKING:
    from factory.catalog.catalog import Catalogs, EncoderEntry, ModelEntry
    from factory.models.adoption import Adopted
    from factory.recipe.shipped import ShippedRecipe

Kind = Literal["models", "encoders", "classifiers", "classes", "captions"]
"""A folder of catalogs."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model of a catalog.

    Attributes:
        entry: all that is known of it: streams, size, licence terms, training data.
        lacks: what it lacks to run here; None: nothing.
    """

    entry: "ModelEntry"
    lacks: str | None

    @property
    def streams(self) -> str:
        """What it takes, optional streams in brackets."""
        return "+".join((*self.entry.required, *(f"[{name}]" for name in self.entry.optional)))

    @property
    def state(self) -> str:
        """How far it was tried with this version of factory, by its entry."""
        return "nobody says" if self.entry.status is None else self.entry.status.state

    @property
    def output(self) -> str:
        """What the terms of the model and of its parts leave its images to be."""
        from factory.catalog.licences.terms import SAYS, Term, combine_terms

        parts = [(each.role, each.source, each.licence) for each in self.entry.components]
        makers = [("generator", self.entry.id, self.entry.licence), *parts]
        terms = [Term(role, name, each.model_dump(mode="json")) for role, name, each in makers]
        verdict = combine_terms(terms)
        said = [SAYS[restriction] for restriction in verdict.restrictions]
        return "; ".join(said) or "no restriction is recorded"

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain data, with `runs`, `lacks` and `output`."""
        known = self.entry.model_dump(mode="json")
        return {**known, "runs": self.lacks is None, "lacks": self.lacks, "output": self.output}

    def _repr_html_(self) -> str:
        """What a notebook shows: all that is known of it."""
        return Figures(self.to_json())._repr_html_()


@dataclass(frozen=True, slots=True)
class Checked:
    """What was loaded and asked once, here.

    Attributes:
        name: of the model or encoder.
        found: what it gave: `width` and `height` in px and `asked`, or `dim` and `weights_sha256`.
        seconds: with loading.
    """

    name: str
    found: dict[str, Any]
    seconds: float


def list_recipes() -> "Listing[ShippedRecipe]":
    """Returns the recipes that come with factory; `run` and `load_recipe` take them by name."""
    from factory.recipe.shipped import describe_shipped

    columns = {"name": lambda each: each.name, "purpose": lambda each: each.purpose}
    return Listing(describe_shipped(), columns)


def copy_recipe(name: str, to: AnyPath = ".") -> Path:
    """Writes a recipe that ships to a file of one's own, or into a folder, to be changed.

    Raises:
        InputError: the file is there, lies in a data set, or no recipe has this name.
        StoreError: disk full, permission.
    """
    from factory.recipe.shipped import copy_recipe as copy

    return copy(name, Path(to))


def schema() -> dict[str, Any]:
    """Returns the JSON Schema of recipes, for editors; installed plug-ins are part of it."""
    from factory.recipe.file import build_recipe_schema

    return build_recipe_schema()


def list_catalog(kind: Kind, catalogs: Sequence[AnyPath] = ()) -> tuple[str, ...]:
    """Returns the ids that catalogs hold of a kind.

    Args:
        kind: what is listed.
        catalogs: folders that are searched before the catalogs that ship.

    Raises:
        CatalogError: a folder that is missing or holds nothing.
    """
    return _load(catalogs).list_ids(kind)


def list_models(catalogs: Sequence[AnyPath] = ()) -> Listing[Model]:
    """Returns the models of all catalogs, and whether they run here or what they lack.

    Raises:
        CatalogError: a folder that is missing or holds nothing.
        RecipeError: an entry that is wrong.
    """
    columns = {
        "id": lambda model: model.entry.id,
        "px": lambda model: f"{model.entry.width} x {model.entry.height}",
        "runs here": lambda model: "yes" if model.lacks is None else f"no: {model.lacks}",
        "tried": lambda model: model.state,
        "takes": lambda model: model.streams,
        "licence": lambda model: model.entry.licence.id,
    }
    entries = _load(catalogs).list_models()
    return Listing([Model(entry, _explain_missing(entry)) for entry in entries], columns)


def find_model(name: str, catalogs: Sequence[AnyPath] = ()) -> Model:
    """Returns all that is known of a model: streams, size, licence terms, training data.

    Raises:
        CatalogError: no model of this id.
        RecipeError: an entry that is wrong.
    """
    entry = _load(catalogs).find_model(name)
    return Model(entry, _explain_missing(entry))


def check_model(name: str, catalogs: Sequence[AnyPath] = ()) -> Checked:
    """Loads a model here and samples one image in two steps, of a class that it knows or a caption.

    Args:
        name: catalog id, Hub id or folder.
        catalogs: as for `list_models`.

    Raises:
        InputError: no such model, or what it lacks to run here.
        GenerationError: it cannot be loaded, or its image is not finite.
    """
    from factory.data.records import Job, Request
    from factory.models.generators import build_generator
    from factory.models.generators.families import FAMILIES
    from factory.models.generators.runnable import choose_test_condition
    from factory.models.generators.settings import GeneratorSettings, find_entry

    began, found = time.perf_counter(), _load(catalogs)
    is_place = "/" in name or Path(name).is_dir()
    settings = GeneratorSettings(model=name, batch_size=1)
    entry = find_entry(settings, found) if is_place else found.find_model(name)
    lack = None if entry is None else _explain_missing(entry)
    if lack is not None and "not downloaded" not in lack:
        told = "" if entry is None or entry.status is None else f" ({entry.status.words})"
        raise InputError(f"model {name}: cannot run here: {lack}{told}")
    if entry is None or FAMILIES.get(entry.family).is_stepped:
        settings = settings.model_copy(update={"steps": 2})
    generator = build_generator(settings, entry, Path())
    condition = choose_test_condition(name, generator.capabilities, entry)
    sample = generator.generate([Job(Request("check", 0, condition, 0), 0, 0)])[0]
    if sample.nonfinite > 0:
        raise GenerationError(f"model {name}: its image is not finite (NaN): try dtype float32")
    height, width = sample.pixels.shape[:2]
    asked = condition.class_name or condition.caption or ", ".join(condition.describe())
    made = {"width": width, "height": height, "asked": asked}
    return Checked(name, made, time.perf_counter() - began)


def adopt_model(source: str, out: AnyPath, **settings: Any) -> "Adopted":
    """Loads a diffusers model, proves what it takes, and writes its catalog entry.

    Every stream is exchanged and left out, rows are made in and out of company, guidance, tokens,
    seconds and batch sizes are measured; `unproven` of what is returned names the rest.

    Args:
        source: Hub id, or folder with a model_index.json.
        out: the entry, `CATALOG/models/ID.yaml`.
        settings: fields of `factory.models.adoption.AdoptionSettings`, by name.

    Raises:
        InputError: no such model, a place where no entry can be, or a model that cannot be asked.
        GenerationError: it cannot be fetched or loaded, or makes nothing.
        StoreError: the entry cannot be written.
    """
    from factory.models.adoption import AdoptionSettings
    from factory.models.adoption import adopt_model as adopt

    return adopt(source, Path(out), AdoptionSettings(**settings))


def convert_model(
    checkpoint: AnyPath,
    out: AnyPath,
    *,
    config: AnyPath | None = None,
    text_encoder: AnyPath | None = None,
    class_names: Sequence[str] = (),
    mpp: float | None = None,
    allow_pickle: bool = False,
    kind: str = "compvis",
) -> Figures:
    """Writes a checkpoint as a folder that recipes can name.

    Args:
        checkpoint: safetensors, or with `allow_pickle` .ckpt, .pt or .pth.
        out: new folder.
        config: YAML file that it was trained with, of `compvis`.
        text_encoder: folder with tokenizer and config.json, for models of texts.
        class_names: in the order of their embeddings, for models of classes; of a translator that
            makes no RGB images, its channels.
        mpp: µm per pixel of its training images.
        allow_pickle: the file is trusted; only tensors are read of it.
        kind: `compvis` (latent diffusion), or of a one-pass translator `cut` (AI-FFPE too),
            `cyclegan`, `unet` (pix2pix), `unetpp` (GigaTIME), `gigatime-flash`, `histoplexer`.

    Raises:
        InputError: what cannot be read or has no counterpart; says what to do.
        StoreError: disk full, permission.
    """
    from factory.models.convert import Options, convert_checkpoint

    options = Options(
        Path(out),
        None if config is None else Path(config),
        None if text_encoder is None else Path(text_encoder),
        tuple(class_names),
        mpp,
        kind,
    )
    return Figures(convert_checkpoint(Path(checkpoint), options, allow_pickle=allow_pickle))


def list_encoders(catalogs: Sequence[AnyPath] = ()) -> "Listing[EncoderEntry]":
    """Returns the image encoders of all catalogs, which filters and evaluations can name.

    Raises:
        CatalogError: a folder that is missing or holds nothing.
        RecipeError: an entry that is wrong.
    """
    columns = {
        "id": lambda entry: entry.id,
        "features": lambda entry: entry.dim,
        "licence": lambda entry: entry.licence.id,
        "title": lambda entry: entry.title,
    }
    found = _load(catalogs)
    return Listing([found.find_encoder(name) for name in found.list_ids("encoders")], columns)


def find_encoder(name: str, catalogs: Sequence[AnyPath] = ()) -> "EncoderEntry":
    """Returns all that is known of an encoder: source, features, licence terms, training data.

    Raises:
        CatalogError: no encoder of this id.
        RecipeError: an entry that is wrong.
    """
    return _load(catalogs).find_encoder(name)


def check_encoder(name: str, catalogs: Sequence[AnyPath] = ()) -> Checked:
    """Loads an encoder here and computes the features of one blank image.

    Raises:
        InputError: no such encoder, or it cannot be loaded here.
    """
    import numpy as np

    from factory.models.encoders import load_encoder

    began = time.perf_counter()
    encoder = load_encoder(name, catalogs=_load(catalogs))
    encoder.encode(np.full((1, 64, 64, 3), 255, np.uint8))
    told = {"dim": encoder.dim, "weights_sha256": encoder.describe()["weights_sha256"]}
    return Checked(name, told, time.perf_counter() - began)


def _load(folders: Sequence[AnyPath]) -> "Catalogs":
    from factory.catalog.catalog import load_catalogs

    return load_catalogs([Path(each) for each in folders])


def _explain_missing(entry: "ModelEntry") -> str | None:
    """Returns what a model lacks to run here, or None."""
    from factory.models.generators.runnable import explain_missing
    from factory.recipe.conditions import list_streams

    return explain_missing(entry, {stream.name for stream in list_streams()})
