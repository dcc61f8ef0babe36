"""Plain data of libraries' values, and JSON without NaN."""

import datetime
import enum
import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import given

from factory.core.hashing import compute_digest, to_canonical_json
from factory.core.plain import to_plain, write_json
from tests.core.values import PLAIN

INF, NAN = math.inf, math.nan


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Pair:
    a: float
    b: tuple


@pytest.mark.stranger
@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (INF, "Infinity"),
        (-INF, "-Infinity"),
        (NAN, "NaN"),
        (np.float32(-INF), "-Infinity"),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([1.0, NAN]), [1.0, "NaN"]),
        (torch.tensor([1, 2]), [1, 2]),
        (torch.float16, "float16"),
        (np.dtype("float32"), "float32"),
        (np.float32, "float32"),
        (torch.device("cuda:0"), "cuda:0"),
        ((1, (2, -INF)), [1, [2, "-Infinity"]]),
        ({3, 1, 2}, [1, 2, 3]),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (PurePosixPath("a/b"), "a/b"),
        (None, None),
        (OrderedDict(a={"b": INF}), {"a": {"b": "Infinity"}}),
        (Pair(INF, (1,)), {"a": "Infinity", "b": [1]}),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (math.sqrt, "math.sqrt"),
        (torch.nn.SiLU, "torch.nn.modules.activation.SiLU"),
        (torch.nn.SiLU(), "torch.nn.modules.activation.SiLU"),
    ],
)
def test_values_of_libraries_become_plain(value, plain):
    assert to_plain(value) == plain
    assert to_canonical_json(to_plain({"x": value})) == to_canonical_json({"x": plain})


@given(PLAIN)
def test_what_was_valid_keeps_its_digest(value):
    assert compute_digest("x", to_plain(value)) == compute_digest("x", value)


def test_results_that_are_not_finite_become_null():
    value = {"a": [1.5, NAN, {"b": (-INF, np.float64(NAN))}], "c": np.array([1.0, INF])}
    assert json.loads(write_json(value)) == {
        "a": [1.5, None, {"b": [None, None]}],
        "c": [1.0, None],
    }
