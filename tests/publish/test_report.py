"""`factory report`: numbers as in the tables, pictures of what is stored, a page safe to open."""

import base64
import io
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from factory.api import refilter
from factory.core.errors import StoreError
from factory.core.hashing import hash_bytes
from factory.core.images import decode_image, encode_image
from factory.core.thumbnails import describe_images
from factory.engine.dedup import compare_pairs
from factory.engine.run import read_outline
from factory.engine.run_folder import RunFolder
from factory.publish.report import ReportOptions, build_report
from factory.publish.report.acceptance import BINS, POINTS, Acceptance
from factory.publish.report.collect import Pools, Shown
from factory.publish.report.margins import Limit, Spread, find_nearest_margin, measure_margins
from factory.publish.report.pictures import LONGEST, make_picture
from factory.recipe.file import load_recipe
from tests.running import DEDUP, call, read_rows, run, run_recipe, save_again, write_recipe

VOID = {"meta", "img", "br", "hr", "link", "input"}
HTML = '<script>alert(1)</script> & "nuclei" <img src=x onerror=alert(2)> {{ 7 * 7 }}'


class Page(HTMLParser):
    """Reads a page strictly: every tag closed in order; collects what tests look at."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.images, self.ids, self.links = [], Counter(), [], [], []
        self.texts, self.rows, self.outside = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.tags[tag] += 1
        assert not any(name.startswith("on") for name in named)
        self.ids += [named["id"]] if "id" in named else []
        for name in ("src", "href"):
            if name in named:
                inside = named[name].startswith(("data:image/", "#"))
                self.outside += [] if inside else [named[name]]
        if tag == "a":
            self.links.append(named["href"])
        if tag == "img":
            self.images.append(named)
        if tag == "tr":
            self.rows.append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"style"}:
            self.texts.append(data)
        if self.rows and {"td", "th"} & set(self.open) and data.strip():
            self.rows[-1].append(data.strip())

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.texts))


def read_data_uri(uri):
    return base64.b64decode(uri.partition("base64,")[2])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A finished run that tests only read, with its numbers and page."""
    folder = tmp_path_factory.mktemp("plain")
    result = run(write_recipe(folder), folder / "run")
    numbers, html = build_report(str(folder / "run"))
    return folder / "run", result.summary, numbers, html


@pytest.fixture
def real(tmp_path):
    """Four real images of each of two classes."""
    for number, name in enumerate(("normal", "tumor")):
        (tmp_path / "real" / name).mkdir(parents=True)
        for index in range(4):
            pixels = np.random.default_rng(10 * number + index).integers(0, 256, (40, 40, 3))
            data = encode_image(pixels.astype(np.uint8), "png")
            (tmp_path / "real" / name / f"{index}.png").write_bytes(data)
    return tmp_path / "real"


# --- numbers -------------------------------------------------------------------------------------


def test_counts_are_those_of_the_tables(plain):
    out, summary, numbers, _ = plain
    accepted, others = read_rows(out), read_rows(out, "rejected")
    assert numbers["status"] == "finished"
    assert numbers["accepted"] == len(accepted) == 23
    assert numbers["generated"] == len(accepted) + len(others)
    assert numbers["spare"] == sum(row["status"] == "spare" for row in others)
    for part, known in zip(numbers["series"], summary.series, strict=True):
        mine = [row for row in others if row["class_name"] == part["label"]]
        rejected = Counter(row["rejected_by"] for row in mine if row["status"] == "rejected")
        assert part["rejected"] == dict(rejected)
        assert (part["asked"], part["accepted"]) == (known.asked, known.accepted)
        assert part["generated"] == (
            part["accepted"] + part["spare"] + part["near_duplicates"] + sum(rejected.values())
        )


def test_page_shows_the_funnel(plain):
    _, _, numbers, html = plain
    rows = Page(html).rows
    head = ["asked", "accepted", "short", "candidates", "finite", "tissue", "near-duplicates"]
    assert rows[0][2:] == [*head, "spare"]
    for part in numbers["series"]:
        counts = [part["asked"], part["accepted"], 0, part["generated"]]
        counts += [part["rejected"].get("finite", 0), 0, 0, part["spare"]]
        assert [part["label"], *map(str, counts)] in rows
    assert ["all", "23", "23", "0", str(numbers["generated"])] == rows[3][:5]


def test_histograms_count_every_candidate_that_was_not_spare(plain):
    out, _, numbers, _ = plain
    others = read_rows(out, "rejected")
    by_score = {part["score"]: part for part in numbers["scores"]}
    assert {"contrast", "saturated_fraction", "tissue_fraction"} <= by_score.keys()
    for part in by_score.values():
        for each in part["series"]:
            rejected = [row for row in others if row["class_name"] == each["label"]]
            rejected = [row for row in rejected if row["status"] == "rejected"]
            asked = {"normal": 10, "tumor": 13}[each["label"]]
            assert sum(each["accepted"]) == asked
            assert sum(each["rejected"]) == len(rejected)


def test_no_bin_has_scores_of_both_sides_of_a_threshold(plain):
    _, _, numbers, _ = plain
    contrast = next(part for part in numbers["scores"] if part["score"] == "contrast")
    assert contrast["thresholds"] == [{"field": "min_contrast", "value": 0.1435, "decides": True}]
    normal = next(part for part in contrast["series"] if part["label"] == "normal")
    below = [edge < 0.1435 - 1e-4 for edge in contrast["edges"][:-1]]
    assert any(abs(edge - 0.1435) < 1e-4 for edge in contrast["edges"])
    first = below.index(False)
    assert sum(normal["rejected"]) == sum(normal["rejected"][:first]) > 0
    assert sum(normal["accepted"]) == sum(normal["accepted"][first:]) > 0


def test_acceptance_adds_up(plain):
    _, _, numbers, html = plain
    for part in numbers["series"]:
        points = numbers["acceptance"][part["label"]]
        assert sum(point["accepted"] for point in points) == part["accepted"]
        assert sum(point["tried"] for point in points) == part["generated"] - part["spare"]
        assert points[-1]["requests"] == part["asked"]
    first = numbers["acceptance"]["tumor"][0]
    text = f"tumor, up to number {first['requests']}: {first['accepted']} of {first['tried']}"
    assert f"<title>{text} (" in html


@given(
    indices=st.lists(st.integers(0, 5000), min_size=1, max_size=60),
    statuses=st.lists(st.sampled_from(["accepted", "rejected", "spare"]), min_size=60, max_size=60),
)
@settings(max_examples=60)
def test_acceptance_loses_nothing_in_few_bins(indices, statuses):
    found = Acceptance()
    used = statuses[: len(indices)]
    for index, status in zip(indices, used, strict=True):
        found.add(index, status)
    points = found.to_points()
    assert len(found.tried) <= BINS and len(points) <= POINTS + 1
    assert sum(point["tried"] for point in points) == len(used) - used.count("spare")
    assert sum(point["accepted"] for point in points) == used.count("accepted")
    assert all(point["accepted"] <= point["tried"] for point in points)


@given(st.lists(st.lists(st.floats(-1e3, 1e3) | st.just(float("nan")), max_size=20), max_size=6))
@settings(max_examples=60)
def test_spread_is_numpys(blocks):
    spread = Spread()
    for block in blocks:
        spread.add(np.array(block, np.float64))
    values = np.array([value for block in blocks for value in block])
    values = values[~np.isnan(values)]
    assert spread.count == len(values)
    if len(values):
        assert spread.mean == pytest.approx(values.mean(), abs=1e-6)
        assert spread.deviation == pytest.approx(values.std(), abs=1e-6)
        assert (spread.low, spread.high) == (values.min(), values.max())


def test_margins_heed_class_direction_and_rule():
    precise = Limit("classifier", "min_probability", "p", {"normal": 0.5, "tumor": 0.8}, True, True)
    blur = Limit("focus", "max_blur", "blur", 0.6, False, True)
    idle = Limit("tissue", "min_fraction", "tissue", 0.9, True, False)
    spreads = {"p": Spread(), "blur": Spread()}
    spreads["p"].add(np.array([0.4, 0.6]))  # deviation 0.1
    spreads["blur"].add(np.array([0.0, 1.0]))  # deviation 0.5
    scores = {"p": 0.7, "blur": 0.65, "tissue": 0.1}
    limits = [precise, blur, idle]
    normal = measure_margins(limits, spreads, scores, "normal")
    assert [round(margin.slack, 6) for margin in normal] == [2.0, -0.1]
    tumor = measure_margins(limits, spreads, scores, "tumor")
    assert [round(margin.slack, 6) for margin in tumor] == [-1.0, -0.1]
    assert len(measure_margins(limits, spreads, scores, None)) == 1
    assert str(find_nearest_margin(tumor, "focus", False)) == "p 0.7 < 0.8"
    assert str(find_nearest_margin(tumor, "focus", True)) == "blur 0.65 > 0.6"
    assert str(find_nearest_margin(normal[:1], None, False)) == "p 0.7 ≥ 0.5"
    assert find_nearest_margin(normal[:1], "near_duplicate", False) is None


# --- pictures ------------------------------------------------------------------------------------


def test_pictures_are_those_stored(plain):
    out, _, numbers, html = plain
    stored = {
        row["sample_id"]: row for folder in ("data", "rejected") for row in read_rows(out, folder)
    }
    shown = numbers["shown"]
    assert len(shown["accepted"]) == 23
    for each in (*shown["accepted"], *shown["rejected"], *shown["borderline"]):
        row = stored[each["sample_id"]]
        uri = f"data:image/webp;base64,{base64.b64encode(row['image']['bytes']).decode()}"
        assert uri in html
        assert each["status"] == row.get("status", "accepted")
        assert each["reason"] == row.get("reason")
    images = Page(html).images
    assert len(images) == sum(len(shown[name]) for name in shown)
    assert all(image["alt"] for image in images)


def test_borderline_images_are_the_nearest_to_a_threshold(plain):
    out, _, numbers, _ = plain
    rows = [*read_rows(out), *read_rows(out, "rejected")]
    scores = {row["sample_id"]: row["scores"] for row in rows}
    rejected = [row for row in rows if row.get("status") == "rejected"]
    nearest = max(rejected, key=lambda row: row["scores"]["contrast"])
    shown = numbers["shown"]["borderline"]
    assert {each["status"] for each in shown} == {"accepted", "rejected"}
    missed = [each["sample_id"] for each in shown if each["status"] == "rejected"]
    assert nearest["sample_id"] in missed
    text = f"contrast {scores[nearest['sample_id']]['contrast']:g} < 0.1435"
    assert text in {each["nearest"] for each in shown}


def test_same_run_gives_the_same_page_and_galleries_are_bounded(plain):
    out, _, _, html = plain
    assert build_report(str(out))[1] == html
    numbers, _ = build_report(str(out), ReportOptions(per_gallery=4))
    for name in ("accepted", "borderline", "rejected"):
        assert len(numbers["shown"][name]) == 4
    assert {each["class_name"] for each in numbers["shown"]["accepted"]} == {"normal", "tumor"}


def test_groups_take_turns():
    pools = Pools(5)
    for group, count in (("a", 9), ("b", 1), ("c", 9)):
        for number in range(count):
            shown = Shown({"sample_id": f"{group}{number}"}, None, None, None)
            pools.offer((group,), float(number), shown)
    assert [each.sample_id for each in pools.draw(6)] == ["a0", "a1", "a2", "b0", "c0", "c1"]
    assert len(pools.draw(100)) == 5 + 1 + 5


def test_large_images_are_shrunk_and_marked():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 600, 3), dtype=np.uint8)
    picture = make_picture(encode_image(pixels, "png"), "x", is_synthetic=True)
    data = read_data_uri(picture.uri)
    assert decode_image(data, "x").shape == (LONGEST // 2, LONGEST, 3)
    assert (picture.width, picture.height) == (600, 300)
    assert b"trainedAlgorithmicMedia" in data and len(data) < 40_000
    real = make_picture(encode_image(pixels, "png", is_synthetic=False), "x", is_synthetic=False)
    assert b"trainedAlgorithmicMedia" not in read_data_uri(real.uri)


def test_few_rows_are_read_by_id(plain):
    folder = RunFolder(str(plain[0]))
    outline = read_outline(folder.read_run())
    marker = folder.read_marker(next(iter(outline.iterate_shards())))
    names = folder.read_table(marker, ["sample_id"])["sample_id"].to_pylist()
    found = folder.read_rows(marker, {names[1], "elsewhere"}, ("image",))
    assert [row["sample_id"] for row in found] == [names[1]]
    assert found[0]["image"]["bytes"]


# --- the page ------------------------------------------------------------------------------------


def test_page_needs_nothing_from_outside(plain):
    page = Page(plain[3])
    assert plain[3].startswith("<!doctype html>")
    assert not page.outside
    assert not page.tags["script"] and not page.tags["link"]
    assert len(set(page.ids)) == len(page.ids)
    assert {link[1:] for link in page.links} <= set(page.ids) and len(page.links) == 11
    assert "url(" not in plain[3] and "@import" not in plain[3]


def test_texts_of_users_are_escaped(tmp_path):
    (tmp_path / "captions.txt").write_text(HTML + "\n")
    blocks = [
        {"kind": "caption", "captions": "captions.txt", "count": 3},
        {"kind": "class", "per_class": {"<b>odd</b>": 3}},
    ]
    recipe = write_recipe(
        tmp_path, conditions=blocks, filters=[{"kind": "finite", "min_contrast": 0.9}],
        description=HTML, card={"pretty_name": HTML}, budget={"attempts": 1},
    )  # fmt: skip
    run(recipe, tmp_path / "run")
    numbers, html = build_report(str(tmp_path / "run"))
    assert numbers["status"] == "short"
    page = Page(html)
    assert not page.tags["script"] and not page.outside
    assert page.text.count(HTML) >= 3 + 3  # title, heading, description, captions
    assert "<b>odd</b>" in page.text and "<b>odd" not in html


def test_run_without_filters(tmp_path):
    run(write_recipe(tmp_path, filters=[]), tmp_path / "run")
    numbers, html = build_report(str(tmp_path / "run"))
    text = Page(html).text
    assert numbers["accepted"] == numbers["generated"] - numbers["spare"] == 23
    assert [part["score"] for part in numbers["scores"]] == ["nonfinite_fraction"]
    assert "No filter was used." in text and "None is rejected." in text
    assert "the recipe has no dedup" in text
    assert not numbers["shown"]["borderline"]


def test_scores_only(tmp_path):
    run(write_recipe(tmp_path, output={"keep_rejected": "scores"}), tmp_path / "run")
    numbers, html = build_report(str(tmp_path / "run"))
    page = Page(html)
    rejected = numbers["shown"]["rejected"]
    missed = [each for each in numbers["shown"]["borderline"] if each["status"] == "rejected"]
    assert rejected and "Images of rejected candidates were not kept" in page.text
    assert html.count(">image not kept</div>") == len(rejected) + len(missed)
    assert all(each["reason"] in page.text for each in rejected)


def test_many_series_share_one_panel_and_one_line(tmp_path):
    names = {f"class {number:02d}": 1 for number in range(15)}
    blocks = [{"kind": "class", "per_class": names}]
    run(write_recipe(tmp_path, conditions=blocks, filters=[{"kind": "tissue"}]), tmp_path / "run")
    numbers, html = build_report(str(tmp_path / "run"))
    assert list(numbers["acceptance"]) == ["all series"]
    assert "all 15 series: 15 accepted and" in html
    assert sum(point["accepted"] for point in numbers["acceptance"]["all series"]) == 15


# --- states of a run -----------------------------------------------------------------------------


def take_back(out, keep):
    """Leaves a run folder as it is while it runs: `keep` committed shards, no data set."""
    for name in ("data", "rejected", "assets"):
        shutil.rmtree(out / name)
    for name in ("summary.json", "recipe.json", "README.md"):
        (out / name).unlink()
    for marker in sorted((out / ".factory" / "shards").glob("*.json"))[keep:]:
        marker.unlink()


@pytest.mark.parametrize("keep", [0, 3])
def test_unfinished_run_counts_committed_shards(plain, tmp_path, keep):
    out = shutil.copytree(plain[0], tmp_path / "run")
    take_back(out, keep)
    numbers, html = build_report(str(out))
    text = Page(html).text
    assert numbers["status"] == "unfinished"
    assert numbers["shards"] == {"committed": keep, "planned": 7}
    assert f"{keep} of 7 shards are committed" in text and "SHORTFALL" not in text.upper()
    assert numbers["accepted"] == len(numbers["shown"]["accepted"]) == (10 if keep else 0)
    assert numbers["asked"] == 23


def test_committed_but_not_written(plain, tmp_path):
    out = shutil.copytree(plain[0], tmp_path / "run")
    take_back(out, 99)
    numbers, html = build_report(str(out))
    assert numbers["status"] == "unwritten"
    assert "no data set of them is written" in Page(html).text


def test_shortfall_and_quarantine_are_loud(tmp_path):
    filters = [{"kind": "finite", "min_contrast": 0.145}]
    run(write_recipe(tmp_path, filters=filters, budget={"attempts": 1}), tmp_path / "run")
    numbers, html = build_report(str(tmp_path / "run"))
    assert numbers["status"] == "short" and numbers["short"] > 0
    part = numbers["series"][0]
    assert f"normal: {part['short']} short of 10; most candidates were rejected for" in html
    folder = RunFolder(str(tmp_path / "run"))
    shard = next(iter(read_outline(folder.read_run()).iterate_shards()))
    folder.quarantine(shard, 0, "the GPU <fell> off")
    numbers, html = build_report(str(tmp_path / "run"))
    assert numbers["status"] == "quarantined"
    assert f"Shard {shard.id} kept failing: the GPU <fell> off" in Page(html).text


def test_refiltered_run_is_shown_as_decided_now(plain, tmp_path):
    out = shutil.copytree(plain[0], tmp_path / "run")
    result = refilter(str(out), ["filters.finite.min_contrast=0.147"])
    numbers, html = build_report(str(out))
    assert numbers["refiltered"] and not plain[2]["refiltered"]
    assert numbers["accepted"] == result.summary.accepted == len(read_rows(out))
    assert numbers["accepted"] < plain[2]["accepted"]
    assert numbers["status"] == "short"
    assert "min_contrast: 0.147" in html


def test_picked_run(tmp_path):
    pick = {"keep": "best", "by": "contrast", "pool": 2}
    run(write_recipe(tmp_path, pick=pick), tmp_path / "run")
    numbers, html = build_report(str(tmp_path / "run"))
    assert numbers["accepted"] == len(read_rows(tmp_path / "run")) == 23
    assert numbers["status"] == "finished"
    assert "or others of their series were picked" in Page(html).text


def test_object_store(tmp_path):
    url = f"memory://{tmp_path.name}"
    recipe = load_recipe(write_recipe(tmp_path))
    run_recipe(recipe, url, lambda outcome: None, lambda line: None)
    result = call("report", url)
    assert result.exit_code == 0, result.output
    html = RunFolder(url).files.read("report.html").decode()
    assert "23" in Page(html).text and f"wrote {url}/report.html" in result.output


# --- near-duplicates and real images -------------------------------------------------------------


def write_references(tmp_path, filters, **changes):
    block = {"kind": "reference", "images": "real", "per_class": 6, "strength": 0.3}
    return write_recipe(
        tmp_path, conditions=[block], filters=filters, budget={"attempts": 2}, **changes
    )


def test_near_duplicates_stand_beside_what_they_repeat(tmp_path, real):
    run(write_references(tmp_path, [], dedup={"max_similarity": 0.3}), tmp_path / "run")
    numbers, html = build_report(str(tmp_path / "run"), ReportOptions(base=tmp_path))
    rows = [*read_rows(tmp_path / "run"), *read_rows(tmp_path / "run", "rejected")]
    stored = {row["sample_id"]: row for row in rows}
    kept = {row["sample_id"] for row in read_rows(tmp_path / "run")}
    assert numbers["near_duplicates"] == len(numbers["shown"]["repeats"]) > 3
    for each in numbers["shown"]["repeats"]:
        assert each["match"] in kept and each["match"] in stored[each["sample_id"]]["reason"]
        pair = [
            describe_images(decode_image(stored[name]["image"]["bytes"], "x")[None])
            for name in (each["sample_id"], each["match"])
        ]
        assert f"similarity {compare_pairs(*pair)[0]:g}" in html


def test_variations_stand_beside_their_references(tmp_path, real):
    filters = [{"kind": "training_copy", "max_similarity": 1.0}]
    run(write_references(tmp_path, filters), tmp_path / "run")
    numbers, html = build_report(str(tmp_path / "run"), ReportOptions(base=tmp_path))
    rows = {row["sample_id"]: row for row in read_rows(tmp_path / "run")}
    (found,) = numbers["real"]
    assert found["title"] == "References" and len(found["pairs"]) == len(rows) == 12
    for pair in found["pairs"]:
        row = rows[pair["sample_id"]]
        assert hash_bytes((real / pair["real"]).read_bytes()) == row["reference_sha256"]
        assert pair["similarity"] == row["scores"]["copy_similarity"]
    assert "This file holds real images" in html
    save_again(real, tmp_path / "again")
    real.rename(tmp_path / "gone")
    (tmp_path / "again").rename(real)
    again, _ = build_report(str(tmp_path / "run"), ReportOptions(base=tmp_path))
    assert len(again["real"][0]["pairs"]) == 12
    bare, html = build_report(str(tmp_path / "run"), ReportOptions(base=tmp_path, with_real=False))
    assert not bare["real"] and "This file holds real images" not in html
    for words, holds in (((), True), (("--no-real",), False)):
        arguments = ["report", str(tmp_path / "run"), "--base", str(tmp_path), *words]
        assert call(*arguments).exit_code == 0
        page = (tmp_path / "run" / "report.html").read_text()
        assert ("This file holds real images" in page) is holds


def test_real_images_that_are_gone_leave_a_note(tmp_path, real):
    filters = [
        {"kind": "realism", "images": "real", "max_neighbour_distance": 99.0},
        {"kind": "training_copy", "max_similarity": 1.0, "images": "real"},
    ]
    run(write_references(tmp_path, filters), tmp_path / "run")
    options = ReportOptions(base=tmp_path)
    numbers, _ = build_report(str(tmp_path / "run"), options)
    titles = ["References", "training_copy.images: real", "realism: real"]
    assert [each["title"] for each in numbers["real"]] == titles
    assert all(len(each["pairs"]) == 12 for each in numbers["real"])
    distances = [pair["distance"] for pair in numbers["real"][2]["pairs"]]
    assert distances == sorted(distances)
    next(real.rglob("*.png")).unlink()
    numbers, _ = build_report(str(tmp_path / "run"), options)
    notes = [" ".join(each["notes"]) for each in numbers["real"]]
    assert "1 of 8 references are not there any more" in notes[0]
    assert "they have changed" in notes[1]
    shutil.rmtree(real)
    numbers, html = build_report(str(tmp_path / "run"), options)
    assert [each["pairs"] for each in numbers["real"]] == [[], [], []]
    assert all("Not shown: " in " ".join(each["notes"]) for each in numbers["real"])
    assert "Relative paths start at --base" in html and str(tmp_path) not in html
    assert len(numbers["shown"]["accepted"]) == 12


@pytest.mark.parametrize("dedup", [DEDUP, None])
def test_a_copied_real_image_comes_first(tmp_path, real, dedup):
    """With descriptors stored (dedup) and without, of images of another size."""
    recipe = write_recipe(tmp_path, dedup=dedup)
    run(recipe, tmp_path / "run")
    row = sorted(read_rows(tmp_path / "run"), key=lambda row: row["sample_id"])[0]
    pixels = decode_image(row["image"]["bytes"], "x")
    turned = Image.fromarray(np.rot90(pixels)).resize((96, 96), Image.Resampling.BICUBIC)
    turned.save(real / "tumor" / "copy.png")
    numbers, _ = build_report(str(tmp_path / "run"), ReportOptions(real=(real,)))
    (found,) = numbers["real"]
    first, *others = found["pairs"]
    assert (first["sample_id"], first["real"]) == (row["sample_id"], "tumor/copy.png")
    assert first["similarity"] > 0.95 > max(pair["similarity"] for pair in others)
    assert found["notes"][0] == "9 real images."


# --- the command, and judged sets ----------------------------------------------------------------


def test_command_writes_and_prints(plain, tmp_path):
    out = shutil.copytree(plain[0], tmp_path / "run")
    result = call("report", str(out))
    assert result.exit_code == 0, result.output
    assert "test: finished, 7 of 7 shards" in result.stdout
    assert "normal: 10 of 10" in result.stdout
    assert Page((out / "report.html").read_text()).images
    place = tmp_path / "elsewhere" / "x.html"
    result = call("report", str(out), "--out", str(place), "--json")
    numbers = json.loads(result.stdout)
    assert numbers["out"] == str(place) and place.stat().st_size < 3e6
    assert numbers["series"] == plain[2]["series"]


def test_command_refuses_what_is_no_run(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    result = call("report", str(tmp_path))
    assert result.exit_code == 2 and "not a run folder" in result.output
    result = call("report", str(tmp_path / "nothing"))
    assert result.exit_code == 2 and "not a run folder" in result.output
    assert not (tmp_path / "nothing").exists()


def test_judged_images(tmp_path, real):
    Image.new("RGB", (24, 24), "white").save(real / "normal" / "blank.png")
    recipe = write_recipe(tmp_path / "recipe", filters=[{"kind": "finite"}])
    arguments = [
        "judge",
        "--data",
        str(real),
        "--recipe",
        str(recipe),
        "--out",
        str(tmp_path / "out"),
    ]
    assert call(*arguments).exit_code == 0
    numbers, html = build_report(str(tmp_path / "out"))
    assert numbers["judged"] and numbers["status"] == "finished" and numbers["accepted"] == 8
    assert [each["rejected_by"] for each in numbers["shown"]["rejected"]] == ["finite"]
    page = Page(html)
    assert "Nothing was generated: the images were given." in page.text
    sizes = {Image.open(io.BytesIO(read_data_uri(each["src"]))).size for each in page.images}
    assert sizes == {(40, 40), (24, 24)}
    assert all(b"trainedAlgorithmicMedia" not in read_data_uri(each["src"]) for each in page.images)


# --- evaluation ----------------------------------------------------------------------------------


def test_the_table_of_tiers_stands_in_the_report(tmp_path):
    from factory.evaluate.base import TIERS
    from factory.evaluate.everything import build_tiers

    out = tmp_path / "out"
    run(write_recipe(tmp_path), out)
    assert "Not measured. <code>factory evaluate all</code>" in build_report(str(out))[1]
    table = build_tiers({}, {"fewshot": "too few <shots>"})
    table["tiers"][TIERS[0]]["fd (x, 5 against 6)"] = {
        **{"value": 1.234, "low": None, "high": None, "beside": "real held back: 1"},
        **{"marks": ["CIRCULAR"], "part": "fidelity"},
    }
    folder = out / "evaluation"
    (folder / "fewshot").mkdir(parents=True)
    (folder / "tiers.json").write_text(json.dumps(table))
    (folder / "fewshot" / "arms.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "copies.png").write_bytes(b"\x89PNG")
    html = build_report(str(out))[1]
    for text in ("fd (x, 5 against 6) <strong>CIRCULAR</strong>", "1.23", "too few &lt;shots&gt;"):
        assert text in html
    assert html.count("data:image/svg+xml;base64,") == 1
    assert "closest pairs" in html
    assert "closest pairs" not in build_report(str(out), ReportOptions(with_real=False))[1]
    (folder / "tiers.json").write_text("{}")
    with pytest.raises(StoreError, match="not a table of factory evaluate all"):
        build_report(str(out))
