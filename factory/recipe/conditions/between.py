"""Between conditions: images of what lies between the embeddings of two labelled images."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from pydantic import Field

from factory.core.fields import Pixels
from factory.core.hashing import compute_digest, derive_seed
from factory.core.late import NDArray, np
from factory.core.yaml.reader import FieldPath
from factory.data.records import Condition, Request
from factory.data.rows import ARRAY
from factory.data.streams import ClassName, Embedding
from factory.data.varied import Labelled
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import Identity, Planning, expand_per_class
from factory.recipe.conditions.embedding import check_space
from factory.recipe.conditions.encoded import EncodedRows
from factory.recipe.conditions.series import OneClass, Series
from factory.recipe.conditions.shots import ShotKind, ShotSettings, label_shots

Features: TypeAlias = "NDArray[np.float32]"
_PARALLEL = 1e-6


@dataclass(frozen=True)
class BetweenSeries(OneClass):
    """Points between the shots of one class: each shot in turn, towards another by chance.

    Attributes:
        features: of the shots, (tokens, dim) each.
        shots: whose they are, in the same order.
        encoder: that made them.
        reach: the largest weight of the other shot.
        seed: of the recipe, which draws the other shot and its weight.
    """

    class_name: str | None
    features: tuple[Features, ...]
    shots: tuple[Labelled, ...]
    encoder: str
    reach: float
    seed: int
    count: int
    origin = "(between)"

    @functools.cached_property
    def key(self) -> str:
        """Identity of the series: its shots in order, and how they are mixed."""
        shots = [each.pixels_sha256 for each in self.shots]
        told = [self.class_name, shots, self.encoder, self.reach, self.seed]
        return compute_digest("series", {"kind": "between", "told": told})[:16]

    def request_at(self, index: int) -> Request:
        """Returns the `index`-th request: of shot `index` modulo their number."""
        total = len(self.shots)
        draw = np.random.default_rng(derive_seed(self.seed, "between", self.key, index))
        first, weight = index % total, self.reach * draw.random()
        other = (first + 1 + int(draw.integers(total - 1))) % total if total > 1 else first
        array = interpolate(self.features[first], self.features[other], weight)
        shots = (self.shots[first], self.shots[other])[: min(total, 2)]
        found = Embedding.of(array, self.encoder, None, self.shots[first].group_sha256)
        condition = Condition(self.class_name, None, replace(found, shots=shots))
        return Request(self.key, index, condition, index)


def interpolate(first: Features, other: Features, weight: float) -> Features:
    """Returns what lies between two embeddings: directions along the arc, lengths along the line.

    Each token by itself (spherical linear interpolation, Shoemake 1985, Animating rotation with
    quaternion curves); a mean of two features would be shorter than either, as no image's is.

    Args:
        first: (tokens, dim), at weight 0.
        other: of the same shape, at weight 1.
        weight: in [0, 1].
    """
    ends = [np.asarray(each, np.float64) for each in (first, other)]
    lengths = [np.linalg.norm(each, axis=1, keepdims=True) for each in ends]
    units = [each / np.maximum(size, 1e-12) for each, size in zip(ends, lengths, strict=True)]
    angle = np.arccos(np.clip((units[0] * units[1]).sum(1, keepdims=True), -1.0, 1.0))
    sine = np.sin(angle)
    is_arc = sine > _PARALLEL
    shares = [
        np.where(is_arc, np.sin(share * angle) / np.where(is_arc, sine, 1.0), share)
        for share in (1.0 - weight, weight)
    ]
    length = (1.0 - weight) * lengths[0] + weight * lengths[1]
    return np.asarray(length * (shares[0] * units[0] + shares[1] * units[1]), np.float32)


class BetweenConditions(ShotKind):
    """Images of points between the embeddings of a few labelled images of each class."""

    streams = (Embedding, ClassName)

    class Settings(ShotSettings):
        kind: Literal["between"]
        encoder: str = Field(min_length=1, description="catalog id of what encodes them")
        size: Pixels = Field(64, description="px of the square that is encoded, by fit")
        fit: Literal["crop", "resize"] = Field("crop", description="crop keeps mpp")
        reach: float = Field(
            0.5, ge=0.0, le=1.0, description="largest weight of the other shot; 0.5: half the way"
        )

    settings: Settings

    @property
    def encoders(self) -> tuple[str, ...]:
        """Its own."""
        return (self.settings.encoder,)

    def build_series(self, planning: Planning) -> list[Series]:
        """Returns one series for each class.

        Raises:
            SourceError: images that cannot be read, too few, or none of a class.
        """
        settings, session = self.settings, planning.session
        root, found = session.resolve(settings.images), list[Series]()
        of_classes = self.choose(session, planning.seed)
        counts = expand_per_class(settings.per_class, tuple(of_classes))
        for name, chosen in of_classes.items():
            images = [image for image, _ in chosen]
            fitted = (settings.size, settings.fit)
            rows = EncodedRows(root, images, session, settings.encoder, fitted=fitted)
            features = tuple(rows.read(row, [ARRAY])[ARRAY] for row in range(len(rows)))
            shots = label_shots(chosen, session)
            given = (settings.encoder, settings.reach, planning.seed, counts[name])
            found.append(BetweenSeries(name or None, features, shots, *given))
        return found

    def check(self, findings: Findings, path: FieldPath) -> Sequence[Identity]:
        """Notes images that are missing or too few, and an encoder that the model does not take."""
        settings = self.settings
        check_space(findings, settings.encoder, 1, (*path, "encoder"))
        names = self.check_block(findings, path)
        return [("between", str(settings.images), "of class", name) for name in names or ("",)]
