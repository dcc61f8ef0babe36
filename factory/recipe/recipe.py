"""The recipe: the validated YAML that a person writes, and its content fingerprint."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PrivateAttr, TypeAdapter, ValidationInfo, field_validator

from factory.catalog.acceptance import parse_rule
from factory.catalog.entries import Fraction, Strict
from factory.catalog.terms import Concepts
from factory.core.any_settings import annotate_settings
from factory.core.hashing import compute_digest, drop_none
from factory.data.family import Family
from factory.data.streams.base import HasFields, Stream
from factory.filters import FILTERS
from factory.filters.base import FilterSettings
from factory.models.encoders import EncoderSpec
from factory.models.generators.settings import GeneratorSettings
from factory.recipe.conditions import CONDITIONS, ConditionKind
from factory.recipe.conditions.base import ConditionSettings as AnyConditionSettings
from factory.recipe.conditions.family import list_varied
from factory.recipe.earlier import NEAR_DUPLICATE, find_place, join_duplicates, split_duplicates
from factory.recipe.early import Early
from factory.recipe.stop import Stop

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,95}$")]


if TYPE_CHECKING:
    ConditionSettings = AnyConditionSettings
else:
    ConditionSettings = annotate_settings(CONDITIONS)


# --- picking ---


class BestPick(Strict):
    """Keeps the images that a score ranks best, of more accepted ones than asked for."""

    keep: Literal["best"]
    by: str = Field(
        min_length=1, description="score, e.g. class_probability; with a minus: lowest first"
    )
    pool: float = Field(2.0, gt=1.0, le=100.0, description="accepted images per image kept")


class DiversePick(Strict):
    """Keeps the images that cover the others best, of more accepted ones than asked for."""

    keep: Literal["diverse"]
    method: Literal["facility_location", "kmeans"] = "facility_location"
    encoder: EncoderSpec = Field(
        "color-texture", description="image encoder whose features are covered"
    )
    pool: float = Field(2.0, gt=1.0, le=100.0, description="accepted images per image kept")


PickSettings = Annotated[BestPick | DiversePick, Field(discriminator="keep")]


# --- the rest ------------------------------------------------------------------------------------


class Budget(Strict):
    """How much work a request and a run may cost."""

    attempts: int = Field(5, ge=1, le=1000, description="candidates per request")
    on_shortfall: Literal["warn", "error"] = Field("warn", description="error: write no data set")
    retries: int = Field(2, ge=0, le=100, description="of a shard whose worker failed")
    max_error_rate: Fraction = Field(0.1, description="quarantined shards that stop the run")
    stop: Stop | None = Field(
        None, description="ends series that more images no longer change; default: none ends early"
    )


class Workers(Strict):
    """Who does the work; never shapes the content."""

    executor: Literal["auto", "local", "ray"] = "auto"
    count: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"] = "auto"
    cpus: float = Field(1.0, gt=0.0, description="per Ray worker")
    gpus: Annotated[float, Field(ge=0.0)] | Literal["auto"] = Field(
        "auto", description="per Ray worker; a share, such as 0.5, lets several use one GPU"
    )
    resources: dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0.0)]] = Field(
        {}, description="further resources of Ray per worker, by the names that its nodes have"
    )
    autoscales: bool = Field(
        False, description="the cluster adds nodes for workers that wait: none is refused for room"
    )
    address: str | None = Field(
        None, description="Ray address, auto or local; default: RAY_ADDRESS, or Ray of our own here"
    )
    wait: float = Field(
        600.0, gt=0.0, description="seconds until a cluster without room for a worker ends the run"
    )

    @field_validator("resources")
    @classmethod
    def _check_resources(cls, resources: dict[str, float]) -> dict[str, float]:
        for name, field in (("CPU", "cpus"), ("GPU", "gpus")):
            if name in resources:
                raise ValueError(f"{name} is not a further resource: give it as workers.{field}")
        return resources


class Output(Strict):
    """Where and in which form the data set lands."""

    path: str | None = Field(None, description="run folder or URL; --out overrides it")
    formats: tuple[Literal["parquet", "webdataset"], ...] = Field(("parquet",), min_length=1)
    image_format: Literal["webp", "png"] = Field("webp", description="both lossless")
    keep_rejected: Literal["images", "scores"] = "images"
    shard_size: int | None = Field(
        None, ge=1, le=100_000, description="requests per shard; default: 64, less in a small run"
    )
    rows_per_file: int = Field(
        10_000,
        ge=1,
        description="rows of a final parquet file or tar; more where there would be over 10,000 "
        "files in a folder, which the Hub refuses",
    )


class Card(Strict):
    """What the dataset card says that cannot be measured."""

    license: str = Field("other", min_length=1, description="Hub licence id of the data set")
    license_name: str | None = Field(None, description="of a licence `other`, e.g. my-licence-1.0")
    license_link: str | None = Field(
        None, description="URL of a licence `other`; default: LICENSE.md, its makers' terms"
    )
    pretty_name: str | None = None
    description: str = ""
    citation: str = ""
    tags: tuple[str, ...] = ()
    authors: tuple[str, ...] = Field((), description="`Family, Given`, or the name of a group")
    source_license: str | None = Field(
        None, description="Hub licence id of the real images that are varied or judged"
    )
    source_attribution: tuple[str, ...] = Field((), description="whom to name for those images")
    source_datasets: tuple[str, ...] = Field((), description="Hub ids of those images' data sets")


class Dedup(Strict):
    """Removes near-duplicates within a series of the data set; the earlier request stays."""

    max_similarity: Fraction = Field(0.97, description="over all flips and quarter turns")

    def describe(self) -> dict[str, Any]:
        """Returns the settings, and the revision of what is compared, for provenance."""
        from factory.core.thumbnails import REVISION

        return {**self.model_dump(mode="json"), "revision": REVISION}


class Terms(Strict):
    """Concepts that rows name: column `concepts`, by the synonyms of a catalog."""

    catalog: str = Field("pathology", description="catalog id of terms")
    strict: bool = Field(False, description="phrases without a concept are errors of the recipe")


if TYPE_CHECKING:
    AnyFilter = FilterSettings
else:
    AnyFilter = annotate_settings(FILTERS)


class Recipe(Strict):
    """A synthetic data set, declared."""

    name: Name
    seed: int = Field(0, ge=0, lt=2**63)
    description: str = ""
    catalogs: tuple[Path, ...] = Field((), description="user catalog folders, searched first")
    generator: GeneratorSettings
    conditions: tuple[ConditionSettings, ...] = Field(min_length=1)
    filters: tuple[AnyFilter, ...] = ()
    dedup: Dedup | None = Field(None, description="removes near-duplicates; default: none does")
    accept: str | None = Field(
        None, description="filter kinds with and, or, not; default: all must accept"
    )
    terms: Terms | None = Field(None, description="concepts of captions and classes, in each row")
    pick: PickSettings | None = Field(None, description="which accepted images are kept")
    early: Early | None = Field(None, description="stops hopeless tries part-way; default: none")
    budget: Budget = Budget()
    workers: Workers = Workers()
    output: Output = Output()
    card: Card = Card()

    _dedup_place: int | None = PrivateAttr(None)
    """Where the filter stood that an earlier version recorded for `dedup`; None: last."""

    @property
    def blocks(self) -> tuple[ConditionKind, ...]:
        """Its condition blocks, each as its kind."""
        return tuple(CONDITIONS.get(each.kind)(each) for each in self.conditions)

    @property
    def streams(self) -> tuple[type[Stream], ...]:
        """The streams that its conditions may hold, each once."""
        varied = (each for block in self.blocks for each in list_varied(block.settings.vary))
        held = (stream for block in self.blocks for stream in block.held)
        return tuple(dict.fromkeys((*held, *varied)))

    @property
    def has_families(self) -> bool:
        """Whether some of its images vary one thing and share all else."""
        return any(block.settings.vary is not None for block in self.blocks)

    @property
    def columns(self) -> tuple[type[HasFields], ...]:
        """What adds columns to its rows: the streams, and terms and families where it has some."""
        families = [Family] if self.has_families else []
        return (*self.streams, *([Concepts] if self.terms else []), *families)

    @field_validator("filters")
    @classmethod
    def _check_unique_filters(cls, filters: tuple[FilterSettings, ...]) -> Any:
        kinds = [settings.name for settings in filters]
        repeated = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if repeated:
            got = ", ".join(repeated)
            raise ValueError(f"each kind once, got {got} more than once: remove one")
        return filters

    @field_validator("accept")
    @classmethod
    def _check_accept(cls, accept: str | None, info: ValidationInfo) -> str | None:
        if accept is None or "filters" not in info.data:
            return accept
        known = [each.name for each in info.data["filters"]]
        for kind in parse_rule(accept).kinds:
            if kind in ("dedup", NEAR_DUPLICATE):
                raise ValueError("dedup compares accepted images and always counts")
            if kind not in known:
                listed = ", ".join(known) or "none"
                raise ValueError(f"no filter {kind!r} in the recipe: it has {listed}")
        return accept


def restore_recipe(recorded: Mapping[str, Any] | bytes) -> Recipe:
    """Returns a recipe as a run recorded it, in this version or an earlier one.

    Raises:
        ValidationError: it is none.
    """
    data = _MAPPING.validate_json(recorded) if isinstance(recorded, bytes) else recorded
    recipe = Recipe.model_validate(split_duplicates(data))
    recipe._dedup_place = find_place(data)
    return recipe


def select_deciding(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what of a recorded recipe decides which images are kept; where files lie does not."""
    data = split_duplicates(recorded)
    names = ("filters", "dedup", "accept", "pick")
    return {name: _drop_paths(drop_none(data.get(name))) for name in names}


_MAPPING = TypeAdapter(dict[str, Any])


def list_kept_encoders(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yields `pick` or `stop` and the encoder whose features rows keep for it; one at most."""
    if isinstance(recipe.pick, DiversePick):
        yield "pick", recipe.pick.encoder
    if recipe.budget.stop is not None:
        yield "stop", recipe.budget.stop.encoder


def is_judging(recipe: Recipe) -> bool:
    """Whether the recipe judges images that are there, instead of making some."""
    return all(block.is_existing for block in recipe.blocks)


NOT_CONTENT: dict[str, frozenset[str] | None] = {
    "description": None,
    "catalogs": None,
    "generator": frozenset({"approval", "runtime_env"}),
    "workers": None,
    "card": None,
    "output": frozenset({"path", "formats", "shard_size", "rows_per_file"}),
    "budget": frozenset({"on_shortfall", "retries", "max_error_rate"}),
}
"""Fields left out of the fingerprint (None: the whole section): they shape no row's content."""

PATH_FIELDS = frozenset({"images", "held_out"})
"""Fields of conditions and filters that are always paths."""


def select_content(recipe: Recipe) -> dict[str, Any]:
    """Returns the recipe's content-shaping fields as plain data.

    Paths are left out, so that files may move: what they point to enters through the series keys of
    the plan, the weights' hash and the filters' revisions instead. So are fields that are None, so
    that a field which came later, unused, leaves the fingerprint of older recipes as it was.
    """
    content: dict[str, Any] = recipe.model_dump(mode="json")
    content["conditions"] = [block.describe_content() for block in recipe.blocks]
    for section, fields in NOT_CONTENT.items():
        if fields is None:
            content.pop(section)
        else:
            for name in fields:
                content[section].pop(name)
    for adapter in content["generator"]["adapters"]:
        adapter.pop("licence")
    for judge in content["filters"]:
        if judge["kind"] == "python":
            judge.pop("declared", None)  # follows from the source, whose hash counts
    without_paths: dict[str, Any] = _drop_paths(drop_none(content))
    return without_paths


def _drop_paths(value: Any) -> Any:
    """Drops fields named in PATH_FIELDS, and cuts texts that are folders to their kind.

    A published recipe has `.../NAME` for an absolute path, and the same fingerprint.
    """
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if key not in PATH_FIELDS}
        return {key: _drop_paths(each) for key, each in kept.items()}
    if isinstance(value, list):
        return [_drop_paths(each) for each in value]
    is_path = isinstance(value, str) and value.startswith(("/", "./", "../", ".../", "~"))
    return "(path)" if is_path else value


def compute_recipe_digest(recipe: Recipe) -> str:
    """Returns the fingerprint of the recipe's content: the `recipe_sha256` column."""
    return compute_digest("recipe", join_duplicates(select_content(recipe), recipe._dedup_place))
