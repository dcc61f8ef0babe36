"""A mapping on disk is a mapping, and its memory does not grow with it."""

import random
import subprocess
import sys

import pytest

from factory.core.errors import StoreError
from factory.core.files.disk_map import DiskMap


def test_it_is_what_a_dict_is():
    draw, mine, plain = random.Random(0), DiskMap(), {}
    assert not mine and list(mine) == []
    for _ in range(2000):
        key, value = draw.choice("abcä€\U0001f52c") * draw.randrange(9), [draw.random(), "x", None]
        match draw.randrange(4):
            case 0:
                assert mine.setdefault(key, value) == plain.setdefault(key, value)
            case 1 if key in plain:
                del mine[key], plain[key]
            case _:
                mine[key] = plain[key] = value
        assert (key in mine) is (key in plain) and mine.get(key) == plain.get(key)
    assert dict(mine) == plain and len(mine) == len(plain) and mine
    assert list(mine) == sorted(plain)
    for act in (lambda: mine["none"], lambda: mine.__delitem__("none")):
        with pytest.raises(KeyError, match="none"):
            act()


def test_counts_and_what_another_lacks():
    mine, other = DiskMap(), DiskMap()
    assert [mine.count_up(key) for key in "baab"] == [1, 1, 2, 2]
    assert mine["a"] == 2
    other["a"] = 0
    assert list(mine.list_lacking(other)) == ["b"] and list(other.list_lacking(mine)) == []


def test_a_full_disk_is_told_in_words():
    mine = DiskMap()
    mine._table.execute("PRAGMA max_page_count = 9")
    with pytest.raises(StoreError, match=r"TMPDIR.*full: free space"):
        for number in range(2000):
            mine[f"{number:032x}"] = "f" * 64


FILL = """
import resource, sys
from factory.core.files.disk_map import DiskMap
kept = DiskMap()
for number in range(int(sys.argv[1])):
    kept[f"{number * 2654435761 % 2**32:032x}"] = "f" * 64
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_is_bounded():
    def fill(count: int) -> int:
        command = [sys.executable, "-c", FILL, str(count)]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    few, many = fill(1_000), fill(120_000)  # 35 MiB of texts in a dict
    unit = 1 if sys.platform == "darwin" else 1024
    assert (many - few) * unit < 22 * 2**20
