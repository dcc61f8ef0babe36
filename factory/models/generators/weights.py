"""Where a model's weights are: Hub id or folder to local snapshot, its revision and its digest."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.core.errors import GenerationError, InputError
from factory.core.hashing import compute_digest

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""Files that a tokenizer's words stand in: one is enough."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def find_folder(source: str, base: Path) -> Path | None:
    """Returns the local folder that `source` names, or None where it is a Hub id.

    Args:
        source: Hub id (`owner/name`), or folder, absolute or relative to `base`.
        base: folder that relative paths resolve against.

    Raises:
        InputError: neither a folder nor the form of a Hub id.
    """
    folder = base / Path(source).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if _HUB_ID.fullmatch(source) is None:
        raise InputError(f"model {source!r}: no folder {folder} and not a Hub id (owner/name)")
    return None


def fetch_index(source: str, revision: str | None) -> Path:
    """Fetches a Hub pipeline's model_index.json, from the cache where it is there.

    Returns:
        The local snapshot folder; its name is the commit.

    Raises:
        InputError: no such repository, revision or file.
        GenerationError: gated without access, or the Hub cannot be reached.
    """
    return Path(fetch_file(source, "model_index.json", revision)).parent


def find_cached(source: str, revision: str | None, name: str = "model_index.json") -> Path | None:
    """Returns the local snapshot of a Hub pipeline that was downloaded before, or None.

    `name` is a file that it must have.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, name, revision=revision)
    return Path(found.removesuffix(name)) if isinstance(found, str) else None


def fetch_file(source: str, name: str, revision: str | None) -> str:
    """Fetches one file of a Hub repository; `fetch_index` tells what it raises."""
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    at = f"{source}@{revision}" if revision else source
    try:
        return hf_hub_download(source, name, revision=revision)
    except hub.GatedRepoError as error:
        raise GenerationError(
            f"model {at}: gated: accept its terms on https://huggingface.co/{source}, "
            "then log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except (hub.RevisionNotFoundError, hub.RemoteEntryNotFoundError) as error:
        raise InputError(f"model {at}: has no such revision or no {name}") from error
    except hub.RepositoryNotFoundError as error:
        raise InputError(
            f"model {at}: no such repository, or a private one: check the id, or set HF_TOKEN"
        ) from error
    except (hub.LocalEntryNotFoundError, OSError) as error:
        raise GenerationError(
            f"model {at}: not in the local cache and the Hub cannot be reached "
            f"({type(error).__name__}): go online once, unset HF_HUB_OFFLINE, or give a folder"
        ) from error


def download_snapshot(
    pipeline_class: Any,
    source: str,
    revision: str | None,
    allow_pickle: bool,
    variant: str | None = None,
    runs_code: bool = False,
) -> Path:
    """Downloads what `pipeline_class` needs of a Hub model.

    Returns:
        The local snapshot folder; its name is the commit.

    Raises:
        InputError: no such model, one without safetensors, or own code where `runs_code` is false.
        GenerationError: gated, or the Hub cannot be reached.
    """
    commit = fetch_index(source, revision).name
    try:
        folder = pipeline_class.download(
            source,
            revision=commit,
            variant=variant,
            use_safetensors=None if allow_pickle else True,
            trust_remote_code=runs_code,
        )
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise InputError(f"model {source}: runs its own code: {CONSENT}") from error
    except OSError as error:
        if "safetensors" in str(error):
            raise InputError(f"model {source}: {error}: {PICKLE_REMEDY}") from error
        raise GenerationError(f"model {source}: download failed: {error}") from error
    return Path(folder)


CONSENT = (
    "if you trust it, set generator.trust_remote_code: true, and remote_code: true in its catalog "
    "entry (factory models adopt --trust-remote-code writes one)"
)
PICKLE_REMEDY = (
    "pickle runs code when it is loaded: convert it to safetensors, "
    "or set generator.allow_pickle: true if you trust it"
)


def check_weights(folder: Path, components: Sequence[str], allow_pickle: bool) -> None:
    """Refuses a pipeline folder whose weights are pickles.

    Args:
        folder: pipeline folder.
        components: its subfolders that are loaded.
        allow_pickle: the user says otherwise.

    Raises:
        InputError: a component that only has pickled weights; names the file.
    """
    if allow_pickle:
        return
    for component in components:
        files = sorted((folder / component).glob("*"))
        pickles = [file for file in files if file.suffix in PICKLES]
        if pickles and not any(file.suffix == ".safetensors" for file in files):
            raise InputError(f"{pickles[0]}: weights are not safetensors: {PICKLE_REMEDY}")


def check_tokenizers(folder: Path, index: Mapping[str, Any]) -> None:
    """Refuses a pipeline folder whose tokenizers lack files: some load without, and cut nothing.

    Args:
        folder: pipeline folder.
        index: its model_index.json.

    Raises:
        InputError: names the file that is missing.
    """
    for component, kind in index.items():
        if not (isinstance(kind, list) and "Tokenizer" in str(kind[-1])):
            continue
        if str(kind[-1]).startswith("ByT5"):  # its words are bytes
            continue
        place = folder / component
        if not any((place / name).is_file() for name in _VOCABULARIES):
            raise InputError(
                f"{place / 'tokenizer.json'}: is missing, and so is any other vocabulary "
                f"({', '.join(_VOCABULARIES[1:])}): get the whole model"
            )
        if not (place / "tokenizer_config.json").is_file():
            raise InputError(f"{place / 'tokenizer_config.json'}: is missing: get the whole model")


def check_variant(folder: Path, components: Sequence[str], variant: str | None) -> None:
    """Refuses a pipeline folder that only has another variant of its weights.

    Args:
        folder: pipeline folder.
        components: its subfolders that are loaded.
        variant: as the recipe names it, e.g. fp16; None: the plain files.

    Raises:
        InputError: names the component and the variants that are there.
    """
    for component in components:
        found = {_read_variant(file) for file in (folder / component).glob("*.safetensors")}
        if not found or variant in found or (variant is not None and None in found):
            continue
        named = sorted(each for each in found if each is not None)
        if named:
            wanted = "plain" if variant is None else repr(variant)
            raise InputError(
                f"{folder / component}: has no {wanted} weights, only the variant "
                f"{', '.join(named)}: set generator.variant: {named[0]}"
            )
    has_variant = any(
        _read_variant(file) == variant
        for component in components
        for file in (folder / component).glob("*.safetensors")
    )
    if variant is not None and not has_variant:
        raise InputError(f"{folder}: has no variant {variant!r}: leave generator.variant out")


def _read_variant(file: Path) -> str | None:
    """Returns `fp16` of `model.fp16.safetensors` and `model.fp16-00001-of-2.safetensors`."""
    match = re.match(r"[^.]+\.([A-Za-z0-9_]+?)(-\d+-of-\d+)?\.safetensors$", file.name)
    return None if match is None else match.group(1)


def find_broken(folder: Path) -> str | None:
    """Returns which weight file cannot be read and why, or None where all can."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(file, framework="np") as opened:
                opened.keys()
        except (OSError, SafetensorError) as error:
            return f"{file}: {error}"
    return None


def hash_file(path: Path) -> str:
    """Returns a file's sha256; the Hub's cache already names large files by it."""
    if path.is_symlink() and _SHA256.fullmatch(path.resolve().name):
        return path.resolve().name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compute_weights_digest(
    folder: Path, allow_pickle: bool = False, parts: Mapping[str, Path] | None = None
) -> str:
    """Returns one digest of all weight files of a folder, by relative path and content.

    `parts` are folders of components that lie elsewhere: they count as if they lay there.
    """
    suffixes = (".safetensors", ".bin") if allow_pickle else (".safetensors",)
    places = {"": folder, **{f"{name}/": place for name, place in (parts or {}).items()}}
    files = {
        head + file.relative_to(place).as_posix(): file
        for head, place in places.items()
        for file in place.rglob("*")
        if file.suffix in suffixes
    }
    hashed = [[name, hash_file(file)] for name, file in sorted(files.items())]
    return compute_digest("weights", hashed)


def name_revision(folder: Path, digest: str) -> str:
    """Returns the commit of a Hub snapshot, or the short weights digest of any other folder."""
    if _COMMIT.fullmatch(folder.name) and folder.parent.name == "snapshots":
        return folder.name
    return digest[:16]


def is_pinned(revision: str | None) -> bool:
    """Tells whether a revision is a full commit hash."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None
