"""Checks of classifier guidance: that the classifier can lead this model to these classes."""

from factory.models.classifiers.check import check_known
from factory.models.encoders import open_kind
from factory.recipe.checks.findings import Findings

_PLACE = ("generator", "classifier_guidance")


def check_guidance(findings: Findings) -> None:
    """Notes what is wrong with the classifier that guides, or with the classes it leads to."""
    settings = findings.loaded.recipe.generator.classifier_guidance
    if settings is None:
        return
    if not any(block.has_class for block in findings.loaded.recipe.blocks):
        findings.add(_PLACE, "no condition asks for a class: remove it")
    place = (*_PLACE, "model")
    known = check_known(findings, settings.model, place)
    if known is None or known.info is None:
        return
    do = "fit one with --encoder he-ssl --head logistic"
    if known.info.head is not None and known.info.head.kind == "knn":
        findings.add(place, f"{settings.model} has a k-NN head, which has no gradient: {do}")
    elif not _has_gradient(known.info.encoder, findings, settings.model):
        message = f"{settings.model} is on encoder {known.info.encoder}, which has no gradient here"
        findings.add(place, f"{message}: {do} (or another of `factory train encoder`)")


def _has_gradient(spec: str, findings: Findings, model: str) -> bool:
    """Whether the encoder of a classifier has one, as far as its files tell."""
    entry = findings.catalogs.get_encoder(spec)
    source = spec if entry is None else entry.source
    return spec == "." or open_kind(source, entry, findings.resolve(model)).has_gradient
