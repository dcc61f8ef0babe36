"""`Lexicon`: an entry of words with its vocabulary and cut points, and how a fact is worded."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np

from factory.catalog.captions.grid import CaptionGrid
from factory.catalog.catalog import Catalogs
from factory.catalog.entries import ClassesEntry
from factory.catalog.words import CLASS_NAME, COUNTS, MAGNIFICATION, MPP, WordsEntry
from factory.core.errors import RecipeError
from factory.core.notes import tell
from factory.core.stains import measure_attributes
from factory.data.artefact import Part
from factory.evaluate.image_sets import ImageSet
from factory.publish.words.objects import PLACES


class Cut(Part):
    """Cut points of a level: `by` what it is measured, where they come from, and at which scale."""

    by: str
    edges: tuple[float, ...]
    margin: float
    origin: str
    mpp: tuple[float, float] | None = None


class Lexicon(Part):
    """What is said, in which words.

    Attributes:
        entry: templates and rules.
        attributes: levels, attributes that are asked, and the class: value -> wordings.
        cuts: level -> its cut points.
        rules: of the vocabulary: of each, no sentence says one value of each attribute.
    """

    entry: WordsEntry
    attributes: dict[str, dict[str, tuple[str, ...]]]
    cuts: dict[str, Cut]
    rules: tuple[dict[str, tuple[str, ...]], ...] = ()

    @classmethod
    def open(cls, catalogs: Catalogs, name: str, real: ImageSet | None = None) -> Self:
        """Opens an entry of a catalog.

        Args:
            catalogs: where it lies.
            name: of the entry.
            real: images whose quantiles are the cut points; None: those of the vocabulary.

        Raises:
            CatalogError: no such entry, or no such vocabulary.
            RecipeError: an entry that does not fit its vocabulary.
            SourceError: a real image that cannot be read.
        """
        entry = catalogs.find_words(name)
        grid = catalogs.find_captions(entry.vocabulary)
        faults = tuple(entry.find_unknown(grid))
        if faults:
            raise RecipeError(tuple(catalogs.make_problem(entry, *each) for each in faults))
        wordings = {
            each: _list_wordings(entry, each, grid) for each in (*entry.levels, *entry.asked)
        }
        cuts = _read_cuts(entry, grid) if real is None else _find_cuts(entry, grid, real)
        entry = WordsEntry.model_validate(entry.model_dump())  # defaults of today are recorded too
        return cls(entry=entry, attributes=wordings, cuts=cuts, rules=tuple(grid.never_together))

    def with_classes(self, names: Iterable[str], entry: ClassesEntry | None) -> Self:
        """Returns it with the classes of a data set, in words of a catalog entry where it has them.

        A wording that two classes share is left out; a class without any is called by its name.
        """
        known = {} if entry is None else {each.name: each for each in entry.classes}
        texts: dict[str, tuple[str, ...]] = {}
        for name in sorted({*names, *known}):
            each = known.get(name)
            texts[name] = (name,) if each is None else (each.title, *each.synonyms)
        times = Counter(text.casefold() for each in texts.values() for text in {*each})
        own = {
            name: tuple(dict.fromkeys(text for text in each if times[text.casefold()] == 1))
            or (name,)
            for name, each in texts.items()
        }
        return self.model_copy(update={"attributes": {**self.attributes, CLASS_NAME: own}})

    def list_values(self, what: str) -> tuple[str, ...]:
        """Returns the values that a fact may have, where they are named ones."""
        name = what.partition(":")[0]
        if name == "present":
            return ("yes", "no")
        if name == "place":
            return PLACES
        if name == MAGNIFICATION:
            return tuple(self.entry.magnifications)
        return tuple(self.attributes.get(name, ()))

    def word(self, fact: Mapping[str, Any], value: Any = None) -> tuple[str, ...]:
        """Returns the ways to say a fact, or another value that it might have.

        Args:
            fact: as plain data.
            value: another value; None: its own.
        """
        what, said = fact["what"], fact["value"] if value is None else value
        name = what.partition(":")[0]
        texts: tuple[str, ...] = (str(said),)
        if name in self.attributes:
            texts = self.attributes[name].get(said, texts)
        elif name in self.entry.numbers:
            texts = (self.entry.numbers[name].say.format(number=said),)
        elif name == MPP:
            texts = (f"{said:g} µm per pixel",)
        elif name == "count":
            one, many = self.name_objects(fact)
            texts = (f"{said} {one if said == 1 else many}" if said else f"no {many}",)
        elif name == "area":
            texts = (f"{said} %",)
        elif name == "box":
            width, height = fact["size"]
            shares = np.divide(said, [width, height, width, height])
            texts = (f"[{', '.join(f'{each:.2f}' for each in shares)}]",)
        return texts

    def name_objects(self, fact: Mapping[str, Any]) -> tuple[str, str]:
        """Returns how one object of a mask and several are called.

        Where the mask does not tell objects apart, what touches counts as one, and is called so;
        and so may an outline of a layout hold several, as those that it was fitted to did.
        """
        name = fact["of"]
        known = self.entry.objects.get(name)
        one, many = (
            (f"object “{name}”", f"objects “{name}”") if known is None else (known.one, known.many)
        )
        if fact.get("drawn"):
            return f"outline of {many}", f"outlines of {many}"
        if fact["instances"]:
            return one, many
        return f"connected area of {many}", f"connected areas of {many}"

    def list_said(self, slot: str, facts: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
        """Returns the facts that a slot of a template says; none: it cannot be said."""
        if slot != COUNTS:
            return (slot,) if slot in facts else ()
        found = (
            what for what, each in facts.items() if what.startswith("count:") and each["value"]
        )
        return tuple(sorted(found))

    def contradicts(self, values: Mapping[str, Any]) -> bool:
        """Whether a rule of the vocabulary forbids values that would stand in one sentence."""
        return any(
            all(values.get(name) in named for name, named in rule.items()) for rule in self.rules
        )

    def fill(self, slot: str, facts: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
        """Returns the ways to fill a slot."""
        said = self.list_said(slot, facts)
        if slot != COUNTS:
            return self.word(facts[said[0]])
        texts = [self.word(facts[each])[0] for each in said]
        return (" and ".join(filter(None, (", ".join(texts[:-1]), texts[-1]))),)


def _list_wordings(entry: WordsEntry, name: str, grid: CaptionGrid) -> dict[str, tuple[str, ...]]:
    rule = entry.levels.get(name)
    unsaid = () if rule is None else rule.unsaid
    return {
        value: tuple(text for text in known or (value,) if text not in unsaid)
        for value, known in grid.attributes[name].items()
    }


def _read_cuts(entry: WordsEntry, grid: CaptionGrid) -> dict[str, Cut]:
    return {
        name: Cut(
            by=grid.measures[name].by,
            edges=grid.measures[name].edges,
            margin=rule.margin,
            origin=f"caption grid {grid.id}",
            mpp=rule.mpp,
        )
        for name, rule in entry.levels.items()
    }


def _find_cuts(entry: WordsEntry, grid: CaptionGrid, real: ImageSet) -> dict[str, Cut]:
    """Returns equal quantiles of real images; levels that these do not tell apart are left out."""
    blocks = [measure_attributes(block) for block in real.iterate_blocks()]
    cuts = {}
    for name, rule in entry.levels.items():
        by, count = grid.measures[name].by, len(grid.attributes[name])
        numbers = np.concatenate([block[by] for block in blocks])
        numbers = numbers[np.isfinite(numbers)]
        shares = np.arange(1, count) / count
        edges = np.round(np.quantile(numbers, shares), 4) if len(numbers) >= count else np.zeros(0)
        if len(edges) == 0 or (np.diff(edges) <= 2 * rule.margin).any():
            tell(f"{name}: real images do not tell its levels apart: nothing is said of it")
            continue
        origin = f"quantiles of {len(numbers):,} real images, {real.root.name}"
        told = tuple(float(each) for each in edges)
        cuts[name] = Cut(by=by, edges=told, margin=rule.margin, origin=origin)
    return cuts
