"""Captions of images: measures become values, values sentences, and the shipped grid holds up."""

from collections import Counter

import numpy as np
import pytest
import yaml

from factory.catalog.captions.grid import CaptionGrid
from factory.catalog.captions.writing import bin_attributes, write_caption
from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError
from factory.core.stains import measure_attributes
from factory.data.images import fit_image, list_images
from tests import ASSETS, ROOT

PARAPHRASES = ROOT / "tests" / "benchmarks" / "paraphrases.yaml"
GRID = CaptionGrid.model_validate(
    {
        "id": "g",
        "templates": ["{density}", "{stain} {organ}", "{organ}: {density}, {eosin}"],
        "attributes": {
            "organ": {"colon": [], "lung": []},
            "stain": {"h&e": ["H&E", "HE"]},
            "density": {"low": ["few nuclei", "sparse nuclei"], "medium": [], "high": ["many"]},
            "eosin": {"pale": ["pale pink"], "strong": ["deep pink"]},
        },
        "measures": {
            "density": {"by": "nuclear_density", "edges": [0.2, 0.4]},
            "eosin": {"by": "eosin", "edges": [0.1]},
        },
    }
)


def write(values, seed=0):
    return write_caption(GRID, values, np.random.default_rng(seed))


def write_many(grid, values, count=400):
    draw = np.random.default_rng(0)
    return Counter(write_caption(grid, values, draw) for _ in range(count))


def test_measures_fall_into_named_bins():
    measured = {
        "nuclear_density": np.array([0.0, 0.19, 0.2, 0.39, 0.4, 1.0, np.nan], np.float32),
        "eosin": np.array([-0.1, 0.09, 0.11, np.nan, 0.5, 9.0, np.nan], np.float32),
        "fat": np.zeros(7, np.float32),
    }
    # 0.2 is a little above 0.2 in float32 and belongs to the higher value in any case.
    named = bin_attributes(GRID, measured)
    assert [each.get("density") for each in named] == [
        *("low", "low", "medium", "medium", "high", "high", None)
    ]
    assert [each.get("eosin") for each in named] == [
        *("pale", "pale", "strong", None, "strong", "strong", None)
    ]
    assert named[-1] == {}


def test_no_images_have_no_values():
    measured = measure_attributes(np.zeros((0, 32, 32, 3), np.uint8))
    assert bin_attributes(GRID, measured) == []


def test_a_missing_measure_is_told():
    with pytest.raises(InputError, match=r"'eosin' by 'eosin'.*nuclear_density"):
        bin_attributes(GRID, {"nuclear_density": np.zeros(2)})


def test_measures_of_different_images_are_refused():
    with pytest.raises(InputError, match=r"same images.*'eosin': 3"):
        bin_attributes(GRID, {"nuclear_density": np.zeros(2), "eosin": np.zeros(3)})


def test_a_caption_says_only_what_is_given():
    assert set(write_many(GRID, {"density": "low"})) == {"few nuclei", "sparse nuclei"}
    assert set(write_many(GRID, {"density": "medium"})) == {"medium"}
    assert set(write_many(GRID, {"organ": "lung"})) == {"H&E lung", "HE lung"}
    found = set(write_many(GRID, {"organ": "lung", "density": "high", "eosin": "pale"}))
    assert found == {"many", "H&E lung", "HE lung", "lung: many, pale pink"}


def test_templates_and_wordings_are_drawn_evenly():
    counts = write_many(GRID, {"organ": "lung", "density": "low"}, 2000)
    assert set(counts) == {"few nuclei", "sparse nuclei", "H&E lung", "HE lung"}
    assert all(400 < count < 600 for count in counts.values())


def test_the_draw_alone_decides():
    values = {"organ": "lung", "density": "low", "eosin": "pale"}
    assert [write(values, seed) for seed in range(20)] == [write(values, s) for s in range(20)]
    assert len({write(values, seed) for seed in range(20)}) > 3


def test_unknown_attributes_are_ignored_and_unknown_values_told():
    assert write({"density": "high", "scanner": "x"}) == "many"
    with pytest.raises(InputError, match="'density' has no value 'hihg': did you mean 'high'"):
        write({"density": "hihg"})


def test_too_little_to_say_anything():
    with pytest.raises(InputError, match="no template does with only eosin, stain"):
        write({"eosin": "pale"})


# --- the shipped grid ----------------------------------------------------------------------------


def load_grid():
    return load_catalogs().find_captions("he-attributes")


def list_texts(grid):
    return [
        (name, value, text)
        for name, values in grid.attributes.items()
        for value, texts in values.items()
        for text in texts
    ]


def test_the_shipped_grid_says_everything_in_many_ways():
    grid = load_grid()
    assert len(grid.templates) >= 20
    assert all(len(texts) >= 6 for kinds in grid.attributes.values() for texts in kinds.values())
    subsets = [len(each.wordings) for each in grid.layout]
    assert sum(size <= 4 for size in subsets) > len(subsets) / 2
    assert max(subsets) >= 8
    measured = set(grid.measures)
    assert measured == set(grid.attributes) - {"organ", "stain", "magnification"}
    told = [set(each.wordings) for each in grid.layout if len(each.wordings) <= 2]
    for name in measured:
        assert any(name in each for each in told), name


def test_shipped_wordings_mean_one_value_and_no_diagnosis():
    texts = [text.lower() for _, _, text in list_texts(load_grid())]
    assert len(set(texts)) == len(texts)
    words = {
        "tumor",
        "tumour",
        "cancer",
        "carcinoma",
        "malignant",
        "benign",
        "normal",
        "metastasis",
    }
    words |= {"atypical", "pathological", "inflammation", "necrosis", "healthy", "lesion"}
    assert not [text for text in texts if words & set(text.replace("-", " ").split())]


def test_shipped_captions_are_short():
    grid = load_grid()
    longest = {
        name: max(
            (text for texts in kinds.values() for text in texts), key=lambda t: len(t.split())
        )
        for name, kinds in grid.attributes.items()
    }
    for template in grid.templates:
        assert len(template.format_map(longest).split()) < 60


def test_shipped_bins_are_all_met_by_real_patches():
    grid = load_grid()
    images = []
    for folder, step in (("pcam", 1), ("oral-oscc", 1)):
        listed = list_images(ASSETS / folder / "train")[::step]
        images += [fit_image(each.read_pixels(), 96, 96, "resize") for each in listed]
    named = bin_attributes(grid, measure_attributes(np.stack(images)))
    assert len(named) > 35
    for name in grid.measures:
        counts = Counter(each[name] for each in named if name in each)
        assert set(counts) == set(grid.attributes[name])
        assert min(counts.values()) > 0.05 * len(named), name
    draw = np.random.default_rng(0)
    captions = {write_caption(grid, each, draw) for each in named}
    assert len(captions) > 0.8 * len(named)


def test_paraphrases_are_held_out_and_ask_for_known_values():
    grid, held = load_grid(), yaml.safe_load(PARAPHRASES.read_text())
    assert set(held) == {"templates", "phrases"}
    assert set(held["phrases"]) == {"density", "size", "haematoxylin", "eosin"}
    assert not set(held["templates"]) & set(grid.templates)
    known = {text.lower() for _, _, text in list_texts(grid)}
    asked = []
    for name, values in held["phrases"].items():
        assert list(values) == list(grid.attributes[name])
        for phrases in values.values():
            assert len(phrases) >= 6
            asked += phrases
    assert len(set(asked)) == len(asked)
    assert not set(asked) & known
    for template in held["templates"]:
        assert template.count("{phrase}") == 1
        form = template.replace("{phrase}", "{density}")
        assert form not in grid.templates
