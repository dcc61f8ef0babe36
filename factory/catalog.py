"""Catalogs: YAML that describes models, classifiers, classes and caption grids, and their lookup."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

CatalogId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Stream = Literal["class_name", "caption", "reference", "embedding", "vector", "source", "control"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class LicenceTerms(_Strict):
    """Terms of a model as read on a date; None means that the page did not say."""

    id: str = Field(description="licence id as the Hub writes it, e.g. apache-2.0")
    url: str = ""
    date_read: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    commercial_use: bool | None = None
    redistribution_of_outputs: bool | None = None
    training_on_outputs: bool | None = None
    dataset_generation: bool | None = None
    gated: bool = False
    attribution: tuple[str, ...] = ()
    note: str = ""


class Component(_Strict):
    """A further set of weights that a model needs: a VAE or a conditioning encoder."""

    role: Literal["vae", "image_encoder", "text_encoder", "teacher"]
    source: str
    revision: str | None = None
    licence: LicenceTerms


class ModelEntry(_Strict):
    """One generative model, and what it may be asked for."""

    id: CatalogId
    title: str = ""
    source: str = Field(description="Hub id, or a folder relative to the catalog file")
    revision: str | None = None
    family: str = Field(description="pipeline family, a key of factory.generators.families")
    custom_pipeline: str | None = None
    remote_code: bool = Field(False, description="allow the model's own code, if the recipe does too")
    required: tuple[Stream, ...] = ()
    optional: tuple[Stream, ...] = ()
    class_names: tuple[str, ...] | None = None
    width: int = Field(ge=8)
    height: int = Field(ge=8)
    mpp: float | None = Field(None, gt=0)
    token_limits: dict[str, int] = {}
    steps: int = Field(ge=1)
    guidance: float = Field(ge=0)
    scheduler: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    components: tuple[Component, ...] = ()
    training_data: tuple[str, ...] = ()
    labels_seen: bool | None = Field(None, description="was trained with the labels of that data")
    memory_gb: float | None = None
    licence: LicenceTerms
    pipeline_arguments: dict[str, Any] = Field({}, description="fixed arguments of every call")


class ClassifierEntry(_Strict):
    """A fitted classifier that filters may use."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._/-]*$")
    title: str = ""
    source: str = Field(description="folder relative to the catalog file")
    class_names: tuple[str, ...]
    training_data: tuple[str, ...] = ()
    licence: LicenceTerms


class ClassEntry(_Strict):
    """One class: its name in data, words for prompts."""

    name: str
    title: str
    synonyms: tuple[str, ...] = ()


class ClassesEntry(_Strict):
    """A named set of classes."""

    id: CatalogId
    title: str = ""
    source: str = ""
    classes: tuple[ClassEntry, ...] = Field(min_length=1)


class CaptionGrid(_Strict):
    """Captions as templates x attributes; each value may list synonyms, the first names it.

    `attributes` maps an attribute to its values; a value maps its name to its wordings. The grid is
    the product of templates, and of every wording of every value of each attribute that the
    template names in braces. `class_attribute` names the attribute whose value is the class.
    """

    id: CatalogId
    title: str = ""
    templates: tuple[str, ...] = Field(min_length=1)
    attributes: dict[str, dict[str, tuple[str, ...]]]
    class_attribute: str | None = None
