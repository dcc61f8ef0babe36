"""Classifier guidance: the class gets into the image, rows stay theirs, and misuse is told."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError
from factory.core.images import decode_image
from factory.data.images import fit_image, list_images
from factory.engine.dataset import open_dataset
from factory.engine.preview import judge_first_tries
from factory.engine.regenerate import Places, regenerate_rows
from factory.engine.run import plan_recipe
from factory.engine.shard import Worker
from factory.engine.task import Order
from factory.models.classifiers.model import load_classifier
from factory.models.generators import build_generator, flow, straight
from factory.models.generators.classifier_guidance import ClassifierGuide
from factory.models.generators.settings import ClassifierGuidance, GeneratorSettings
from factory.models.session import Session
from factory.recipe.file import load_recipe
from factory.recipe.judge_overlap import find_circles
from factory.recipe.licences.collect import collect_recipe_terms
from factory.train.classifier.settings import ClassifierSettings
from factory.train.classifier.train import train_classifier
from tests.evaluate.test_evaluate_fewshot import CLASSES, FAST, write_images
from tests.parts import make
from tests.running import call, list_identities, read_json, read_rows, run, write_recipe
from tests.tiny import save_tiny

SHOTS = 8


def write_large(folder, count, seed):
    """Real images of 96 px, from which 64 can be cut without enlarging."""
    write_images(folder, count, seed)
    for path in folder.rglob("*.png"):
        Image.open(path).resize((96, 96)).save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Real images of two classes, and classifiers of them."""
    folder = tmp_path_factory.mktemp("guidance")
    write_large(folder / "real", SHOTS, 1)
    options = {"image_size": 64, "force": True}
    for name, encoder, head in (
        ("guide", "he-ssl", "logistic"),
        ("knn", "he-ssl", "knn"),
        ("handmade", "color-texture", "logistic"),
    ):
        train_classifier(
            folder / "real",
            folder / name,
            ClassifierSettings(encoder=encoder, head=head, **options),
        )
    return folder


def write(folder, place, guidance=("guide", 100.0), **changes):
    generator = {
        "model": "nano-he-base",
        "steps": 4,
        "batch_size": 4,
        **changes.pop("generator", {}),
    }
    if guidance is not None:
        generator["classifier_guidance"] = {"model": str(place / guidance[0]), "scale": guidance[1]}
    unset = {"width": None, "height": None}
    reference = {
        "kind": "reference",
        "images": str(place / "real"),
        "strength": 0.8,
        "per_class": 5,
    }
    return write_recipe(
        folder,
        generator=generator | unset,
        **{"conditions": [reference], "filters": [], **changes},
    )


def enlarge(image):
    """An image as the model would make it."""
    return fit_image(image.read_pixels(), 64, 64, "resize")


def read_chances(place, rows):
    """Log probabilities of the asked classes, by the classifier that guides."""
    classifier = load_classifier(place / "guide")
    pixels = [decode_image(row["image"]["bytes"], "row") for row in rows]
    asked = [classifier.class_names.index(row["class_name"]) for row in rows]
    return np.log(classifier.predict_probabilities(pixels)[range(len(rows)), asked])


@pytest.fixture(scope="module")
def guided(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guided")
    assert run(write(folder, place), folder / "run").exit_code == 0
    return folder


def test_the_class_gets_into_the_images(place, guided, tmp_path):
    assert run(write(tmp_path, place, guidance=None), tmp_path / "run").exit_code == 0
    rows, plain = read_rows(guided / "run"), read_rows(tmp_path / "run")
    assert [row["seed"] for row in rows] == [row["seed"] for row in plain]
    assert not {row["sample_id"] for row in rows} & {row["sample_id"] for row in plain}
    gained = read_chances(place, rows) - read_chances(place, plain)
    assert gained.min() > -1e-3  # nothing is gained where the class is certain already
    assert gained.mean() > 0.1


def test_rows_tell_the_guide_and_are_made_again(place, guided):
    rows = read_rows(guided / "run")
    told = json.loads(rows[0]["provenance"])["generator"]["classifier_guidance"]
    assert (told["scale"], told["limit"]) == (100.0, straight.GUIDE_LIMIT)
    assert told["revision"] == load_classifier(place / "guide").revision
    recipe = open_dataset(str(guided / "run")).recipe
    for each in regenerate_rows(rows[:3], recipe, Places(base=guided)):
        assert (each.status, each.differences) == ("exact", ())


def test_a_guide_that_moved_is_named(place, guided, tmp_path):
    recipe = open_dataset(str(guided / "run")).recipe
    lost = recipe.generator.classifier_guidance.model_copy(update={"model": "./gone"})
    recipe = recipe.model_copy(
        update={"generator": recipe.generator.model_copy(update={"classifier_guidance": lost})}
    )
    rows = read_rows(guided / "run")[:1]
    [left] = regenerate_rows(rows, recipe, Places(base=tmp_path))
    assert left.status == "not checked"
    assert "--guide" in left.reason
    [found] = regenerate_rows(rows, recipe, Places(base=tmp_path, guide=str(place / "guide")))
    assert found.status == "exact"


def test_card_and_published_copy_name_the_guide_but_no_place(place, guided, tmp_path):
    card = (guided / "run" / "README.md").read_text()
    assert "guided to the class asked for by classifier `.../guide`" in card
    assert "guiding classifier" in card  # its terms
    command = ["publish", str(guided / "run"), "--to", str(tmp_path / "copy"), "--license", "other"]
    result = call(*command)
    assert result.exit_code == 0, result.output
    for path in (path for path in (tmp_path / "copy").rglob("*") if path.is_file()):
        assert str(place).encode() not in path.read_bytes(), path
    [row] = read_rows(tmp_path / "copy")[:1]
    recipe = open_dataset(str(tmp_path / "copy")).recipe
    found = Places(references=(place / "real",), guide=str(place / "guide"))
    assert [each.status for each in regenerate_rows([row], recipe, found)] == ["exact"]


def test_rows_do_not_depend_on_company(place, guided, tmp_path):
    reference = {"kind": "reference", "images": str(place / "real"), "strength": 0.8}
    fewer = [{**reference, "per_class": {CLASSES[1]: 3}}]
    assert run(write(tmp_path, place, conditions=fewer), tmp_path / "run").exit_code == 0
    assert list_identities(tmp_path / "run") < list_identities(guided / "run")


def test_guide_and_filter_share_their_encoder(place, tmp_path):
    """Counted by the files that are opened: an encoder is described in one of its own."""
    judge = {"kind": "classifier", "model": str(place / "guide"), "min_probability": 0}
    pick = {"keep": "diverse", "encoder": "he-ssl"}
    loaded = load_recipe(write(tmp_path, place, filters=[judge], pick=pick, generator={"steps": 1}))
    opened, is_open = [], [True]

    def watch(event, arguments):
        if is_open and event == "open" and str(arguments[0]).endswith("he-ssl/encoder.json"):
            opened.append(arguments[0])

    sys.addaudithook(watch)  # for as long as Python runs
    worker = Worker(Order(loaded.recipe, loaded.session, "memory://shared"))
    ((candidate,),) = judge_first_tries(worker, plan_recipe(loaded), 1)
    is_open.clear()
    assert candidate.scores["class_probability"] > 0 and candidate.features is not None
    assert len(opened) == 1


def test_another_guide_is_another_data_set(place, guided, tmp_path):
    train_classifier(
        place / "real",
        tmp_path / "other",
        ClassifierSettings(encoder="he-ssl", head="prototype", image_size=64, force=True),
    )
    path = write(
        tmp_path,
        tmp_path,
        guidance=("other", 100.0),
        conditions=[
            {"kind": "reference", "images": str(place / "real"), "strength": 0.8, "per_class": 6}
        ],
    )
    result = call("run", str(path), "--out", str(guided / "run"), "--extend")
    assert result.exit_code == 2
    assert "classifier_guidance.revision" in result.output


def test_gradients_are_those_of_the_log_probability(place):
    """Against finite differences of the classifier's own probabilities, on real images."""
    guide = ClassifierGuide(ClassifierGuidance(model=str(place / "guide")), Session.open(), "cpu")
    images = [enlarge(each) for each in list_images(place / "real")[:2]]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    classifier = load_classifier(place / "guide")
    aimed = guide.aim([CLASSES[0], None])
    expected = np.log(classifier.predict_probabilities(images)[0, 0])
    assert aimed(pixels)[0].item() == pytest.approx(expected, abs=1e-3)
    assert aimed(pixels)[1].item() == 0.0
    leaf = pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(aimed(leaf).sum(), leaf)
    assert not gradient[1].any()
    direction = gradient[0] / gradient[0].norm()
    step = 1e-3
    ahead, behind = pixels.clone(), pixels.clone()
    ahead[0] += step * direction
    behind[0] -= step * direction
    slope = (aimed(ahead)[0] - aimed(behind)[0]).item() / (2 * step)
    assert slope == pytest.approx(gradient[0].norm().item(), rel=0.05)


@pytest.mark.parametrize(("size", "fit"), [(48, "crop"), (48, "resize"), (96, "crop")])
def test_a_classifier_of_another_size_sees_what_it_was_fitted_on(place, tmp_path, size, fit):
    options = {"encoder": "he-ssl", "head": "logistic", "image_size": size, "fit": fit}
    train_classifier(place / "real", tmp_path / "c", ClassifierSettings(force=True, **options))
    settings = ClassifierGuidance(model=str(tmp_path / "c"))
    aimed = ClassifierGuide(settings, Session.open(), "cpu").aim([CLASSES[1]])
    image = enlarge(list_images(place / "real")[0])
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    expected = np.log(load_classifier(tmp_path / "c").predict_probabilities([image])[0, 1])
    assert aimed(pixels)[0].item() == pytest.approx(expected, abs=0.15)


def test_a_guide_changes_a_velocity_by_its_gradient_but_never_by_more_than_the_limit(tmp_path):
    pipeline = flow.FlowPipeline.from_pretrained(save_tiny("flow", tmp_path / "flow"))
    channels, size = pipeline.unet.config.in_channels, pipeline.unet.config.sample_size
    sample, velocity = torch.randn(2, 2, channels, size, size, generator=torch.manual_seed(0))
    share, std = 0.4, float(pipeline.config.data_std)
    weights = torch.randn_like(pipeline.decode_pixels(sample))

    def ask(scale):
        def guide(pixels):
            return (weights * pixels).sum((1, 2, 3))

        return pipeline._ask(guide, scale, sample, torch.tensor(share), velocity)

    lengths = velocity.flatten(1).norm(dim=1)
    weak, strong = ask(1e-4), ask(1e4)
    jacobian = share * std**2 / (share**2 + (1 - share) ** 2 * std**2)
    expected = 1e-4 * jacobian * pipeline.encode_pixels(weights)
    assert torch.allclose(weak, expected, rtol=1e-4, atol=1e-9)
    assert torch.allclose(strong.flatten(1).norm(dim=1), straight.GUIDE_LIMIT * lengths, rtol=1e-4)
    cosine = torch.nn.functional.cosine_similarity(weak.flatten(1), strong.flatten(1))
    assert torch.allclose(cosine, torch.ones(2), atol=1e-4)


def test_latents_are_guided_through_their_decoder(place, tmp_path):
    """A guide sees pixels, whatever the model works on."""
    folder = save_tiny("flow", tmp_path / "flow")
    pipeline = flow.FlowPipeline.from_pretrained(folder)
    channels = pipeline.unet.config.in_channels
    pipeline.vae = make("AutoencoderKL", latent_channels=channels)
    seen = []

    def guide(pixels):
        seen.append(tuple(pixels.shape))
        return -(pixels**2).sum((1, 2, 3))

    generators = [torch.Generator().manual_seed(n) for n in range(2)]
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        class_labels=[0, 1],
        num_inference_steps=3,
        generator=generators,
        output_type="np",
        guide=guide,
        guide_scale=5.0,
    ).images
    assert set(seen) == {(2, 3, *made.shape[1:3])}
    assert np.isfinite(made).all()


# --- misuse --------------------------------------------------------------------------------------


def validate(path):
    result = call("validate", str(path))
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("guidance", "told"),
    [
        ("knn", "k-NN head, which has no gradient: fit one with --encoder he-ssl --head logistic"),
        ("handmade", "is on encoder color-texture, which has no gradient here"),
        ("nowhere", "no such classifier folder"),
    ],
)
def test_classifiers_that_cannot_guide_are_refused(place, tmp_path, guidance, told):
    code, output = validate(write(tmp_path, place, guidance=(guidance, 30.0)))
    assert code == 2
    assert "generator.classifier_guidance.model" in output
    assert told in output.replace("\n", " ")


def test_models_and_classes_that_cannot_be_guided_are_refused(place, tmp_path):
    code, output = validate(write(tmp_path, place, generator={"model": "fake"}))
    assert code == 2
    assert "fake is of family 'fake', which cannot be guided" in output
    save_tiny("stable-diffusion", tmp_path / "sd")
    code, output = validate(write(tmp_path, place, generator={"model": "./sd"}))
    assert "family 'stable-diffusion', which cannot be guided" in output
    with pytest.raises(InputError, match="cannot be guided"):
        guidance = ClassifierGuidance(model=str(place / "guide"))
        settings = GeneratorSettings(model=str(tmp_path / "sd"), classifier_guidance=guidance)
        build_generator(settings, None, tmp_path)
    grid = [{"kind": "caption", "captions": "he-attributes", "count": 2}]
    code, output = validate(write(tmp_path, place, conditions=grid))
    assert "no condition asks for a class" in output
    write_large(tmp_path / "others" / "x", 2, 3)
    for old, new in zip(CLASSES, ("mucosa", "fat"), strict=True):
        (tmp_path / "others" / "x" / old).rename(tmp_path / "others" / "x" / new)
    other = [{"kind": "reference", "images": str(tmp_path / "others" / "x"), "per_class": 1}]
    code, output = validate(write(tmp_path, place, conditions=other))
    assert code == 2
    assert "does not know class 'fat'" in output


def test_a_filter_on_the_guides_encoder_is_no_judge(place, tmp_path):
    judge = {"kind": "classifier", "model": str(place / "guide"), "min_probability": 0.1}
    loaded = load_recipe(write(tmp_path, place, filters=[judge]))
    [text] = find_circles(loaded.recipe, loaded.session)
    assert "which guides the sampling" in text
    judge["model"] = str(place / "handmade")
    loaded = load_recipe(write(tmp_path, place, filters=[judge]))
    assert find_circles(loaded.recipe, loaded.session) == ()
    terms = collect_recipe_terms(loaded.recipe, loaded.session)
    guides = [term for term in terms if term.role == "guiding classifier"]
    assert {term.name for term in guides} == {"guide", load_name("he-ssl")}
    assert all(term.reaches for term in guides)


def load_name(spec):
    """The weights that an encoder's spec stands for, as terms name them."""
    from factory.models.encoders import find_weights

    return find_weights(spec, load_catalogs()).rpartition("/")[2]


@pytest.mark.slow("test_the_class_gets_into_the_images")
def test_a_study_guides_by_the_shots_alone(place, tmp_path):
    write_large(tmp_path / "train", 12, 5)
    write_large(tmp_path / "test", 20, 6)
    path = write(tmp_path / "recipe", place, guidance=("guide", 50.0))
    common = ["evaluate", "fewshot", "--real", tmp_path / "train", "--test", tmp_path / "test"]
    options = [*FAST, "--seeds", "1", "--per-class", "4", "--generator", path]
    leaking = call(*common, *options, "--out", tmp_path / "a")
    assert leaking.exit_code == 2
    assert "guiding classifier" in leaking.output
    assert "not on the shots alone" in leaking.output
    out, told = tmp_path / "b", tmp_path / "b.json"
    options += ["--fit-filter", "--out", out, "--json", told]
    result = call(*common, *options)
    assert result.exit_code == 0, result.output
    assert "fitting the guide" in result.output
    assert read_json(told)["leaks"] == []
    [run], [fitted] = out.glob("draws/*/run-*"), out.glob("draws/*/guide-*")
    rows = read_rows(run)
    revision = load_classifier(fitted).revision
    guide = json.loads(rows[0]["provenance"])["generator"]["classifier_guidance"]
    assert guide["revision"] == revision
    # The same run given as a folder is judged alike: its guide was fitted on other images.
    given = [*common, *FAST, "--seeds", "1", "--first-seed", "1", "--synthetic", run]
    other = call(*given)
    assert other.exit_code == 2
    assert "guiding classifier" in other.output
    # An encoder that guided must not be the one that evaluates.
    given = [*given[:-4], "--synthetic", run, "--encoder", "he-ssl"]
    circular = call(*given)
    assert "it guided the sampling" in circular.output
