"""What a family is: the streams that its models take, their checks, and the way to a generator."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from factory.catalog.catalog import ModelEntry
from factory.catalog.entries import ImageChannels
from factory.core.errors import InputError
from factory.data.records import Condition
from factory.models.generators.base import Capabilities, Generator
from factory.models.generators.settings import GeneratorSettings, Guidance, TaylorSeer
from factory.models.session import Session

_USUAL = frozenset({"class_name", "caption", "reference"})


class Family(ABC):
    """One kind of model, here of one recipe; a subclass names its kind and loads a generator.

    It owns all that is particular to the kind. Making one loads nothing, so that `factory validate`
    can ask it. What differs from model to model is set by `adjust`.

    Args:
        settings: the recipe's generator section.
        entry: the model's catalog entry, if it has one; its `source` is a Hub id or a folder,
            absolute or relative to `base`.
        base: the recipe's folder, against which relative paths resolve.
        session: which has a guiding classifier; None: one of its own.

    Attributes:
        kind: its name, in catalogs and as entry point.
        required: streams that a condition must have.
        optional: those that it may have; None: any.
        generates: False where images that are there are handed on.
        is_seeded: False where the seed changes nothing, so that every try gives the same image.
        is_stepped: False where one pass makes an image, so that there are no steps to ask for.
        is_on_record: its models cannot run: catalogs have them for their terms alone.
        is_general: reads what no other family does.
        sized: makes images of any width and height; otherwise the model fixes them.
        predicts: what its scheduler steps; None where none of diffusers is asked.
        shifts: gives the scheduler its own sigmas and a shift.
        guidable: can be led by a classifier.
        guides_streams: has a guidance of its own for each stream.
        pauses: its generator is `Pausable`.
        takes_guider: its guidance may be made by a guider, not as its pipeline does.
        runs_fast: its networks may run as `speed` says.
        caches: kinds of caches that may leave out parts of its networks; the network decides.
        paints_masks: masks beside a source say what of it is made anew.
        objective: `module:Class` that adapts its models, as `factory.train` imports it.
    """

    kind: ClassVar[str]
    required: frozenset[str] = frozenset()
    optional: frozenset[str] | None = frozenset()
    generates: bool = True
    is_seeded: bool = True
    is_stepped: bool = True
    is_on_record: bool = False
    is_general: bool = False
    sized: bool = True
    predicts: Literal["noise", "flow"] | None = None
    shifts: bool = False
    guidable: bool = False
    guides_streams: bool = False
    pauses: bool = False
    takes_guider: bool = False
    runs_fast: bool = False
    caches: frozenset[str] = frozenset()
    paints_masks: bool = False
    objective: str | None = None

    def __init__(
        self,
        settings: GeneratorSettings,
        entry: ModelEntry | None = None,
        base: Path = Path(),
        session: Session | None = None,
    ) -> None:
        self.settings, self.entry, self.base = settings, entry, base
        self.session = session or Session.open(base)
        self.adjust()

    def adjust(self) -> None:  # noqa: B027
        """Sets what differs from model to model, once settings, entry, base and session are."""

    @abstractmethod
    def load(self) -> Generator:
        """Returns the generator; its weights are loaded at the first need.

        Raises:
            InputError: settings that contradict each other or the model.
        """

    @classmethod
    def reads(cls, index: Mapping[str, Any]) -> bool:
        """Tells whether the model_index.json of a folder is of this family."""
        return False

    @property
    def title(self) -> str:
        """What messages call what is sampled."""
        return self.kind

    @property
    def streams(self) -> tuple[frozenset[str], frozenset[str] | None]:
        """Streams required and optional (None: any), as family and catalog entry say together."""
        entry, required, optional = self.entry, self.required, self.optional
        if entry is None or not (entry.required or entry.optional):
            return required, optional
        known = frozenset(entry.optional)
        if optional is not None:
            known &= required | optional
        required = required | frozenset(entry.required)
        return required, known - required

    @property
    def num_inference_steps(self) -> int | None:
        """Steps of an image; None where there are none."""
        return None

    @property
    def guidance_scale(self) -> float | Guidance | None:
        """Guidance; None where there is none."""
        return None

    @property
    def translations(self) -> frozenset[str]:
        """Ways by which its models translate a source (`factory.data.streams.source.Method`)."""
        required, optional = self.streams
        is_taken = optional is None or "source" in required | optional
        return frozenset({"model"}) if is_taken else frozenset()

    @property
    def native_size(self) -> tuple[int, int] | None:
        """Width and height, px, of its images where none are asked for; None: not known yet."""
        return None if self.entry is None else (self.entry.width, self.entry.height)

    @property
    def channels(self) -> ImageChannels | None:
        """The channels of its images beside the RGB composite; None: RGB alone."""
        return None if self.entry is None else self.entry.channels

    @property
    def capabilities(self) -> Capabilities:
        """What may be asked of a generator that needs no weights to tell."""
        (required, optional), entry = self.streams, self.entry
        width, height = self.native_size or (64, 64)
        return Capabilities(
            required=required,
            optional=_USUAL if optional is None else optional,
            class_names=None if entry is None else entry.class_names,
            width=self.settings.width or width,
            height=self.settings.height or height,
            mpp=None if entry is None else entry.mpp,
            token_limits={},
            channels=self.channels,
        )

    def list_faults(self) -> Iterator[tuple[str, str]]:
        """Yields settings that cannot be, or have no effect: field, and what is wrong with it."""
        if self.settings.classifier_guidance is not None and not self.guidable:
            message = f"{self.settings.model} is of family {self.kind!r}, which cannot be guided"
            remedy = "remove it, or take a model of family 'flow', e.g. nano-he-base"
            yield "classifier_guidance", f"{message}: {remedy}"
        if self.settings.stream_guidance is not None and not self.guides_streams:
            message = f"{self.settings.model} is of family {self.kind!r}, which has one guidance"
            yield "stream_guidance", f"{message}: give guidance instead"
        yield from self._list_cache_faults()
        if self.settings.speed is not None and not self.runs_fast:
            message = f"{self.settings.model} is of family {self.kind!r}, which samples with no"
            yield "speed", f"{message} network of diffusers or of ours: remove it"
        elif (
            self.settings.speed is not None and self.settings.speed.compile and self.settings.cache
        ):
            yield "speed.compile", "a cache leaves out what would be compiled whole: remove one"
        if self.settings.guider is None:
            return
        if not self.takes_guider:
            message = f"{self.settings.model} is of family {self.kind!r}, whose pipeline guides"
            yield "guider", f"{message} by itself: remove it, or take one of flow or multi"
        elif self.guidance_scale == 1.0 and not self.settings.stream_guidance:
            yield "guider", "has no effect at guidance 1: raise generator.guidance, or remove it"

    def _list_cache_faults(self) -> Iterator[tuple[str, str]]:
        cache, steps = self.settings.cache, self.num_inference_steps
        if cache is None:
            return
        if cache.kind not in self.caches:
            message = f"{self.settings.model} is of family {self.kind!r}, whose network has nothing"
            known = ", ".join(sorted(self.caches)) or "no cache has"
            yield "cache", f"{message} that {cache.kind} could leave out ({known}): remove it"
        elif steps is not None and (idle := self.explain_idle_cache(steps)) is not None:
            yield "cache", f"{idle}: lower it"

    def explain_idle_cache(self, steps: int) -> str | None:
        """Says that the cache leaves out none of so many steps, or None."""
        cache = self.settings.cache
        if not isinstance(cache, TaylorSeer) or cache.start < steps:
            return None
        return f"start {cache.start} leaves out none of {steps} steps"

    def replace(self, streams: frozenset[str]) -> frozenset[str]:
        """Returns the streams that need not be there beside these."""
        return frozenset()

    def check_streams(self, condition: Condition) -> None:
        """Checks that what streams hold is what the catalog entry says.

        Raises:
            InputError: it is not; says what the model takes.
        """
        if self.entry is None:
            return
        for stream in condition.streams:
            fault = stream.find_misfit(self.entry)
            if fault is not None:
                raise InputError(f"{stream.name}: {fault}")

    def explain_missing(self) -> str | None:
        """Says what the model lacks to run here, or None; asks the disk, never the network."""
        return None

    def describe_index(
        self, index: Mapping[str, Any]
    ) -> tuple[tuple[str, ...] | None, frozenset[str]]:
        """Returns classes (None: not told) and missing streams of a model by model_index.json."""
        return None, frozenset()


def read_index(folder: Path) -> dict[str, Any]:
    """Reads a pipeline folder's model_index.json.

    Raises:
        InputError: missing or not a JSON object.
    """
    path = folder / "model_index.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}): give a diffusers pipeline") from error
    if not isinstance(index, dict):
        raise InputError(f"{path}: must hold an object, got {type(index).__name__}")
    return index


def name_class(index: Mapping[str, Any]) -> str | None:
    """Returns the pipeline's class by a model_index.json."""
    name = index.get("_class_name")
    return str(name[-1]) if isinstance(name, list) else name


def name_component(index: Mapping[str, Any], component: str) -> str:
    """Returns the class of a component by a model_index.json; empty where there is none."""
    return str((index.get(component) or ("",))[-1] or "")
