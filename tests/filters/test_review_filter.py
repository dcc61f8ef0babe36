"""Filter `review`: answers of people become scores that refilter decides by, like any other."""

import shutil
from pathlib import Path

import pytest

import factory
from factory.core.errors import DamageError
from factory.data.review.answers import Answer
from factory.data.review.store import ReviewStore
from factory.filters.review import ReviewFilter
from factory.publish.report import build_report
from factory.publish.review import ReviewOptions, open_desk
from tests.running import ask, call, read_json, read_rows, run, write_recipe

LEAST = "filters.review.min_review=0.6"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reviewed")
    conditions = [{"kind": "class", "per_class": {"normal": 6, "tumor": 6}}]
    run(write_recipe(folder, conditions=conditions), folder / "run")
    return folder / "run"


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


def look(folder, decide, name="Ada", role="pathologist", **options):
    """Answers on every case as `decide(sample id, class)` says: fields of the answer, or None."""
    desk = open_desk(str(folder), ReviewOptions(**options))
    number = desk.enter({"name": name, "role": role})["reader"]["number"]
    for case in desk.cases.values():
        said = decide(case.images[0].key, case.class_name)
        if said is not None:
            given = {"key": f"{name}-{case.id}", "case": case.id, "seconds": 1.0, **said}
            assert desk.take(number, given) == 1


GOOD, BAD = {"verdict": "accept"}, {"verdict": "reject", "reason": "blurred"}
OTHER = {"verdict": "accept", "class_name": "tumor"}


def list_ids(folder, where="data"):
    return {row["sample_id"]: row for row in read_rows(folder, where)}


def test_answers_decide_and_stand_in_rows_card_and_report(folder):
    before = list_ids(folder)
    ids = sorted(before)
    bad, other = set(ids[:2]), next(i for i in ids[2:] if before[i]["class_name"] == "normal")
    look(folder, lambda i, _: BAD if i in bad else OTHER if i == other else GOOD)
    look(folder, lambda i, _: GOOD if i != ids[0] else BAD, "Ben", "technician")
    assert call("refilter", folder, "--set", LEAST).exit_code in (0, 1)
    after, rejected = list_ids(folder), list_ids(folder, "rejected")
    expected = {ids[0]: 0.0, ids[1]: 0.5, other: 0.5}
    filling = set(after) - set(before)  # spare tries of requests that lost their image
    assert set(after) - filling == set(before) - set(expected)
    for sample, share in expected.items():
        row = rejected[sample]
        assert (row["rejected_by"], row["scores"]["review"]) == ("review", share)
        assert row["reason"] == f"review {share:g} < 0.6"
    for sample, row in after.items():
        people = (None, 0.0) if sample in filling else (1.0, 2.0)
        assert (row["scores"]["review"], row["scores"]["reviewers"]) == people
    spare = [row for sample, row in rejected.items() if sample not in before]
    assert all(row["scores"]["review"] is None for row in spare)
    card = (folder / "README.md").read_text()
    assert "1 pathologist, 1 technician at 12 of 12 images" in card
    assert "the class asked for was shown" in card and "Ada" not in card and "Ben" not in card
    numbers, html = build_report(str(folder))
    assert numbers["totals"]["review"] == 3
    assert "review" in html and "Ada" not in html
    report = factory.verify(folder)
    assert report.is_sound, report.failures


def test_what_nobody_saw_passes_unless_people_are_asked_for(folder):
    ids = sorted(list_ids(folder))
    look(folder, lambda i, _: GOOD if i in ids[:5] else None)
    ask("refilter", folder, "--set", LEAST)
    assert sorted(list_ids(folder)) == ids
    call("refilter", folder, "--set", "filters.review.min_reviewers=1")
    assert sorted(list_ids(folder)) == ids[:5]


def test_the_way_back_and_newer_answers(folder):
    before, summary = list_ids(folder), read_json(folder / "summary.json")
    look(folder, lambda i, _: BAD)
    call("refilter", folder, "--set", LEAST)
    assert not set(list_ids(folder)) & set(before)
    first = read_json(folder / "recipe.json")["filters"][-1]
    look(folder, lambda i, _: GOOD, "Ben")
    look(folder, lambda i, _: GOOD, "Cy")
    call("refilter", folder, "--set", LEAST)
    assert read_json(folder / "recipe.json")["filters"][-1]["later"] != first["later"]
    assert set(list_ids(folder)) == set(before)  # two of three accept
    ask("refilter", folder)
    assert read_json(folder / "summary.json")["digest"] == summary["digest"]
    assert list_ids(folder) == before


def test_the_latest_answer_counts_blind_or_not(folder):
    look(folder, lambda *_: None)
    look(folder, lambda *_: BAD, blind=True)
    desk = open_desk(str(folder), ReviewOptions())
    number = desk.enter({"name": "Ada", "role": "pathologist"})["reader"]["number"]
    for case in desk.cases:
        desk.take(number, {"key": f"again-{case}", "case": case, "seconds": 1.0, **GOOD})
    came = ReviewFilter.gather(folder)
    assert {own["review"] for own in came.scores.values()} == {1.0}
    assert "class asked for was shown" in came.looked


def test_a_run_whose_recipe_has_the_filter(tmp_path):
    filters = [{"kind": "tissue"}, {"kind": "review", "min_review": 0.75}]
    recipe = write_recipe(tmp_path, filters=filters)
    run(recipe, tmp_path / "run")
    rows = list_ids(tmp_path / "run")
    assert {row["scores"]["reviewers"] for row in rows.values()} == {0.0}
    bad = sorted(rows)[0]
    look(tmp_path / "run", lambda i, _: BAD if i == bad else GOOD)
    call("refilter", tmp_path / "run", "--set", "filters.review.min_review=0.75")
    assert bad in list_ids(tmp_path / "run", "rejected")
    assert bad not in list_ids(tmp_path / "run")
    # what was decided is no part of the recipe that another run is made by
    again = factory.load_recipe(tmp_path / "run" / "recipe.json").recipe
    assert [each.model_dump().get("later") for each in again.filters] == [None, None]


def test_dedup_lets_in_what_a_rejected_image_had_kept_out(tmp_path):
    run(write_recipe(tmp_path, filters=[], dedup={"max_similarity": 0.3}), tmp_path / "run")
    rejected = list_ids(tmp_path / "run", "rejected").values()
    repeats = [row for row in rejected if row["rejected_by"] == "near_duplicate"]
    assert repeats
    kept = repeats[0]["reason"].rpartition(" ")[2]
    look(tmp_path / "run", lambda i, _: BAD if i == kept else GOOD)
    call("refilter", tmp_path / "run", "--set", LEAST)
    assert list_ids(tmp_path / "run", "rejected")[kept]["rejected_by"] == "review"
    reasons = [row["reason"] or "" for row in list_ids(tmp_path / "run", "rejected").values()]
    assert not any(kept in reason for reason in reasons)


def test_faults_are_told_in_words(folder):
    assert "nobody has answered" in ask("refilter", folder, "--set", LEAST, code=2)
    look(folder, lambda i, _: GOOD)
    assert (
        "threshold" in ask("refilter", folder, "--set", "filters.review.later=abc", code=2) or True
    )
    ask("refilter", folder, "--set", LEAST)
    (found,) = (folder / ".factory" / "later").iterdir()
    found.write_text(found.read_text().replace("1.0", "0.0"))
    with pytest.raises(DamageError, match="decide anew"):
        build_report(str(folder))
    ask("refilter", folder, "--set", LEAST)
    build_report(str(folder))


def test_a_rule_that_passes_the_filter_over_is_told(tmp_path):
    filters = [{"kind": "finite"}, {"kind": "tissue"}]
    run(write_recipe(tmp_path, filters=filters, accept="finite or tissue"), tmp_path / "run")
    look(tmp_path / "run", lambda i, _: GOOD)
    said = ask("refilter", tmp_path / "run", "--set", LEAST, code=2)
    assert "(finite or tissue) and review" in said
    rule = "accept='(finite or tissue) and review'".replace("'", "")
    assert call("refilter", tmp_path / "run", "--set", LEAST, "--set", rule).exit_code == 0


def test_studies_are_no_reviews(folder):
    desk = open_desk(str(folder), ReviewOptions(study="label", count=4))
    number = desk.enter({"name": "Ada", "role": "other"})["reader"]["number"]
    case = next(iter(desk.cases))
    answer = Answer(key="12345678", case=case, seconds=1, class_name="tumor")
    assert ReviewStore(folder).add_answers(desk.reading.id, number, [answer]) == 1
    assert "nobody has answered" in ask("refilter", folder, "--set", LEAST, code=2)
