"""The transformer of parallel streams: each adds its own, and nothing where it is absent."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from factory.models.generators.multi import MultiPipeline
from factory.models.generators.multi_guidance import NAMES, StreamScale, plan_predictions
from factory.models.generators.multi_network import MultiTransformer, apply_transformer
from factory.models.generators.multi_streams import Streams
from tests import tiny

VALUES = {"HYPOXIA": 0.3, "APOPTOSIS": -1.0, "MITOSIS": 2.0}


def draw_streams(count: int = 3) -> Streams:
    """All streams for every row."""
    draw = torch.Generator().manual_seed(1)
    return Streams(
        class_name=torch.arange(count) % 3,
        caption=torch.randn(count, 5, 16, generator=draw),
        caption_mask=torch.arange(5) < torch.arange(2, 2 + count).unsqueeze(1),
        embedding=torch.randn(count, 2, 480, generator=draw),
        embedding_mask=torch.ones(count, 2, dtype=torch.bool),
        vector=torch.randn(count, 3, generator=draw),
        control=torch.randint(0, 3, (count, 32, 32), generator=draw),
        scale=torch.rand(count, generator=draw) + 0.25,
    )


def build_network(attention: str = "parallel") -> MultiTransformer:
    torch.manual_seed(0)
    config = dict(tiny.build("multi").transformer.config) | {"attention": attention}
    network = MultiTransformer(**{k: v for k, v in config.items() if not k.startswith("_")}).eval()
    tiny.fill(network)
    return network


def take_rows(streams: Streams, rows: slice) -> Streams:
    found = {each.name: getattr(streams, each.name) for each in fields(streams)}
    return Streams(**{name: value[rows] for name, value in found.items() if value is not None})


@torch.no_grad()
def predict(network: MultiTransformer, streams: Streams, count: int = 3) -> torch.Tensor:
    sample = torch.randn(count, 48, 8, 8, generator=torch.Generator().manual_seed(2))
    return network(sample, torch.full((count,), 0.4), streams)[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("attention", ["parallel", "shared"])
@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_a_stream_is_that_of_a_batch_without_it(name: str, attention: str) -> None:
    network, streams = build_network(attention), draw_streams()
    whole = predict(network, streams)
    without = predict(network, streams.keep(set(NAMES) - {name}))
    mixed = predict(network, streams.drop(name, torch.tensor([False, True, False])))
    assert not torch.allclose(whole, without)
    assert torch.equal(mixed[[0, 2]], whole[[0, 2]])
    # One softmax over fewer tokens rounds in another way.
    is_same = torch.equal if attention == "parallel" else torch.allclose
    assert is_same(mixed[1], without[1], **({} if attention == "parallel" else {"atol": 1e-3}))


@pytest.mark.parametrize("name", NAMES)
def test_a_network_without_a_branch_predicts_what_a_row_without_the_stream_gets(name: str) -> None:
    network, streams = build_network(), draw_streams()
    lacking = {
        "class_name": {"classes": 0},
        "caption": {"text_dim": 0},
        "embedding": {"embedding_dim": 0},
        "vector": {"vector_names": ""},
        "control": {"control_labels": ""},
        "scale": {"scales": False},
    }[name]
    config = {k: v for k, v in network.config.items() if not k.startswith("_")}
    smaller = MultiTransformer(**{**config, **lacking}).eval()
    missing, unexpected = smaller.load_state_dict(network.state_dict(), strict=False)
    assert not missing and unexpected
    others = streams.keep(set(NAMES) - {name})
    assert torch.equal(predict(network, others), predict(smaller, others))
    with pytest.raises(ValueError, match=f"trained without {name}: leave it out"):
        predict(smaller, streams)


@pytest.mark.parametrize("name", [each for each in NAMES if each != "control"])
def test_zeroed_keys_and_values_of_a_stream_change_its_branch_alone(name: str) -> None:
    network, streams = build_network(), draw_streams()
    for block in network.blocks:
        torch.nn.init.zeros_(block.cross_kv[name].weight)
    if name in network.streams.pools:
        torch.nn.init.zeros_(network.streams.pools[name].weight)
    plain = build_network()
    others = streams.keep(set(NAMES) - {name})
    assert torch.equal(predict(network, streams), predict(plain, others))
    assert torch.equal(predict(network, others), predict(plain, others))


def test_rows_of_different_streams_are_what_each_is_alone() -> None:
    network, streams = build_network().double(), draw_streams()
    for row, name in enumerate(("caption", "vector", "control")):
        streams = streams.drop(name, torch.arange(3) == row)
    sample = torch.randn(3, 48, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        together = network(sample, torch.full((3,), 0.4), streams)[0]
    for row in range(3):
        part = slice(row, row + 1)
        with torch.no_grad():
            alone = network(sample[part], torch.tensor([0.4]), take_rows(streams, part))[0]
        assert torch.allclose(alone[0], together[row], atol=1e-9)


def test_padding_and_values_that_are_not_known_add_nothing() -> None:
    network, streams = build_network(), draw_streams()
    assert streams.caption is not None and streams.vector is not None
    noise = torch.where(streams.caption_mask.unsqueeze(2), streams.caption, 1e3)  # type: ignore[union-attr]
    assert torch.equal(predict(network, streams), predict(network, replace(streams, caption=noise)))
    known = streams.vector.clone()
    known[:, 1] = torch.nan
    assert not torch.equal(
        predict(network, streams), predict(network, replace(streams, vector=known))
    )
    assert predict(network, replace(streams, vector=known)).isfinite().all()


def test_it_runs_at_other_sizes_and_gives_its_middle() -> None:
    network = build_network()
    sample = torch.randn(2, 48, 12, 6)
    output, tapped = network(sample, torch.tensor([0.1, 0.9]), Streams(scale=torch.ones(2)), tap=1)
    assert output.shape == (2, 48, 12, 6)
    assert tapped is not None and tapped.shape == (2, 32, 6, 3)
    assert network(sample, torch.tensor([0.1, 0.9]), Streams())[1] is None


@pytest.mark.parametrize("prediction", ["image", "velocity"])
def test_a_network_that_says_nothing_gives_the_best_line(prediction: str) -> None:
    network = build_network()
    torch.nn.init.zeros_(network.leave.weight)
    torch.nn.init.zeros_(network.leave.bias)
    sample, sigma = torch.randn(1, 48, 8, 8), torch.tensor([0.5])
    velocity, _ = apply_transformer(network, sample, sigma, Streams(), 0.5, prediction)  # type: ignore[arg-type]
    guess = {"image": sample / 0.5, "velocity": (0.5 - 0.5 * 0.25) / (0.25 + 0.0625) * sample}
    assert torch.allclose(velocity, guess[prediction], atol=1e-6)


# --- guidance -------------------------------------------------------------------------------------


def test_one_scale_is_classifier_free_guidance() -> None:
    everything = frozenset({"caption", "scale"})
    assert plan_predictions(everything, 1.0, {}, 0.5) == [(everything, 1.0)]
    assert plan_predictions(everything, 3.0, {}, 0.5) == [(frozenset(), -2.0), (everything, 3.0)]


def test_streams_of_their_own_scale_are_added_one_after_the_other() -> None:
    own = {"vector": StreamScale(4.0, 0.2, 0.8), "scale": StreamScale(1.0)}
    names = ("caption", "scale", "vector")
    first, second, third = frozenset({"scale"}), frozenset({"scale", "caption"}), frozenset(names)
    inside = plan_predictions(names, 2.0, own, 0.5)
    assert inside == [(first, -1.0), (second, -2.0), (third, 4.0)]
    assert sum(weight for _, weight in inside) == 1.0
    outside = plan_predictions(names, 2.0, own, 0.9)
    assert outside == [(frozenset({"scale", "vector"}), -1.0), (third, 2.0)]


# --- the pipeline ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> MultiPipeline:
    folder = tiny.save_tiny("multi", tmp_path_factory.mktemp("multi"))
    found: MultiPipeline = MultiPipeline.from_pretrained(folder)
    found.set_progress_bar_config(disable=True)
    return found


def sample(pipeline: MultiPipeline, **arguments: object) -> np.ndarray:
    count = len(next(value for value in arguments.values() if isinstance(value, list)))
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    call = {"num_inference_steps": 3, "guidance_scale": 2.0, **arguments}
    return pipeline(generator=generators, output_type="np", **call).images  # type: ignore[no-any-return]


def test_rows_with_other_streams_do_not_matter(pipeline: MultiPipeline) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20] = 1
    own = {"vector": {"scale": 4.0, "high": 0.9}, "scale": {"scale": 1.0}}
    mixed = sample(
        pipeline,
        prompt=["dense nuclei", "", ""],
        mpp=[None, 0.5, None],
        vector=[[np.nan] * 3, list(VALUES.values()), [np.nan] * 3],
        control_maps=[None, None, mask],
        stream_guidance=own,
    )
    others = sample(
        pipeline, prompt=["dense nuclei", "tumor", "pale"], mpp=[None] * 3, stream_guidance=own
    )
    assert np.array_equal(mixed[0], others[0])
    assert len({each.tobytes() for each in mixed}) == 3


@pytest.mark.parametrize(
    "stream",
    [
        {"class_labels": [1]},
        {"prompt": ["tumor"]},
        {"image_embeds": [np.ones((1, 480))]},
        {"vector": [[1.0, 0.0, np.nan]]},
        {"control_maps": [np.ones((32, 32), np.uint8)]},
        {"mpp": [0.25]},
    ],
    ids=lambda stream: next(iter(stream)),
)
def test_each_stream_alone_changes_the_image(pipeline: MultiPipeline, stream: dict) -> None:  # type: ignore[type-arg]
    nothing = sample(pipeline, class_labels=[-1])
    assert not np.allclose(sample(pipeline, **stream), nothing, atol=1e-3)


def test_guidance_outside_its_interval_is_none(pipeline: MultiPipeline) -> None:
    plain = sample(pipeline, prompt=["tumor"], guidance_scale=1.0)
    never = {"caption": {"scale": 5.0, "low": 0.98, "high": 0.99}}
    always = {"caption": {"scale": 5.0}}
    assert np.array_equal(
        plain, sample(pipeline, prompt=["tumor"], guidance_scale=1.0, stream_guidance=never)
    )
    strong = sample(pipeline, prompt=["tumor"], guidance_scale=1.0, stream_guidance=always)
    assert not np.allclose(plain, strong, atol=1e-3)
    with pytest.raises(ValueError, match="no stream 'smell'"):
        sample(pipeline, prompt=["tumor"], stream_guidance={"smell": {"scale": 2.0}})


def test_values_stand_beside_the_features_that_are_expected_of_them(
    pipeline: MultiPipeline, tmp_path: Path
) -> None:
    network = MultiTransformer.from_config(dict(pipeline.transformer.config), foretells=True)
    draw = torch.Generator().manual_seed(5)
    slopes, at_0 = (torch.randn(*shape, generator=draw) for shape in ((480, 3), (480,)))
    network.load_state_dict(
        {**pipeline.transformer.state_dict(), "foretelling": slopes, "foretelling_at_0": at_0}
    )
    MultiPipeline(
        **pipeline.components | {"transformer": network}, class_names=pipeline.config.class_names
    ).save_pretrained(tmp_path)
    foretelling: MultiPipeline = MultiPipeline.from_pretrained(tmp_path)
    foretelling.set_progress_bar_config(disable=True)
    values = [[1.0, np.nan, -0.5], [0.2, 0.0, 2.0], [np.nan] * 3]
    expected = np.nan_to_num(np.array(values, np.float32)) @ slopes.numpy().T + at_0.numpy()
    own = [*expected[:2, None], None]
    found = sample(foretelling, vector=values)
    assert np.allclose(found, sample(pipeline, vector=values, image_embeds=own), atol=1e-4)
    assert not np.allclose(found[:2], sample(pipeline, vector=values)[:2], atol=1e-3)
    # Features that are given stand; a row is what it is alone.
    given = [None, np.ones((1, 480)), None]
    mixed = sample(foretelling, vector=values, image_embeds=given)
    assert np.array_equal(mixed[0], found[0]) and np.array_equal(mixed[2], found[2])
    kept = sample(pipeline, vector=values, image_embeds=given)
    assert np.allclose(mixed[1], kept[1], atol=1e-4)


def test_weights_that_are_not_finite_give_nan(pipeline: MultiPipeline) -> None:
    broken = MultiPipeline(**pipeline.components, class_names=pipeline.config.class_names)
    broken.transformer = build_network()
    broken.transformer.leave.bias.data.fill_(torch.nan)
    broken.set_progress_bar_config(disable=True)
    assert np.isnan(sample(broken, prompt=["tumor"])).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"class_labels": [7]}, "class labels must be -1..3"),
        (
            {"image_embeds": [np.ones((1, 5))]},
            r"must be \(tokens, 480\), got \(1, 5\)",
        ),
        ({"vector": [[1.0, 2.0]]}, r"vector must be \(N, 3\)"),
        ({"control_maps": [np.full((32, 32), 3)]}, "have label 3, the model has 2"),
        ({"mpp": [0.5], "prompt": ["a", "b"]}, "all equally many"),
        ({"prompt": ["a"], "height": 20}, "multiples of 8 px"),
    ],
)
def test_what_does_not_fit_is_refused(pipeline: MultiPipeline, arguments: dict, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=said):
        sample(pipeline, **arguments)
