"""Image encoders by a short text: a catalog id, a library's model by its name, or a local folder.

    he-ssl                            a catalog's entry: `factory models list --kind encoders`
    color-texture                     hand-made features, no weights
    torchvision:resnet18              torchvision's own weights
    timm:vit_small_patch16_224        also timm:hf-hub:OWNER/NAME@REVISION, timm:local-dir:FOLDER
    open_clip:hf-hub:OWNER/NAME       also open_clip:ARCH/WEIGHTS_TAG, open_clip:local-dir:FOLDER
    transformers:OWNER/NAME@REVISION  also transformers:FOLDER
    flow:FOLDER                       an encoder, and a flow to another stain behind it
    lazyslide:KEY                     registry of lazyslide-models: conch, musk, h0-mini, keep, …
    FOLDER                            holds encoder.json and encoder.safetensors

The word before the colon is the kind, one file in `kinds` or of a package (`factory.encoders`).

A library's name with `?pretrained=false` builds it with random weights of a fixed seed, for tests
and control arms; nothing else does.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from factory.core.errors import InputError, PluginError
from factory.core.registry import Registry
from factory.core.yaml.messages import advise
from factory.models.encoders.base import Encoder, EncoderKind
from factory.models.encoders.kinds.folder import FolderKind

if TYPE_CHECKING:
    from factory.catalog.catalog import Catalogs, EncoderEntry

__all__ = ["Encoder", "EncoderKind"]

ENCODERS = Registry("factory.encoders", EncoderKind, f"{__name__}.kinds")  # type: ignore[type-abstract]
"""All kinds: those of `kinds`, each a module, and those of plug-ins."""


def _list_forms(schema: dict[str, Any]) -> None:
    """Writes how specs of the installed kinds are written into the JSON Schema."""
    schema["examples"] = [kind.form for kind in ENCODERS.list_all()[0].values()]


EncoderSpec = Annotated[str, Field(json_schema_extra=_list_forms)]
"""A field of settings that names an image encoder."""


def open_kind(source: str, entry: "EncoderEntry | None" = None, base: Path = Path()) -> EncoderKind:
    """Returns what loads a spec; loads nothing yet.

    Args:
        source: a spec, not an id; one that begins with no kind's name is a folder.
        entry: the catalog entry whose source it is.
        base: folder that a relative local folder starts from.

    Raises:
        PluginError: the kind's plug-in is broken.
    """
    prefix, _, name = source.partition(":")
    if prefix in ENCODERS.names:
        kind = ENCODERS.get(prefix)
        if name or kind.is_bare:
            return kind(source, entry, base)
    return FolderKind(source, entry, base)


def open_text_kind(spec: str, base: Path, catalogs: "Catalogs") -> EncoderKind:
    """Returns the kind of an encoder that reads text, by its spec or a catalog id.

    Raises:
        InputError: one that reads none, or a local folder that holds no model.
        PluginError: the plug-in of its kind is broken.
    """
    entry = catalogs.get_encoder(spec)
    kind = open_kind(entry.source if entry is not None and entry.reads_text else spec, None, base)
    if not kind.text_forms:
        working, _ = ENCODERS.list_all()
        *others, last = (form for each in working.values() for form in each.text_forms)
        raise InputError(f"encoder {spec!r} reads no text: give {', '.join(others)} or {last}")
    lack = kind.explain_missing()
    if lack is not None:
        raise InputError(lack)
    return kind


def load_encoder(
    spec: str,
    *,
    base: Path | None = None,
    device: str = "auto",
    catalogs: "Catalogs | None" = None,
) -> Encoder:
    """Loads the encoder that `spec` names; see the module's text for what it may say.

    Args:
        spec: the name.
        base: folder that a relative local folder starts from; default: the current one.
        device: `auto`, `cpu`, `cuda`, …; `color-texture` ignores it.
        catalogs: where ids are looked up; default: the shipped ones.

    Raises:
        InputError: nothing of that name, or its weights cannot be had; says what to do.
        PluginError: the plug-in of its kind is broken.
    """
    catalogs = catalogs or _open_shipped()
    entry = catalogs.get_encoder(spec)
    if entry is not None and entry.licence.gated and not has_access(find_source(entry.source)):
        raise InputError(f"encoder {describe_gate(entry)}")
    kind = open_kind(spec if entry is None else entry.source, entry, base or Path())
    if entry is None and isinstance(kind, FolderKind) and not kind.path.is_dir():
        raise InputError(explain_unknown(spec, catalogs))
    kind.catalogs = catalogs
    found = kind.load(device)
    if entry is not None and found.dim != entry.dim:
        raise InputError(
            f"encoder {entry.id!r}: {found.dim} features, its catalog entry says {entry.dim}: "
            "correct the entry"
        )
    return found


def explain_unknown(spec: str, catalogs: "Catalogs") -> str:
    """Says that nothing is of this name, and what a spec may be."""
    known = (*catalogs.list_ids("encoders"), *(k.form for k in ENCODERS.list_all()[0].values()))
    return f"encoder {spec!r}: no such folder and no known id: {advise(spec, known)}, or a folder"


def find_weights(spec: str, catalogs: "Catalogs") -> str:
    """Returns the Hub id or name of an encoder's weights, whichever way `spec` names them.

    `uni2-h`, `timm:hf-hub:MahmoodLab/UNI2-h` and `timm:hf-hub:MahmoodLab/UNI2-h@main` are one.
    """
    entry = catalogs.get_encoder(spec)
    return find_source(spec if entry is None else entry.source)


def list_parts(spec: str, catalogs: "Catalogs") -> tuple[str, ...]:
    """Returns an encoder, those whose features it moves or that taught it, and theirs in turn.

    Raises:
        RecipeError: a catalog file is wrong.
    """
    found = {spec: None}
    waiting = [spec]
    while waiting:
        each = waiting.pop(0)
        origins = [*list_needed(each, catalogs)[1:], _find_teacher(each, catalogs)]
        waiting += [origin for origin in origins if origin is not None and origin not in found]
        found |= dict.fromkeys(waiting)
    return tuple(found)


def list_needed(spec: str, catalogs: "Catalogs") -> tuple[str, ...]:
    """Returns an encoder, and the one whose features it moves, if there is one: what is loaded.

    Raises:
        RecipeError: its catalog file is wrong.
    """
    entry = catalogs.get_encoder(spec)
    return (spec,) if entry is None or entry.space is None else (spec, entry.space)


def _find_teacher(spec: str, catalogs: "Catalogs") -> str | None:
    entry = catalogs.get_encoder(spec)
    try:
        return open_kind(spec if entry is None else entry.source, entry).teacher
    except PluginError:  # told where the recipe is checked
        return None


def find_source(spec: str) -> str:
    """Returns the Hub id, name or folder in a spec that names a library."""
    try:
        return open_kind(spec).weights
    except PluginError:  # told where the recipe is checked
        return FolderKind(spec).weights


def describe_gate(entry: "EncoderEntry") -> str:
    """Says how to get gated weights."""
    return (
        f"{entry.id} is gated: accept its terms on {entry.licence.url}, then set HF_TOKEN or run "
        "`hf auth login`; or take another encoder"
    )


def has_access(source: str) -> bool:
    """Whether a gated Hub repository may be readable here: a token is set, or a copy is stored."""
    from huggingface_hub import get_token, try_to_load_from_cache

    stored = (try_to_load_from_cache(source, name) for name in ("config.json", "README.md"))
    return get_token() is not None or any(isinstance(each, str) for each in stored)


@cache
def _open_shipped() -> "Catalogs":
    from factory.catalog.catalog import load_catalogs

    return load_catalogs()
