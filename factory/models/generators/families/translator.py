"""`translator`: one-pass networks from image to image: CUT, CycleGAN, AI-FFPE, pix2pix, U-Net++."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from factory.catalog.entries import ImageChannels
from factory.core.errors import InputError
from factory.data.records import Condition
from factory.data.streams import Source
from factory.models.generators import weights
from factory.models.generators.families.base import Family
from factory.models.translators import CONFIG, WEIGHTS, TranslatorConfig, read_config

if TYPE_CHECKING:
    from factory.models.generators.translator import TranslatorGenerator

CONVERT = "its folder is written from a checkpoint by `factory models convert --kind`"
_IDLE = ("steps", "guidance", "scheduler", "negative_prompt", "prompt_template", "variant")


class TranslatorFamily(Family):
    """Folders of `factory models convert --kind` and `factory train translator`.

    A network sees a source image once: no noise, no steps, no guidance. The same source gives the
    same image whatever the seed, so a second try at a request gives what the first one gave. One
    that was trained beside noise (`path_steps` of its `config.json`) draws an image for each seed,
    and may be told other `steps`.
    """

    kind = "translator"
    required = frozenset({Source.name})
    optional = frozenset({"class_name"})
    is_stepped = False

    @property
    def is_seeded(self) -> bool:  # type: ignore[override]
        """Whether its network begins at noise, where its folder is here."""
        return self.num_inference_steps is not None

    @property
    def num_inference_steps(self) -> int | None:
        """Steps from noise, as the recipe says, else the folder; None: one pass."""
        try:
            folder = self.find_folder(fetch=False)
        except InputError:  # told where it is loaded
            return None
        steps = None if folder is None else read_config(folder).path_steps
        return steps if steps is None else self.settings.steps or steps

    def load(self) -> "TranslatorGenerator":
        """Returns the generator.

        Raises:
            InputError: settings that change nothing.
        """
        from factory.models.generators.translator import TranslatorGenerator

        return TranslatorGenerator(self)

    @property
    def native_size(self) -> tuple[int, int] | None:
        """As the entry says; without one, as the folder does where it is here."""
        if self.entry is not None:
            return super().native_size
        folder = self.find_folder(fetch=False)
        if folder is None:
            return None
        config = read_config(folder)
        return config.width, config.height

    @property
    def channels(self) -> ImageChannels | None:
        """As the entry declares them; without one, by the names that the folder gives."""
        if self.entry is not None:
            return super().channels
        folder = self.find_folder(fetch=False)
        return None if folder is None else read_config(folder).channels

    def list_faults(self) -> Iterator[tuple[str, str]]:
        """Adds what steps and guides, of which a single pass reads nothing."""
        yield from super().list_faults()
        for name in _IDLE:
            if getattr(self.settings, name) is not None and not (
                name == "steps" and self.is_seeded
            ):
                yield name, f"a {self.kind} makes its image in one pass and reads none: remove it"
        if self.settings.adapters or (self.entry is not None and self.entry.adapters):
            yield "adapters", f"a {self.kind} takes none: remove them"
        yield from self._list_unfit()

    def _list_unfit(self) -> Iterator[tuple[str, str]]:
        """Yields a size that its network cannot make, where its folder is here."""
        try:
            folder = self.find_folder(fetch=False)
        except InputError:  # told where it is loaded
            return
        size = self.capabilities.width, self.capabilities.height
        unfit = None if folder is None else read_config(folder).find_unfit(*size)
        if unfit is not None:
            yield "width", unfit

    def explain_missing(self) -> str | None:
        """Says that its folder is not here, and how one is made."""
        try:
            folder = self.find_folder(fetch=False)
        except InputError:
            folder = None
        return None if folder is not None else "convert its checkpoint: models convert --kind"

    def check_condition(self, condition: Condition) -> None:
        """Checks that a condition has a source, and nothing that the network cannot read.

        Raises:
            InputError: it does not; says what the model takes.
        """
        required, optional = self.streams
        given = condition.shown
        wrong = [f"{name} is missing" for name in sorted(required - given)]
        wrong += [
            f"{name} is not supported" for name in sorted(given - required - (optional or set()))
        ]
        if wrong:
            takes = ", ".join(sorted(required | (optional or set())))
            told = f"model {self.settings.model} ({self.kind}): {'; '.join(wrong)}"
            raise InputError(f"{told}: it takes {takes}")
        self.check_streams(condition)

    @property
    def _place(self) -> tuple[str, str | None]:
        """The Hub id or folder, and the revision, as recipe and catalog say."""
        entry, settings = self.entry, self.settings
        source = settings.model if entry is None else entry.source
        return source, settings.revision or (None if entry is None else entry.revision)

    def find_folder(self, fetch: bool = True) -> Path | None:
        """Returns the folder of the weights; of a Hub id None, where it is not here nor fetched.

        Raises:
            InputError: no such folder or repository, or not one of a translator.
            GenerationError: gated, or the Hub cannot be reached.
        """
        source, revision = self._place
        local = weights.find_folder(source, self.base)
        if local is not None:
            if not (local / CONFIG).is_file() or not (local / WEIGHTS).is_file():
                raise InputError(f"{local}: has no {CONFIG} and {WEIGHTS}: {CONVERT}")
            return local
        if not fetch:
            return weights.find_cached(source, revision, WEIGHTS)
        try:
            folder = Path(weights.fetch_file(source, CONFIG, revision)).parent
            weights.fetch_file(source, WEIGHTS, folder.name)
        except InputError as error:
            raise InputError(f"{error}: {CONVERT}") from error
        return folder

    @cached_property
    def config(self) -> TranslatorConfig:
        """What its folder says, fetched where it is a Hub id; raises as `find_folder`."""
        folder = self.find_folder()
        if folder is None:
            raise InputError(f"model {self.settings.model}: is not here: {CONVERT}")
        return read_config(folder)
