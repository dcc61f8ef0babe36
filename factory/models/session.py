"""A session: what all parts of one piece of work share, opened once and passed down."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from factory.catalog.catalog import Catalogs, load_catalogs
from factory.data.images.reader import ImageReader
from factory.models.classifiers.model import Classifier, load_classifier
from factory.models.encoders.pool import EncoderPool


class Session:
    """Catalogs, the folder of the recipe, real images and models that judge, each opened once.

    A worker is sent its driver's session: with the catalog entries that were read and the hashes of
    real images, without models.

    Args:
        catalogs: of models, encoders, classifiers, classes and captions.
        base: folder of the recipe, which relative paths start from.
        device: of encoders, where nobody asks for another.

    Attributes:
        catalogs: as given.
        base: as given, as an absolute path: a worker may stand elsewhere.
        encoders: of filters, of what picks and of guidance.
        images: reads real images.
    """

    def __init__(self, catalogs: Catalogs, base: Path = Path(), device: str = "auto") -> None:
        self.catalogs, self.base = catalogs, base.absolute()
        self.encoders = EncoderPool(catalogs, device)
        self.images = ImageReader()
        self._classifiers: dict[tuple[str, str | None], Classifier] = {}

    @classmethod
    def open(cls, base: Path = Path(), folders: Sequence[Path] = ()) -> Self:
        """Opens catalog folders, and the shipped catalogs behind them.

        Raises:
            CatalogError: a folder that is missing or holds no kind of entry.
        """
        return cls(load_catalogs(folders), base)

    def resolve(self, path: Path | str) -> Path:
        """Returns a path of the recipe as one that can be opened."""
        return self.base / Path(path).expanduser()

    def find_classifier_folder(self, model: str) -> Path:
        """Returns the folder of a classifier, by catalog id or path.

        Raises:
            RecipeError: its catalog file is wrong.
        """
        return self.catalogs.find_classifier_folder(model) or self.resolve(model)

    def load_classifier(self, model: str, device: str | None = None) -> Classifier:
        """Returns a classifier by catalog id or path, on an encoder of the session.

        Raises:
            InputError: a file is missing, damaged or from another encoder version.
        """
        key = model, device
        if key not in self._classifiers:
            folder = self.find_classifier_folder(model)
            self._classifiers[key] = load_classifier(folder, device, encoders=self.encoders)
        return self._classifiers[key]

    def renew(self) -> Self:
        """Returns a session that knows the same of catalogs and images, and has no model yet.

        So a worker judges by the models that lie there when it starts, and keeps none afterwards.
        """
        fresh = type(self)(self.catalogs, self.base, self.encoders.device)
        fresh.images = self.images
        return fresh

    def __getstate__(self) -> tuple[Any, ...]:
        return self.catalogs, self.base, self.encoders.device, self.images

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state[:3])  # type: ignore[misc]
        self.images = state[3]
