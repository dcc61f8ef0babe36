"""The Python API: light to import, documented, seen in notebooks, and does what it says."""

import inspect
import subprocess
import sys
from html.parser import HTMLParser

import pytest

import factory
from factory import api
from factory.core.errors import InputError, RecipeError
from factory.publish.hub import PublishOptions
from factory.train.classifier.settings import ClassifierSettings
from tests.evaluate.test_evaluate_sets import write_folder
from tests.running import write_recipe

SAFE = (api.list_recipes, api.schema, api.validate)
"""They raise nothing."""
FUNCTIONS = [getattr(api, name) for name in api.__all__ if name[0].islower()]
CLASSIFIER = ClassifierSettings(force=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    classes = {"normal": 10, "tumor <b> & c": 13}
    recipe = write_recipe(folder, conditions=[{"kind": "class", "per_class": classes}])
    return folder, factory.run(recipe, folder / "run")


class Page(HTMLParser):
    """Tags and text of a piece of HTML."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_importing_it_loads_nothing_heavy():
    heavy = {
        "torch",
        "ray",
        "datasets",
        "diffusers",
        "transformers",
        "pyarrow",
        "sklearn",
        "matplotlib",
        "numpy",
    }
    code = (
        "import sys, factory; factory.run; "
        f"found = {heavy} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_package_gives_the_functions_of_the_api():
    assert factory.__all__ == api.__all__
    assert set(api.__all__) <= set(dir(factory))
    assert factory.run is api.run
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        factory.runn  # noqa: B018


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda each: each.__name__)
def test_functions_are_typed_documented_and_short_of_parameters(function):
    signature = inspect.signature(function)
    assert len(signature.parameters) <= 8
    assert signature.return_annotation is not inspect.Signature.empty
    text = inspect.getdoc(function)
    assert "Raises:" in text or function in SAFE
    named = text.partition("Args:")[2].partition("Raises:")[0]
    for name, parameter in signature.parameters.items():
        assert parameter.annotation is not inspect.Parameter.empty
        assert f"\n    {name}: " in named or not named, name


def test_overrides_are_texts_or_a_mapping(tmp_path):
    recipe = write_recipe(tmp_path)
    for given in (["seed=8", "card.tags=[a]"], {"seed": 8, "card.tags": ["a"]}):
        loaded = factory.load_recipe(recipe, given)
        assert (loaded.recipe.seed, loaded.recipe.card.tags) == (8, ("a",))
    with pytest.raises(RecipeError, match="seeed"):
        factory.load_recipe(recipe, {"seeed": 8})
    with pytest.raises(InputError, match="quickstart"):
        factory.load_recipe("quikstart")


def test_a_plan_shows_its_series(made):
    planned = factory.plan(factory.load_recipe(made[0] / "recipe.yaml"))
    page = Page(planned._repr_html_())
    assert page.texts[:3] == ["23 images in 7 shards", "condition", "images"]
    assert page.texts[3:] == ["normal", "10", "tumor <b> & c", "13"]


def test_a_run_and_its_data_set_show_funnel_and_images(made):
    folder, result = made
    dataset = factory.open_dataset(folder / "run")
    for html in (result._repr_html_(), dataset._repr_html_()):
        page = Page(html)
        assert "tumor <b> & c" in page.texts  # as text, not as a tag
        assert page.tags.count("img") == 16
        assert {"condition", "spare", "rejected: finite", "normal"} <= set(page.texts)
    assert str(folder) in repr(dataset)


def test_a_preview_shows_verdicts(made, tmp_path):
    found = factory.preview(made[0] / "recipe.yaml", tmp_path / "preview", 6)
    page = Page(found._repr_html_())
    assert page.tags.count("img") == len(found.rows) == 6
    assert page.texts.count("accepted") == sum(row["accepted"] for row in found.rows)


def test_what_commands_do_can_be_called(made, tmp_path):
    folder, result = made
    run = folder / "run"
    assert factory.status(run)["finalized"]
    assert factory.verify(run).is_sound
    row = next(factory.open_dataset(run).iterate_rows("data/train-00000-of-00001.parquet"))
    again = factory.regenerate(run, row.sample_id, tmp_path / "again.webp")
    assert again.status == "exact"
    assert (tmp_path / "again.webp").read_bytes() == row.values["image"]["bytes"]
    counts = factory.export(run, "imagefolder", tmp_path / "files")
    assert counts == {"train": {"normal": 10, "tumor <b> & c": 13}}
    merged = factory.merge(tmp_path / "files", [run], tmp_path / "merged")
    assert merged["class_names"] == ["normal", "tumor <b> & c"]
    numbers = factory.report(run, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size == numbers["bytes"]
    assert factory.card(run).endswith("README.md")
    options = PublishOptions(to=tmp_path / "copy")
    _, sent = factory.publish_dataset(run, options)
    assert sent.problems == ()
    assert factory.open_dataset(tmp_path / "copy").summary.accepted == result.summary.accepted
    scored = factory.score_images(folder / "recipe.yaml", tmp_path / "files", tmp_path / "judged")
    assert (scored.summary.judged, scored.summary.asked) == (True, 23)
    refiltered = factory.refilter(tmp_path / "judged", {"filters.finite.min_contrast": 0.0})
    assert refiltered.summary.accepted >= scored.summary.accepted


def test_an_evaluation_is_written_and_shown(made, tmp_path):
    from factory.evaluate.copies import CopySettings

    folder, _ = made
    out = folder / "run" / "evaluation" / "copies.json"
    settings = CopySettings(encoder="color-texture")
    found = factory.evaluate_copies(folder / "run", folder / "run", settings=settings, out=out)
    assert found["kind"] == "copies"
    assert out.is_file()
    shown = found._repr_markdown_()
    assert shown.startswith("### copies")
    assert "| " in shown


def test_what_recipes_can_name_is_listed_and_checked(tmp_path):
    recipes = factory.list_recipes()
    assert "quickstart" in Page(recipes._repr_html_()).texts
    assert factory.copy_recipe("quickstart", tmp_path) == tmp_path / "quickstart.yaml"
    with pytest.raises(InputError, match="is there already"):
        factory.copy_recipe("quickstart", tmp_path)
    models = factory.list_models()
    page = Page(models._repr_html_())
    assert page.tags.count("tr") == len(models) + 1
    assert factory.find_model("fake").lacks is None
    assert "licence.id" in Page(factory.find_model("nano-he")._repr_html_()).texts
    encoders = factory.list_encoders()
    assert tuple(entry.id for entry in encoders) == factory.list_catalog("encoders")
    assert factory.find_encoder("color-texture") in encoders
    assert factory.check_encoder("color-texture").found["dim"] > 0
    checked = factory.check_model("fake")
    assert (checked.found["width"], "histology" in checked.found["asked"]) == (64, True)
    assert "generator" in factory.schema()["properties"]


def test_validate_returns_problems(tmp_path):
    assert factory.validate("quickstart") == ()
    (problem,) = factory.validate(write_recipe(tmp_path), {"seed": -1})
    assert problem == "--set seed=-1: seed: must be >= 0, got -1"
    (problem,) = factory.validate("quikstart")
    assert "quickstart" in problem


def test_a_calibration_and_a_classifier_show_themselves(made, tmp_path):
    folder, _ = made
    found = factory.calibrate(folder / "recipe.yaml", tmp_path / "calibration", count=8)
    page = Page(found._repr_html_())
    assert page.tags.count("img") == 1
    assert "filters.finite.min_contrast" in page.texts
    with pytest.raises(InputError, match="--reuse"):
        factory.calibrate(folder / "recipe.yaml", tmp_path / "c", folder, reuse=True)
    patches = write_folder(tmp_path / "real", {"normal": 12, "tumor": 12})
    report = factory.train_classifier(patches, tmp_path / "classifier", CLASSIFIER)
    assert report["forced"] or report["refused"] is None
    assert "held_out.balanced_accuracy" in Page(report._repr_html_()).texts
