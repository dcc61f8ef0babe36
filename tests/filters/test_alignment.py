"""Filter `alignment`: similarity and rank as open_clip's own forward gives them; its captions."""

import json
import math

import numpy as np
import open_clip
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from factory.api import refilter
from factory.catalog.captions.grid import CaptionGrid
from factory.catalog.catalog import load_catalogs
from factory.core.errors import CatalogError, FilterError, InputError, SourceError
from factory.data.records import Condition, Sample
from factory.filters import build_filters, decide_all, score_all
from factory.filters.distractors import draw_distractors, open_pool
from factory.models.encoders import open_kind
from factory.models.session import Session
from factory.recipe.recipe import AnyFilter
from tests.running import find_messages, read_rows, run, write_recipe
from tests.tiny import save_open_clip

CATALOGS = load_catalogs()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny image-text model with random weights, as open_clip stores it, and the same in hand."""
    folder = tmp_path_factory.mktemp("clip")
    return folder, save_open_clip(folder)


def describe(folder, **settings):
    return {"kind": "alignment", "encoder": f"open_clip:local-dir:{folder}", **settings}


def build(described, base):
    parsed = TypeAdapter(tuple[AnyFilter, ...]).validate_python([described])
    return build_filters(parsed, Session.open(base))[0]


def make_images(count, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3))
    return coarse.repeat(4, 1).repeat(4, 2).astype(np.uint8)


def score(judge, images, captions):
    conditions = [Condition(caption=caption) for caption in captions]
    return score_all([judge], [Sample(image) for image in images], conditions)


@torch.inference_mode()
def compare_by_hand(folder, model, images, texts):
    """open_clip's forward: normalised features, whose product is the cosine."""
    pixels = torch.from_numpy(images / 127.5 - 1).permute(0, 3, 1, 2).float()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    image_features, text_features, _ = model(pixels, tokens)
    return (image_features @ text_features.T).numpy()


CAPTIONS = [f"patch number {number} of tissue" for number in range(30)]


def test_similarity_and_rank_are_those_of_open_clips_forward(clip, tmp_path):
    folder, model = clip
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
    described = describe(folder, captions="captions.txt", distractors=29)
    images = make_images(6)
    rows = score(build(described, tmp_path), images, CAPTIONS[:6])
    expected = compare_by_hand(folder, model, images, CAPTIONS)
    for place, row in enumerate(rows):
        own = expected[place, place]
        assert row["caption_similarity"] == pytest.approx(own, abs=1e-4)
        assert row["caption_rank"] == 1 + (expected[place] > own).sum()
    assert len({row["caption_rank"] for row in rows}) > 1


def test_scores_depend_on_nothing_but_image_caption_and_seed(clip, tmp_path):
    described = describe(clip[0], captions="he-attributes", distractors=5)
    images = [*make_images(4), make_images(1, 9)[0].repeat(2, 0).repeat(2, 1)]
    together = score(build(described, tmp_path), images, CAPTIONS[:5])
    judge = build(described, tmp_path)
    alone = [score(judge, [images[i]], [CAPTIONS[i]])[0] for i in reversed(range(5))]
    assert alone[::-1] == together
    other = score(build({**described, "seed": 1}, tmp_path), images, CAPTIONS[:5])
    assert [r["caption_similarity"] for r in other] == [r["caption_similarity"] for r in together]
    assert [r["caption_rank"] for r in other] != [r["caption_rank"] for r in together]


def test_without_a_caption_or_without_distractors_a_score_does_not_apply(clip, tmp_path):
    judge = build(describe(tmp_path / "none", min_similarity=0.9), tmp_path)
    row = score_all([judge], [Sample(make_images(1)[0])], [Condition(class_name="a")])[0]
    assert all(math.isnan(value) for value in row.values())
    assert decide_all([judge], row).accepted, "and nothing was loaded"
    judge = build(describe(clip[0]), tmp_path)
    row = score(judge, make_images(1), ["tissue"])[0]
    assert not math.isnan(row["caption_similarity"])
    assert math.isnan(row["caption_rank"])


def test_thresholds(tmp_path):
    settings = {"captions": "he-attributes", "min_similarity": 0.2, "max_rank": 2}
    judge = build(describe(tmp_path, **settings), tmp_path)
    assert decide_all([judge], {"caption_similarity": 0.2, "caption_rank": 2.0}).accepted
    verdict = decide_all([judge], {"caption_similarity": 0.1, "caption_rank": 1.0})
    assert verdict.reason == "caption_similarity 0.1 < 0.2"
    verdict = decide_all([judge], {"caption_similarity": 0.3, "caption_rank": 3.0})
    assert verdict.reason == "caption_rank 3 > 2"
    with pytest.raises(ValidationError, match="set captions, which distractors come from"):
        build(describe(tmp_path, max_rank=1), tmp_path)
    with pytest.raises(ValidationError, match="lower it to 3"):
        build(describe(tmp_path, captions="x", distractors=3, max_rank=4), tmp_path)


def test_texts_of_a_batch_are_embedded_each_by_itself(clip):
    text = open_kind(f"open_clip:local-dir:{clip[0]}").load_text("cpu")
    together = text.embed(CAPTIONS * 2)
    np.testing.assert_array_equal(together[7], text.embed([CAPTIONS[7]])[0])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)


# --- distractors ---------------------------------------------------------------------------------


def test_distractors_are_other_captions_drawn_by_seed_and_caption(tmp_path):
    pool = open_pool("he-attributes", tmp_path, "caption", CATALOGS.find_captions)
    drawn = draw_distractors(pool, pool.read(3), 20, 0)
    assert len(set(drawn)) == 20
    assert pool.read(3) not in drawn
    assert drawn == draw_distractors(pool, pool.read(3), 20, 0)
    assert drawn != draw_distractors(pool, pool.read(4), 20, 0)
    assert drawn != draw_distractors(pool, pool.read(3), 20, 1)


@pytest.mark.parametrize("count", [21, 25, 60])
def test_small_pools_give_all_that_is_asked(count, tmp_path):
    (tmp_path / "c.csv").write_text(
        "text\n" + "\n".join([f"caption {i}" for i in range(count)] * 2)
    )
    pool = open_pool("c.csv", tmp_path, "text", CATALOGS.find_captions)
    assert pool.count == count, "repeated captions count once"
    for place in range(count):
        drawn = draw_distractors(pool, pool.read(place), 20, 0)
        assert len(set(drawn) - {pool.read(place)}) == 20


def test_too_few_captions_or_none_are_refused(tmp_path, clip):
    grid = CaptionGrid(id="x", templates=("{a}",), attributes={"a": {"b": (), "c": ()}})
    pool = open_pool("x", tmp_path, "caption", lambda name: grid)
    assert draw_distractors(pool, "b", 1, 0) == ("c",)
    with pytest.raises(SourceError, match="1 other captions are too few for 2 distractors"):
        draw_distractors(pool, "b", 2, 0)
    with pytest.raises(CatalogError, match=r"no entry 'gone\.csv' in captions"):
        open_pool("gone.csv", tmp_path, "caption", CATALOGS.find_captions)
    (tmp_path / "c.txt").write_text("one\n")
    judge = build(describe(clip[0], captions="c.txt"), tmp_path)
    with pytest.raises(FilterError, match="alignment: captions: 1 other captions are too few"):
        score(judge, make_images(1), ["two"])


# --- recipes and runs ----------------------------------------------------------------------------


def test_validate_names_what_is_wrong(clip, tmp_path):
    captions = [{"kind": "caption", "captions": "he-basic", "count": 4}]

    def find(conditions=captions, **settings):
        described = {**describe(clip[0]), **settings}
        return find_messages(write_recipe(tmp_path, conditions=conditions, filters=[described]))

    message = find(encoder="open_clip:local-dir:gone")["filters[0].encoder"]
    assert "no open_clip model there: correct the path" in message
    assert "reads no text" in find(encoder="timm:resnet18")["filters[0].encoder"]
    message = find(captions="he-basics")["filters[0].captions"]
    assert "no such file, and no entry 'he-basics'" in message
    assert "did you mean 'he-basic'?" in message
    (tmp_path / "c.csv").write_text("text\none\ntwo\n")
    assert "no field 'caption'" in find(captions="c.csv")["filters[0].captions"]
    message = find(captions="c.csv", column="text")["filters[0].distractors"]
    assert message == "c.csv has 2 captions: lower it to 1 or less"
    classes = [{"kind": "class", "per_class": {"normal": 1}}]
    assert "no condition has a caption" in find(conditions=classes)["filters[0]"]


def test_alignment_filters_a_run_that_is_refiltered_without_the_model(clip, tmp_path):
    folder = tmp_path / "model"
    clip[0].rename(folder)
    captions = [{"kind": "caption", "captions": "he-basic", "count": 12}]
    described = describe(folder, captions="he-basic", distractors=9, max_rank=9)
    recipe = write_recipe(
        tmp_path, conditions=captions, filters=[described], budget={"attempts": 2}
    )
    run(recipe, tmp_path / "out")
    folder.rename(clip[0])
    rows = read_rows(tmp_path / "out")
    ranks = [row["scores"]["caption_rank"] for row in rows]
    assert 1 <= min(ranks) < max(ranks) <= 9
    provenance = json.loads(rows[0]["provenance"])["filters"][0]
    assert len(provenance["captions_sha256"]) == len(provenance["weights_sha256"]) == 64
    refilter(str(tmp_path / "out"), ["filters.alignment.max_rank=4"])
    kept = [row["scores"]["caption_rank"] for row in read_rows(tmp_path / "out")]
    assert 0 < len(kept) < 12 and max(kept) <= 4


def test_a_missing_model_stops_before_sampling(tmp_path):
    with pytest.raises(InputError, match="no open_clip model there"):
        build(describe(tmp_path / "gone"), tmp_path).describe()
