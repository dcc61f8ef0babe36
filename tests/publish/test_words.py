"""Words: every statement is recomputed from the rows by plain rules, and a changed one is found."""

import csv
import json
import re
import shutil
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.catalog.catalog import load_catalogs
from factory.catalog.entries import ClassEntry, ClassesEntry
from factory.core.errors import DamageError, InputError, RecipeError
from factory.core.images import decode_image
from factory.core.notes import listen
from factory.core.stains import measure_attributes
from factory.data.label_maps import decode_labels
from factory.data.objects import find_objects
from factory.engine.dataset import open_dataset
from factory.filters.stain import measure_plausibility
from factory.publish.merge import MergeSettings, merge_sets
from factory.publish.words import WordsOptions, WordsRecord, check_words, write_words
from factory.publish.words.check import SAID
from factory.publish.words.facts import _read_class, _settle_shares
from factory.publish.words.known import Fact, Known
from factory.publish.words.lexicon import Lexicon
from factory.publish.words.statements import Statement, find_unwritten
from tests import ASSETS
from tests.recipe.test_written_captions import save_writer
from tests.running import ask, call, read_json, read_rows, run, stop_after, write_recipe

SMALL = {"model": "fake", "width": 64, "height": 64, "batch_size": 4}
ONCE = {"filters": [], "budget": {"attempts": 1}, "generator": SMALL}
VARY = {"density": ["low", "high"], "scale": [1.0, 0.25]}
GRID = load_catalogs().find_captions("he-attributes-2")
ENTRY = load_catalogs().find_words("he-words")
NAMES = {"nucleus": ("nucleus", "nuclei")}


def licence():
    return {"id": "cc-by-4.0", "date_read": "2026-11-26", "attribution": ["A. Mahbod et al."]}


def write_mask(kind, palette, **told):
    masks = {"kind": "mask", "masks": str(ASSETS / "masks" / kind), "palette": palette}
    return {**masks, "licence": licence(), "per_mask": 3, **told}


RUNS = {
    "classes": {
        "conditions": [{"kind": "class", "per_class": {"normal": 9, "tumor, “odd” | {x}": 5}}]
    },
    "families": {
        "conditions": [{"kind": "caption", "captions": "he-attributes-2", "count": 6, "vary": VARY}]
    },
    "looks": {
        "conditions": [
            {
                "kind": "class",
                "per_class": {"normal": 2, "tumor": 2},
                "vary": {"stain": ["as-made", "he-slides/cmu-1"]},
            }
        ]
    },
    "masks": {"conditions": [write_mask("objects", {1: "nucleus"}, values="objects")]},
    "glands": {"conditions": [write_mask("glands", {1: "gland", 2: "tumour gland"})]},
    "pairs": {
        "conditions": [{"kind": "translate", "images": str(ASSETS / "pcam" / "test"), "shots": 5}],
        "card": {"license": "cc-by-4.0", "source_license": "cc-by-4.0"},
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name -> (run, its words)."""
    found = {}
    for name, changes in RUNS.items():
        folder = tmp_path_factory.mktemp(name)
        run(write_recipe(folder, **{**ONCE, **changes}), folder / "run")
        write_words(open_dataset(str(folder / "run")), folder / "words", WordsOptions(seed=3))
        found[name] = folder / "run", folder / "words"
    return found


def read_lines(folder, name="train"):
    path = folder / "words" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def measure(data):
    """Measures of an encoded image; none where it is not H&E by its colours."""
    pixels = decode_image(data, "image")
    if measure_plausibility(pixels) < 0.5:
        return {}
    return {name: float(each[0]) for name, each in measure_attributes(pixels[None]).items()}


def find_level(name, measured):
    """The value of a level, by the grid's own cut points, written out."""
    number = measured[GRID.measures[name].by]
    low, high = GRID.measures[name].edges
    first, second, third = GRID.attributes[name]
    return first if number < low else second if number < high else third


def find_value(name, text):
    """The value that a wording of the grid says."""
    values = [each for each, texts in GRID.attributes[name].items() if text in texts]
    assert len(values) == 1, text
    return values[0]


def strip_letter(text):
    letter, _, said = text.partition(". ")
    assert len(letter) == 1
    return said


def check_level(question, row, measured):
    name, value = question["about"], find_level(question["about"], measured)
    cut = GRID.measures[name]
    distance = min(abs(measured[cut.by] - edge) for edge in cut.edges)
    assert distance >= ENTRY.levels[name].margin - 1e-4
    asked = json.loads(row["provenance"]).get("attributes", {}).get(name)
    assert asked in (None, value)
    if question["kind"] == "yes/no":
        assert find_value(name, question["words"]["value"]) == question["tested"]
        assert question["answer"] == ("yes" if question["tested"] == value else "no")
        assert question["words"]["value"].casefold() in question["question"].casefold()
    elif question["kind"] == "choice":
        assert find_value(name, strip_letter(question["answer"])) == value
        said = [strip_letter(each) for each in question["question"].split("\n")[1:]]
        assert sorted(find_value(name, each) for each in said) == sorted(GRID.attributes[name])
    else:
        assert find_value(name, question["answer"]) == value


def check_object(question, row):
    """An answer about objects, from the mask alone."""
    what, _, name = question["about"].partition(":")
    record = json.loads(row["provenance"])["condition"]["control"]
    labels = decode_labels(row["mask"]["bytes"], "mask")
    found = find_objects(labels, record.get("instances", False), least=1)
    ids = {each: int(key) for key, each in record["palette"].items()}
    mine = [n for n, each in enumerate(found.ids.tolist()) if each == ids[name]]
    areas = found.areas[mine]
    largest = found.boxes[mine[int(np.argmax(areas))]] if mine else None
    if what == "count":
        told = question["answer"].split()[0]
        assert (0 if told == "no" else int(told)) == (areas >= 8).sum()
    elif what == "area":
        assert int(question["answer"].split()[0]) == round(100 * areas.sum() / labels.size)
    elif what == "present":
        assert question["answer"] == ("yes" if (areas >= 8).any() else "no")
    elif what == "box":
        rows, columns = largest
        box = [columns.start, rows.start, columns.stop, rows.stop]
        assert "[x0, y0, x1, y1], in shares of width and height" in question["question"]
        assert json.loads(question["answer"]) == [round(each / 64, 2) for each in box]
    else:
        x, y = found.centres[mine[int(np.argmax(areas))]]
        place = f"{'lower' if y > 31.5 else 'upper'} {'right' if x > 31.5 else 'left'}"
        assert strip_letter(question["answer"]) == place


def check_question(question, row, measured):
    about, kind = question["about"], question["kind"]
    asked = json.loads(row["provenance"]).get("attributes", {})
    if about in GRID.measures:
        check_level(question, row, measured)
    elif about in ("organ", "stain"):
        said = question.get("words", {}).get("value") or question["answer"]
        value = find_value(about, strip_letter(said) if kind == "choice" else said)
        truth = "yes" if value == asked[about] else "no"
        assert question["answer"] == truth if kind == "yes/no" else value == asked[about]
    elif about == "class_name":
        if kind == "yes/no":
            truth = "yes" if question["tested"] == row["class_name"] else "no"
            assert question["answer"] == truth
            assert question["tested"] in question["question"]
        else:
            assert strip_letter(question["answer"]) == row["class_name"]
    elif about in ("nuclei_share", "tissue_share"):
        by = {"nuclei_share": "nuclear_density", "tissue_share": "tissue"}[about]
        assert abs(int(question["answer"].removesuffix(" %")) - 100 * measured[by]) <= 0.51
    elif about == "nuclei_diameter":
        assert abs(int(question["answer"].removesuffix(" px")) - measured["nuclear_size"]) <= 0.51
    elif about == "mpp":
        assert question["answer"] == f"{row['asked_mpp']:g} µm per pixel"
    elif about == "magnification":
        told = {0.25: "40x", 0.5: "20x", 1.0: "10x"}[row["asked_mpp"]]
        assert strip_letter(question["answer"]) == told
    else:
        check_object(question, row)


@pytest.mark.parametrize("name", RUNS)
def test_every_statement_follows_from_its_row(made, name):
    folder, words = made[name]
    rows = {row["sample_id"]: row for row in read_rows(folder)}
    lines = read_lines(words)
    assert [line["sample_id"] for line in lines] == list(rows)
    checked = Counter()
    for line in lines:
        row = rows[line["sample_id"]]
        measured = measure(row["image"]["bytes"])
        for question in line["questions"]:
            check_question(question, row, measured)
            checked[question["kind"]] += 1
        for said in (*line["captions"], *line["report"]):
            for slot, text in said["words"].items():
                assert text.casefold() in said["answer"].casefold()
                if slot in GRID.measures:
                    assert find_value(slot, text) == find_level(slot, measured)
                elif slot == "class_name":
                    assert text == row["class_name"]
            checked["sentences"] += 1
    assert checked["sentences"] and checked["yes/no"] and checked["choice"]
    found = check_words(words, open_dataset(str(folder)))
    assert found.is_sound, found.differences
    assert found.counts["rows"] == len(rows)
    assert all(found.counts[kind] >= checked[kind] for kind in checked if kind != "sentences")
    assert found.counts["caption"] + found.counts["report"] == checked["sentences"]


def test_objects_of_masks_are_asked_about(made):
    kinds = {
        question["about"].partition(":")[0]
        for name in ("masks", "glands")
        for line in read_lines(made[name][1])
        for question in line["questions"]
    }
    assert kinds >= {"count", "area", "box", "place", "present"}
    asked = [each for line in read_lines(made["glands"][1]) for each in line["questions"]]
    counted = [each["answer"] for each in asked if each["about"].startswith("count:")]
    assert all("connected area" in each for each in counted)


def test_what_a_layout_drew_is_called_an_outline(tmp_path):
    block = {"kind": "layout", "layout": "nuinsseg", "per_class": {"human_liver": 2}}
    run(write_recipe(tmp_path, **ONCE, conditions=[block]), tmp_path / "run")
    dataset = open_dataset(str(tmp_path / "run"))
    write_words(dataset, tmp_path / "words", WordsOptions())
    asked = [each for line in read_lines(tmp_path / "words") for each in line["questions"]]
    counted = [each["answer"] for each in asked if each["about"] == "count:nucleus"]
    assert counted and all("outline" in each for each in counted)
    assert check_words(tmp_path / "words", dataset).is_sound


def test_mask_and_pixels_give_one_answer_to_one_question(made):
    for line in read_lines(made["masks"][1]):
        assert "area:nucleus" in line["facts"] and "nuclei_share" not in line["facts"]
    lexicon = Lexicon.open(load_catalogs(), "he-words")
    for number, is_said in ((0.28, True), (0.36, False)):
        known = Known()
        known.add(Fact("nuclei_share", "30", "measured", "", "%", {"number": 0.3}))
        known.add(Fact("area:nucleus", 28, "asked", "", "%", {"of": "nucleus", "number": number}))
        _settle_shares(lexicon, known)
        assert set(known.facts) == ({"area:nucleus"} if is_said else set())


def test_yes_and_no_are_as_many_for_every_value(made):
    for name, (_, words) in made.items():
        answers = defaultdict(Counter)
        for line in read_lines(words):
            for each in line["questions"]:
                if each["kind"] == "yes/no":
                    answers[each["about"], each["tested"]][each["answer"]] += 1
        assert all(each["yes"] == each["no"] for each in answers.values()), name
        blind = [
            each
            for each in read_json(words / "words.json")["blind"]
            if each["kind"] == "yes/no" and not each["about"].startswith("more:")
        ]
        assert all(each["blind"] == each["yes"] == 0.5 for each in blind)


def test_which_of_two_images_has_more_is_measured_in_both(made):
    kinds = Counter()
    for name in ("families", "looks", "pairs"):
        folder, words = made[name]
        rows = {row["sample_id"]: row for row in read_rows(folder)}
        for line in read_lines(words, "train-pairs"):
            measured = []
            for image in line["images"]:
                sample_id, hash_mark, _ = image["name"].partition("#")
                row = rows[sample_id]
                data = row["source" if hash_mark else "image"]["bytes"]
                assert (words / image["file_name"]).read_bytes() == data
                measured.append(measure(data))
            for each in line["questions"]:
                kind, _, level = each["about"].partition(":")
                kinds[line["kind"], kind, each["kind"]] += 1
                if kind == "more":
                    by = GRID.measures[level].by
                    first, second = (found[by] for found in measured)
                    assert abs(first - second) >= 2 * ENTRY.levels[level].margin - 2e-4
                    larger = "first" if first > second else "second"
                    if each["kind"] == "yes/no":
                        one = each["question"].split(" in the ")[1].split()[0]
                        assert each["answer"] == ("yes" if one == larger else "no")
                    else:
                        assert each["answer"] == f"In the {larger} image."
                elif line["kind"] == "translation":
                    is_source = [image["name"].endswith("#source") for image in line["images"]]
                    place = "first" if is_source[1] else "second"
                    assert each["answer"].startswith(f"The {place} image was made from")
                else:
                    (varied,) = {rows[image["name"]]["varied"] for image in line["images"]}
                    told = ENTRY.pairs.varied.names[varied]
                    kinds[varied] += 1
                    assert told in each["answer"]
    assert kinds["density"] and kinds["scale"] and kinds["stain"]
    for wanted in (
        ("translation", "relation", "open"),
        ("translation", "more", "yes/no"),
        ("family", "varied", "choice"),
        ("family", "relation", "open"),
    ):
        assert kinds[wanted], wanted


def test_formats_hold_what_the_lines_say(made):
    folder, words = made["classes"]
    rows = {row["sample_id"]: row for row in read_rows(folder)}
    lines = read_lines(words)
    table = pq.read_table(next((words / "vqa").glob("train-*.parquet"))).to_pylist()
    asked = [(line["sample_id"], each["question"]) for line in lines for each in line["questions"]]
    assert [(row["sample_id"], row["question"]) for row in table] == asked
    for row in table:
        assert row["image"]["bytes"] == rows[row["sample_id"]]["image"]["bytes"]
        (fact,) = json.loads(row["fact"])
        assert {"what", "value", "source", "rule"} <= fact.keys()
        assert fact["source"] in ("asked", "measured")
        assert (fact["source"] == "measured") == ("number" in fact)
    talks = read_json(words / "llava" / "train.json")
    assert len({talk["id"] for talk in talks}) == len(talks) == len(asked) + len(rows)
    for talk in talks:
        name, end = talk["id"].split()
        question, answer = talk["conversations"]  # none stands behind another's answer
        assert (question["from"], answer["from"]) == ("human", "gpt")
        assert question["value"].startswith("<image>\n") and talk["facts"]
        if end != "report":
            told = [row for row in table if row["sample_id"] == name][int(end)]
            assert question["value"] == f"<image>\n{told['question']}"
            assert answer["value"] == told["answer"]
        assert (words / talk["image"]).read_bytes() == rows[name]["image"]["bytes"]
    pair = read_json(made["families"][1] / "llava" / "train.json")[-1]
    assert pair["conversations"][0]["value"].startswith("<image>\n" * 2) and len(pair["image"]) == 2
    with (words / "clip" / "train.tsv").open(newline="", encoding="utf-8") as file:
        told = [*csv.DictReader(file, delimiter="\t")]
    assert len(told) == sum(len(line["captions"]) for line in lines)
    assert max(Counter(each["filepath"] for each in told).values()) == 3
    assert all((words / each["filepath"]).is_file() for each in told)
    said = pq.read_table(next((words / "captions").glob("*.parquet"))).to_pylist()
    assert [each["sample_id"] for each in said] == list(rows)
    assert all(each["report"] for each in said)


def test_datasets_loads_questions_and_images(made, tmp_path):
    from datasets import load_dataset

    folder, words = made["pairs"]
    page = (words / "README.md").read_text("utf-8")
    assert f"{len(read_rows(folder))} images are real" in page and "license: cc-by-4.0" in page
    for config, column in (("vqa", "image"), ("vqa-pairs", "image_2"), ("captions", "image")):
        loaded = load_dataset(str(words), config, split="train", cache_dir=str(tmp_path))
        assert loaded[0][column].size == (64, 64)


def test_seed_and_sample_id_decide_alone(made, tmp_path):
    folder, words = made["classes"]
    dataset = open_dataset(str(folder))
    write_words(dataset, tmp_path / "same", WordsOptions(seed=3))
    other = [path.relative_to(words) for path in sorted(words.rglob("*")) if path.is_file()]
    assert other == sorted(
        path.relative_to(tmp_path / "same")
        for path in (tmp_path / "same").rglob("*")
        if path.is_file()
    )
    for name in other:
        assert (words / name).read_bytes() == (tmp_path / "same" / name).read_bytes(), name
    write_words(dataset, tmp_path / "other", WordsOptions(seed=4, formats=("vqa",)))
    assert not (tmp_path / "other" / "images").exists()
    assert read_lines(tmp_path / "other") != read_lines(words)
    assert check_words(tmp_path / "other", dataset).is_sound


def change(path, old, new):
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


def test_whatever_is_changed_is_found(made, tmp_path):
    folder, words = made["classes"]
    line = next(each for each in read_lines(words) if each["class_name"] == "normal")
    shutil.copytree(words, tmp_path / "words")
    ask("words", "check", tmp_path / "words", folder)
    question = next(each for each in line["questions"] if each["kind"] == "yes/no")
    other = {"yes": "no", "no": "yes"}[question["answer"]]
    for old, new, what in (
        (
            question["question"],
            question["question"] + "!",
            "question",
        ),
        ('"value":"normal"', '"value":"tumor"', "class_name"),
        ('"source":"measured"', '"source":"asked"', "by the row"),
        (f'"sample_id":"{line["sample_id"]}"', f'"sample_id":"{"f" * 32}"', "no such row"),
        (f"{line['sample_id']}.webp", "other.webp", "is missing"),
    ):
        target = tmp_path / "changed"
        shutil.copytree(tmp_path / "words", target)
        change(target / "words/train.jsonl", old, new)
        told = ask("words", "check", target, folder, code=1)
        assert what in told and "not the file that was written" in told
        shutil.rmtree(target)
    shutil.copytree(tmp_path / "words", tmp_path / "counts")
    change(tmp_path / "counts/words.json", '"images": 14', '"images": 15')
    assert "counted again" in ask("words", "check", tmp_path / "counts", folder, code=1)
    target = tmp_path / "words"
    texts = (target / "words/train.jsonl").read_text("utf-8").splitlines()
    (row,) = [place for place, text in enumerate(texts) if line["sample_id"] in text]
    found = json.loads(texts[row])
    for each in found["questions"]:
        if each["question"] == question["question"]:
            each["answer"] = other
    texts[row] = json.dumps(found)
    (target / "words/train.jsonl").write_text("\n".join(texts) + "\n", "utf-8")
    differing = check_words(target, open_dataset(str(folder))).to_json()["differences"]
    assert any("the answer is" in each["why"] for each in differing)
    files = {each["file"] for each in differing}
    assert {"llava/train.json", "vqa/train-00000-of-00001.parquet"} <= files


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train", {"facts": [1]}, "byte 0: is no line of words"),
        ("train", {"questions": 5}, "byte 0: is no line of words"),
        ("train", {"captions": None}, "byte 0: is no line of words"),
        ("train-pairs", {"facts": []}, "byte 0: is no line of words"),
        ("train-pairs", {"questions": None}, "byte 0: is no line of words"),
        ("train-pairs", {"images": [1]}, "byte 0: is no line of words"),
    ],
)
def test_a_line_of_another_form_is_named(made, tmp_path, name, change, message):
    folder, words = made["families"]
    shutil.copytree(words, tmp_path / "words")
    lines = read_lines(words, name)
    lines[0] |= change
    text = "".join(json.dumps(each) + "\n" for each in lines)
    (tmp_path / "words/words" / f"{name}.jsonl").write_text(text, "utf-8")
    assert message in ask("words", "check", tmp_path / "words", folder, code=1)


def test_a_forged_line_before_the_true_one_and_words_of_no_model_are_found(made, tmp_path):
    folder, words = made["classes"]
    lines = read_lines(words)
    forged = json.loads(json.dumps(lines[0]))
    caption = forged["captions"][0]
    caption |= {"answer": caption["answer"] + " It is remarkable.", "is_written": True}
    for place, told, message in (
        ("twice", [forged, *lines], "is there twice"),
        ("model", [forged, *lines[1:]], "no model that rewords is told"),
    ):
        shutil.copytree(words, tmp_path / place)
        text = "".join(json.dumps(each) + "\n" for each in told)
        (tmp_path / place / "words/train.jsonl").write_text(text, "utf-8")
        found = check_words(tmp_path / place, open_dataset(str(folder))).differences
        assert any(message in each.message for each in found), place


# --- levels, scales and contradictions -----------------------------------------------------------


def test_what_was_asked_and_is_not_there_is_counted_and_not_said(made):
    folder, words = made["families"]
    rows = {row["sample_id"]: row for row in read_rows(folder)}
    wrong, near = Counter(), Counter()
    for row in rows.values():
        measured = measure(row["image"]["bytes"])
        asked = json.loads(row["provenance"])["attributes"]
        for name in ("density", "eosin", "haematoxylin"):
            number = measured[GRID.measures[name].by]
            if asked.get(name) not in (None, find_level(name, measured)):
                wrong[name] += 1
            elif (
                min(abs(number - edge) for edge in GRID.measures[name].edges)
                < ENTRY.levels[name].margin
            ):
                near[name] += 1
    passed = {
        (each["about"], each["reason"]): each["count"]
        for each in read_json(words / "words.json")["passed"]
    }
    assert wrong["density"] and wrong["eosin"]
    for name, count in wrong.items():
        assert passed[name, "what was asked and what is measured differ"] == count
    for name, count in near.items():
        assert passed[name, "too near to a cut point"] == count
    sized = [line for line in read_lines(words) if "size" in line["facts"]]
    assert sized
    assert all(rows[line["sample_id"]]["asked_mpp"] == 1.0 for line in sized)


def test_cut_points_of_real_images(made, tmp_path):
    folder, _ = made["pairs"]
    real = ASSETS / "pcam" / "train"
    dataset = open_dataset(str(folder))
    cuts = write_words(dataset, tmp_path / "words", WordsOptions(real=real)).lexicon.cuts
    assert "size" in cuts and cuts["size"].mpp is None
    measured = [measure(path.read_bytes()) for path in sorted(real.rglob("*.webp"))]
    numbers = [each["nuclear_density"] for each in measured if each]
    assert cuts["density"].edges == pytest.approx(np.quantile(numbers, [1 / 3, 2 / 3]), abs=2e-4)
    assert "quantiles of" in (tmp_path / "words/README.md").read_text("utf-8")
    assert check_words(tmp_path / "words", dataset).is_sound
    files = sorted(real.rglob("*.webp"))
    columns = {"image": [b"none"] * len(files), "patch": [each.read_bytes() for each in files]}
    table = pa.table({name: [{"bytes": each} for each in of] for name, of in columns.items()})
    pq.write_table(table, tmp_path / "real.parquet")
    named = WordsOptions(real=tmp_path / "real.parquet", image_column="patch")
    same = write_words(dataset, tmp_path / "named", named).lexicon.cuts
    assert same["density"].edges == cuts["density"].edges
    (tmp_path / "one").mkdir()
    for number in range(3):
        shutil.copy(next(real.rglob("*.webp")), tmp_path / "one" / f"{number}.webp")
    with listen() as heard:
        told = write_words(dataset, tmp_path / "none", WordsOptions(real=tmp_path / "one"))
    assert not told.lexicon.cuts
    assert sum("real images do not tell its levels apart" in each for each in heard) == 6


def test_a_judge_of_another_opinion_is_not_overruled(made, tmp_path):
    for scores, is_said in (
        (None, True),
        ({"class_margin": 0.2, "contrast": 0.1}, True),
        ({"class_margin": None}, True),
        ({"class_margin": -0.1}, False),
        ({"class_agreement": 0.4}, False),
    ):
        known = Known()
        _read_class({"class_name": "tumor", "scores": scores}, known)
        assert ("class_name" in known.facts) == is_said
        assert bool(known.passed) != is_said


# --- entries of one's own ------------------------------------------------------------------------

OWN = """\
id: mine
base: he-words
questions:
  - {about: class_name, type: choice, ask: ["Was sieht man?"]}
  - {about: density, type: yes/no, ask: ["Sieht man {value}?"]}
captions: ["Ein Bild der Klasse {class_name}."]
report:
  - ["Klasse: {class_name}."]
"""


TWICE = json.dumps({**ENTRY.pairs.model_dump(mode="json"), "places": ["left", "left"]})


def write_own(folder, text):
    (folder / "words").mkdir(parents=True, exist_ok=True)
    (folder / "words" / "mine.yaml").write_text(text)
    return WordsOptions(words="mine", catalogs=(folder,))


def test_a_file_of_ones_own_replaces_sections(made, tmp_path):
    folder, _ = made["classes"]
    dataset = open_dataset(str(folder))
    write_words(dataset, tmp_path / "out", write_own(tmp_path / "own", OWN))
    lines = read_lines(tmp_path / "out")
    assert {each["about"] for line in lines for each in line["questions"]} == {"class_name"}
    assert {len(line["captions"]) for line in lines} == {1}
    more = OWN.replace("questions:", "more_questions:").replace("captions:", "more_captions:")
    options = write_own(tmp_path / "more", more).model_copy(update={"captions": 20})
    write_words(dataset, tmp_path / "all", options)
    asked = {
        each["question"] for line in read_lines(tmp_path / "all") for each in line["questions"]
    }
    assert any(each.startswith("Was sieht man?") for each in asked) and len(asked) > 20
    lines = read_lines(tmp_path / "all")
    said = {each["answer"] for line in lines for each in line["captions"]}
    assert "Ein Bild der Klasse normal." in said and len(said) > 20
    assert check_words(tmp_path / "out", dataset).is_sound


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("about: density", "about: densty", 5, "did you mean 'density'"),
        ("type: choice", "type: box", 4, "class_name answers"),
        ("Sieht man {value}?", "Sieht man es?", 5, "lacks {value}"),
        ("Sieht man {value}?", "Sieht man {valu} {value}?", 5, "names {valu}"),
        ("{class_name}.", "{clas}.", 6, "names {clas}"),
        ("base: he-words", "base: he-words\nlevels: {fatt: {margin: 1}}", 1, "no level: did you"),
        (
            "base: he-words",
            "base: he-words\nvocabulary: crc-nct",
            1,
            "crc-nct has no measure of it",
        ),
        ("captions:", "more_captions: ['{no}']\ncaptions:", 6, "names {no}"),
        ("captions:", "more_captions: ['Tissue.']\ncaptions:", 6, "names no fact"),
        ("Klasse: {class_name}.", "Klasse.", 8, "names no fact"),
        ("base: he-words", f"base: he-words\npairs: {TWICE}", 3, "names both images"),
    ],
)
def test_mistakes_of_an_entry_are_named_with_their_line(made, tmp_path, old, new, line, message):
    assert old in OWN
    options = write_own(tmp_path / "own", OWN.replace(old, new, 1))
    with pytest.raises(RecipeError) as caught:
        write_words(open_dataset(str(made["classes"][0])), tmp_path / "out", options)
    told = str(caught.value)
    assert message in told and f"mine.yaml:{line}" in told, told
    assert not (tmp_path / "out").exists()


# --- rewording -----------------------------------------------------------------------------------

LEARNED = {
    "A histology patch of the class normal.": "here one sees a patch of the class normal",
    "Class: normal.": "the patch is of another class",
}
"""What the writer of this test has learned by heart; the second does not hold the value."""


class Parrot:
    """A writer that knows LEARNED, and nothing else."""

    def describe(self):
        return {"model": "parrot", "revision": "0", "temperature": None}

    def write(self, caption, seed):
        return LEARNED.get(caption, "")


@pytest.mark.parametrize(
    "is_model",
    [
        False,
        pytest.param(
            True,
            marks=pytest.mark.slow("test_a_reworded_sentence_holds_its_values_or_is_rejected"),
        ),
    ],
)
def test_a_reworded_sentence_holds_its_values_or_is_rejected(tmp_path, monkeypatch, is_model):
    monkeypatch.setenv("FACTORY_CACHE", str(tmp_path / "cache"))
    if is_model:
        save_writer(tmp_path / "writer", True, LEARNED)
    else:
        monkeypatch.setattr("factory.publish.words.TextWriter", lambda settings, base: Parrot())
    recipe = write_recipe(
        tmp_path, **ONCE, conditions=[{"kind": "class", "per_class": {"normal": 2, "tumor": 1}}]
    )
    run(recipe, tmp_path / "run")
    entry = OWN.replace("Ein Bild der Klasse {class_name}.", next(iter(LEARNED))).replace(
        "class normal", "class {class_name}"
    )
    given = write_own(tmp_path / "own", entry.replace("Klasse:", "Class:"))
    writer = {"writer_template": "{caption} =", "writer_license": "mit", "writer_max_tokens": 16}
    options = given.model_copy(update={"writer": str(tmp_path / "writer"), **writer})
    dataset = open_dataset(str(tmp_path / "run"))
    told = write_words(dataset, tmp_path / "words", options)
    assert told.writer["sentences"]["held"] == 2
    assert sum(told.writer["sentences"].values()) == 6
    for line in read_lines(tmp_path / "words"):
        (caption,), (report,) = line["captions"], line["report"]
        if line["class_name"] == "normal":
            assert caption["is_written"] and caption["answer"] == LEARNED[next(iter(LEARNED))]
        else:
            assert caption["answer"] == "A histology patch of the class tumor."
        assert report["answer"] == f"Class: {line['class_name']}."
        assert "is_written" not in report
    page = (tmp_path / "words/README.md").read_text("utf-8")
    assert "licence: mit" in page and "held 2" in page
    assert check_words(tmp_path / "words", dataset).is_sound
    change(
        tmp_path / "words/words/train.jsonl", "here one sees a patch of the class normal", "here"
    )
    found = check_words(tmp_path / "words", dataset)
    assert any("drops" in each.message for each in found.differences)
    ask(
        "words",
        "write",
        tmp_path / "run",
        "--out",
        tmp_path / "x",
        "--writer-license",
        "mit",
        code=2,
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("nuclei cover 31 % of this field, which has high cellularity", None),
        ("nuclei cover 13 % of this field, which has high cellularity", "has other numbers"),
        ("nuclei cover 31 % of this field", "drops density"),
        ("nuclei cover 31 % of this field, with no densely packed nuclei", "denies more"),
        ("nuclei cover 31 % of this field, with low cellularity", "contradicts density"),
        ("Many nuclei, densely packed nuclei, cover 31 % of it", "adds density by 'many nuclei'"),
        ("densely packed nuclei cover 31 %, few nuclei", "adds density by 'few nuclei'"),
        ("densely packed nuclei, 31 %, and wall-to-wall tissue", "adds tissue by"),
        ("densely packed nuclei cover 31 % of an infiltrating carcinoma", "adds NCIT:C9305"),
        ("densely packed nuclei are not what covers 31 % of it", "denies more"),
        ("nuclei cover 31 %, and densely packed nuclei aren't seen", "denies more"),
        ("densely packed nuclei cover 31 %, with strong eosin", "adds eosin"),
        ("densely packed nuclei cover 31 % at 20x", "has other numbers"),
        ("", "has other numbers"),
    ],
)
def test_what_a_reworded_sentence_may_say(text, fault):
    lexicon = Lexicon.open(load_catalogs(), "he-words").with_classes(["normal", "tumor"], None)
    facts = {
        "density": {"what": "density", "value": "high"},
        "nuclei_share": {"what": "nuclei_share", "value": "31"},
    }
    template = "A field with {density}, {nuclei_share} of it nuclei."
    words = {"density": "densely packed nuclei", "nuclei_share": "31 %"}
    made = Statement(
        kind="caption", about="caption", template=template, words=words, facts=tuple(facts)
    )
    found = find_unwritten(made, text, facts, lexicon, load_catalogs().find_terms("pathology"))
    assert found is None if fault is None else (found or "").startswith(fault), found


def test_a_density_says_no_number_of_nuclei_and_no_norm():
    known = Lexicon.open(load_catalogs(), "he-words").attributes["density"]
    number = re.compile(r"\b(few|many|number|numerous|only|occasional|h(ypo|yper)cellular|pauci)")
    texts = [text for texts in known.values() for text in texts]
    assert len(texts) > 8 and not [text for text in texts if number.search(text)]


# --- what is broken ------------------------------------------------------------------------------


def test_nothing_is_written_over_and_nothing_half_is_left(made, tmp_path):
    folder, words = made["masks"]
    told = ask("words", "write", folder, "--out", words, code=2)
    assert "not empty" in told
    (tmp_path / "file").write_text("x")
    assert call("words", "write", folder, "--out", tmp_path / "file").exit_code == 2
    told = ask("words", "check", folder, folder, code=2)
    assert "factory words write" in told
    broken = tmp_path / "broken"
    shutil.copytree(words, broken)
    (broken / "words.json").write_bytes(b"{}")
    assert "write the words again" in ask("words", "check", broken, folder, code=2)
    record = read_json(words / "words.json")
    for odd in ({"settings": {}}, {"formats": ["coco"]}):
        (broken / "words.json").write_text(json.dumps(record | odd))
        assert "write the words again" in ask("words", "check", broken, folder, code=2)
    shutil.copytree(folder, tmp_path / "run")
    data = next((tmp_path / "run/data").glob("*.parquet"))
    whole = bytearray(data.read_bytes())
    whole[200:260] = bytes(60)
    data.write_bytes(whole)
    with pytest.raises(DamageError):
        write_words(open_dataset(str(tmp_path / "run")), tmp_path / "out", WordsOptions())
    shutil.copytree(folder, tmp_path / "again/run")
    dataset = open_dataset(str(tmp_path / "again/run"))
    write_words(dataset, tmp_path / "out", WordsOptions(seed=3))
    for path in (each for each in sorted(words.rglob("*")) if each.is_file()):
        assert (tmp_path / "out" / path.relative_to(words)).read_bytes() == path.read_bytes()


def test_real_rows_of_a_merged_set_are_left_out(made, tmp_path):
    folder, _ = made["glands"]
    merge_sets(ASSETS / "pcam" / "test", [folder], tmp_path / "set", MergeSettings())
    dataset = open_dataset(str(tmp_path / "set"))
    with listen() as heard:
        told = write_words(dataset, tmp_path / "words", WordsOptions())
    assert sum(told.left_out.values()) == len(list((ASSETS / "pcam" / "test").rglob("*.webp")))
    assert any("of which nothing was asked" in each for each in heard)
    assert told.splits["train"]["images"] == len(read_rows(folder))
    assert check_words(tmp_path / "words", dataset).is_sound
    with pytest.raises(InputError, match="no row tells"):
        merge_sets(ASSETS / "pcam" / "test", [folder], tmp_path / "real", MergeSettings())
        for path in (tmp_path / "real/data").glob("train*"):
            path.unlink()
        write_words(open_dataset(str(tmp_path / "real")), tmp_path / "none", WordsOptions())
    assert not (tmp_path / "none").exists()


def test_a_run_that_is_not_finished_says_so(tmp_path):
    block = {"kind": "class", "per_class": {"normal": 8}}
    grown = {"kind": "class", "per_class": {"normal": 16}}
    run(write_recipe(tmp_path, **ONCE, conditions=[block]), tmp_path / "run")
    recipe = write_recipe(tmp_path, **ONCE, conditions=[grown])
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "run", extend=True, notify=stop_after(1))
    with listen() as heard:
        told = write_words(open_dataset(str(tmp_path / "run")), tmp_path / "out", WordsOptions())
    assert told.unfinished and any("is not finished" in each for each in heard)
    assert told.splits["train"]["images"] == 8
    assert "was not finished" in (tmp_path / "out/README.md").read_text("utf-8")
    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run(recipe, stopped, notify=stop_after(1))
    with pytest.raises(InputError, match="holds no data"):
        open_dataset(str(stopped))


def test_images_that_cannot_be_measured_are_asked_about_all_the_same(tmp_path):
    tiny = {**SMALL, "width": 8, "height": 8}
    recipe = write_recipe(tmp_path, **{**ONCE, "generator": tiny})
    run(recipe, tmp_path / "run")
    told = write_words(open_dataset(str(tmp_path / "run")), tmp_path / "words", WordsOptions())
    passed = {each.reason for each in told.passed if each.about == "density"}
    assert passed == {"the image is too small to be measured"}
    lines = read_lines(tmp_path / "words")
    assert {each["about"] for line in lines for each in line["questions"]} == {"class_name"}
    assert check_words(tmp_path / "words", open_dataset(str(tmp_path / "run"))).is_sound


# --- commands and names --------------------------------------------------------------------------


def test_commands_tell_the_prior_and_what_is_not_said(made, tmp_path):
    folder, _ = made["families"]
    printed = ask("words", "write", folder, "--out", tmp_path / "a", "--formats", "clip,llava,clip")
    assert "yes/no:" in printed and "yes 0.50, blind guess" in printed
    assert (
        "not said: density:" in printed and "what was asked and what is measured differ" in printed
    )
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        *("README.md", "clip", "images", "llava", "words", "words.json")
    }
    told = json.loads(ask("words", "write", folder, "--out", tmp_path / "b", "--json"))
    assert told["overall"]["yes/no"]["yes"] == 0.5
    assert {"splits", "blind", "balance", "passed", "left_out"} <= told.keys()
    checked = json.loads(ask("words", "check", tmp_path / "b", folder, "--json"))
    assert checked["sound"] and not checked["differences"]
    assert checked["checked"]["caption"] == told["splits"]["train"]["captions"]
    wrong = ask("words", "write", folder, "--out", tmp_path / "c", "--formats", "vqa,coco", code=2)
    assert "coco" in wrong and not (tmp_path / "c").exists()
    assert "did you mean 'he-words'" in ask(
        "words", "write", folder, "--out", tmp_path / "c", "--words", "he-word", code=2
    )


def test_classes_are_called_by_their_titles_where_these_are_their_own():
    catalogs = load_catalogs()
    lexicon = Lexicon.open(catalogs, "he-words")
    named = lexicon.with_classes(["TUM", "other"], catalogs.find_classes("crc-nct")).attributes
    assert named["class_name"]["TUM"][0] == "colorectal adenocarcinoma epithelium"
    assert named["class_name"]["other"] == ("other",)
    shared = ClassesEntry(
        id="two",
        classes=(
            ClassEntry(name="a", title="tissue", synonyms=("Gland",)),
            ClassEntry(name="b", title="gland"),
        ),
    )
    told = lexicon.with_classes(["a", "b"], shared).attributes["class_name"]
    assert told == {"a": ("tissue",), "b": ("b",)}


def test_objects_of_odd_names_are_counted(tmp_path):
    odd = "Zelle: {x} | “y”"
    block = write_mask("glands", {1: odd, 2: "gland"})
    run(write_recipe(tmp_path, **ONCE, conditions=[block]), tmp_path / "run")
    dataset = open_dataset(str(tmp_path / "run"))
    write_words(dataset, tmp_path / "words", WordsOptions())
    asked = [each for line in read_lines(tmp_path / "words") for each in line["questions"]]
    counted = [each for each in asked if each["about"] == f"count:{odd}"]
    assert counted and all(odd in each["question"] for each in counted)
    assert check_words(tmp_path / "words", dataset).is_sound


def list_wrong(told):
    """Statements that say something else: another answer, value, fact, or kind of fact."""
    kind, answer = told["kind"], told["answer"]
    if kind == "yes/no":
        yield {**told, "answer": {"yes": "no", "no": "yes"}[answer]}
        yield {**told, "tested": "nothing"}
    if kind not in ("caption", "report"):
        yield {**told, "answer": "the other one", "is_written": True}
    for place, (value, text) in enumerate(told.get("options", ())):
        other = f"{'ABCD'[place]}. {text}"
        if other != answer:
            yield {**told, "answer": other}
            mixed = [each for each in told["options"] if each[0] != value]
            if len(mixed) > 1:
                yield {**told, "options": mixed}
    if kind in ("number", "box"):
        yield {**told, "answer": answer.replace(answer[-3], "7"), "words": {"answer": "7 %"}}
    yield {**told, "facts": []}
    yield {**told, "facts": ["nothing"]}
    yield {**told, "template": told["template"] + " Really."}
    for slot, text in told.get("words", {}).items():
        words = {**told["words"], slot: f"not {text}"}
        yield {**told, "words": words, "question": told["question"].replace(text, f"not {text}")}


@pytest.mark.parametrize("name", RUNS)
def test_no_wrong_statement_passes(made, name):
    _, words = made[name]
    lexicon = WordsRecord.parse((words / "words.json").read_bytes()).lexicon
    tried = Counter()
    for path in sorted((words / "words").glob("*.jsonl")):
        for line in read_lines(words, path.stem):
            said = [each for title in SAID for each in line.get(title, ())]
            for told in said:
                assert Statement(**told).find_fault(line["facts"], lexicon) is None
                for wrong in list_wrong(told):
                    assert Statement(**wrong).find_fault(line["facts"], lexicon), (told, wrong)
                    tried[told["kind"]] += 1
    assert tried["yes/no"] and tried["choice"] and tried["caption"]
