"""Families of stain and domain: the image is one, and its stain alone differs."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from factory.catalog.catalog import load_catalogs
from factory.catalog.stains import NamedLook, StainsEntry
from factory.core.errors import CatalogError, DamageError
from factory.core.metrics.structure import correlate_in_tissue
from factory.core.stain_transfer import measure_look
from factory.data.images import list_images
from factory.data.streams import Domain, Recolour
from factory.models.generators.families.fake import FakeGenerator
from factory.recipe.conditions.base import Planning
from factory.recipe.conditions.family import FamilySeries, build_families
from factory.recipe.conditions.grids import open_grid
from factory.recipe.conditions.series import find_details
from tests import ASSETS
from tests.catalog.test_caption_grid import load
from tests.catalog.test_weighted_grids import LINES
from tests.recipe.test_families import BLOCK, group, write_families
from tests.running import ask, find_messages, load_recipe, read_json, read_rows, run

PCAM, CRC = ASSETS / "pcam" / "train", ASSETS / "crc-val-7k" / "train"
STAINS = ["as-made", "he-slides/cmu-1", "he-slides/brecahad"]
SIZE = {"generator": {"model": "fake", "width": 64, "height": 64, "batch_size": 4}}


def decode(row):
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("looks")
    vary = {"stain": STAINS, "domain": [str(PCAM), str(CRC.parent)]}
    block = {**BLOCK, "count": 6, "vary": vary}
    assert run(write_families(folder, conditions=[block], **SIZE), folder / "out").exit_code == 0
    return folder / "out"


def test_members_are_one_image_in_several_stains(made):
    rows = read_rows(made)
    families = group(rows)
    assert len(rows) == 6 * 5 and len(families) == 12
    for members in families.values():
        assert len({row["seed"] for row in members}) == 1
        assert len({row["caption"] for row in members}) == 1
        assert len({row["image_sha256"] for row in members}) == len(members)
        images = np.stack([decode(row) for row in members])
        kept = correlate_in_tissue(np.repeat(images[:1], len(images), axis=0), images)
        assert kept.min() > 0.9
    stains = [row for row in rows if row["varied"] == "stain"]
    assert [row["value"] for row in stains[:3]] == STAINS
    told = [json.loads(row["provenance"])["condition"] for row in stains[:3]]
    assert ["stain" in each for each in told] == [False, True, True]
    # all images of a value have its look
    entry = load_catalogs().find_stains("he-slides")
    for value in STAINS[1:]:
        wanted = entry.find_look(value.partition("/")[2])
        looks = [measure_look([decode(row)]) for row in stains if row["value"] == value]
        for found in looks:
            assert np.allclose(found.mean, wanted.mean, atol=0.06)


def test_a_domain_is_told_by_its_images_and_named_by_its_folder(made):
    rows = [row for row in read_rows(made) if row["varied"] == "domain"]
    assert {row["value"] for row in rows} == {"train", "crc-val-7k"}
    told = json.loads(rows[0]["provenance"])
    images = list_images(PCAM)
    assert 0 < len(told["stain_pixels_sha256"]) <= min(64, len(images))


def test_families_of_looks_are_made_again_exactly(made):
    report = json.loads(ask("verify", made, "--regenerate", 30, "--json"))
    assert {each["status"] for each in report["regenerated"]} == {"exact"}
    assert len(report["regenerated"]) == 30


def test_what_another_version_recoloured_is_not_made_again(made):
    row = next(each for each in read_rows(made) if each["value"] == STAINS[1])
    told = json.loads(row["provenance"])["condition"]["stain"]
    assert Recolour.restore(told, {}, row).identity() == told
    older = {name: value for name, value in told.items() if name != "restained"}
    with pytest.raises(DamageError, match="as version 1"):
        Recolour.restore(older, {}, row)


def test_other_values_change_no_member_that_was(made, tmp_path):
    block = {**BLOCK, "count": 6, "vary": {"stain": [STAINS[2], STAINS[0]]}}
    run(write_families(tmp_path, conditions=[block], **SIZE), tmp_path / "out")
    before = {row["sample_id"]: row["image_sha256"] for row in read_rows(made)}
    rows = read_rows(tmp_path / "out")
    assert len(rows) == 12
    assert all(before[row["sample_id"]] == row["image_sha256"] for row in rows)


def test_what_a_domain_holds_counts_and_not_where_it_lies(tmp_path):
    keys = []
    for name, source in (("a/one", PCAM), ("b/one", PCAM), ("c/one", CRC)):
        folder = tmp_path / name
        folder.parent.mkdir()
        folder.symlink_to(source)
        block = {**BLOCK, "vary": {"domain": [str(folder), str(ASSETS / "oral-oscc")]}}
        loaded = load_recipe(write_families(tmp_path, conditions=[block]))
        (found,) = build_families(loaded.recipe.blocks[0], Planning(7, loaded.session))
        keys.append(found.key)
    assert keys[0] == keys[1] != keys[2]


def test_a_translator_is_given_the_domains_themselves(tmp_path):
    block = {"kind": "translate", "images": str(PCAM), "to": {"domain": str(PCAM)}, "shots": 2}
    block["vary"] = {"domain": [str(PCAM), str(CRC.parent)]}
    loaded = load_recipe(write_families(tmp_path, conditions=[block]))
    (found,) = build_families(loaded.recipe.blocks[0], Planning(7, loaded.session))
    one, other = (found.request_at(place).condition for place in (0, 1))
    assert one.get(Domain) is not None and one.get(Recolour) is None
    assert one.get(Domain) != other.get(Domain)
    assert {**one.describe(), "domain": None} == {**other.describe(), "domain": None}


@pytest.mark.parametrize(
    ("vary", "field", "words"),
    [
        ({"stain": ["as-made", "cmu-1"]}, "stain", "write CATALOG/NAME"),
        ({"stain": ["as-made", "he-slides/cmu"]}, "stain", "did you mean 'cmu-1'"),
        ({"stain": ["as-made", "he-slide/cmu-1"]}, "stain", "did you mean 'he-slides'"),
        ({"domain": [str(PCAM), str(CRC)]}, "domain", "two folders have one name"),
        ({"domain": [str(PCAM), "nowhere"]}, "domain", "nowhere"),
    ],
)
def test_looks_that_are_not_there_are_refused(tmp_path, vary, field, words):
    messages = find_messages(write_families(tmp_path, conditions=[{**BLOCK, "vary": vary}]))
    assert words in messages[f"conditions[0].vary.{field}"]


def test_a_catalog_of_stains_is_checked():
    terms = {"id": "cc0-1.0", "date_read": "2026-11-27"}
    look = {"name": "a", "mean": (0, 0, 0), "spread": (1, 1, 1)}
    with pytest.raises(ValueError, match="stands twice"):
        StainsEntry.model_validate({"id": "x", "licence": terms, "looks": [look, look]})
    with pytest.raises(ValueError, match="above 0"):
        NamedLook.model_validate({**look, "spread": (1, 0, 1)})
    found = StainsEntry.model_validate({"id": "x", "licence": terms, "looks": [look]})
    with pytest.raises(CatalogError, match="no stain 'b'"):
        found.find_look("b")


def test_terms_of_stains_reach_the_card(made):
    told = json.dumps(read_json(made / "summary.json"))
    assert "BreaKHis" not in told and "BreakHis" in told


def test_families_of_a_weighted_grid_keep_its_shares(tmp_path):
    base = open_grid(load(tmp_path, LINES), 1, 10)
    plain = FamilySeries.of(base, {"scale": (0.5, 1.0)})
    assert plain.shares == base.shares
    varied = FamilySeries.of(base, {"organ": ("node", "skin"), "density": ("low", "high")})
    assert varied.shares["size"] == pytest.approx(base.shares["size"])
    # of four members two say each density once, and two what the base says
    assert varied.shares["density"] == pytest.approx({"low": 0.375, "high": 0.625})
    assert find_details(plain) == find_details(base)


def test_shares_are_compared_in_the_summary(tmp_path):
    block = {**BLOCK, "weights": {"eosin": {"pale": 3, "strong": 1}}}
    block["vary"] = {"scale": [0.25, 1.0]}
    run(write_families(tmp_path, conditions=[block]), tmp_path / "out")
    (series,) = read_json(tmp_path / "out" / "summary.json")["series"]
    assert series["attributes"]["eosin"]["pale"]["asked"] == 0.75
    assert sum(each["images"] for each in series["attributes"]["eosin"].values()) > 0


@pytest.mark.parametrize("size", [1, 3, 4])
def test_what_members_of_stains_share_is_made_once(tmp_path, monkeypatch, size, made):
    calls = []
    plain = FakeGenerator.make

    def count(self, job):
        calls.append(job.seed)
        return plain(self, job)

    monkeypatch.setattr(FakeGenerator, "make", count)
    vary = {"stain": STAINS, "domain": [str(PCAM), str(CRC.parent)]}
    block = {**BLOCK, "count": 6, "vary": vary}
    settings = {"generator": {**SIZE["generator"], "batch_size": size}}
    path = write_families(tmp_path, conditions=[block], output={"shard_size": 30}, **settings)
    assert run(path, tmp_path / "out").exit_code == 0
    rows = read_rows(tmp_path / "out")
    known = {row["sample_id"]: row["image_sha256"] for row in read_rows(made)}
    assert {row["sample_id"]: row["image_sha256"] for row in rows} == known
    tries = {(row["seed"], row["caption"]) for row in rows}
    assert len(tries) == 12 and len(rows) == 30
    assert len(set(calls)) == len(tries)
    assert len(calls) == len(tries)
