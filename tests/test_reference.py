"""The references of recipes and commands say what the code says."""

import re

import pytest

from factory.cli.shipped import read_purpose
from tests.reference import PAGES, write_commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_a_reference_is_what_the_code_writes(page):
    assert page.read_text(encoding="utf-8") == PAGES[page](), (
        "run `python -m tests.reference` and look at what changed"
    )


def test_every_option_says_what_it_is_for():
    silent = [line for line in write_commands().splitlines() if re.match(r"\| `--.*\|  \|$", line)]
    assert not silent


def test_a_recipe_tells_its_purpose_in_a_sentence(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("# yaml-language-server: $schema=x\n# Does this: and that.\nname: x\n")
    assert read_purpose(path) == "Does this."
