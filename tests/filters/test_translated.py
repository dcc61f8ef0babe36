"""Filters of translated images: structure kept, and domain reached."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from factory.core.metrics.domains import Passage
from factory.core.metrics.structure import compare_structure, correlate_haematoxylin
from factory.data.images import list_images
from factory.data.records import Condition, Sample
from factory.data.streams import Source
from factory.filters.domain_reached import DomainReachedFilter
from factory.filters.structure import StructureFilter
from factory.models.session import Session
from tests import ASSETS

PCAM, ORAL = ASSETS / "pcam" / "train", ASSETS / "oral-oscc" / "train"


@pytest.fixture(scope="module")
def patches():
    return np.stack([each.read_pixels() for each in list_images(PCAM)[:6]])


def test_structural_similarity_is_that_of_torchmetrics(patches):
    noise = np.random.default_rng(0).normal(0, 20, patches.shape)
    others = np.clip(patches + noise, 0, 255).astype(np.uint8)
    grey = [torch.from_numpy(each @ [0.299, 0.587, 0.114])[:, None] for each in (patches, others)]
    _, maps = structural_similarity_index_measure(
        *grey, data_range=255.0, reduction="none", return_full_image=True
    )
    wanted = maps[:, 0, 5:-5, 5:-5].mean((1, 2))  # Wang et al.: windows inside the image alone
    assert compare_structure(patches, others) == pytest.approx(wanted.numpy(), abs=1e-6)
    assert compare_structure(patches, patches) == pytest.approx(1.0)


def test_haematoxylin_correlates_with_itself_and_not_with_a_neighbours(patches):
    darker = (patches * 0.9).astype(np.uint8)
    assert (correlate_haematoxylin(patches, darker) > 0.95).all()
    assert correlate_haematoxylin(patches, patches[::-1]).max() < 0.5
    flat = np.full((1, 32, 32, 3), 200, np.uint8)
    assert np.isnan(correlate_haematoxylin(flat, flat)).all()


def test_structure_compares_with_the_source_and_nothing_else(patches):
    judge = StructureFilter(StructureFilter.Settings(kind="structure"), Session.open())
    sources = [Source(image, "a" * 64) for image in list_images(PCAM)[:2]]
    samples = [Sample(patches[0]), Sample(patches[0]), Sample(patches[0])]
    conditions = [Condition(None, None, sources[0]), Condition(None, None, sources[1])]
    found = judge.score(samples, [*conditions, Condition("normal")])
    values = found["haematoxylin_correlation"]
    assert values[0] == pytest.approx(1.0)
    assert values[1] < 0.5
    assert np.isnan(values[2])
    assert np.isnan(found["structural_similarity"][2])


def test_the_way_is_0_at_one_mean_and_1_at_the_other():
    draw = np.random.default_rng(0)
    one, other = draw.normal(0, 1, (50, 8)), draw.normal(3, 1, (40, 8))
    way = Passage(one.astype(np.float32), other.astype(np.float32))
    assert way.measure(one).mean() == pytest.approx(0.0, abs=1e-6)
    assert way.measure(other).mean() == pytest.approx(1.0, abs=1e-6)
    assert way.measure((one.mean(0) + other.mean(0))[None] / 2) == pytest.approx(0.5, abs=1e-6)
    with pytest.raises(ValueError, match="the same mean"):
        Passage(one, one)


def test_real_images_are_near_their_own_domain(patches):
    settings = DomainReachedFilter.Settings(kind="domain_reached", source=ORAL, target=PCAM)
    judge = DomainReachedFilter(settings, Session.open())
    reached = judge.score([Sample(each) for each in patches], [Condition()] * 6)["domain_reached"]
    left = [Sample(each.read_pixels()) for each in list_images(ORAL)]
    stayed = judge.score(left, [Condition()] * len(left))["domain_reached"]
    assert reached.mean() - stayed.mean() > 0.8
    assert {"source_sha256", "target_sha256"} <= judge.describe().keys()
