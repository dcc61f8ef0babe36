"""Checks of classifier guidance: that the classifier can lead this model to these classes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from factory.catalog.catalog import Catalogs
from factory.models.classifiers.check import check_known
from factory.recipe.checks.findings import Findings, Model

if TYPE_CHECKING:
    from factory.models.classifiers.model import ClassifierInfo

_PLACE = ("generator", "classifier_guidance")


def check_guidance(findings: Findings, model: Model | None) -> None:
    """Notes what is wrong with the classifier that guides, or with what it is to guide."""
    settings = findings.loaded.recipe.generator.classifier_guidance
    if settings is None:
        return
    if model is not None and model.family is not None:
        family = model.family
        if not family.guidable:
            message = f"{model.name} is of family {family.kind!r}, which cannot be guided"
            findings.add(_PLACE, f"{message}: remove it, or take a model of family 'flow'")
    if not any(block.has_class for block in findings.loaded.recipe.blocks):
        findings.add(_PLACE, "no condition asks for a class: remove it")
    place = (*_PLACE, "model")
    known = check_known(findings, settings.model, place)
    if known is None or known.info is None:
        return
    do = "fit one with --encoder he-ssl --head logistic"
    if known.info.head is not None and known.info.head.kind == "knn":
        findings.add(place, f"{settings.model} has a k-NN head, which has no gradient: {do}")
    elif not _has_gradient(known.info, findings.catalogs, findings.resolve(settings.model)):
        message = f"{settings.model} is on encoder {known.info.encoder}, which has no gradient here"
        findings.add(place, f"{message}: {do} (or another of `factory train encoder`)")


def _has_gradient(info: "ClassifierInfo", catalogs: Catalogs, folder: Path) -> bool:
    """Whether the encoder is one of `factory train encoder`; false where it cannot be read."""
    if info.encoder == ".":
        return True
    entry = catalogs.get_encoder(info.encoder)
    path = Path(entry.source) if entry is not None else folder / info.encoder
    try:
        described = json.loads((path / "encoder.json").read_text(encoding="utf-8"))
        return bool(described["architecture"] == "small-resnet")
    except (OSError, ValueError, KeyError):
        return False
