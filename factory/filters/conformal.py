"""`conformal`: a bound on how many mislabelled images pass, from real ones kept for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from factory.core.errors import FilterError, SourceError
from factory.core.hashing import compute_digest
from factory.core.late import NDArray, np
from factory.core.stats.conformal import bound_passed, bound_rates, count_needed
from factory.data.images import SourceImage, check_fit, fit_source
from factory.data.images.fields import NamedImages
from factory.data.records import SCORE_DECIMALS
from factory.data.shots import rank_shots
from factory.filters.asked import AskedFilter, Images
from factory.filters.base import FilterSettings, Labels, RealImages, Score, Scores
from factory.filters.check import FilterCheck
from factory.filters.classifier import find_classes, hash_info, predict
from factory.models.classifiers.check import check_known

BLOCK = 64
"""Real images judged at once."""
Open = Annotated[float, Field(gt=0.0, lt=1.0)]


class Conformal(AskedFilter):
    """Scores `mislabelled_bound`: the share of images of another class that pass as this one does.

    An image asked for as a class gets that class's probability. Of each other class, the real
    calibration images with a probability as large are counted, and an upper bound on the share of
    such images is taken (Clopper and Pearson, of split-conformal ranks: Vovk 2012); the score is
    the largest over the other classes. Accepting at most `max_mislabelled` lets through at most
    that share of all images that show another class, whatever classes they are mixed of, with half
    of what `confidence` leaves to chance; the card tells what follows of accepted images. It
    assumes that images made of a wrong class look to the classifier as real images of that class
    do (exchangeability with the calibration images), which no figure here shows.
    """

    scores = (Score("mislabelled_bound", at_most="max_mislabelled", may_be_nan=True),)

    class Settings(NamedImages, FilterSettings):
        """Rejects images unless real images of no other class look so much like the asked one.

        Calibration images must not be those that the classifier was fitted on. With patients, one
        image of each patient and class counts, as images of one patient are not exchangeable with
        those of others.
        """

        kind: Literal["conformal"]
        model: str = Field(min_length=1, description="catalog id of a classifier, or its folder")
        images: Path = Field(description="real images in class folders, kept for calibration")
        max_mislabelled: Open = Field(
            0.05, description="alpha: most of the images of another class that pass, a share"
        )
        confidence: Open = Field(0.95, description="of the bound, over calibration and run")
        fit: Literal["crop", "resize"] = Field("crop", description="of real images to the sample's")

    settings: Settings

    def __init__(self, settings: Any, context: Any) -> None:
        super().__init__(settings, context)
        self._chosen: dict[str, list[SourceImage]] | None = None
        self._known: dict[tuple[int, int], dict[str, NDArray[np.float64]]] = {}

    @classmethod
    def list_labels(cls, described: Mapping[str, Any]) -> Sequence[Labels]:
        """Those of its classifier, and of the calibration images."""
        calibration = Labels(None, str(described["images"]), described.get("images_sha256"))
        return (Labels(str(described["model"])), calibration)

    @property
    def classifiers(self) -> tuple[str, ...]:
        """The one that judges."""
        return (self.settings.model,)

    @property
    def real_images(self) -> tuple[RealImages, ...]:
        """The calibration images."""
        settings = self.settings
        place = self.context.resolve(settings.images)
        return (RealImages("images", place, columns=settings.columns),)

    @property
    def level(self) -> float:
        """Confidence of each other class's bound: what calibration may miss, shared by them."""
        others = max(1, len(self._list_calibration()) - 1)
        return 1.0 - (1.0 - self.settings.confidence) / 2 / others

    def score_asked(self, images: Images, asked: Sequence[str]) -> Scores:
        """Returns the bound, rounded up.

        Raises:
            InputError: the classifier's folder is missing or damaged.
            FilterError: a class that the classifier does not know, or images that cannot be read.
        """
        classifier = self.context.load_classifier(self.settings.model)
        places = find_classes(classifier, asked)
        found = predict(classifier, images, self.settings.model)
        known = self._judge_real(images[0].shape[:2])
        bounds = np.zeros(len(images))
        for name, numbers in known.items():
            for row, place in enumerate(places):
                if asked[row] != name:
                    passed = np.array([(numbers[:, place] >= found[row, place]).sum()])
                    bound = bound_rates(passed, len(numbers), self.level)
                    bounds[row] = max(bounds[row], float(bound[0]))
        scale = 10.0**SCORE_DECIMALS
        return {"mislabelled_bound": np.ceil(bounds * scale - 1e-9) / scale}

    def check(self, check: FilterCheck) -> None:
        """Notes a classifier that is not there or knows the images, and images that are too few."""
        known = check_known(check.checker, self.settings.model, check.at("model"))
        if not check.check_files:
            return
        try:
            chosen = self._list_calibration()
            sources = [each for images in chosen.values() for each in images]
            if check.checker.pixels is not None:
                where, read = self.real_images[0].path, self.context.images.read_size
                check_fit(sources, *check.checker.pixels, self.settings.fit, where, read)
            digest = self._digest_all()
        except (SourceError, FilterError) as error:
            check.add(str(error), "images")
            return
        if known is None:
            return
        if known.info is not None and known.info.data.sha256 == digest:
            check.add(
                f"{self.settings.model} was fitted on these images, which it finds easier than new "
                "ones: give real images that it has not seen",
                "images",
            )
        asked = {name for name in check.checker.asked.fields if name in known.class_names}
        others = [name for name in known.class_names if asked - {name}]
        alpha = self.settings.max_mislabelled
        needed = count_needed(alpha, self.level)
        for name in others:
            count = len(chosen.get(name, ()))
            if count < needed:
                check.add(
                    f"{count} calibration images of class {name}, and with fewer than {needed} "
                    f"nothing can be accepted at max_mislabelled {alpha:g}, confidence "
                    f"{self.settings.confidence:g}: add images"
                    + (" (one counts of each patient)" if self._has_groups else "")
                    + ", or raise max_mislabelled",
                    "images",
                )

    def describe(self) -> dict[str, Any]:
        """Returns kind, settings, the classifier's revision, and which images calibrate.

        Raises:
            FilterError: the classifier's folder or an image cannot be read.
        """
        chosen = self._list_calibration()
        folder = self.context.find_classifier_folder(self.settings.model)
        return {
            **self.dump_settings(),
            "revision": hash_info(folder),
            "images_sha256": self._digest_all(),
            "images_used": {name: len(images) for name, images in chosen.items()},
        }

    @classmethod
    def tell_promise(
        cls,
        settings: Settings,
        recorded: Mapping[str, Any],
        counts: Mapping[str, tuple[int, int]],
    ) -> list[str]:
        """Returns the bound of accepted images of each class, and what it assumes.

        Args:
            settings: as they decide now.
            recorded: what the run recorded of the filter.
            counts: class -> (images judged, accepted).
        """
        alpha, confidence = settings.max_mislabelled, settings.confidence
        used = recorded.get("images_used") or {}
        listed = ", ".join(f"{name} {count:,}" for name, count in used.items())
        lines = [
            f"Of images that show another class than was asked for, at most {alpha:.3g} are "
            f"accepted (filter `{cls.kind}`, calibrated on real images: {listed}). So of each "
            f"class at most this share of the accepted images is mislabelled, with confidence "
            f"{confidence:.3g} for a class:"
        ]
        for name, (tried, accepted) in counts.items():
            most = bound_passed(tried, alpha, 1.0 - (1.0 - confidence) / 2)
            share = min(1.0, most / accepted) if accepted else 0.0
            lines.append(
                f"- {name}: at most **{share:.3g}** ({min(most, accepted):,} of {accepted:,} "
                f"accepted, {tried:,} judged)"
            )
        lines.append(
            "**Assumption**: images made of a wrong class look to the classifier as real images of "
            "that class do (they are exchangeable with the calibration images). No figure here "
            "shows that it holds, and where it does not, nor does the bound. It is a bound against "
            "the classes that the classifier knows, and says nothing of images that show none."
        )
        return lines

    @property
    def _has_groups(self) -> bool:
        return self.settings.group_column is not None or self.settings.group_pattern is not None

    def _list_calibration(self) -> dict[str, list[SourceImage]]:
        """Returns class -> images that calibrate, equal ones once, of a patient one.

        Raises:
            FilterError: images without a class, or that cannot be read.
        """
        if self._chosen is not None:
            return self._chosen
        by_class: dict[str, dict[str, SourceImage]] = {}
        try:
            for image in self.real_images[0].list(self.context):
                if image.class_name is None:
                    raise FilterError(f"conformal: {image.place} has no class: use class folders")
                sha256 = self.context.images.hash_bytes(image)
                by_class.setdefault(image.class_name, {}).setdefault(sha256, image)
        except SourceError as error:
            raise FilterError(f"conformal: {error}") from error
        self._chosen = {}
        for name, mine in sorted(by_class.items()):
            ranked = [mine[sha256] for sha256 in rank_shots(mine, 0)]
            first = {each.group or each.key: each for each in reversed(ranked)}
            self._chosen[name] = list(first.values()) if self._has_groups else ranked
        return self._chosen

    def _digest_all(self) -> str:
        """Returns the digest of all images and classes there, as classifiers keep it."""
        images = self.real_images[0].list(self.context)
        hashed = (f"{each.class_name}/{self.context.images.hash_bytes(each)}" for each in images)
        return compute_digest("images", sorted(hashed))

    def _judge_real(self, size: tuple[int, int]) -> dict[str, NDArray[np.float64]]:
        """Returns class -> (n, C) probabilities of its calibration images, at a size, px."""
        if size not in self._known:
            classifier, (height, width) = self.context.load_classifier(self.settings.model), size
            found = {}
            for name, images in self._list_calibration().items():
                parts = []
                for start in range(0, len(images), BLOCK):
                    block = images[start : start + BLOCK]
                    try:
                        pixels = [
                            fit_source(
                                each.read_pixels(), width, height, self.settings.fit, each.place
                            )
                            for each in block
                        ]
                    except SourceError as error:
                        raise FilterError(f"conformal: {error}") from error
                    parts.append(predict(classifier, pixels, self.settings.model))
                found[name] = np.concatenate(parts)
            self._known[size] = found
        return self._known[size]
