"""Fenced blocks of README and pages as steps: what a reader types, and how a test shortens it."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from tests import ROOT

NOT_RUN = {
    "python3 -m venv": "installs",
    ". .venv/bin/activate": "installs",
    "pip install": "installs",
    "python -m pytest": "is this",
    "ruff ": "a check of its own",
    "mypy": "a check of its own",
    "mkdocs ": "a check of its own",
    "export AWS_": "wants a bucket",
    "factory run quickstart --out s3://": "wants a bucket",
    "factory export runs/mif --to ome-tiff": "wants the extra ome: tests/engine/test_channels.py",
    "factory forget": "wants a patient of the run: tests/engine/test_forget.py",
    "factory review": "waits for people: tests/publish/test_review.py",
    "factory refilter runs/quickstart --set filters.review": "follows the last",
    "factory evaluate readers": "follows the last",
    "factory status runs/quickstart --web": "serves: tests/publish/test_watch.py",
    "factory models adopt": "wants a model: tests/models/test_adopt.py runs the page on a tiny one",
    "factory models show bought": "follows the last",
    "factory models check bought": "follows the last",
    "factory run unfiltered-control --out runs/bought": "follows the last",
    "factory train generator": "hours; wants the training sets",
    "factory train encoder": "hours; wants the training sets",
    "factory train translator recipes": "hours; wants images of two stains",
    "factory tune": "minutes, and may add nothing: tests/evaluate/test_tune.py runs it",
    "factory train classifier --data PATCHES/train --encoder encoders/mine": "follows the last",
}
"""Beginning of a command -> why a test cannot run it; its options are read all the same."""
REPLACED = {
    "s3://BUCKET/mine": "published",
    "s3://BUCKET/run": "runs/mine",
    "OWNER/NAME": "me/readme",
}
"""What stands for a place of the reader's own."""
_SMALL = "--set generator.batch_size=4 --set budget.attempts="
SHORTENED = {
    "factory run quickstart": "--set conditions.0.per_class=1 " + _SMALL + "30",
    "factory train classifier --data PATCHES/train --size 64 --encoder he-ssl": "--force",
    "factory plan quickstart": "--set generator.batch_size=2",
    "factory preview": "-n 2 --set generator.batch_size=2",
    "factory run few-shot-variations": "--set conditions.0.per_class=4 " + _SMALL + "10",
    "factory run few-shot-stains": "--set conditions.0.per_class=2 " + _SMALL + "10",
    "factory run few-shot-guided": "--set conditions.0.per_class=1 " + _SMALL + "2",
    "factory run he-captions": "--set conditions.0.count=24 --set filters=[] " + _SMALL + "1",
    "factory run unfiltered-control": "--set conditions.0.per_class=2 " + _SMALL + "1",
    "factory run masks": "--set conditions.0.per_mask=1",
    "factory run translate": "--set conditions.0.shots=2 --set generator.steps=2"
    " --set filters.1.min_correlation=-1 --set filters.2.min_share=-10",
    "factory train layout": "--rounds 1",
    "factory train translator training": "--set training.steps=2 --set validation.every=2",
    "factory run layouts": "--set conditions.0.per_class.human_liver=1"
    " --set conditions.0.per_class.human_pancreas=1",
    "factory evaluate retrieval": "--epochs 1 --seeds 1 --batch-size 4"
    " --model tiny --pretrained none",
    "factory evaluate segmentation": "--steps 2 --seeds 1 --width 4",
    "factory evaluate all": "--seeds 2 --steps 20 --fewshot-encoder color-texture",
    "factory evaluate fewshot": "--seeds 2 --steps 20 --encoder color-texture"
    " --set conditions.0.per_class=2 " + _SMALL + "4",
    "factory calibrate": "-n 4 " + _SMALL + "5",
    "factory train adapter": "--steps 2 --check-every 2 --check-images 1 --max-copies 1",
}
"""Beginning of a command -> options after it that make it a matter of seconds."""
SHORT = ("factory calibrate", "factory run", "factory refilter")
"""Commands that may end with exit code 1 where so few images are asked for."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page; `line` is where its text begins, `title` the file that it is."""

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True)
class Step:
    """One command, one block of Python, or one file to write."""

    block: Block
    line: int
    text: str

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.block.page}:{self.line}"

    @property
    def reason(self) -> str | None:
        """Why it is not run."""
        return next((why for start, why in NOT_RUN.items() if self.text.startswith(start)), None)

    def list_words(self) -> list[str]:
        """Returns the words of a command as the shell splits them, replaced and shortened."""
        words = shlex.split(self.text, comments=True)
        for given, own in REPLACED.items():
            words = [word.replace(given, own) for word in words]
        extra = next((more for start, more in SHORTENED.items() if self.text.startswith(start)), "")
        return words + shlex.split(extra)


def load_hook() -> ModuleType:
    """Returns what writes the reference pages, found as mkdocs finds it: by its path."""
    spec = importlib.util.spec_from_file_location("hook", ROOT / "docs/_hooks/reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def list_pages() -> list[Path]:
    """Returns the README, then the pages of the site in the order of `mkdocs.yml`."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    return [ROOT / "README.md", *(ROOT / "docs" / name for name in _list_leaves(nav))]


def _list_leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
        return
    for each in nav.values() if isinstance(nav, dict) else nav:
        yield from _list_leaves(each)


def list_blocks(text: str, page: str = "") -> list[Block]:
    """Returns the fenced blocks of a Markdown text, in order.

    Raises:
        ValueError: a fence that is indented or says no language, so that no test would see it.
    """
    pattern = r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$'
    blocks = [
        Block(page, text[: found.start()].count("\n") + 2, found[1], found[2] or "", found[3])
        for found in re.finditer(pattern, text, re.DOTALL | re.MULTILINE)
    ]
    if text.count("```") != 2 * len(blocks):
        raise ValueError(f"{page}: a fence that no test reads: give it a language, at column 0")
    return blocks


def list_steps(blocks: list[Block]) -> list[Step]:
    """Returns the commands, blocks of Python and files to write, in order."""
    steps = []
    for block in blocks:
        if block.title or block.language == "python":
            steps.append(Step(block, block.line, block.text))
        elif block.language == "bash":
            steps += _split_commands(block)
    return steps


def _split_commands(block: Block) -> Iterator[Step]:
    line = block.line
    for command in re.split(r"(?<!\\)\n", block.text.strip()):
        yield Step(block, line, re.sub(r"\\\n\s*", "", command))
        line += command.count("\n") + 1


def list_mentions(path: Path) -> list[Step]:
    """Returns the commands that a page, recipe or script mentions: in blocks, comments and text.

    A comment's command goes on below where its line ends in a backslash. What is named in passing,
    such as `factory run`, is a command without arguments.
    """
    text = path.read_text(encoding="utf-8")
    plain = re.sub(r"\\\n#?\s*", "", text)
    patterns = (
        r"^#\s+(factory .*)$",  # in a comment
        r"^(factory .*)$",  # a block
        r"python -m (factory run .*?)(?: &&|$)",  # a script
        r"`(factory [a-z][^`]*)`",  # in text
    )
    found = [each for pattern in patterns for each in re.findall(pattern, plain, re.MULTILINE)]
    block = Block(path.name, 0, "bash", "", text)
    return [Step(block, 0, " ".join(each.split())) for each in dict.fromkeys(found)]
