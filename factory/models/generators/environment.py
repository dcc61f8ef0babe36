"""Library versions of one generator: what its Ray workers get, and that none goes without."""

import json
import os
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from factory.catalog.entries import ModelEntry, RuntimeEnv
from factory.core.errors import InputError
from factory.core.hashing import compute_digest
from factory.models.generators.settings import GeneratorSettings

VARIABLE = "FACTORY_RUNTIME_ENV"
"""Says in a worker which environment it was started with, by `name_environment`."""
PATH = "PYTHONPATH"
_FIELD = "generator.runtime_env"


def find_environment(settings: GeneratorSettings, entry: ModelEntry | None) -> RuntimeEnv | None:
    """Returns what the recipe asks for, else the catalog entry; None: factory's own libraries."""
    if settings.runtime_env is not None:
        return settings.runtime_env
    return None if entry is None else entry.runtime_env


def name_environment(environment: RuntimeEnv) -> str:
    """Returns a short name that differs where the environment does."""
    return compute_digest("runtime_env", environment.model_dump(mode="json"))[:16]


def write_for_ray(environment: RuntimeEnv, base: Path) -> dict[str, Any]:
    """Returns Ray's `runtime_env`; wheel files and folders are looked for from `base`.

    `paths` stand first on `PYTHONPATH`, before what the environment or this process has there.

    Raises:
        InputError: a wheel file or folder that is not there.
    """
    for field, why in find_absent(environment, base):
        raise InputError(f"{_FIELD}.{field}: {why}")
    pip = [_resolve(each, base) if _is_place(each) else each for each in environment.pip]
    variables = {**environment.env_vars, VARIABLE: name_environment(environment)}
    if environment.paths:
        before = environment.env_vars.get(PATH, os.environ.get(PATH))
        folders = [_resolve(each, base) for each in environment.paths]
        variables[PATH] = os.pathsep.join([*folders, *([before] if before else [])])
    return {**({"pip": pip} if pip else {}), "env_vars": variables}


def find_absent(environment: RuntimeEnv, base: Path) -> Iterator[tuple[str, str]]:
    """Yields (field, why) of wheel files and folders that are not there, looked for from `base`."""
    for field, text in [
        *(("pip", each) for each in environment.pip if _is_place(each)),
        *(("paths", each) for each in environment.paths),
    ]:
        try:
            path = Path(_resolve(text, base))
        except InputError as error:
            yield field, str(error).removeprefix(f"{_FIELD}: ")
            continue
        if field == "paths" and not path.is_dir():
            yield field, f"{path}: no folder: unpack it (pip install --target), or name it in pip"


def check_environment(settings: GeneratorSettings, entry: ModelEntry | None) -> None:
    """Refuses to build a generator in a process that was not started with its environment.

    Raises:
        InputError: so it is; says what to do.
    """
    environment = find_environment(settings, entry)
    if environment is None or os.environ.get(VARIABLE) == name_environment(environment):
        return
    asked = json.dumps(environment.model_dump(mode="json", exclude_defaults=True))
    mark = f"{VARIABLE}={name_environment(environment)}"
    raise InputError(
        f"generator.runtime_env: {settings.model} needs {asked}, which only workers of Ray are "
        "given: set workers.executor: ray; a preview, a check or a row made again runs in this "
        f"process: start it where these libraries are, with {mark}"
    )


def describe_environment(
    settings: GeneratorSettings, entry: ModelEntry | None, base: Path = Path()
) -> dict[str, Any]:
    """Returns what provenance says of it: what was asked for, and the versions that were there.

    Versions are those that this process finds, wherever they come from; of `paths` those of all
    packages in them, folders looked for from `base`.
    """
    environment = find_environment(settings, entry)
    if environment is None:
        return {}
    versions = {}
    names = [re.split(r"[-=<>!~\[; ]", Path(each).name)[0] for each in environment.pip]
    for name in (*names, *_list_packages(environment, base)):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    told = {**environment.model_dump(mode="json", exclude_defaults=True), "versions": versions}
    if environment.pip:  # rows tell no one's disk
        told["pip"] = [Path(each).name if _is_place(each) else each for each in environment.pip]
    if environment.paths:
        told["paths"] = [Path(each).name for each in environment.paths]
    return {"runtime_env": told}


def _list_packages(environment: RuntimeEnv, base: Path) -> list[str]:
    folders = [str((base / Path(each).expanduser()).resolve()) for each in environment.paths]
    found = distributions(path=folders) if folders else ()
    return sorted({each.metadata["Name"] for each in found})


def _is_place(text: str) -> bool:
    return text.endswith(".whl") or text.startswith((".", "/", "~"))


def _resolve(text: str, base: Path) -> str:
    path = (base / Path(text).expanduser()).resolve()
    if not path.exists():
        raise InputError(f"{_FIELD}: {path}: not there: correct the path")
    return str(path)
