"""The blocks of the README as commands: what a reader types, and how a test shortens it."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = ("bash", "python")
NOT_RUN = {
    "python3 -m venv": "installs",
    ". .venv/bin/activate": "installs",
    "pip install": "installs",
    "python -m pytest": "is this",
    "factory train generator": "hours; wants the training sets",
    "factory train encoder": "hours; wants the training sets",
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
    "factory run few-shot-variations": "--set conditions.0.per_class=4 " + _SMALL + "10",
    "factory run few-shot-guided": "--set conditions.0.per_class=1 " + _SMALL + "2",
    "factory run he-captions": "--set conditions.0.count=24 --set filters=[] " + _SMALL + "1",
    "factory run unfiltered-control": "--set conditions.0.per_class=2 " + _SMALL + "1",
    "factory evaluate retrieval": "--epochs 1 --seeds 1 --batch-size 4"
    " --model tiny --pretrained none",
    "factory evaluate all": "--seeds 2 --steps 20 --fewshot-encoder color-texture",
    "factory evaluate fewshot": "--seeds 2 --steps 20 --encoder color-texture"
    " --set conditions.0.per_class=2 " + _SMALL + "4",
    "factory calibrate": "-n 4 " + _SMALL + "5",
    "factory train adapter": "--steps 2 --check-every 2 --check-images 1 --max-copies 1",
}
"""Beginning of a command -> options after it that make it a matter of seconds."""
SHORT = ("factory calibrate", "factory run")
"""Commands that may end with exit code 1 where so few images are asked for."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command, or one block of Python, of a section; `line` is where it stands."""

    line: int
    section: str
    language: str
    text: str

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


def list_steps(text: str) -> list[Step]:
    """Returns the commands and blocks of a Markdown text, in order."""
    steps = []
    for block in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        language, code = block.groups()
        if language not in LANGUAGES:
            continue
        line = text[: block.start()].count("\n") + 2
        sections = re.findall(r"^## (.*)$", text[: block.start()], re.MULTILINE)
        section = sections[-1] if sections else ""
        if language == "python":
            steps.append(Step(line, section, language, code))
            continue
        for command in re.split(r"(?<!\\)\n", code.strip()):
            joined = re.sub(r"\\\n\s*", "", command)
            steps.append(Step(line, section, language, joined))
            line += command.count("\n") + 1
    return steps


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
    return [Step(0, path.name, "bash", " ".join(each.split())) for each in dict.fromkeys(found)]
