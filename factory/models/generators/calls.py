"""`Call`: what a diffusers pipeline's call takes, read from its source: nothing is imported."""

import ast
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

REQUIRED = object()
"""Stands for the default of a parameter that has none."""

_CONTROL_SCALES = ("controlnet_conditioning_scale", "adapter_conditioning_scale")
_FIXED: Mapping[str, Any] = {
    "use_resolution_binning": False,
    "clean_caption": False,
    "complex_human_instruction": None,
    "_auto_resize": False,
    "enable_prompt_rewrite": False,
    "use_pe": False,
    "control_mode": 0,
    "guidance_schedule": None,
}
"""What a call is always given: the size that is asked for, and the prompt as it is written."""

_LIST = re.compile(r"\b[Ll]ist\b|\bPipelineImageInput\b|FloatTensor")
_BARE = re.compile(r"\bstr\b|\bImage\b|\bTensor\b|\bGenerator\b|\bPipeline(Image|Mask)Input\b")
"""Of annotations: what may be several, and what may be one."""
_ASKED = frozenset({"prompt", "class_labels", "image", "image_embeds", "images"})
_OTHER_ARGUMENTS = re.compile(
    r"video|audio|waveform|^(num_)?frames$|^frame_size$|^layers$|output_uncertainty"
)
"""Of calls that give or take films, sound, shapes, maps of depth, or one image in layers."""
_OTHER_NAMES = re.compile(
    r"Video|Audio|Music|Speech|3D|World|Onnx|Flax|Prior|Refiner|Cascade(Prior|Decoder)|Upsample|"
    r"LTX|Wan|Cosmos(?!2TextToImage)|Marigold|ShapE|Latte|LLaDA|Gemma|AnyFlow|AceStep|Proteina|"
    r"Animate|Mochi|Motif|Allegro|EasyAnimate|ConsisID|Chrono|Helios|SkyReels|Kandinsky6"
)
"""Other things than images, halves of a pipeline, and other frameworks, whose calls do not tell."""


_IMAGE_BESIDE = ("Flux2", "FluxKontext")
"""How pipelines are called that make an image without the one that they may look at."""


@dataclass(frozen=True, slots=True)
class Call:
    """What one pipeline is made of and called with.

    Attributes:
        name: its class.
        parameters: of the call, with their defaults; `REQUIRED` where there is none, None where
            the default is no literal.
        options: names of what its constructor takes.
        annotations: of the call, as they are written.
    """

    name: str
    parameters: Mapping[str, Any]
    options: frozenset[str] = frozenset()
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.parameters

    @property
    def makes_images(self) -> bool:
        """Whether it gives an image for a text, class, image, mask or control, and no frames."""
        is_other = _OTHER_NAMES.search(self.name) or any(
            map(_OTHER_ARGUMENTS.search, self.parameters)
        )
        is_asked = bool(_ASKED & set(self.parameters))
        return is_asked and not is_other and self.name != "DiffusionPipeline"

    def explain_lack(self) -> str | None:
        """Says why no recipe can ask it for an image; None where one can."""
        if not self.makes_images:
            return f"{self.name} makes no images by itself: take an image pipeline"
        if "content_prompt" in self:
            return f"{self.name} asks for a grid of examples, which no stream gives"
        return None

    @property
    def takes_one(self) -> bool:
        """Whether its annotations leave no room for the prompts, images or noise of several rows.

        A list of lists, or a mode for each control image, means several images for one row.
        """
        names = ("prompt", self.image, self.mask, "generator")
        written = [self.annotations[name] for name in names if name and name in self.annotations]
        is_single = any(_LIST.search(each) is None for each in written)
        controls = self.annotations.get("control_image", "")
        return is_single or ("control_mode" in self and "list[PipelineImageInput]" in controls)

    def takes_bare(self, name: str) -> bool:
        """Whether an argument may be one text, image or generator, and no list of one."""
        left = re.sub(r"\b[Ll]ist\[[^\[\]]*\]", "", self.annotations.get(name, ""))
        return _BARE.search(left) is not None

    @property
    def control(self) -> str | None:
        """The argument of an image that says where things are."""
        if "control_mask" in self:  # its control image is the image that the mask is of
            return None
        named = next((name for name in ("control_image", "hint") if name in self), None)
        is_control = any(name in self for name in _CONTROL_SCALES)
        return named or ("image" if is_control and "image" in self else None)

    @property
    def mask(self) -> str | None:
        """The argument of a mask, white where the image is made anew."""
        return next((n for n in ("mask_image", "control_mask", "mask") if n in self), None)

    @property
    def image(self) -> str | None:
        """The argument of an image that is varied or changed."""
        if "control_mask" in self:
            return "control_image"
        names = ("image", "images")
        return next((n for n in names if n in self and n != self.control), None)

    @property
    def starts_from_latents(self) -> bool:
        """Whether it begins at latents that it is given, without an image, and can end at some."""
        does_without = self.image is None or self.name.startswith(_IMAGE_BESIDE)
        is_bare = does_without and self.control is None and self.mask is None
        draws = "noise_level" in self  # beside the latents, on an embedding
        has_steps = "original_inference_steps" in self  # those of its own scheduler alone
        goes_through = "latents" in self and "output_type" in self
        return is_bare and goes_through and not draws and not has_steps

    @property
    def has_strength(self) -> bool:
        """Whether it starts from the image with noise on it, not from noise alone."""
        return "strength" in self

    @property
    def enlarges(self) -> bool:
        """Whether it makes a larger image of the one that it is given."""
        return re.search(r"Upscale|SuperResolution", self.name) is not None

    @property
    def needs_image(self) -> bool:
        """Whether nothing is made without an image, as far as its signature tells."""
        if self.image is None:
            return False
        is_bare = self.parameters[self.image] is REQUIRED
        return is_bare or self.has_strength or self.mask is not None

    @property
    def guidance(self) -> str | None:
        """The argument of the guidance scale; None where the pipeline has none."""
        true = self.parameters.get("true_cfg_scale")
        if isinstance(true, int | float) and true > 1:
            return "true_cfg_scale"
        names = ("guidance_scale", "decoder_guidance_scale", "true_cfg_scale")
        return next((name for name in names if name in self), None)

    @property
    def fixed(self) -> dict[str, Any]:
        """Arguments of every call."""
        found = {name: value for name, value in _FIXED.items() if name in self}
        for name in ("max_sequence_length", "tokenizer_max_length"):
            if isinstance(self.parameters.get(name), int):
                found[name] = self.parameters[name]
        return found

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height, px, where the call has defaults."""
        width, height = self.parameters.get("width"), self.parameters.get("height")
        if isinstance(width, int) and isinstance(height, int):
            return width, height
        return None

    def choose_load_arguments(self, index: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what leaves out parts that change pixels behind one's back, or are not there.

        Args:
            index: the model's model_index.json.
        """
        absent = {
            name: None
            for name, value in index.items()
            if isinstance(value, list) and not any(value) and not name.startswith("_")
        }
        for name in ("safety_checker", "watermarker"):
            if name in self.options:
                absent[name] = None
        flags = ("requires_safety_checker", "add_watermarker")
        return {**absent, **{name: False for name in flags if name in self.options}}


def find_call(name: str, folder: Path | None = None) -> Call | None:
    """Returns the call of a pipeline class; None where neither a folder nor diffusers has it.

    Args:
        name: of the class.
        folder: whose own Python files are looked at first.
    """
    for path in sorted(folder.glob("*.py")) if folder is not None else ():
        found = _read_class(path, name)
        if found is not None:
            return found
    return _find_in_diffusers(name)


@functools.cache
def find_image_twin(name: str) -> str | None:
    """Returns the image-to-image pipeline on the same parts as a text-to-image one, or None.

    diffusers' own table says so (`AutoPipelineForImage2Image`).
    """
    path = _find_package() / "pipelines" / "auto_pipeline.py"
    tables: dict[str, dict[str, str]] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            pairs = dict(
                re.findall(r"\('([\w.-]+)', (\w+)\)", ast.unparse(node.value)),
            )
            tables[ast.unparse(node.targets[0])] = pairs
    texts = tables.get("AUTO_TEXT2IMAGE_PIPELINES_MAPPING", {})
    images = tables.get("AUTO_IMAGE2IMAGE_PIPELINES_MAPPING", {})
    return next((images.get(key) for key, text in texts.items() if text == name), None)


@functools.cache
def _find_in_diffusers(name: str) -> Call | None:
    if not name.isidentifier():
        return None
    calls = (_read_class(path, name) for path in _index_sources().get(name, ()))
    return next((each for each in calls if each is not None), None)


@functools.cache
def _index_sources() -> Mapping[str, tuple[Path, ...]]:
    """Returns the files that define each class, in order: they are read once, for all names."""
    found: dict[str, tuple[Path, ...]] = {}
    for path in sorted((_find_package() / "pipelines").rglob("pipeline_*.py")):
        for name in re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            found[name] = (*found.get(name, ()), path)
    return found


@functools.cache
def _find_package() -> Path:
    spec = find_spec("diffusers")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    return Path(places[0]) if places else Path("diffusers")


def _read_class(path: Path, name: str) -> Call | None:
    """Returns the call of a class that a file defines; what it inherits is looked up, too."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return None
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if name not in classes:
        return None
    methods = {node.name: node for node in classes[name].body if isinstance(node, ast.FunctionDef)}
    bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name)]
    inherited: Call | None = None
    if "__call__" not in methods or "__init__" not in methods:
        found = (
            _read_class(path, base) if base in classes else _find_in_diffusers(base)
            for base in bases
        )
        inherited = next((each for each in found if each is not None), None)
    if "__call__" not in methods and inherited is None:
        return None
    options = set(_read_parameters(methods["__init__"])) if "__init__" in methods else set()
    taken = frozenset(options or (inherited.options if inherited else ()))
    if "__call__" in methods:
        call = methods["__call__"]
        return Call(name, _read_parameters(call), taken, _read_annotations(call))
    known = inherited or Call(name, {})
    return Call(name, known.parameters, taken, known.annotations)


def _read_parameters(method: ast.FunctionDef) -> dict[str, Any]:
    given = method.args
    names = [each.arg for each in (*given.posonlyargs, *given.args)]
    bare: list[ast.expr | None] = [None] * (len(names) - len(given.defaults))
    pairs = [*zip(names, [*bare, *given.defaults], strict=True)]
    pairs += [
        (each.arg, value) for each, value in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    return {
        name: REQUIRED if default is None else _read_literal(default)
        for name, default in pairs
        if name != "self"
    }


def _read_annotations(method: ast.FunctionDef) -> dict[str, str]:
    given = (*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs)
    return {each.arg: ast.unparse(each.annotation) for each in given if each.annotation}


def _read_literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
