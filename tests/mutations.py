"""Broken recipes, made systematically from a sound one: every one must be refused."""

import copy
from collections.abc import Iterator
from typing import Any

import yaml

SOUND = """\
name: sound
seed: 3
description: a recipe that is fine
generator:
  model: fake
  steps: 4
  guidance: {scale: 2.0, end: 1.0}
  prompt_template: "H&E patch, {class_name}"
  width: 64
  height: 64
  dtype: float32
  batch_size: 4
conditions:
  - kind: class
    classes: pcam
    per_class: {normal: 3, tumor: 3}
  - kind: caption
    captions: he-basic
    count: 4
filters:
  - {kind: finite, min_contrast: 0.02}
  - {kind: tissue, min_fraction: 0.3}
budget: {attempts: 3, on_shortfall: warn, retries: 1, max_error_rate: 0.1}
workers: {executor: local, count: 1}
output:
  path: runs/sound
  formats: [parquet]
  image_format: webp
  shard_size: 4
card: {license: cc-by-4.0, pretty_name: Sound}
"""

_REQUIRED = {
    ("name",),
    ("generator",),
    ("generator", "model"),
    ("generator", "guidance", "end"),
    ("conditions",),
    ("conditions", 0, "kind"),
    ("conditions", 0, "per_class"),
    ("conditions", 1, "captions"),
    ("conditions", 1, "count"),
    ("filters", 1, "kind"),
}
_BAD_NAMES = (
    "../escape",
    "/etc/passwd",
    "..",
    ".hidden",
    "a/b",
    "a\\b",
    "Upper",
    "white space",
    "",
    "x" * 97,
    "naïve",
    "semi;colon",
    "$(id)",
)
_BAD_VALUES: tuple[tuple[str, Any], ...] = (
    ("seed", 2**63),
    ("generator.model", "nano-eh"),
    ("generator.model", "./no/such/folder"),
    ("generator.model", "no/such/folder"),
    ("generator.model", "mupad-256"),
    ("generator.model", "pixcell-256"),
    ("generator.model", "dit-256"),
    ("generator.family", "stable-difusion"),
    ("generator.guidance", -1.0),
    ("generator.guidance", 1e6),
    ("generator.scheduler", "UniPCMultistp"),
    ("generator.scheduler", "os.system"),
    ("generator.device", "gpu"),
    ("generator.width", 63),
    ("generator.width", 8192),
    ("generator.prompt_template", "no class in here"),
    ("generator.prompt_template", "{clas_name}"),
    ("generator.prompt_template", "{class_name"),
    ("generator.adapters", [{"source": "./no-such-adapter"}]),
    ("generator.adapters", [{"source": "a/b", "weight_name": "w.bin"}]),
    ("generator.adapters", [{"source": "a/b", "scale": 11}]),
    ("catalogs", ["no-such-catalog"]),
    ("conditions", []),
    ("conditions.0.classes", "pcan"),
    ("conditions.0.classes", ["normal", "normal", "tumor"]),
    ("conditions.0.per_class", {}),
    ("conditions.0.per_class", {"normal": 3, "tumour": 3}),
    ("conditions.0.per_class", {"normal": 10**11}),
    ("conditions.1.captions", "he-basics"),
    ("conditions.1.captions", "missing/captions.jsonl"),
    ("conditions.1.class_column", "label"),
    (
        "conditions",
        [
            {"kind": "class", "classes": "pcam", "per_class": 2},
            {"kind": "class", "per_class": {"tumor": 2}},
        ],
    ),
    (
        "conditions",
        [
            {"kind": "caption", "captions": "he-basic", "count": 2},
            {"kind": "caption", "captions": "he-basic", "count": 9},
        ],
    ),
    ("conditions", [{"kind": "class", "per_class": 3}]),
    ("conditions", [{"kind": "reference", "images": "no/images", "per_class": 3}]),
    ("conditions", [{"kind": "reference", "images": "x", "per_class": 3, "strength": 0}]),
    ("conditions", [{"kind": "reference", "images": "x", "per_class": 3, "group_pattern": "("}]),
    ("filters", [{"kind": "classifier", "model": "./no/classifier"}]),
    ("filters", [{"kind": "classifier", "model": "no-such-classifier"}]),
    ("filters", [{"kind": "classifier", "model": "x/y", "min_probability": 1.1}]),
    ("filters", [{"kind": "training_copy"}]),
    ("filters", [{"kind": "training_copy", "images": "no/images"}]),
    ("filters", [{"kind": "finite"}, {"kind": "finite"}]),
    ("filters", [{"kind": "focus"}]),
    ("output.formats", []),
    ("output.formats", ["parquett"]),
    ("card.license", "cc-by-4"),
)


def iterate_mutations(text: str = SOUND) -> Iterator[tuple[str, str]]:
    """Yields (name, text) of broken recipes; `text` must have the fields of `SOUND`."""
    yield from _break_text(text)
    data = yaml.safe_load(text)
    for path in _list_paths(data):
        label = ".".join(map(str, path))
        yield from _break_field(data, path, label)
    for name in _BAD_NAMES:
        yield f"name={name[:20]!r}", _dump(data, ("name",), name)
    for number, (field, value) in enumerate(_BAD_VALUES):
        path = tuple(int(part) if part.isdigit() else part for part in field.split("."))
        yield f"bad value {number} of {field}", _dump(data, path, value)


def iterate_broken_files() -> Iterator[tuple[str, bytes]]:
    """Yields (name, content) of files that are no recipe at all."""
    yield "png", b"\x89PNG\r\n\x1a\n" + bytes(range(256))
    yield "latin-1", SOUND.replace("fine", "f\xefne").encode("latin-1")
    yield "utf-16", SOUND.encode("utf-16")
    yield "huge", SOUND.encode() + b"# padding\n" * 200_000
    yield "zeros", bytes(4096)
    yield "empty", b""


def _break_text(text: str) -> Iterator[tuple[str, str]]:
    yield "empty", ""
    yield "comment only", "# nothing\n"
    yield "list at the top", "- name: x\n"
    yield "text at the top", "just some words\n"
    yield "number at the top", "42\n"
    yield "null at the top", "null\n"
    yield "control character", text.replace("sound", "so\x07und", 1)
    yield "nul", text.replace("sound", "so\x00und", 1)
    yield "escaped nul", text.replace("name: sound", 'name: "so\\0und"', 1)
    yield "lone surrogate", text.replace("name: sound", 'name: "\\ud800"', 1)
    yield "tab indent", text.replace("  model: fake", "\tmodel: fake")
    yield "open bracket", text.replace("[parquet]", "[parquet")
    yield "open quote", text.replace("a recipe that is fine", '"a recipe')
    yield "bad indent", text.replace("  steps: 4", " steps: 4")
    yield "colon in value", text.replace("a recipe that is fine", "a: recipe: that")
    yield "two documents", f"{text}---\n{text}"
    yield "deep flow", text + "extra: " + "[" * 60 + "]" * 60 + "\n"
    yield "very deep flow", text + "extra: " + "[" * 100_000 + "\n"
    yield "deep blocks", text + "".join(f"{' ' * n}k{n}:\n" for n in range(60))
    yield "infinity", text.replace("min_contrast: 0.02", "min_contrast: .inf")
    yield "not a number", text.replace("min_contrast: 0.02", "min_contrast: .nan")
    yield "overflow", text.replace("min_contrast: 0.02", "min_contrast: 1e999")
    yield "endless integer", text.replace("seed: 3", "seed: " + "9" * 5000)
    yield "merge key", text.replace("  steps: 4", "  <<: {steps: 4}")
    yield "alias", text.replace("seed: 3", "seed: &s 3").replace("steps: 4", "steps: *s")
    yield "anchor only", text.replace("seed: 3", "seed: &s 3")
    yield "unknown alias", text.replace("seed: 3", "seed: *nowhere")
    yield "complex key", text + "? [a, b]\n: 1\n"
    yield "yes for true", text.replace("  steps: 4", "  trust_remote_code: yes")
    bomb = "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    yield "billion laughs", f'a: &a ["lol"]\n{bomb}{text}'
    for tag in (
        '!!python/object/apply:os.system ["true"]',
        "!!python/object:os.PathLike {}",
        "!!python/name:os.system ''",
        "!!binary aGk=",
        "!!set {a}",
        "!custom x",
        "!!str sound",
        "! sound",
    ):
        yield f"tag {tag.split()[0]}", text.replace("name: sound", f"name: {tag}", 1)
    for key in yaml.safe_load(text):
        line = next(line for line in text.splitlines() if line.startswith(f"{key}:"))
        again = line if not line.endswith(":") else f"{key}: {{}}"
        yield f"duplicate {key}", f"{text}{again}\n"


def _break_field(data: Any, path: tuple[Any, ...], label: str) -> Iterator[tuple[str, str]]:
    value = _get(data, path)
    if isinstance(value, dict):
        yield f"{label} is text", _dump(data, path, "wrong text")
        yield f"{label} is a list", _dump(data, path, [[1]])
        yield f"{label} has an unknown field", _dump(data, (*path, "unknown_field_x"), 1)
    elif isinstance(value, list):
        yield f"{label} is a number", _dump(data, path, 17)
        yield f"{label} is a mapping", _dump(data, path, {"a": 1})
    else:
        yield f"{label} is a nested list", _dump(data, path, [[1]])
        if isinstance(value, bool | int | float):
            yield f"{label} is text", _dump(data, path, str(value))
            yield f"{label} is true", _dump(data, path, True)
            yield f"{label} is negative", _dump(data, path, -3)
            yield f"{label} is huge", _dump(data, path, 10**30)
        else:
            yield f"{label} is a number", _dump(data, path, 5)
            yield f"{label} is a mapping", _dump(data, path, {"a": {"b": []}})
    key = path[-1]
    if isinstance(key, str):
        broken = copy.deepcopy(data)
        holder = _get(broken, path[:-1])
        holder[f"{key}q"] = holder.pop(key)
        yield f"{label} is misspelt", _write(broken)
        if key == "kind":
            yield f"{label} is an unknown kind", _dump(data, path, f"{value[:-1]}")
    if path in _REQUIRED:
        broken = copy.deepcopy(data)
        _get(broken, path[:-1]).pop(key)
        yield f"{label} is missing", _write(broken)


def _list_paths(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries: Any = enumerate(data) if isinstance(data, list) else data.items()
    for key, value in entries:
        yield (*path, key)
        if isinstance(value, list | dict):
            yield from _list_paths(value, (*path, key))


def _get(data: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        data = data[part]
    return data


def _dump(data: Any, path: tuple[Any, ...], value: Any) -> str:
    broken = copy.deepcopy(data)
    _get(broken, path[:-1])[path[-1]] = value
    return _write(broken)


def _write(data: Any) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
