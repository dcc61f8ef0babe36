"""Checks of `budget.stop`: real images to compare with, and series that may end early at all."""

from factory.core.errors import FactoryError, SourceError
from factory.core.yaml.messages import advise
from factory.data.images import check_fit
from factory.filters.real.set import RealSet, check_pixels
from factory.models.encoders.check import check_encoder
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions import build_series
from factory.recipe.ending import check_series, read_real
from factory.recipe.recipe import is_judging

_PLACE = ("budget", "stop")


def check_stop(findings: Findings) -> None:
    """Notes what is wrong with the test, and series that it cannot end."""
    recipe = findings.loaded.recipe
    rule = recipe.budget.stop
    if rule is None:
        return
    if is_judging(recipe):
        findings.add(_PLACE, "the images are there already, so that none is spared: remove it")
        return
    if recipe.pick is not None:
        message = "pick chooses among all images once they are there, and none may be left out"
        findings.add(_PLACE, f"{message}: remove pick or budget.stop")
    check_encoder(findings, rule.encoder, (*_PLACE, "encoder"))
    if findings.check_files:
        real = _check_images(findings)
        _check_counts(findings, real)


def _check_images(findings: Findings) -> RealSet | None:
    """Notes a real set that is missing, too small, or without a class that is asked for."""
    session, rule = findings.loaded.session, findings.loaded.recipe.budget.stop
    assert rule is not None
    try:
        real = read_real(rule, session, findings.asked.fields)
        sources = [image.source for image in real.images]
        if findings.pixels is not None:
            reader = session.images
            check_fit(sources, *findings.pixels, rule.fit, real.root, reader.read_size)
        check_pixels(sources, session.images)
    except SourceError as error:
        findings.add((*_PLACE, "images"), str(error))
        return None
    for name in findings.asked.fields if real.class_names else ():
        if name not in real.class_names:
            hint = advise(name, real.class_names)
            message = f"{rule.images} has no class {name!r}, which is asked for: {hint}"
            findings.add((*_PLACE, "images"), f"{message}; take another real set")
    return real


def _check_counts(findings: Findings, real: RealSet | None) -> None:
    """Notes series that are cut or too short; those that cannot be planned are told elsewhere."""
    recipe, model = findings.loaded.recipe, findings.model
    if findings.problems or recipe.budget.stop is None or real is None:
        return
    classes = (None if model is None else model.class_names) or ()
    try:
        series = build_series(recipe, findings.loaded.session, classes)
    except FactoryError:
        return
    if problem := check_series(series, recipe.budget.stop, real):
        findings.add((*_PLACE, problem[0]), problem[1])
