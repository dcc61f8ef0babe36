"""Checks what a valid recipe refers to: that it exists, and that it fits the model.

Loads no model and imports none of torch, ray, diffusers or datasets.
"""

import re
from pathlib import Path

from factory.catalog.catalog import ModelEntry
from factory.catalog.vocabulary import LICENCES
from factory.core.errors import CatalogError, InputError, PluginError, RecipeError
from factory.core.notes import tell
from factory.core.yaml.messages import advise
from factory.core.yaml.reader import FieldPath
from factory.data.streams import STREAMS
from factory.models.generators.environment import find_absent, find_environment
from factory.models.generators.families import FAMILIES, open_family, read_index
from factory.models.generators.families.base import Family
from factory.models.generators.sampling import check_scheduler
from factory.models.generators.settings import GeneratorSettings, Guidance
from factory.recipe.checks.filters import check_filters
from factory.recipe.checks.findings import Findings, Model
from factory.recipe.checks.guidance import check_guidance
from factory.recipe.checks.phrases import check_phrases
from factory.recipe.checks.stop import check_stop
from factory.recipe.conditions import check_conditions, list_streams
from factory.recipe.file import LoadedRecipe
from factory.recipe.licences import check_generation

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_recipe(loaded: LoadedRecipe, check_files: bool = True) -> None:
    """Checks everything that the recipe's fields alone cannot tell.

    Args:
        loaded: the recipe.
        check_files: also look at the user's own files: images, captions, folders.

    Raises:
        LicenceError: the terms of the model forbid making data sets.
        RecipeError: every problem at once, in the order of the file.
    """
    _check_terms(loaded)
    findings = Findings.open(loaded, check_files)
    model = findings.model = _check_model(findings)
    findings.pixels = _find_pixels(loaded.recipe.generator, model)
    _check_sampling(findings, model)
    _check_prompts(findings, model)
    _check_effect(findings, model)
    check_conditions(findings)
    check_phrases(findings)
    check_filters(findings)
    check_guidance(findings)
    check_stop(findings)
    _check_environment(findings)
    _check_adapters(findings)
    for name in ("license", "source_license"):
        got = getattr(loaded.recipe.card, name)
        if got is not None and got not in LICENCES:
            message = f"no licence id of the Hub, got {got!r}: {advise(got, LICENCES)}"
            findings.add(("card", name), f"{message} (or `other`)")
    if findings.problems:
        ordered = sorted(findings.problems, key=lambda problem: (problem.line or 0, problem.field))
        raise RecipeError(tuple(dict.fromkeys(ordered)))


def _check_terms(loaded: LoadedRecipe) -> None:
    """Refuses what terms forbid before all else; a catalog that is wrong is told later, by line."""
    try:
        check_generation(loaded)
    except RecipeError:
        return


def _find_pixels(settings: GeneratorSettings, model: Model | None) -> tuple[int, int] | None:
    family = model.family if model is not None else None
    native = family.native_size if family is not None else None
    width = settings.width or (native and native[0])
    height = settings.height or (native and native[1])
    return None if width is None or height is None else (width, height)


# --- generator -----------------------------------------------------------------------------------


def _check_model(findings: Findings) -> Model | None:
    """Returns what the model takes, or None with the problem noted."""
    settings = findings.loaded.recipe.generator
    if settings.family is not None:
        try:
            FAMILIES.get(settings.family)
        except CatalogError:
            known = advise(settings.family, FAMILIES.names)
            findings.add(("generator", "family"), f"unknown family: {known}")
            return None
        except PluginError as error:
            findings.add(("generator", "family"), str(error))
            return None
    name, place = settings.model, ("generator", "model")
    if name in findings.catalogs.list_ids("models"):
        entry = findings.look_up(place, findings.catalogs.find_model, name)
        return None if entry is None else _describe_entry(findings, entry)
    if findings.resolve(name).is_dir() or name[0] in "./~" or name.count("/") > 1:
        return _describe_folder(findings, findings.resolve(name))
    if HUB_ID.fullmatch(name):
        return _describe_hub_id(findings, name)
    ids = findings.catalogs.list_ids("models")
    message = f"no catalog id, folder or Hub id (owner/name), got {name!r}: {advise(name, ids, 30)}"
    findings.add(place, message)
    return None


def _describe_hub_id(findings: Findings, name: str) -> Model | None:
    try:
        entry = findings.catalogs.find_model_of_source(name)
    except RecipeError as error:
        findings.problems.extend(error.problems)
        return None
    if entry is not None:
        return _describe_entry(findings, entry)
    return _describe_named(findings)


def _describe_named(findings: Findings) -> Model:
    """Returns what a model takes that only the recipe tells of."""
    settings = findings.loaded.recipe.generator
    if settings.family is None:
        return Model(settings.model, None)
    family = FAMILIES.get(settings.family)(settings, None, findings.base)
    return Model(settings.model, family, *_list_streams(family))


def _list_streams(family: Family) -> tuple[frozenset[str], frozenset[str]]:
    """Returns the streams that must and that may be there."""
    required, optional = family.streams
    if optional is None:
        optional = frozenset(stream.name for stream in list_streams() if not stream.is_image)
    return required, required | optional


def _describe_entry(findings: Findings, entry: ModelEntry) -> Model | None:
    settings, place = findings.loaded.recipe.generator, ("generator", "model")
    try:
        family = FAMILIES.get(entry.family)(settings, entry, findings.base)
    except (CatalogError, PluginError) as error:
        findings.problems.append(
            findings.catalogs.make_problem(entry, ("family",), f"{error} (model {entry.id})")
        )
        return None
    unasked = set(entry.required) - {stream.name for stream in STREAMS}
    if unasked and (unasked := unasked - {stream.name for stream in list_streams()}):
        lacking = ", ".join(sorted(unasked))
        message = f"{entry.id} needs {lacking}, which no condition kind gives yet"
        findings.add(place, f"{message}: take another model")
        return None
    if family.is_on_record:
        message = f"{entry.id} is on record only: its family {entry.family!r} cannot run here"
        told = "" if entry.status is None else f" ({entry.status.words})"
        findings.add(place, f"{message}{told}: take another model, see `factory models list`")
        return None
    if entry.status is not None and entry.status.state.startswith("adapter written"):
        tell(f"{entry.id}: {entry.status.words}")
    if settings.family not in (None, entry.family):
        message = f"the catalog says {entry.family!r} for {entry.id}, got {settings.family!r}"
        findings.add(("generator", "family"), f"{message}: remove it")
    if findings.check_files and entry.source.startswith("/") and not Path(entry.source).is_dir():
        findings.add(
            place,
            f"the weights of {entry.id} are missing, no folder {entry.source!r}: put them there",
        )
    for adapter in entry.adapters:
        if findings.check_files and adapter.source[0] == "/" and not Path(adapter.source).is_dir():
            findings.add(
                place,
                f"an adapter of {entry.id} is missing, no folder {adapter.source!r}: put it there",
            )
    return Model(entry.id, family, *_list_streams(family), entry.class_names)


def _describe_folder(findings: Findings, folder: Path) -> Model | None:
    settings = findings.loaded.recipe.generator
    if not findings.check_files:
        return _describe_named(findings)
    if not folder.is_dir():
        findings.add(("generator", "model"), f"no such folder {str(folder)!r}: correct the path")
        return None
    try:
        family = open_family(settings, None, findings.base)
        names, missing = family.describe_index(read_index(folder))
    except InputError as error:
        findings.add(("generator", "model"), str(error))
        return None
    required, streams = _list_streams(family)
    return Model(settings.model, family, required, streams - missing, names)


def _check_environment(findings: Findings) -> None:
    """Notes wheel files and folders of packages that workers would look for in vain."""
    settings = findings.loaded.recipe.generator
    own = settings.runtime_env is not None
    has_entry = not own and findings.model is not None
    entry = findings.catalogs.get_model(settings.model) if has_entry else None
    environment = find_environment(settings, entry)
    if environment is None or not findings.check_files:
        return
    for field, why in find_absent(environment, findings.base):
        told = f"runtime_env.{field} of {settings.model}: {why}"
        place: FieldPath = ("generator", "runtime_env", field) if own else ("generator", "model")
        findings.add(place, why if own else told)


def _check_sampling(findings: Findings, model: Model | None) -> None:
    settings = findings.loaded.recipe.generator
    _check_scheduler(findings, model)
    guidance = settings.guidance
    if not isinstance(guidance, Guidance) and guidance is not None and not 0 <= guidance <= 100:
        findings.add(("generator", "guidance"), f"must be >= 0 and <= 100, got {guidance:g}")
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", settings.device) is None:
        message = f"must be auto, cpu, cuda, cuda:N or mps, got {settings.device!r}"
        findings.add(("generator", "device"), message)
    if model is None:
        return
    if model.family is None or model.family.sized:
        return
    sides = ("width", "height")
    for side, size in zip(sides, model.family.native_size or (None, None), strict=True):
        value = getattr(settings, side)
        if value in (None, size):
            continue
        own = f"{size} px" if size else "one size of its own"
        message = f"{model.name} makes images of {own} only, got {value}: remove it"
        findings.add(("generator", side), message)


def _check_scheduler(findings: Findings, model: Model | None) -> None:
    settings = findings.loaded.recipe.generator
    name, place = settings.scheduler, ("generator", "scheduler")
    if name is None and model is not None and model.entry is not None:
        name = model.entry.scheduler
        place = ("generator", "model")
    if name is None:
        return
    try:
        check_scheduler(name, None if model is None else model.family, settings.steps)
    except InputError as error:
        findings.add(place, str(error))


def _check_prompts(findings: Findings, model: Model | None) -> None:
    settings = findings.loaded.recipe.generator
    place = ("generator", "prompt_template")
    findings.check_template(settings.prompt_template, place, required=True)
    if model is None or model.streams is None or "caption" in model.streams:
        return
    if settings.prompt_template is not None:
        findings.add(place, f"{model.name} takes no text: remove it")


def _check_effect(findings: Findings, model: Model | None) -> None:
    """Notes settings that the model's family does not read."""
    family = None if model is None else model.family
    for field, message in family.list_faults() if family is not None else ():
        findings.add(("generator", *field.split(".")), message)
    attempts = findings.loaded.recipe.budget.attempts
    if model is not None and family is not None and not family.is_seeded and attempts > 1:
        tell(
            f"{model.name} makes the same image at every try: budget: {{attempts: 1}} saves the "
            f"other {attempts - 1} of an image that is rejected"
        )


def _check_adapters(findings: Findings) -> None:
    settings = findings.loaded.recipe.generator
    for number, adapter in enumerate(settings.adapters):
        path = ("generator", "adapters", number)
        source = adapter.source
        local = source.startswith((".", "/", "~")) or HUB_ID.fullmatch(source) is None
        missing = local and not findings.resolve(source).exists()
        if missing and findings.check_files:
            found = str(findings.resolve(source))
            message = f"no such folder {found!r}: correct the path, or give a Hub id (owner/name)"
            findings.add((*path, "source"), message)
        name = adapter.weight_name
        if name is not None and not name.endswith(".safetensors") and not settings.allow_pickle:
            message = f"must be a .safetensors file, got {name!r}: or set generator.allow_pickle"
            findings.add((*path, "weight_name"), message)
