"""Tiny pipelines of diffusers with seeded random weights, built offline from their signatures.

`list_pipelines` names the image pipelines of the installed diffusers; `save_pipeline` builds one:
each component by its class, as `parts` makes it; `CHANGES` says what an annotation does not tell.
"""

import functools
import inspect
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from factory.models.generators.calls import find_call
from tests import parts

CLASS_NAMES = ("ADI", "LYM", "TUM")
"""Classes of the tiny class-conditioned pipelines, in the order of their embeddings."""

Options = dict[str, tuple[tuple[str, ...], Any]]


def read_options(pipeline_class: type) -> Options:
    """Returns component -> (class names that its annotation allows, default)."""
    found = {}
    for name, parameter in inspect.signature(pipeline_class.__init__).parameters.items():
        if name in ("self", "args", "kwargs"):
            continue
        text = parameter.annotation
        if not isinstance(text, str):
            text = getattr(text, "__name__", None) or str(text)
            if "|" in str(parameter.annotation) or "[" in str(parameter.annotation):
                text = str(parameter.annotation)
        found[name] = tuple(re.findall(r"(\w+)(?=[\],|\s]|$)", text)), parameter.default
    return found


def build_pipeline(name: str, **given: Any) -> Any:
    """Builds a pipeline; raises KeyError where a part that is not given is not in the table."""
    import diffusers

    pipeline_class = getattr(diffusers, name)
    options = read_options(pipeline_class)
    for component in options:
        if component not in given:
            part = make_part(name, component, options)
            given |= {} if part is inspect.Parameter.empty else {component: part}
    return pipeline_class(**given)


def shrink(*found: int | None) -> dict[str, Any]:
    """For a pipeline that makes a megapixel whatever it is asked for: less, in the trial."""
    return {"size": 64, "module": {"calculate_dimensions": lambda area, ratio: found}}


RESOLUTIONS = {"size": 64, "attributes": {"resolutions": [(64, 64)]}}
BUCKETS = {"size": 64, "module": {"image_processor.BUCKETS": {1024: [(64, 64)]}}}
LAYERS = {"arguments": {"text_encoder_out_layers": (1,)}}
SETTINGS: dict[str, dict[str, Any]] = {
    "DiTPipeline": {"family": "dit", "class_names": CLASS_NAMES},
    "ConsistencyModelPipeline": {"class_names": CLASS_NAMES},
    "Flux2KleinPipeline": {**LAYERS, "size": 64},
    "Flux2KleinKVPipeline": {**LAYERS, "size": 64},
    "Flux2KleinInpaintPipeline": LAYERS,
    "Flux2Pipeline": {**LAYERS, "size": 64},
    "LDMSuperResolutionPipeline": {"size": 64},
    "KandinskyV22ControlnetPipeline": {"size": 64},
    "ZImageOmniPipeline": {"size": 64, "dtype": "bfloat16"},  # it encodes images in no other
    "QwenImage21Pipeline": shrink(64, 64, None),
    "BriaFiboEditPipeline": {"caption": '{{"edit_instruction": "{}"}}'},
    "HiDreamImagePipeline": {"attributes": {"default_sample_size": 4}},
    "QwenImageEditPipeline": shrink(64, 64, None),
    "QwenImageEditInpaintPipeline": shrink(64, 64, None),
    "QwenImageEditPlusPipeline": shrink(64, 64),
    "LongCatImageEditPipeline": shrink(64, 64),
    "Kandinsky5T2IPipeline": RESOLUTIONS,
    "Kandinsky5I2IPipeline": RESOLUTIONS,
    "JoyImageEditPipeline": BUCKETS,
    "JoyImageEditPlusPipeline": BUCKETS,
}
"""What the catalog entry of a pipeline says besides."""

LEFT_OUT = ("safety_checker", "watermarker")
SEEING = ("image_encoder", "feature_extractor")
"""Left out, too, where a pipeline can do without eyes."""


CHANGES = {
    ("LDMTextToImagePipeline", "unet"): "UNet2DConditionModel",
    ("LDMTextToImagePipeline", "vqvae"): "AutoencoderKL",
    ("LDMSuperResolutionPipeline", "unet"): "UNet2DModel",
    ("LDMSuperResolutionPipeline", "vqvae"): "VQModel",
    ("Ideogram4Pipeline", "text_encoder"): "Qwen3VLModel",
    ("SanaSprintPipeline", "scheduler"): "SCMScheduler",
    ("SanaSprintImg2ImgPipeline", "scheduler"): "SCMScheduler",
}
"""Classes of components that an annotation does not tell."""


def make_part(pipeline: str, component: str, options: Options) -> Any:
    kinds, default = options[component]
    if own := CHANGES.get((pipeline, component)):
        return parts.make(own, pipeline)
    if component in ("requires_safety_checker", "add_watermarker"):
        return False
    is_needed = default is inspect.Parameter.empty
    is_blind = options.get("image_encoder", ("", None))[1] is None
    is_blind = is_blind and "depth_estimator" not in options
    if component in LEFT_OUT or (component in SEEING and is_blind):
        return None
    if not is_needed and default is not None:
        return default
    for kind in kinds:
        if parts.is_known(kind):
            return parts.make(kind, pipeline)
    if not is_needed:
        return default
    raise KeyError(f"{component}: {' | '.join(kinds)}")


def save_pipeline(name: str, folder: Path, seed: int = 0) -> Path:
    """Builds and saves a pipeline of diffusers; equal seeds, equal weights."""
    return save(lambda: build_pipeline(name), folder, seed)


def save(build: Callable[[], Any], folder: Path, seed: int = 0) -> Path:
    """Saves what is built with weights of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = build()
        for component in pipeline.components.values():
            if isinstance(component, torch.nn.Module):
                fill(component.eval())
        pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def fill(module: torch.nn.Module) -> None:
    """Gives zero-initialised matrices (adaLN-Zero, LoRA-like outputs) random values.

    Fresh transformers start as the identity and would ignore every condition.
    """
    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)


def find_package() -> Path:
    return Path(find_spec("diffusers").submodule_search_locations[0])  # type: ignore[union-attr,index]


@functools.cache
def list_deprecated() -> frozenset[str]:
    """Names the classes under `deprecated`, which diffusers no longer keeps."""
    files = (find_package() / "pipelines" / "deprecated").rglob("*.py")
    texts = (path.read_text(encoding="utf-8") for path in files)
    return frozenset(name for text in texts for name in re.findall(r"^class (\w+)", text, re.M))


def explain_outside(name: str) -> str:
    """Says why a pipeline cannot be tried here, whatever tiny weights there are; empty if it can.

    A package that it needs is not installed, or diffusers has deprecated a part of it.
    """
    import diffusers

    try:
        options = read_options(getattr(diffusers, name))
        old = {kind for kinds, _ in options.values() for kind in kinds} & list_deprecated()
        if old:
            return f"diffusers has deprecated a part of it: {', '.join(sorted(old))}"
        build_pipeline(name)
    except ImportError as error:
        needs = re.search(r"the (\w+) library|`(\w+)` is not installed", str(error))
        return f"needs the package {next(filter(None, needs.groups()))}" if needs else str(error)
    except KeyError:
        pass
    return ""


@functools.cache
def list_pipelines() -> tuple[str, ...]:
    """Names the pipelines of diffusers that make an image from text, class, image, mask, control.

    Those under `deprecated` are left out: diffusers no longer keeps them. Nothing is imported.
    """
    init = (find_package() / "__init__.py").read_text(encoding="utf-8")
    exported, found = set(re.findall(r'"(\w+)"', init)), set()
    for path in (find_package() / "pipelines").rglob("pipeline_*.py"):
        if "deprecated" not in path.parts:
            text = path.read_text(encoding="utf-8")
            found |= set(re.findall(r"^class (\w+Pipeline)\(", text, re.MULTILINE)) & exported
    return tuple(sorted(name for name in found if makes_images(name)))


def makes_images(name: str) -> bool:
    """Whether the family takes it for one that makes images."""
    call = find_call(name)
    return call is not None and call.makes_images
