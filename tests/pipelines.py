"""Tiny pipelines of diffusers with seeded random weights, built offline from their signatures.

`list_pipelines` names the image pipelines of the installed diffusers; `save_pipeline` builds one:
each component by its class, from `PARTS`; where one pipeline differs, `CHANGES` says how.
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
from tests import tiny
from tests.parts import PARTS

Part = Callable[["Plan"], Any]


class Plan:
    """One pipeline on its way: its name, and the parts that were made."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parts: dict[str, Any] = {}

    def is_like(self, pattern: str) -> bool:
        return re.search(pattern, self.name) is not None

    def find_tokenizer(self, number: str = "") -> Any:
        """The tokenizer that stands beside a text encoder."""
        return self.parts["tokenizer" + number]


def read_options(pipeline_class: type) -> dict[str, tuple[tuple[str, ...], Any]]:
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


def build_pipeline(name: str) -> Any:
    """Builds a pipeline; raises KeyError where a part of it is not in the table."""
    import diffusers

    pipeline_class, plan = getattr(diffusers, name), Plan(name)
    options = read_options(pipeline_class)
    for component in sorted(options, key=lambda each: "tokenizer" not in each):
        kinds, default = options[component]
        plan.parts[component] = make_part(plan, component, kinds, default)
    given = {
        key: value for key, value in plan.parts.items() if value is not inspect.Parameter.empty
    }
    return pipeline_class(**given)


LAYERS = {"arguments": {"text_encoder_out_layers": (1,)}}
SETTINGS: dict[str, dict[str, Any]] = {
    "DiTPipeline": {"family": "dit", "class_names": tiny.CLASS_NAMES},
    "ConsistencyModelPipeline": {"class_names": tiny.CLASS_NAMES},
    "Flux2KleinPipeline": LAYERS,
    "Flux2KleinKVPipeline": LAYERS,
    "Flux2KleinInpaintPipeline": LAYERS,
    "Flux2Pipeline": LAYERS,
}
"""What the catalog entry of a pipeline says besides."""

LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder", "watermarker")


def make_part(plan: Plan, component: str, kinds: tuple[str, ...], default: Any) -> Any:
    own = CHANGES.get(plan.name, {}).get(component)
    if own is not None:
        return own(plan)
    if component in ("requires_safety_checker", "add_watermarker"):
        return False
    is_needed = default is inspect.Parameter.empty
    if component in LEFT_OUT and component not in NEEDED.get(plan.name, ()):
        return None
    if not is_needed and default is not None:
        return default
    for kind in kinds:
        if kind in PARTS:
            return PARTS[kind](plan, component)
    if not is_needed:
        return default
    raise KeyError(f"{component}: {' | '.join(kinds)}")


NEEDED: dict[str, tuple[str, ...]] = {}
CHANGES: dict[str, dict[str, Part]] = {}


def save_pipeline(name: str, folder: Path, seed: int = 0) -> Path:
    """Builds and saves a pipeline; equal seeds, equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = build_pipeline(name)
        for component in pipeline.components.values():
            if isinstance(component, torch.nn.Module):
                component.eval()
                tiny.fill(component)
        pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@functools.cache
def list_pipelines() -> tuple[str, ...]:
    """Names the pipelines of diffusers that make an image from text, class, image, mask, control.

    Those under `deprecated` are left out: diffusers no longer keeps them. Nothing is imported.
    """
    package = Path(find_spec("diffusers").submodule_search_locations[0])  # type: ignore[union-attr,index]
    exported = set(re.findall(r'"(\w+)"', (package / "__init__.py").read_text(encoding="utf-8")))
    if find_spec("sentencepiece") is None:
        exported -= {name for name in exported if name.startswith("Kolors")}
    found = set()
    for path in (package / "pipelines").rglob("pipeline_*.py"):
        if "deprecated" not in path.parts:
            text = path.read_text(encoding="utf-8")
            found |= set(re.findall(r"^class (\w+Pipeline)\(", text, re.MULTILINE)) & exported
    return tuple(sorted(name for name in found if makes_images(name)))


def makes_images(name: str) -> bool:
    """Whether the family takes it for one that makes images."""
    call = find_call(name)
    return call is not None and call.makes_images
