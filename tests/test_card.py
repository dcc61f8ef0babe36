"""The dataset card's pieces; whole cards are read in test_run."""

import pytest

from factory.card import choose_size_category, shorten_path


@pytest.mark.parametrize(
    ("rows", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**9, "1B<n<10B"), (10**12, "n>1T")],
)
def test_size_categories(rows, category):
    assert choose_size_category(rows) == category


def test_absolute_paths_are_cut_and_others_kept():
    plain = {"a": "/home/me/real", "b": ["~/x/y", "real/z", "owner/name"], "c": 3}
    assert shorten_path(plain) == {
        "a": ".../real",
        "b": [".../y", "real/z", "owner/name"],
        "c": 3,
    }
