"""What stands in a catalog: models, encoders, classifiers and classes, each with its terms."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from factory.catalog.captions.grid import CatalogId

Stream = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""Name of a stream: packages add their own."""


Pooling = Literal["default", "cls", "cls+mean"]


class Strict(BaseModel):
    """Base of everything read from YAML: frozen, and unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), defer_build=True, allow_inf_nan=False
    )


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFraction = Annotated[float, Field(gt=0.0, le=1.0)]
Byte = Annotated[int, Field(ge=0, le=255)]
ClassName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]


class LicenceTerms(Strict):
    """Terms of a model as read on a date; None means that the page did not say."""

    id: str = Field(description="licence id as the Hub writes it, e.g. apache-2.0")
    url: str = ""
    date_read: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    commercial_use: bool | None = None
    redistribution_of_outputs: bool | None = None
    training_on_outputs: bool | None = None
    dataset_generation: bool | None = None
    reaches_datasets: bool | None = Field(
        None, description="its restrictions bind data sets that it only filtered, too"
    )
    gated: bool = False
    attribution: tuple[str, ...] = ()
    note: str = ""


class Component(Strict):
    """A further set of weights that a model needs: a VAE or a conditioning encoder."""

    role: Literal["vae", "image_encoder", "text_encoder", "teacher"]
    source: str
    revision: str | None = None
    licence: LicenceTerms


class Adapter(Strict):
    """A LoRA or IP-Adapter in safetensors, by Hub id or local folder."""

    source: str = Field(
        min_length=1, description="Hub id, or folder relative to the recipe or catalog file"
    )
    weight_name: str | None = Field(None, description="file name inside the source")
    revision: str | None = None
    scale: float = Field(1.0, ge=-10.0, le=10.0)
    licence: LicenceTerms | None = Field(None, description="its terms as you read them, with date")


class TakenEmbedding(Strict):
    """The embeddings that a model is conditioned on."""

    encoder: str = Field(min_length=1, description="catalog id or Hub id of what makes them")
    dim: int = Field(ge=1)
    tokens: int = Field(
        1, ge=1, description="of one image: 16 where it is a grid of 4 x 4 crops, row by row"
    )


class TakenVector(Strict):
    """The named values that a model is conditioned on."""

    names: tuple[str, ...] = Field(min_length=1, description="in the order of the model's inputs")


class TakenControl(Strict):
    """What the masks of a model mark, by the names that recipes give their masks' ids."""

    palette: dict[ClassName, Annotated[int, Field(ge=1, le=255)]] = Field(
        min_length=1, description="name -> id that the model was taught"
    )


class Measured(Strict):
    """What `factory models adopt` measured of a model, on one device."""

    device: str
    seconds_per_image: float = Field(ge=0, description="one image at the entry's size and steps")
    batch_sizes: tuple[int, ...] = Field(description="that fit, of those that were tried")
    caption_words: int | None = Field(
        None, ge=0, description="short words of a caption that reach the image, the last one too"
    )
    libraries: dict[str, str] = {}


class ImageChannel(Strict):
    """One channel of an image, and how composites show it."""

    name: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]+$")
    unit: str = Field("", description="of its values, e.g. probability; empty: arbitrary")
    color: tuple[Byte, Byte, Byte] | None = Field(
        None, description="RGB in composites; without one it is left out, if another has one"
    )
    window: tuple[float, float] | None = Field(
        None,
        description="values that composites show as black and in full colour; default: the 1st and "
        "99.8th percentile of each image",
    )

    @field_validator("window")
    @classmethod
    def _check_window(cls, window: tuple[float, float] | None) -> tuple[float, float] | None:
        if window is not None and window[0] >= window[1]:
            raise ValueError(f"must rise, or composites are black, got {[*window]}: black first")
        return window


class ImageChannels(Strict):
    """The channels of a model's images, in their order."""

    dtype: Literal["uint8", "uint16", "float16", "float32"] = "float32"
    named: tuple[ImageChannel, ...] = Field(min_length=1)

    @field_validator("named")
    @classmethod
    def _check_names(cls, named: tuple[ImageChannel, ...]) -> tuple[ImageChannel, ...]:
        names = [each.name for each in named]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"channel {twice!r} stands twice: give each a name of its own")
        return named


class CallArgument(Strict):
    """How one stream enters the call of a pipeline."""

    argument: str = Field(pattern=r"^[A-Za-z_]\w*$", description="of the pipeline's call")
    shape: Literal[
        "image", "mask", "mask array", "pixels", "row token dim", "row dim", "pair token dim"
    ] = Field(
        "image",
        description="a list of RGB images or of masks (white where an id is), such a mask of one "
        "image as bytes (height, width, 3), a tensor (row, 3, height, width) in [-1, 1], or an "
        "array; `pair` has the null rows first",
    )
    listed: bool = Field(False, description="the array stands in a list of one, as IP-Adapters ask")
    null_argument: str | None = Field(None, description="argument that takes the null rows")
    null: str = Field("zeros", description="zeros, or the pipeline's method of a number of rows")
    colors: dict[str, tuple[int, int, int]] = Field(
        {}, description="RGB of a control map's names; others get a color by their id"
    )


State = Literal[
    "runs here",
    "runs here on tiny weights",
    "adapter written, weights not tried",
    "cannot be loaded",
]


class Status(Strict):
    """How far a model was tried with this version of factory, and what shows it."""

    state: State
    test: str = Field(
        "", description="that shows it: FILE::NAME in tests/, with [CASE] where it has several"
    )
    why: str = Field("", description="what was not tried, or why it cannot be loaded")

    @model_validator(mode="after")
    def _check(self) -> Self:
        runs = self.state.startswith("runs here")
        if runs and not self.test:
            raise ValueError(f"state {self.state!r} needs a test that shows it: add test")
        if not runs and not self.why:
            raise ValueError(f"state {self.state!r} needs a reason: add why")
        return self

    @property
    def words(self) -> str:
        """The state, and why it is no better."""
        return f"{self.state}: {self.why}" if self.why else self.state


class RuntimeEnv(Strict):
    """Other packages and variables for the workers of one generator: Ray's `runtime_env`.

    Paths of wheel files and folders are relative to the recipe, and must be there on every node.
    """

    paths: tuple[str, ...] = Field(
        (),
        description="folders of packages, as `pip install --target` makes them, that workers look "
        "in first: ready at once, as nothing is installed",
    )

    pip: tuple[str, ...] = Field((), description="requirements, as pip reads them, or wheel files")
    env_vars: dict[str, str] = Field({}, description="variables of the environment")


class ModelEntry(Strict):
    """One generative model, and what it may be asked for.

    With `base`, every field that the file does not set is that entry's, but for `status`; its
    adapters come first.
    """

    id: CatalogId
    title: str = ""
    status: Status | None = Field(None, description="how far it was tried; None: nobody says")
    base: CatalogId | None = Field(None, description="entry that this one adapts")
    source: str = Field(description="Hub id, or a folder relative to the catalog file")
    revision: str | None = None
    family: str = Field(description="generator family")
    custom_pipeline: str | None = None
    remote_code: bool = Field(
        False, description="allow the model's own code, if the recipe does too"
    )
    required: tuple[Stream, ...] = ()
    optional: tuple[Stream, ...] = ()
    class_names: tuple[str, ...] | None = None
    embedding: TakenEmbedding | None = Field(None, description="what the stream must hold")
    vector: TakenVector | None = Field(None, description="likewise")
    control: TakenControl | None = Field(None, description="what its masks may mark; default: any")
    width: int = Field(ge=8)
    height: int = Field(ge=8)
    mpp: float | None = Field(None, gt=0)
    scale: str | None = Field(
        None, description="µm per pixel in words, where its training images share no single one"
    )
    channels: ImageChannels | None = Field(
        None, description="named channels of its images, beside the RGB composite"
    )
    token_limits: dict[str, int] = {}
    steps: int = Field(ge=1)
    guidance: float = Field(ge=0)
    scheduler: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    components: tuple[Component, ...] = ()
    training_data: tuple[str, ...] = ()
    labels_seen: bool | None = Field(None, description="was trained with the labels of that data")
    memory_gb: float | None = None
    runtime_env: RuntimeEnv | None = Field(
        None, description="library versions that the model needs, where they are not factory's"
    )
    licence: LicenceTerms
    pipeline_arguments: dict[str, Any] = Field({}, description="fixed arguments of every call")
    call: dict[Stream, tuple[CallArgument, ...]] = Field(
        {}, description="stream -> arguments that it becomes, where family `diffusers` cannot tell"
    )
    guidance_kind: Literal["step", "call", "distilled", "none"] | None = Field(
        None,
        description="whether the scale is read at every step, so that a schedule works, once, as a "
        "number for the network, or not at all; None: as the family has it",
    )
    one_per_call: bool | None = Field(
        None, description="one image a call, as images of one call mix; None: as the family has it"
    )
    measured: Measured | None = None
    unproven: tuple[str, ...] = Field((), description="what adoption could not prove, and why")
    adapters: tuple[Adapter, ...] = Field((), description="loaded before those of the recipe")
    prompt_template: str | None = Field(
        None, description="text for a class condition on a text model, with {class_name}"
    )
    class_prompts: dict[str, str] = Field(
        {}, description="class name -> words that stand for it in the template"
    )

    @field_validator("prompt_template")
    @classmethod
    def _check_template(cls, template: str | None) -> str | None:
        if template is not None and "{class_name}" not in template:
            raise ValueError(f"must hold {{class_name}}, got {template!r}: add it")
        return template


class EncoderEntry(Strict):
    """An image encoder, with what its card demands to load it and to read its features."""

    id: CatalogId
    title: str = ""
    source: str = Field(
        description="what `factory.models.encoders` reads, e.g. timm:hf-hub:OWNER/NAME; "
        "a folder relative to the catalog file"
    )
    revision: str | None = None
    arguments: dict[str, Any] = Field(
        {}, description="of timm.create_model; layers by name: SwiGLUPacked, SiLU"
    )
    pooling: Pooling = Field("default", description="which tokens make the features")
    image_size: int | None = Field(None, ge=8, description="px that images are resized to")
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    dim: int = Field(ge=1)
    space: str | None = Field(
        None, description="encoder that its features stand for, where a flow moves that one's"
    )
    reads_text: bool = Field(False, description="has a text side: zero_shot and alignment take it")
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    batch_size: int = Field(16, ge=1, description="images of one forward, padded to it")
    training_data: tuple[str, ...] = ()
    labels_seen: bool | None = Field(None, description="was trained with the labels of that data")
    licence: LicenceTerms


class ClassifierEntry(Strict):
    """A fitted classifier that filters may use."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._/-]*$")
    title: str = ""
    source: str = Field(description="folder relative to the catalog file")
    class_names: tuple[str, ...]
    training_data: tuple[str, ...] = ()
    licence: LicenceTerms


class PathwaysEntry(Strict):
    """A named collection of gene sets."""

    id: CatalogId
    title: str = ""
    source: str = Field(description=".gmt file, relative to the catalog file")
    licence: LicenceTerms


class ClassEntry(Strict):
    """One class: its name in data, words for prompts."""

    name: str
    title: str
    synonyms: tuple[str, ...] = ()


class ClassesEntry(Strict):
    """A named set of classes."""

    id: CatalogId
    title: str = ""
    source: str = ""
    classes: tuple[ClassEntry, ...] = Field(min_length=1)
