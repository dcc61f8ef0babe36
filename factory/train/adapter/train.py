"""Adapts a model to a few real images of each class: a LoRA and its catalog entry."""

import re
import time
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.catalog.catalog import Catalogs, ModelEntry
from factory.core.errors import CatalogError, InputError
from factory.core.files.atomic import write_atomically
from factory.core.files.new_folder import claim_folder
from factory.core.hashing import derive_seed
from factory.core.yaml.messages import advise
from factory.data.images import check_fit
from factory.data.patients import list_patients, write_patients
from factory.models.generators import build_generator
from factory.models.generators.diffusers import DiffusersGenerator
from factory.models.generators.families import open_family
from factory.models.generators.settings import GeneratorSettings
from factory.train.adapter.export import Adapted, write_adapter
from factory.train.adapter.loop import AdapterTraining, Material, Progress, Report, to_tensor
from factory.train.adapter.settings import AdapterSettings, describe_settings
from factory.train.adapter.shots import (
    Shot,
    choose_all_shots,
    choose_words,
    digest_shots,
    read_shots,
)
from factory.train.copies import CopyMeter
from factory.train.generator.objectives import find_objective
from factory.train.generator.objectives.base import CLASSLESS, Objective, Subject

SAMPLED_AT_ONCE = 8
HUB_ID = r"[\w.-]+/[\w.-]+"


@dataclass(frozen=True, slots=True)
class AdapterResult:
    """How an adaptation ended.

    Attributes:
        id: of the catalog entry.
        progress: steps, checks, and the step whose weights were kept (0: none).
        seconds: wall time of this call.
        sha256: of the adapter's file, or None where nothing was kept.
    """

    id: str
    progress: Progress
    seconds: float
    sha256: str | None

    @property
    def exit_code(self) -> int:
        """0 with an adapter, 1 where even the first check found copies."""
        return 0 if self.sha256 is not None else 1

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain data."""
        return {
            "id": self.id,
            "steps": self.progress.step,
            "kept_step": self.progress.good_step or None,
            "stopped_by_copies": self.progress.is_stopped,
            "sha256": self.sha256,
            "seconds": round(self.seconds, 1),
            "checks": [check.to_json() for check in self.progress.checks],
        }


def train_adapter(
    settings: AdapterSettings, catalogs: Catalogs, out: Path, report: Report
) -> AdapterResult:
    """Adapts a base model, or resumes it, and writes the adapter to `out`.

    A LoRA on the denoiser and what stands for the classes are trained on the shots (Hu et al. 2022,
    arXiv 2106.09685), with images of the unadapted base mixed in to keep it (prior preservation,
    Ruiz et al. 2023, arXiv 2208.12242, section 3.2). Every `check_every` steps samples are compared
    with the shots; when too many are copies the training stops, and the weights of the last check
    that passed are kept.

    Args:
        settings: what to adapt to what, and how.
        catalogs: where the base and the classes are looked up.
        out: folder of the adapter, which is a catalog folder too; `out/training` holds checkpoint,
            log and samples.
        report: called with lines of progress.

    Raises:
        InputError: settings, base or images that do not fit; nothing was touched.
        MismatchError: `out` was begun with other settings.
        GenerationError: the base cannot be loaded, or sampling failed.
    """
    began = time.perf_counter()
    entry = find_base(settings, catalogs)
    family = open_family(GeneratorSettings(model=settings.base), entry, Path()).kind
    objective_class = find_objective(family, settings.base)
    settings = objective_class.choices.settle(settings)
    shots = choose_all_shots(settings)
    names = tuple(sorted({shot.class_name for shot in shots}))
    words = choose_words(names, settings, catalogs)
    settings = settings.model_copy(update={"id": settings.id or name_adapter(settings, entry)})
    generator = open_base(settings, entry)
    size = generator.capabilities
    images = [shot.image for shot in shots]
    check_fit(images, size.width, size.height, str(settings.fit), settings.data)
    pixels = read_shots(shots, size.width, size.height, settings.fit)
    folder = out / "training"
    described = describe_training(settings, generator, family, words, shots)
    claim_folder(out, "training/settings.json", described, "training")

    by_class = {
        name: to_tensor(pixels[[shot.class_name == name for shot in shots]]) for name in names
    }
    objective: Objective = objective_class(Subject(generator, settings, words, by_class))
    prior = make_prior(objective, settings, folder, report)
    material = Material(pixels, tuple(shot.class_name for shot in shots), prior)
    meter = CopyMeter(pixels, settings.max_similarity)
    training = AdapterTraining(objective, settings, material, meter, folder)
    progress = training.run(report)
    sha256 = None
    if progress.good_step:
        training.load_good()
        objective.save(out)
        adapted = Adapted(settings, entry, family, generator, objective, shots, words, meter)
        write_patients(list_patients(images), out)
        sha256 = write_adapter(adapted, progress, training.path_samples(progress.good_step), out)
    return AdapterResult(str(settings.id), progress, time.perf_counter() - began, sha256)


def find_base(settings: AdapterSettings, catalogs: Catalogs) -> ModelEntry | None:
    """Returns the base's catalog entry, or None for a folder or an unlisted Hub id.

    Raises:
        CatalogError: neither a catalog id, nor a folder, nor the form of a Hub id.
        RecipeError: its catalog file is wrong.
    """
    entry = catalogs.get_model(settings.base)
    is_place = Path(settings.base).expanduser().is_dir() or re.fullmatch(HUB_ID, settings.base)
    if entry is None and not is_place:
        raise CatalogError(
            f"--base: no catalog id, folder or Hub id, got {settings.base!r}: "
            f"{advise(settings.base, catalogs.list_ids('models'), 30)}"
        )
    return entry


def open_base(settings: AdapterSettings, entry: ModelEntry | None) -> DiffusersGenerator:
    """Loads the base.

    Raises:
        InputError: weights that may not be loaded, or no such device.
        GenerationError: the model cannot be fetched or loaded.
    """
    from factory.models.generators.loading import choose_device

    is_half = entry is not None and entry.dtype == "float16"
    on_cuda = choose_device(settings.device).startswith("cuda")
    sampled = GeneratorSettings(
        model=settings.base,
        batch_size=SAMPLED_AT_ONCE,
        guidance=settings.guidance,
        device=settings.device,
        dtype="bfloat16" if is_half and on_cuda else "auto",  # float16 gradients underflow
    )
    generator = build_generator(sampled, entry, Path())
    if not isinstance(generator, DiffusersGenerator):
        raise InputError(f"model {settings.base}: no pipeline of diffusers, which adapting needs")
    _ = generator.model
    return generator


def name_adapter(settings: AdapterSettings, entry: ModelEntry | None) -> str:
    """Returns an id: base, data and shots."""
    base = entry.id if entry is not None else PurePath(settings.base).name
    data = [part for part in settings.data.parts if part not in ("/", ".", "..")]
    if len(data) > 1 and data[-1] in ("train", "images", "data"):
        data = data[:-1]
    name = f"{base}-{data[-1] if data else 'data'}-{settings.shots}shot".lower()
    return re.sub(r"[^a-z0-9._-]+", "-", name).strip("-._")


def describe_training(
    settings: AdapterSettings,
    generator: DiffusersGenerator,
    family: str,
    words: Any,
    shots: tuple[Shot, ...],
) -> dict[str, Any]:
    """Returns what must be the same when a training is resumed."""
    model = generator.model
    return {
        **describe_settings(settings),
        "base": {
            "family": family,
            "weights_sha256": model.weights_sha256,
            "adapters": [adapter["sha256"] for adapter in model.adapters],
            "dtype": model.dtype,
        },
        "words": dict(words),
        "chosen": digest_shots(shots),
    }


def make_prior(
    objective: Objective, settings: AdapterSettings, folder: Path, report: Report
) -> NDArray[np.uint8]:
    """Samples the unadapted base without a class, once; (N, H, W, 3) uint8 RGB.

    A fresh adapter changes nothing, so the objective is the base until its training resumes.

    Raises:
        GenerationError: sampling failed.
    """
    if not settings.prior_weight:
        return np.zeros((0, 1, 1, 3), np.uint8)
    path = folder / "prior.npy"
    if path.is_file():
        return np.asarray(np.load(path, allow_pickle=False), np.uint8)
    report(f"sampling {settings.prior_images:,} images of the base, to keep what it knows")
    seeds = [derive_seed(settings.seed, "prior", row) for row in range(settings.prior_images)]
    images = objective.sample([CLASSLESS] * len(seeds), seeds)
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        np.save(file, images)
    return images
