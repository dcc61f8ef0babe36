"""Reader studies: blinded, balanced, never the same image twice; figures of known answers."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import factory
from factory.core.errors import InputError
from factory.core.images import decode_image
from factory.data.review.store import ReviewStore
from factory.publish.review import ReviewOptions, open_desk
from tests.browser import open_browsers
from tests.evaluate.test_evaluate_sets import write_folder
from tests.running import ask, call, read_json, read_rows, run, write_recipe

COUNT = 24


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, another of the same conditions, and real images of both classes."""
    folder = tmp_path_factory.mktemp("readers")
    conditions = [{"kind": "class", "per_class": {"normal": 14, "tumor": 14}}]
    for name, seed in (("one", 7), ("two", 8)):
        recipe = write_recipe(folder / name, conditions=conditions, seed=seed, filters=[])
        run(recipe, folder / name / "run")
    write_folder(folder / "real", {"normal": 20, "tumor": 20}, side=40)
    return folder


@pytest.fixture
def place(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "sets"))


def open_study(place, study, count=COUNT, seed=0):
    other = {"turing": {"real": place / "real"}, "pair": {"against": place / "two" / "run"}}
    options = ReviewOptions(study=study, count=count, seed=seed, **other.get(study, {}))
    return open_desk(str(place / "one" / "run"), options)


def answer(desk, name, say, role="pathologist"):
    """Answers every case as `say(case)` does."""
    told = desk.enter({"name": name, "role": role})
    for shown in told["cases"]:
        given = {"key": f"{name}-{shown['id']}", "case": shown["id"], "seconds": 2.0}
        desk.take(told["reader"]["number"], {**given, **say(desk.cases[shown["id"]])})


def say_truth(case):
    return {"choice": case.truth, "confidence": 3}


def guess(case):
    """Says real of every other case, whatever it is."""
    is_real = int(case.id, 16) % 2
    return {"choice": "real" if is_real else "synthetic", "confidence": 1}


def test_a_turing_study_is_balanced_blinded_and_the_same_again(place):
    desk = open_study(place, "turing")
    cases = list(desk.cases.values())
    assert Counter((c.truth, c.class_name) for c in cases) == {
        (truth, name): 6 for truth in ("real", "synthetic") for name in ("normal", "tumor")
    }
    assert open_study(place, "turing").cases.keys() == desk.cases.keys()
    assert open_study(place, "turing", count=4, seed=1).cases.keys().isdisjoint(desk.cases)
    for case in cases:
        data, media = desk.read_image(case.id, 0)
        assert media == "image/png" and decode_image(data, "").shape == (32, 32, 3)
        assert b"trainedAlgorithmicMedia" not in data and b"tEXt" not in data
    told = json.dumps(desk.enter({"name": "Ada", "role": "other"}))
    assert not re.search('synthetic"?:|truth|origin|class_name":', told)
    assert all(set(each) == {"id", "sides"} for each in json.loads(told)["cases"])


def test_no_image_is_shown_in_two_studies(place):
    keys = [
        {
            image.key
            for case in open_study(place, "turing", 8, seed).cases.values()
            for image in case.images
        }
        for seed in (0, 1)
    ]
    keys.append({i.key for c in open_study(place, "label", 8).cases.values() for i in c.images})
    assert not keys[0] & keys[1] and not (keys[0] | keys[1]) & keys[2]
    with pytest.raises(InputError, match="no earlier study showed: ask for fewer"):
        open_study(place, "turing", 60)


def test_real_images_of_another_folder_of_that_name_are_another_study(place):
    desk = open_study(place, "turing", 8)
    shutil.copytree(place / "real", place / "elsewhere" / "real")
    options = ReviewOptions(study="turing", count=8, real=place / "elsewhere" / "real")
    other = open_desk(str(place / "one" / "run"), options)
    assert other.reading.id != desk.reading.id and other.cases.keys().isdisjoint(desk.cases)


def test_readers_who_know_and_who_guess(place):
    desk = open_study(place, "turing")
    answer(desk, "Ada", say_truth)
    answer(desk, "Ben", guess, "technician")
    out = place / "one" / "run" / "evaluation" / "turing.json"
    found = factory.evaluate_readers(place / "one" / "run", out=out)
    knows, guesses = (found["by_reader"][name] for name in ("1 (pathologist)", "2 (technician)"))
    assert knows["accuracy"]["value"] == knows["area"]["value"] == 1.0
    assert knows["area"]["low"] == pytest.approx(0.7575, abs=1e-4)  # Wilson's, of 12
    share = np.mean([guess(case)["choice"] == case.truth for case in desk.cases.values()])
    assert guesses["accuracy"]["value"] == pytest.approx(share, abs=1e-4)
    assert guesses["accuracy"]["low"] < 0.5 < guesses["accuracy"]["high"]
    assert guesses["d_prime"]["low"] < 0 < guesses["d_prime"]["high"]
    assert knows["d_prime"]["low"] > 1
    assert found["overall"]["accuracy"]["value"] == pytest.approx((1 + share) / 2, abs=1e-4)
    assert found["chance"] == 0.5 and found["overall"]["Cohen's kappa"]["low"] < 0.3
    assert found["overall"]["seconds"]["value"] == 2.0
    assert set(found["by_class"]) == {"normal", "tumor"}
    factory.card(place / "one" / "run")
    card = (place / "one" / "run" / "README.md").read_text()
    assert "1 pathologist, 1 technician, 24 cases, 48 answers; blinded to origin" in card
    assert "Ada" not in card + out.read_text()
    factory.report(place / "one" / "run")
    page = (place / "one" / "run" / "report.html").read_text()
    assert "turing: 1 pathologist" in page


def test_a_label_study_and_three_readers(place):
    desk = open_study(place, "label", 20)
    assert desk.reading.classes == ("normal", "tumor")
    for name in ("Ada", "Ben", "Cy"):
        answer(desk, name, lambda case: {"class_name": case.truth})
    found = factory.evaluate_readers(place / "one" / "run", "label")
    assert found["overall"]["accuracy"]["value"] == found["overall"]["Fleiss' kappa"]["value"] == 1
    assert found["overall"]["accuracy"]["low"] < 0.9  # Wilson's: 20 cases are no proof
    assert found["by_origin"].keys() == {"synthetic"} and found["chance"] == 0.5


def test_a_pair_study_has_each_set_left_as_often(place):
    desk = open_study(place, "pair", 12)
    first = desk.reading.names[0]
    left = [case.images[0].source == first for case in desk.cases.values()]
    assert sum(left) == 6 and all(len(case.images) == 2 for case in desk.cases.values())
    rows = {
        row["sample_id"]: row
        for which in ("one", "two")
        for row in read_rows(place / which / "run")
    }
    for case in desk.cases.values():
        conditions = {rows[image.key]["condition_id"] for image in case.images}
        assert len(conditions) == 1

    def prefer_first(case):
        return {"choice": "left" if case.images[0].source == first else "right"}

    answer(desk, "Ada", prefer_first)
    found = factory.evaluate_readers(place / "one" / "run")
    assert found["overall"]["preferred"]["value"] == 1.0
    assert "ONE READER" in " ".join(found["warnings"])


def test_a_review_is_summed_up_too(place):
    desk = open_desk(str(place / "one" / "run"), ReviewOptions())
    half = set(sorted(desk.cases)[::2])
    bad = {"verdict": "reject", "reason": "blurred"}
    answer(desk, "Ada", lambda case: bad if case.id in half else {"verdict": "accept"})
    out = ask("evaluate", "readers", "--synthetic", place / "one" / "run")
    assert re.search(r"all readers +accepted +0\.5 \[", out)
    assert re.search(r"rejected for +blurred +14", out)


def test_what_cannot_be_drawn_or_summed_up_is_told(place, tmp_path):
    folder = place / "one" / "run"
    for options, part in (
        ({"study": "turing"}, "--real DIR"),
        ({"study": "pair"}, "--against DIR"),
        ({"study": "pair", "real": place / "real"}, "--against DIR"),
        ({"study": "label", "against": place / "real"}, "only for --study pair"),
        ({"study": "label", "count": 7, "real": place / "real"}, "give an even number"),
        ({"study": "turing", "real": place / "real", "count": 5}, "even number"),
        ({"study": "pair", "against": folder}, "rename a folder"),
    ):
        with pytest.raises(InputError, match=part):
            open_desk(str(folder), ReviewOptions(**options))
    assert "nobody has answered" in ask("evaluate", "readers", "--synthetic", folder, code=2)
    assert ReviewStore(folder).list_readings() == ()


@pytest.mark.slow("test_readers_who_know_and_who_guess")
def test_a_study_by_mail_with_the_network_off(place, tmp_path):
    """The page is opened from a file, without any network, and its answers are read back."""
    words = ["review", place / "one" / "run", "--study", "turing", "--real", place / "real"]
    words += ["--count", COUNT]
    assert call(*words, "--offline", tmp_path / "page.html").exit_code == 0
    asked = []
    with open_browsers() as launch:
        browser = launch(tmp_path / "profile", accept_downloads=True)
        browser.set_offline(True)
        page = browser.pages[0]
        page.on("request", lambda each: asked.append(each.url))
        page.goto((tmp_path / "page.html").as_uri())
        page.fill("#name", "Ada")
        page.press("#name", "Enter")
        for number in range(COUNT):
            page.wait_for_selector("text=Image >> nth=0")
            page.keyboard.press(str(1 + number % 6))
            if number == COUNT // 2:  # closed and opened again
                page.wait_for_timeout(300)
                with page.expect_download() as download:
                    page.click("#save")
                assert len(read_json(download.value.path())["answers"]) == number + 1
                page.reload()
                assert "folder of the run" not in page.inner_text("#enter")
                page.fill("#name", "Ada")
                page.press("#name", "Enter")
                page.wait_for_selector("#work:visible")
        page.wait_for_selector("#done:visible")
        with page.expect_download() as download:
            page.click("#save")
        download.value.save_as(tmp_path / "answers.json")
        browser.close()
    assert all(each.startswith(("file:", "data:", "blob:")) for each in asked)
    result = call(*words, "--read", tmp_path / "answers.json")
    assert f"{COUNT} answers of Ada, {COUNT} of them new" in result.output
    found = read_json(tmp_path / "answers.json")
    assert "truth" not in json.dumps(found)
    assert factory.evaluate_readers(place / "one" / "run")["who"]["answers"] == COUNT
