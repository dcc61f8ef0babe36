"""Filters about the class: thresholds by class and precision, agreement, zero-shot, old runs."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from scipy.special import softmax
from scipy.stats import entropy

from factory import filters as registry
from factory.api import refilter
from factory.catalog.catalog import load_catalogs
from factory.core.errors import FilterError, InputError, RecipeError
from factory.data.records import Condition, Sample
from factory.filters import build_filters, decide_all, score_all
from factory.filters.classifier import ClassifierFilter
from factory.filters.zero_shot import TEMPLATES, write_prompts
from factory.models.classifiers.heads import Head
from factory.models.classifiers.model import Threshold, load_classifier
from factory.models.encoders import load_encoder
from factory.models.session import Session
from factory.recipe.recipe import AnyFilter, Recipe, compute_recipe_digest, select_content
from tests.running import call, find_messages, read_rows, run, save_classifier, write_recipe
from tests.tiny import save_open_clip

CATALOGS = load_catalogs()
NORMAL, TUMOR = Condition(class_name="normal"), Condition(class_name="tumor")


def write_classifier(folder, names=("normal", "tumor"), seed=0, logits=None, thresholds=None):
    """A linear head on colour and texture: random, or one that always gives `logits`."""
    encoder = load_encoder("color-texture")
    draw = np.random.default_rng(seed)
    coef = draw.normal(size=(len(names), encoder.dim)) if logits is None else 0
    coef = np.zeros((len(names), encoder.dim)) + coef
    intercept = np.zeros(len(names)) if logits is None else np.array(logits, float)
    rows = thresholds and {
        name: tuple(
            Threshold(precision=p, probability=at, reached=p, low=p, high=p, recall=0.5, images=9)
            for p, at in table
        )
        for name, table in thresholds.items()
    }
    features = encoder.encode(make_images(20))
    head = Head(features.mean(0).astype(float), features.std(0) * 60.0 + 1.0, coef, intercept)
    save_classifier(folder, head, names, encoder.describe(), thresholds=rows)
    return folder


def make_images(count, size=32, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (count, size // 4, size // 4, 3))
    return coarse.repeat(4, 1).repeat(4, 2).astype(np.uint8)


def build(*described, base=Path()):
    parsed = TypeAdapter(tuple[AnyFilter, ...]).validate_python(described)
    return build_filters(parsed, Session.open(base))


def score(judge, images, conditions):
    return score_all([judge], [Sample(image) for image in images], conditions)


# --- classifier ----------------------------------------------------------------------------------


def test_scores_equal_those_of_the_whole_distribution(tmp_path):
    names = ("a", "b", "c")
    table = {"b": ((0.8, 0.3), (0.9, 0.4))}
    folder = write_classifier(tmp_path / "it", names, thresholds=table)
    judge = build({"kind": "classifier", "model": "it"}, base=tmp_path)[0]
    images = make_images(12, seed=5)
    rows = score(judge, images, [Condition(class_name="b")] * 12)
    found = load_classifier(folder).predict_probabilities(images)
    assert len({row["class_precision"] for row in rows}) > 1
    for row, chances in zip(rows, found, strict=True):
        assert row["class_probability"] == pytest.approx(chances[1], abs=1e-4)
        assert row["class_margin"] == pytest.approx(chances[1] - max(chances[[0, 2]]), abs=2e-4)
        assert row["class_entropy"] == pytest.approx(entropy(chances) / np.log(3), abs=1e-4)
        tabled = 0.9 if chances[1] >= 0.4 else 0.8 if chances[1] >= 0.3 else 0.0
        assert row["class_precision"] == tabled
    other = score(judge, images[:1], [Condition(class_name="a")])
    assert np.isnan(other[0]["class_precision"]), "no table of this class: nothing is known"
    without = score(judge, images[:1], [Condition(caption="x")])[0]
    assert np.isnan(list(without.values())).all()
    assert decide_all([judge], without).accepted


@pytest.mark.parametrize(
    ("logits", "told"), [((0, 0, 0), 1.0), ((60, 0, 0), 0.0), ((9, 9, -900), 0.6309)]
)
def test_entropy_goes_from_sure_to_no_idea(tmp_path, logits, told):
    write_classifier(tmp_path / "it", ("a", "b", "c"), logits=logits)
    judge = build({"kind": "classifier", "model": "it", "max_entropy": 0.7}, base=tmp_path)[0]
    row = score(judge, make_images(1), [Condition(class_name="a")])[0]
    assert row["class_entropy"] == pytest.approx(told, abs=1e-4)
    likely = {**row, "class_probability": 1.0}
    assert decide_all([judge], likely).accepted == (told <= 0.7)


def test_thresholds_by_class(tmp_path):
    bounds = {"normal": 0.3, "tumor": 0.8}
    judges = build({"kind": "classifier", "model": "it", "min_probability": bounds}, base=tmp_path)
    scores = {"class_probability": 0.5}
    assert decide_all(judges, scores, class_name="normal").accepted
    verdict = decide_all(judges, scores, class_name="tumor")
    assert verdict.reason == "class_probability 0.5 < 0.8"
    with pytest.raises(FilterError, match="names normal, tumor, but not 'stroma': add it"):
        decide_all(judges, scores, class_name="stroma")
    assert decide_all(judges, {"class_probability": np.nan}).accepted


def test_a_wished_precision_stands_alone_unless_a_probability_is_given(tmp_path):
    described = {"kind": "classifier", "model": "it", "min_precision": 0.85}
    scores = {"class_probability": 0.3, "class_precision": 0.9}
    assert decide_all(build(described, base=tmp_path), scores).accepted
    verdict = decide_all(build(described, base=tmp_path), {**scores, "class_precision": 0.8})
    assert verdict.reason == "class_precision 0.8 < 0.85"
    both = build({**described, "min_probability": 0.4}, base=tmp_path)
    assert decide_all(both, scores).reason == "class_probability 0.3 < 0.4"


@pytest.mark.stranger
def test_a_precision_that_nobody_measured_is_null(tmp_path):
    write_classifier(tmp_path / "it")
    judges = build({"kind": "classifier", "model": "it"}, base=tmp_path)
    row = score(judges[0], make_images(1), [NORMAL])[0]
    assert np.isnan(row["class_precision"])
    assert decide_all(judges, row, class_name="normal").accepted
    wished = build({"kind": "classifier", "model": "it", "min_precision": 0.9}, base=tmp_path)
    verdict = decide_all(wished, row, class_name="normal")
    assert verdict.reason == "class_precision is not known: no table of the class"


def test_old_scores_are_enough_for_old_thresholds(tmp_path):
    old = {"class_probability": 0.8, "class_margin": 0.6}
    described = {"kind": "classifier", "model": "it"}
    assert decide_all(build(described, base=tmp_path), old).accepted
    margin = build({**described, "min_margin": 0.7}, base=tmp_path)
    assert decide_all(margin, old).reason == "class_margin 0.6 < 0.7"
    strict = build({**described, "max_entropy": 0.5}, base=tmp_path)
    with pytest.raises(FilterError, match="classifier: no stored score class_entropy"):
        decide_all(strict, old)


def test_unused_settings_leave_recipes_as_they_were():
    described = {"kind": "classifier", "model": "pcam"}
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "generator": {"model": "fake"},
            "conditions": [{"kind": "class", "per_class": {"normal": 1}}],
            "filters": [described],
        }
    )
    expected = {**described, "min_probability": 0.5}
    assert select_content(recipe)["filters"] == [expected]
    assert compute_recipe_digest(recipe) == (
        "2f819fccd520b9192af531da41a427926eee3b1f1a823bcd44d2b4118782f64d"
    )


class OldJudge(ClassifierFilter):
    """What wrote two scores, before there were entropy and precision."""

    kind = "classifier"
    scores = (ClassifierFilter.scores[0], ClassifierFilter.scores[2])

    def score(self, samples, conditions):
        context = Session(CATALOGS, self.folder)
        judge = ClassifierFilter(self.settings, context)
        found = judge.score(samples, conditions)
        return {name: found[name] for name in self.score_names}


def test_a_run_of_older_scores_is_refiltered(tmp_path, monkeypatch):
    write_classifier(tmp_path / "it", seed=3)
    described = {"kind": "classifier", "model": str(tmp_path / "it"), "min_probability": 0.0}
    recipe = write_recipe(tmp_path, filters=[described], budget={"attempts": 1})
    with monkeypatch.context() as patched:
        patched.setitem(registry.FILTERS._loaded, "classifier", OldJudge)
        assert run(recipe, tmp_path / "out").exit_code == 0
    before = read_rows(tmp_path / "out")
    assert set(before[0]["scores"]) == {"class_probability", "class_margin", "nonfinite_fraction"}
    bounds = {
        name: sorted(r["scores"]["class_probability"] for r in before if r["class_name"] == name)[k]
        for name, k in (("normal", 4), ("tumor", 2))
    }
    changed = f"filters.classifier.min_probability={json.dumps(bounds)}"
    refilter(str(tmp_path / "out"), [changed])
    kept = [row["class_name"] for row in read_rows(tmp_path / "out")]
    assert (kept.count("normal"), kept.count("tumor")) == (6, 11)
    with pytest.raises(FilterError, match="no stored score class_entropy"):
        refilter(str(tmp_path / "out"), ["filters.classifier.max_entropy=0.5"])
    refilter(str(tmp_path / "out"), [])
    assert run(recipe, tmp_path / "out").exit_code == 0, "the same recipe still owns the folder"


def test_validate_checks_classes_of_classes_captions_and_references(tmp_path):
    write_classifier(tmp_path / "it", ("normal", "tumour"))
    for name in ("normal", "tumor"):
        (tmp_path / "real" / name).mkdir(parents=True)
        Image.fromarray(make_images(1)[0]).save(tmp_path / "real" / name / "1.png")
    (tmp_path / "c.csv").write_text("caption,organ\ntumour,tumor\n")
    asked = {
        "conditions[0].per_class.tumor": {"kind": "class", "per_class": {"tumor": 1}},
        "conditions[0].class_column": {
            "kind": "caption",
            "captions": "./c.csv",
            "class_column": "organ",
            "count": 1,
        },
        "conditions[0].per_class": {"kind": "reference", "images": "real", "per_class": 1},
    }
    models = [
        {"kind": "classifier", "model": "./it"},
        {"kind": "agreement", "models": ["pcam", "./it"]},
    ]
    for described in models:
        for field, condition in asked.items():
            path = write_recipe(tmp_path, filters=[described], conditions=[condition])
            message = find_messages(path)[field]
            assert "classifier ./it does not know class 'tumor': did you mean 'tumour'" in message
            with pytest.raises(RecipeError, match="does not know class"):
                from factory.cli.loading import load_checked

                load_checked(path, ())


def test_validate_checks_precision_and_thresholds_by_class(tmp_path):
    table = {"normal": ((0.8, 0.6), (0.9, 0.7)), "tumor": ((0.8, 0.9),)}
    write_classifier(tmp_path / "it", thresholds=table)
    write_classifier(tmp_path / "old")

    def find(model, **settings):
        described = {"kind": "classifier", "model": model, **settings}
        return find_messages(write_recipe(tmp_path, filters=[described]))

    message = find("./it", min_precision=0.85)["filters[0].min_precision"]
    assert "reaches 0.85 at no probability for class 'tumor' (highest tabled: 0.8)" in message
    message = find("./old", min_precision=0.5)["filters[0].min_precision"]
    assert "no thresholds by precision" in message and "fit it again" in message
    found = find("./it", min_probability={"normal": 0.5, "tumour": 0.5})
    assert "did you mean 'tumor'" in found["filters[0].min_probability.tumour"]
    assert "leaves out class 'tumor'" in found["filters[0].min_probability"]


# --- agreement -----------------------------------------------------------------------------------


def test_agreement_is_the_share_of_votes_and_the_least_probability(tmp_path):
    write_classifier(tmp_path / "a", logits=(np.log(9), 0))
    write_classifier(tmp_path / "b", ("tumor", "normal"), logits=(0, np.log(3)))
    write_classifier(tmp_path / "c", ("tumor", "x", "normal"), logits=(np.log(8), 0, 0))
    described = {"kind": "agreement", "models": ["a", "b", "c"], "min_agreement": 0.66}
    judge = build(described, base=tmp_path)[0]
    rows = score(judge, make_images(3), [NORMAL, TUMOR, Condition()])
    assert rows[0] == {"class_agreement": 0.6667, "least_probability": 0.1}
    assert rows[1] == {"class_agreement": 0.3333, "least_probability": 0.1}
    assert np.isnan(list(rows[2].values())).all()
    assert [decide_all([judge], row).accepted for row in rows] == [True, False, True]
    exact = build({**described, "min_agreement": 2 / 3}, base=tmp_path)[0]
    assert decide_all([exact], rows[0]).accepted, "two of three, as stored"
    least = build({**described, "min_probability": 0.2}, base=tmp_path)[0]
    assert decide_all([least], rows[0]).reason == "least_probability 0.1 < 0.2"
    assert len(set(judge.describe()["revisions"])) == 3
    with pytest.raises(FilterError, match="does not know class 'x': it knows normal, tumor"):
        score(judge, make_images(1), [Condition(class_name="x")])


def test_agreement_needs_two_different_classifiers():
    for models in (["a"], ["a", "a"]):
        with pytest.raises(ValidationError):
            build({"kind": "agreement", "models": models})


# --- zero-shot -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny image-text model with random weights, as open_clip stores it, and the same in hand."""
    folder = tmp_path_factory.mktemp("clip")
    return folder, save_open_clip(folder)


def zero_shot(folder, **settings):
    spec = f"open_clip:local-dir:{folder}"
    return {"kind": "zero_shot", "encoder": spec, "classes": "crc-nct", **settings}


@torch.inference_mode()
def classify_by_hand(folder, model, images, names_of_classes, templates):
    """CLIP's zero-shot head, written out with open_clip's own calls."""
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    classes = []
    for names in names_of_classes:
        texts = [template.format(class_name=name) for name in names for template in templates]
        features = model.encode_text(tokenize(texts))
        features = features / features.norm(dim=-1, keepdim=True)
        mean = features.mean(dim=0)
        classes.append(mean / mean.norm())
    pixels = torch.from_numpy(images / 127.5 - 1).permute(0, 3, 1, 2).float()
    features = model.encode_image(pixels)
    features = features / features.norm(dim=-1, keepdim=True)
    return softmax((model.logit_scale.exp() * features @ torch.stack(classes).T).numpy(), axis=1)


@pytest.mark.parametrize("templates", [None, ("{class_name} on a slide",)])
def test_zero_shot_equals_a_forward_written_by_hand(clip, templates):
    folder, model = clip
    settings = {} if templates is None else {"templates": templates}
    judge = build(zero_shot(folder, **settings))[0]
    entries = CATALOGS.find_classes("crc-nct").classes
    images = make_images(len(entries), seed=2)
    rows = score(judge, images, [Condition(class_name=each.name) for each in entries])
    names = [(each.title, *each.synonyms) for each in entries]
    expected = classify_by_hand(folder, model, images, names, templates or TEMPLATES)
    for place, row in enumerate(rows):
        chances = expected[place]
        margin = chances[place] - np.delete(chances, place).max()
        assert row["zero_shot_probability"] == pytest.approx(chances[place], abs=2e-4)
        assert row["zero_shot_margin"] == pytest.approx(margin, abs=2e-4)
    assert np.ptp([row["zero_shot_probability"] for row in rows]) > 0.02


def test_prompts_are_titles_and_synonyms_in_every_template():
    entry = CATALOGS.find_classes("pcam").classes[1]
    prompts = write_prompts(entry, TEMPLATES)
    assert len(prompts) == len(set(prompts)) == 3 * len(TEMPLATES)
    assert "an H&E image of lymph node metastasis." in prompts


def test_zero_shot_decides_and_says_what_it_is(clip, tmp_path):
    folder, _ = clip
    judge = build(zero_shot(folder, classes="pcam", min_probability=0.9, min_margin=0.1))[0]
    rows = score(judge, make_images(2), [TUMOR, Condition(caption="x")])
    verdicts = [decide_all([judge], row) for row in rows]
    assert [each.accepted for each in verdicts] == [False, True]
    assert verdicts[0].reason.startswith("zero_shot_probability 0.")
    low = {"zero_shot_probability": 0.95, "zero_shot_margin": 0.05}
    assert decide_all([judge], low).reason == "zero_shot_margin 0.05 < 0.1"
    with pytest.raises(FilterError, match="classes pcam have no 'stroma': they have normal, tumor"):
        score(judge, make_images(1), [Condition(class_name="stroma")])
    described = judge.describe()
    assert str(folder) not in json.dumps(described)
    assert len(described["weights_sha256"]) == 64
    other = build(zero_shot(folder, classes="pcam", templates=("{class_name}",)))[0].describe()
    assert other["prompts_sha256"] != described["prompts_sha256"]


def test_zero_shot_is_checked_before_sampling(clip, tmp_path):
    def find(**settings):
        described = zero_shot(clip[0], **{"classes": "pcam", **settings})
        return find_messages(write_recipe(tmp_path, filters=[described]))

    conditions = {"kind": "class", "per_class": {"tumour": 1}}
    path = write_recipe(
        tmp_path, filters=[zero_shot(clip[0], classes="pcam")], conditions=[conditions]
    )
    message = find_messages(path)["conditions[0].per_class.tumour"]
    assert "class list pcam does not know class 'tumour': did you mean 'tumor'" in message
    assert "did you mean 'pcam'" in find(classes="pcamm")["filters[0].classes"]
    assert "reads no text" in find(encoder="timm:vit")["filters[0].encoder"]
    message = find(encoder="open_clip:local-dir:gone")["filters[0].encoder"]
    assert "no open_clip model there: correct the path" in message
    message = find(templates=["a {name}"])["filters[0].templates[0]"]
    assert "unknown {name}" in message
    with pytest.raises(InputError, match="no open_clip model there"):
        score(build(zero_shot("gone", classes="pcam"), base=tmp_path)[0], make_images(1), [TUMOR])


def test_zero_shot_filters_a_run(clip, tmp_path):
    described = zero_shot(clip[0], classes="pcam", min_probability=0.0)
    recipe = write_recipe(tmp_path, filters=[described])
    assert run(recipe, tmp_path / "out").exit_code == 0
    scores = [row["scores"]["zero_shot_probability"] for row in read_rows(tmp_path / "out")]
    assert len(scores) == 23 and all(0 < value < 1 for value in scores)


# --- images without a class ----------------------------------------------------------------------


@pytest.mark.stranger
def test_images_without_a_class_are_not_called_accepted_by_a_classifier(tmp_path):
    write_classifier(tmp_path / "it")
    (tmp_path / "captions.txt").write_text("one\ntwo\nthree\nfour\n")
    captions = {"kind": "caption", "captions": "captions.txt", "count": 4}
    judges = [{"kind": "classifier", "model": "./it", "min_probability": 0.0}]
    path = write_recipe(tmp_path, conditions=[captions], filters=judges)
    message = find_messages(path)["filters[0]"]
    assert message.startswith("no condition has a class, so that filter classifier judges nothing")
    classes = {"kind": "class", "per_class": {"normal": 2}}
    path = write_recipe(tmp_path, conditions=[classes, captions], filters=judges)
    result = call("run", str(path), "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    told = "captions captions.txt: has no class, so that classifier judged none of its 4 accepted"
    assert f"NOT JUDGED {told} images" in result.output
    assert f"- **Not judged**: {told}" in (tmp_path / "out" / "README.md").read_text()
    assert "normal: has no class" not in result.output
