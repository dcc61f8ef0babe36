"""Values of families that are looks: stains of a catalog, and domains told by real images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.catalog.licences.terms import SOURCE_IMAGES, Term
from factory.core.errors import CatalogError, InputError, SourceError
from factory.core.stain_transfer import measure_look
from factory.core.yaml.reader import FieldPath
from factory.data.family import LOOKS
from factory.data.streams import Domain, Recolour, Stream
from factory.data.streams.stain import Stain
from factory.models.session import Session

if TYPE_CHECKING:
    from factory.recipe.checks.findings import Findings
    from factory.recipe.conditions.base import BlockImages, ConditionKind, Planning

AS_MADE = "as-made"
"""The value of a stain that is none: the image as it was made."""
STAIN, DOMAIN = LOOKS


@dataclass(frozen=True, slots=True)
class Look:
    """A value that is a look: how rows show it, and its stream; None: the image as it was made."""

    text: str
    stream: Stream | None


Looks = Mapping[str, Mapping[Any, Look]]
"""What is varied -> value of the recipe -> look."""


def find_looks(block: "ConditionKind", planning: "Planning") -> Looks:
    """Returns the looks of all values that a block varies stain or domain by.

    Raises:
        CatalogError: a stain that no catalog has.
        SourceError: images of a domain that are missing, cannot be read, or have no tissue.
        InputError: a value that names neither, or two folders of one name.
    """
    found: dict[str, dict[Any, Look]] = {}
    for name in (each for each in LOOKS if each in (block.settings.vary or {})):
        values = block.settings.vary[name]
        read = _find_stain if name == STAIN else _find_domain
        found[name] = {value: read(str(value), block, planning) for value in values}
        texts = [look.text for look in found[name].values()]
        if len(set(texts)) < len(texts):
            raise InputError(f"two folders have one name, by which rows tell them: {texts}")
    return found


def _find_stain(value: str, block: "ConditionKind", planning: "Planning") -> Look:
    if value == AS_MADE:
        return Look(value, None)
    catalog, slash, name = value.partition("/")
    if not slash:
        raise InputError(f"{value!r} names no stain: write CATALOG/NAME or {AS_MADE}")
    look = planning.catalogs.find_stains(catalog).find_look(name)
    return Look(value, Recolour(Stain(look)))


def _find_domain(value: str, block: "ConditionKind", planning: "Planning") -> Look:
    """Returns a folder as the domain that a model translates to, else as the stain of its images.

    It is a domain where the conditions of the block have one to vary.
    """
    from factory.recipe.conditions.translate_target import Target

    images, session, seed = _name_images(value, block), planning.session, planning.seed
    target = Target(domain=images.path)
    (domain,) = target.choose_domains(images, session, seed)
    text = Path(value).name
    if Domain in block.held:
        return Look(text, domain)
    look = measure_look(each.read_pixels() for each in domain.images)
    if look is None:
        raise SourceError(f"{session.resolve(images.path)}: no image has tissue to tell a stain by")
    hashes = tuple(map(session.images.hash_pixels, domain.images))  # type: ignore[arg-type]
    return Look(text, Recolour(Stain(look, hashes, domain.group_sha256s)))


def list_domains(block: "ConditionKind") -> tuple["BlockImages", ...]:
    """Returns the real images that tell the domains of a block's families."""
    values = (block.settings.vary or {}).get(DOMAIN, ())
    return tuple(_name_images(str(value), block) for value in values)


def list_look_terms(
    block: "ConditionKind", source: Mapping[str, Any] | None, session: Session
) -> Sequence[Term]:
    """Returns the terms of what the looks of a block's families were measured in, where known."""
    vary = block.settings.vary or {}
    named = (str(value).partition("/") for value in vary.get(STAIN, ()))
    catalogs = dict.fromkeys(catalog for catalog, slash, _ in named if slash)
    known = session.catalogs.list_ids("stains")
    found = [
        Term("stains", each, session.catalogs.find_stains(each).describe_terms())
        for each in catalogs
        if each in known
    ]
    return [*found, *([Term(SOURCE_IMAGES, "of the recipe", source)] if DOMAIN in vary else [])]


def check_looks(
    findings: "Findings", block: "ConditionKind", path: FieldPath, planning: "Planning"
) -> None:
    """Notes looks that are not there, and what of a block or model has none to vary."""
    vary, model = block.settings.vary, findings.model
    for name in (each for each in LOOKS if each in vary):
        place: FieldPath = (*path, "vary", name)
        recolours = name == STAIN or Domain not in block.held
        family = None if model is None else model.family
        if recolours and family is not None and family.channels is not None:
            message = f"{family.settings.model} makes channels, which have no stain: remove it"
            findings.add(place, message)
        if recolours and getattr(block.settings, "stains", None) is not None:
            findings.add(place, "the block gives its shots stains already: remove one of them")
        if name == STAIN or findings.check_files:
            only = block.settings.model_copy(update={"vary": {name: vary[name]}})
            try:
                find_looks(type(block)(only), planning)
            except (CatalogError, InputError) as error:
                findings.add(place, str(error))


def _name_images(value: str, block: "ConditionKind") -> "BlockImages":
    from factory.recipe.conditions.base import BlockImages

    return BlockImages(Path(value), getattr(block.settings, "fit", "crop"))
