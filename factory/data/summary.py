"""`summary.json`: what a finalized run says of itself: counts, funnel, makers, files."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from factory.data.artefact import Artefact, Part
from factory.data.provenance import ChannelsRecord, FilterRecord, GeneratorRecord


class References(Part):
    """How many real images a series varies, and the share of the one that it varies most."""

    used: int
    largest_share: float


class Share(Part):
    """How often a value was asked for, and how often accepted images say it."""

    asked: float
    accepted: float
    images: int


class SeriesPart(Part):
    """What a series is called."""

    key: str
    label: str
    class_names: tuple[str, ...]
    details: tuple[str, ...] | None = Field(
        None, description="what people are told of it besides, such as its prototypes"
    )


class BagsPart(Part):
    """Slides of a cohort: patches asked for of each, how many there are, and which lack some."""

    size: int
    slides: int
    short: int
    lacking: dict[str, int] = Field({}, description="slide -> patches that it lacks, most first")
    unshown: int = Field(0, description="slides that lost every patch that shows their label")


class EarlyPart(Part):
    """Tries that were looked at part-way, and what came of those that looked hopeless."""

    looked: int
    stopped: int
    checked: int = Field(description="hopeless ones that were finished all the same")
    passed: int = Field(description="of these, those that every filter accepts: false stops")


class StopTest(Part):
    """One test of `budget.stop`: what the newest block of a series changed."""

    series: str = Field(description="key")
    at: int = Field(description="requests of the series that were there")
    images: int = Field(description="accepted ones of these")
    sample: str = Field(description="digest of their sample ids; for utility of all series'")
    before: float | None = Field(None, description="figure without the newest block")
    after: float | None = Field(None, description="figure with it; None: too few images to tell")
    change: float | None = None
    low: float | None = None
    high: float | None = None
    units: int | None = Field(None, description="of utility: what the interval is over")
    by: str | None = Field(None, description="patients; or images, where no patient is told")
    stops: bool = Field(description="whether the series ends here")

    def is_within(self, tolerance: float) -> bool:
        """Whether its figures say that the series ends: the whole interval within +- this."""
        if self.low is None or self.high is None:
            return False
        return -tolerance <= self.low and self.high <= tolerance


class StopPart(Part):
    """How a series ended, of a recipe with `budget.stop`."""

    at: int | None = Field(description="requests after which it ended; None: it never did")
    beyond: int = Field(0, description="candidates made beyond that, which count nowhere")
    beside: int = Field(0, description="of these, those in shards that hold others")
    tests: tuple[StopTest, ...] = ()


class SeriesSummary(SeriesPart):
    """The funnel of one series: what was asked, made and kept, and why the rest was not."""

    references: References | None = None
    asked: int
    accepted: int
    generated: int
    spare: int
    rejected: dict[str, int]
    reasons: dict[str, int]
    short: int
    attributes: dict[str, dict[str, Share]] | None = Field(
        None, description="attribute -> value -> shares, where captions state them"
    )
    bags: BagsPart | None = Field(None, description="of a cohort")
    early: EarlyPart | None = Field(None, description="of a recipe with `early`")
    stop: StopPart | None = Field(None, description="of a recipe with `budget.stop`")

    @property
    def wanted(self) -> int:
        """Requests that were to be filled: those up to its end, where it ended early."""
        at = None if self.stop is None else self.stop.at
        return self.asked if at is None else min(at, self.asked)


class Cut(Part):
    """Candidates whose prompt a tokenizer cut, and the tokens that it dropped of them."""

    candidates: int
    tokens: int


class Files(Part):
    """The files of a data set: rows, and hashes and bytes by name, where they were recorded."""

    rows: int
    rejected_rows: int
    tars: int = 0
    sha256: dict[str, str] | None = None
    bytes: dict[str, int] | None = None


class JudgeSummary(Part):
    """An encoder that decided what is kept."""

    spec: str
    weights: str
    used_by: str


class Override(Part):
    """A licence that terms forbid, and who approved it."""

    license: str
    approved: str | None
    terms: tuple[str, ...]


class Forgot(Part):
    """How many patients a run forgot, and how many candidates it removed for them."""

    patients: int
    rows: int


class UsedPart(Part):
    """What a worker works with besides its model, and the terms of it as they were read."""

    role: str
    source: str
    licence: dict[str, Any] | None = None


class UsedEncoder(Part):
    """The encoder of a diverse pick, or of `budget.stop`."""

    id: str
    weights_sha256: str | None = None


class Maker(Artefact):
    """A worker's description of what it works with: model, filters, terms; named by its digest."""

    generator: GeneratorRecord
    filters: tuple[FilterRecord, ...]
    score_names: tuple[str, ...]
    dedup: dict[str, Any] | None = None
    pick_encoder: UsedEncoder | None = None
    stop_encoder: UsedEncoder | None = None
    terms: dict[str, str] | None = Field(
        None, description="of concepts: catalog, and the digest of its phrases"
    )
    scale: str | None = None
    licence: dict[str, Any] | None = None
    components: tuple[UsedPart, ...] = ()
    other_terms: tuple[UsedPart, ...] | None = None

    @property
    def model(self) -> str:
        """Id, name or folder of the model."""
        return self.generator.model


class Summary(Artefact):
    """A finalized run: what `--json` prints and the card is made of."""

    name: str
    recipe_sha256: str
    asked: int
    accepted: int
    judged: bool = False
    generated: int
    class_names: tuple[str, ...]
    series: tuple[SeriesSummary, ...]
    filters: tuple[dict[str, Any], ...]
    dedup: dict[str, Any] | None = None
    accept: str | None = None
    pick: dict[str, Any] | None = None
    early: dict[str, Any] | None = None
    stop: dict[str, Any] | None = None
    seconds: dict[str, float] = Field({})
    cut_prompts: dict[str, Cut] = Field({})
    missing_shards: int = 0
    approval: str | None = None
    source_terms: dict[str, Any] | None = None
    forgotten: Forgot | None = None
    makers: tuple[Maker, ...]
    digest: str
    encoders: tuple[JudgeSummary, ...] = ()
    warnings: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()
    files: Files | None = None
    license: str | None = None

    def list_recorded(self, filter_name: str) -> list[dict[str, Any]]:
        """Returns what its makers recorded of a filter."""
        found = (each for maker in self.makers for each in maker.filters)
        return [each.to_json() for each in found if each.kind == filter_name]

    @property
    def channels(self) -> ChannelsRecord | None:
        """The channels of its images beside RGB, where they have any."""
        return self.maker.channels if self.maker else None

    @property
    def maker(self) -> GeneratorRecord | None:
        """A generator of its images: all of one run make the same channels."""
        return next((each.generator for each in self.makers), None)

    @property
    def models(self) -> tuple[str, ...]:
        """Models that made its images, sorted."""
        return tuple(sorted({maker.model for maker in self.makers}))

    @property
    def candidates(self) -> int:
        """Candidates in its shards: those beyond the end of a series are not `generated`."""
        return self.generated + sum(part.stop.beside for part in self.series if part.stop)

    @property
    def wanted(self) -> int:
        """Requests that were to be filled; of series that ended early, those up to their end."""
        return sum(part.wanted for part in self.series)

    @property
    def shortfalls(self) -> tuple[SeriesSummary, ...]:
        """Series with fewer accepted than asked."""
        return tuple(part for part in self.series if part.short)

    @property
    def rejected(self) -> dict[str, int]:
        """Filter -> candidates that it rejected, over all series, most first."""
        total: Counter[str] = Counter()
        for part in self.series:
            total.update(part.rejected)
        return dict(total.most_common())

    @property
    def hashes(self) -> Mapping[str, str]:
        """Name -> sha256 of each file; empty where none were recorded."""
        return (self.files.sha256 if self.files else None) or {}

    @property
    def varies_real_images(self) -> bool:
        """Whether images are variations of real ones."""
        return any(part.references for part in self.series)

    def change(self, **values: Any) -> "Summary":
        """Returns it with other values, checked; they count as given."""
        return Summary.model_validate({**self.to_json(), **values})
