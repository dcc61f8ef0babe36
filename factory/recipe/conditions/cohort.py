"""Cohort conditions: synthetic patients, their slides, and patches with one stain and one label."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from factory.catalog.licences.terms import SOURCE_IMAGES, Term
from factory.core.errors import InputError
from factory.core.hashing import compute_digest
from factory.core.yaml.messages import advise
from factory.core.yaml.reader import FieldPath
from factory.data.expression.gene_sets import find_gene_sets
from factory.data.streams import Caption, ClassName, Recolour, Stream, Vector
from factory.data.streams.bag import Bag
from factory.data.streams.stain import Stain
from factory.models.session import Session
from factory.recipe.checks.findings import Findings
from factory.recipe.conditions.base import (
    BlockImages,
    ConditionKind,
    Identity,
    Planning,
)
from factory.recipe.conditions.cohort_draws import LabelPlan, Profiles, Shown, Stains
from factory.recipe.conditions.cohort_series import CohortSeries
from factory.recipe.conditions.cohort_settings import CohortSettings, CohortStain, Patches
from factory.recipe.conditions.series import Series


class CohortConditions(ConditionKind):
    """Synthetic patients with slides, whose patches are a bag of one label."""

    streams = (Caption, ClassName, Vector, Recolour, Bag)

    class Settings(CohortSettings):
        """Synthetic patients with slides, whose patches are a bag of one label."""

    settings: Settings

    @property
    def stream(self) -> type[Stream]:
        """Captions or classes."""
        return ClassName if self.settings.captions is None else Caption

    @property
    def held(self) -> tuple[type[Stream], ...]:
        """What its conditions hold."""
        settings = self.settings
        held: list[type[Stream]] = [self.stream, Bag]
        held += [ClassName] if settings.captions is not None else []
        held += [Recolour] if settings.stain is not None else []
        return tuple([*held, Vector] if settings.profiles is not None else held)

    @property
    def is_caption(self) -> bool:
        """Whether a grid gives captions."""
        return self.settings.captions is not None

    @property
    def has_class(self) -> bool:
        """Whether its patches are of classes."""
        return self.settings.captions is None

    @property
    def unlabelled(self) -> tuple[BlockImages, ...]:
        """Those that stains are measured of."""
        stain = self.settings.stain
        return () if stain is None or stain.measured is None else (stain.measured.block,)

    def list_terms(self, source: Mapping[str, Any] | None, session: Session) -> tuple[Term, ...]:
        """Returns the terms of stains and pathways, too, as far as catalogs know them."""
        settings, found, catalogs = self.settings, list(self.terms(source)), session.catalogs
        stain, own = settings.stain, settings.profiles
        if stain is not None and stain.measured is not None:
            found.append(Term(SOURCE_IMAGES, "of the recipe", source))
        elif stain is not None and stain.catalog in catalogs.list_ids("stains"):
            entry = catalogs.find_stains(stain.catalog or "")
            found.append(Term("stains", entry.id, entry.describe_terms()))
        if own is not None and own.pathways in catalogs.list_ids("pathways"):
            sets = catalogs.find_pathways(own.pathways)
            found.append(Term("pathways", sets.id, sets.licence.model_dump(mode="json")))
        return tuple(found)

    def build_series(self, planning: Planning) -> Sequence[Series]:
        """Returns the one series of all patients.

        Raises:
            CatalogError: a grid, stains or pathways that no catalog has.
            InputError: no template of the grid says all that is asked of it.
            SourceError: images that stains are measured of are missing, or cannot be read.
        """
        settings = self.settings
        show = functools.partial(self._show, planning)
        labels = tuple(
            LabelPlan(name, each.share, each.ends, show(each), dict(each.values))
            for name, each in settings.labels.items()
        )
        profiles = None
        if settings.profiles is not None:
            own, names = settings.profiles, self._list_values(planning)
            profiles = Profiles(names, own.patient, own.patch)
        return [
            CohortSeries(
                planning.seed,
                settings.patients * settings.slides * settings.patches,
                settings.slides,
                settings.patches,
                labels,
                show(settings.background),
                dict(settings.splits),
                self._find_stains(planning),
                profiles,
                settings.per_patient,
            )
        ]

    def _show(self, planning: Planning, patches: Patches) -> Shown:
        """Returns what patches show, in words of the grid where there is one."""
        if self.settings.captions is None:
            return Shown(dict(patches.classes or {}))
        grid = planning.catalogs.find_captions(self.settings.captions)
        weighed = grid.reweigh(patches.weights or {}, {})
        return Shown(grid=weighed, named=tuple(self._list_weighed()))

    def _list_weighed(self) -> list[str]:
        """Returns the attributes that some patches are weighed by: all captions name them."""
        blocks = (self.settings.background, *self.settings.labels.values())
        return sorted({name for each in blocks for name in each.weights or {}})

    def _find_stains(self, planning: Planning) -> Stains | None:
        own = self.settings.stain
        if own is None:
            return None
        if own.measured is not None:
            return Stains(own.measured.measure(planning.session, planning.seed), own.within)
        entry = planning.catalogs.find_stains(own.catalog or "")
        return Stains(tuple(Stain(each.look) for each in entry.looks), own.within)

    def _list_values(self, planning: Planning) -> tuple[str, ...]:
        own = self.settings.profiles
        assert own is not None
        return tuple(find_gene_sets(own.pathways, planning.catalogs, planning.base).sets)

    # --- check -----------------------------------------------------------------------------------

    def check(self, findings: Findings, path: FieldPath) -> Sequence[Identity]:
        """Notes what grid, model or catalogs do not know, and what would part bags."""
        recipe, settings = findings.loaded.recipe, self.settings
        if recipe.pick is not None:
            findings.add(("pick",), f"would take bags of conditions[{path[1]}] apart: remove it")
        if settings.vary is not None:
            findings.add((*path, "vary"), "patches of a slide have no families: remove it")
        before = len(findings.problems)
        for place, patches in self._list_patches(path):
            self._check_patches(findings, place, patches)
        if settings.stain is not None:
            self._check_stain(findings, settings.stain, (*path, "stain"))
        if settings.profiles is not None:
            self._check_profiles(findings, path)
        self._check_fixed(findings, (*path, "per_patient"))
        if len(findings.problems) == before and settings.captions is not None:
            planning = Planning(recipe.seed, findings.loaded.session)
            try:
                self._show(planning, settings.background).check()
            except InputError as error:
                findings.add((*path, "captions"), str(error))
        same = settings.model_dump(mode="json", exclude={"patients", "splits"})
        told = compute_digest("cohort", same)[:8]
        return [("cohort", "of settings", told)]

    def _check_fixed(self, findings: Findings, place: FieldPath) -> None:
        """Notes attributes that a patient cannot have one value of."""
        settings = self.settings
        if settings.captions is None:
            if settings.per_patient:
                findings.add(place, "names attributes of a grid: name it in captions, or remove")
            return
        if settings.captions not in findings.catalogs.list_ids("captions"):
            return  # noted already
        known = findings.catalogs.find_captions(settings.captions).attributes
        for name in settings.per_patient:
            if name not in known:
                findings.add(place, f"no attribute {name!r}: {advise(name, tuple(known))}")
            elif name in self._list_weighed():
                findings.add(place, f"{name} has weights, by which patches differ: remove one")

    def _list_patches(self, path: FieldPath) -> Iterator[tuple[FieldPath, Patches]]:
        settings = self.settings
        if any(each.ends[0] < 1 for each in settings.labels.values() if each.share):
            yield (*path, "background"), settings.background
        for name, each in settings.labels.items():
            if each.ends[1] > 0:
                yield (*path, "labels", name), each

    def _check_patches(self, findings: Findings, place: FieldPath, patches: Patches) -> None:
        """Notes classes or shares that model or grid do not know, or that say nothing."""
        settings, model = self.settings, findings.model
        if settings.captions is None:
            if patches.weights is not None:
                findings.add((*place, "weights"), "are of a grid: name it in captions, or remove")
            if not sum((patches.classes or {}).values()):
                findings.add((*place, "classes"), "name a class with a weight above 0")
                return
            names = tuple(patches.classes or {})
            findings.asked.add(names, (*place, "classes"), keyed=True)
            known = None if model is None else model.class_names
            if model is not None and known is not None:
                findings.check_names(names, known, (*place, "classes"), model.name)
            return
        if patches.classes is not None:
            findings.add((*place, "classes"), "captions tell what patches show: give weights")
        at, find = ("conditions", place[1], "captions"), findings.catalogs.find_captions
        grid = findings.look_up(at, find, settings.captions)
        for where, message in () if grid is None else grid.find_faults(patches.weights or {}, {}):
            findings.add((*place, *where), message)

    def _check_stain(self, findings: Findings, stain: CohortStain, place: FieldPath) -> None:
        model = findings.model
        family = None if model is None else model.family
        if family is not None and family.channels is not None:
            message = f"{family.settings.model} makes channels, which have no stain: remove it"
            findings.add(place, message)
        if stain.catalog is not None:
            findings.look_up((*place, "catalog"), findings.catalogs.find_stains, stain.catalog)
        elif stain.measured is not None:
            stain.measured.check(findings, (*place, "measured"))

    def _check_profiles(self, findings: Findings, path: FieldPath) -> None:
        model, place = findings.model, (*path, "profiles")
        if model is not None and model.streams is not None and Vector.name not in model.streams:
            findings.add(place, f"{model.name} takes no vector: remove it")
            return
        try:
            names = self._list_values(Planning(0, findings.loaded.session))
        except InputError as error:
            findings.add((*place, "pathways"), str(error))
            return
        entry = None if model is None else model.entry
        misfit = None if entry is None else Vector.of(dict.fromkeys(names, 0.0)).find_misfit(entry)
        if misfit is not None:
            findings.add((*place, "pathways"), misfit)
        for label, each in self.settings.labels.items():
            for name in each.values:
                if name not in names:
                    message = f"no value {name!r}: {advise(name, names)}"
                    findings.add((*path, "labels", label, "values", name), message)
