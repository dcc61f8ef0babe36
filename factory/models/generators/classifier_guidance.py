"""Classifier guidance: what a classifier of real images sees in a half-made one leads its making.

Dhariwal & Nichol 2021 (arXiv 2105.05233); from a few labels, HistoDiffusion (arXiv 2308.04020). The
classifier is asked about the image foreseen, not about the noisy one (Bansal et al. 2023, arXiv
2302.07121), so that any classifier will do which was fitted on clean images.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import interpolate, log_softmax

from factory.core.errors import InputError
from factory.core.yaml.messages import advise
from factory.models.classifiers.heads import Head
from factory.models.encoders.learned import LearnedEncoder
from factory.models.encoders.pool import RememberingEncoder
from factory.models.generators.settings import ClassifierGuidance
from factory.models.generators.straight import GUIDE_LIMIT
from factory.models.session import Session

PLACE = "generator.classifier_guidance"


class ClassifierGuide:
    """Log probabilities of classes, differentiable in the pixels.

    Args:
        settings: the recipe's.
        session: which has the classifier, shared with filters that ask it too.
        device: torch device of the pipeline.

    Raises:
        InputError: no such classifier, or one without a gradient.
    """

    def __init__(self, settings: ClassifierGuidance, session: Session, device: str) -> None:
        self.settings = settings
        folder = session.find_classifier_folder(settings.model)
        classifier = session.load_classifier(settings.model, device)
        head, encoder = classifier.head, classifier.encoder
        if isinstance(encoder, RememberingEncoder):
            encoder = encoder.inner
        if not isinstance(head, Head):
            raise InputError(f"{PLACE}.model: {folder}: a k-NN head has no gradient: {NO_GRADIENT}")
        if not isinstance(encoder, LearnedEncoder):
            named = classifier.info.encoder
            raise InputError(f"{PLACE}.model: {folder}: {named} has no gradient: {NO_GRADIENT}")
        self._encoder, self._classifier = encoder, classifier
        weights = (head.mean, head.scale, head.coef, head.intercept)
        self._head = tuple(torch.from_numpy(each).float().to(device) for each in weights)

    def aim(self, class_names: Sequence[str | None]) -> Callable[[torch.Tensor], torch.Tensor]:
        """Returns the guide of a batch: (N, 3, H, W) in [-1, 1] to (N,) log probabilities.

        They are calibrated, of the class of each image, and 0 where it has none.

        Raises:
            InputError: a class that the classifier does not know.
        """
        known = self._classifier.class_names
        for name in class_names:
            if name is not None and name not in known:
                told = f"the classifier does not know class {name!r}: {advise(name, known)}"
                raise InputError(f"{PLACE}.model: {told}")
        rows = [row for row, name in enumerate(class_names) if name is not None]
        asked = torch.tensor([known.index(name) for name in class_names if name is not None])

        def guide(pixels: torch.Tensor) -> torch.Tensor:
            chances = pixels.new_zeros(len(pixels))
            if rows:
                chances[rows] = self._compute(pixels[rows])[range(len(rows)), asked]
            return chances

        return guide

    def build_arguments(self, class_names: Sequence[str | None]) -> dict[str, Any]:
        """Returns the pipeline arguments that guide a batch; raises as `aim` does."""
        return {"guide": self.aim(class_names), "guide_scale": self.settings.scale}

    def describe(self) -> dict[str, Any]:
        """Returns scale and limit, the classifier as the recipe names it, and its revision."""
        return {
            "model": self.settings.model,
            "revision": self._classifier.revision,
            "scale": self.settings.scale,
            "limit": GUIDE_LIMIT,
        }

    def _compute(self, pixels: torch.Tensor) -> torch.Tensor:
        """Returns (N, C) log probabilities."""
        mean, scale, coef, intercept = self._head
        info = self._classifier.info
        fitted = _fit(pixels, info.image_size, info.fit)
        features = self._encoder.embed((fitted + 1.0) * 127.5)
        logits = ((features - mean) / scale) @ coef.T + intercept
        return log_softmax(logits / info.calibration.temperature, dim=1)


NO_GRADIENT = (
    "fit one with --encoder he-ssl (or another of `factory train encoder`) and --head logistic"
)


def _fit(pixels: torch.Tensor, size: int, fit: str) -> torch.Tensor:
    """Brings (N, 3, H, W) to the classifier's square, as `factory.data.images.fit_image` does."""
    height, width = pixels.shape[-2:]
    side = min(height, width)
    if fit == "crop":
        side = min(side, size)
    top, left = (height - side) // 2, (width - side) // 2
    area = pixels[..., top : top + side, left : left + side]
    if side == size:
        return area
    return interpolate(area, (size, size), mode="bicubic", antialias=True)
