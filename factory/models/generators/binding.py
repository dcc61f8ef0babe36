"""How streams beside texts become arguments of a pipeline's call, by the words of a `CallArgument`.

Streams are known by name and by what they load alone: `control` a label map with its palette,
`embedding` an array of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from factory.catalog.entries import CallArgument
from factory.core.errors import InputError
from factory.core.late import NDArray, np
from factory.data.label_maps import Palette, paint_labels
from factory.data.streams import Source, Stream


def bind_stream(
    spec: CallArgument, streams: Sequence[Stream], size: tuple[int, int], pipeline: Any
) -> dict[str, Any]:
    """Returns the arguments that a stream of several conditions becomes.

    Args:
        spec: how.
        streams: one a condition.
        size: width and height, px, of the images that are made.
        pipeline: whose device and dtype arrays get.

    Raises:
        InputError: arrays that do not have the shape, or do not fit together.
        SourceError: an image that cannot be read.
    """
    loaded = [stream.load(*size) for stream in streams]
    if spec.shape in ("image", "mask", "mask array", "pixels"):
        images = [_draw(spec, stream, each) for stream, each in zip(streams, loaded, strict=True)]
        if spec.shape == "mask array":
            (alone,) = images  # its family has one image a call
            return {spec.argument: np.asarray(alone.convert("RGB"))}
        is_tensor = spec.shape == "pixels"
        return {spec.argument: _stack_images(images, pipeline) if is_tensor else images}
    rows = _stack_arrays(spec, loaded)
    return _place_arrays(spec, rows, pipeline)


def draw_changed(source: Source, size: tuple[int, int]) -> Image.Image:
    """Returns the mask of a source, white where it is made anew: all but the glass that it keeps.

    Raises:
        SourceError: it cannot be read.
    """
    from factory.core.glass import find_glass

    pixels = source.load(*size)
    kept = find_glass(pixels) if source.translation.keep_glass else np.zeros(pixels.shape[:2], bool)
    return Image.fromarray(np.where(kept, 0, 255).astype(np.uint8))


def _draw(spec: CallArgument, stream: Stream, loaded: NDArray[Any]) -> Image.Image:
    """Returns what a stream loaded as an image: RGB, or a mask that is white where an id is."""
    if spec.shape.startswith("mask"):
        marked = loaded if loaded.ndim == 2 else loaded.max(axis=2)
        return Image.fromarray(np.where(marked > 0, 255, 0).astype(np.uint8))
    if loaded.ndim == 2:
        palette: Palette = getattr(stream, "palette", ())
        colors = {each: spec.colors[name] for each, name in palette if name in spec.colors}
        loaded = paint_labels(loaded, [each for each, _ in palette], colors)
    return Image.fromarray(loaded)


def _stack_images(images: Sequence[Image.Image], pipeline: Any) -> Any:
    import torch

    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    tensor = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1.0).permute(0, 3, 1, 2)
    return tensor.to(pipeline.device, pipeline.dtype)


def _stack_arrays(spec: CallArgument, loaded: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    shapes = sorted({each.shape for each in loaded})
    if len(shapes) > 1:
        raise InputError(
            f"argument {spec.argument}: arrays of different shapes in one call ({shapes}): "
            "give all conditions of a model as many tokens"
        )
    rows = np.stack([np.asarray(each, np.float32) for each in loaded])
    if rows.ndim == 2:
        rows = rows[:, None]
    if spec.shape == "row dim":
        if rows.shape[1] != 1:
            raise InputError(
                f"argument {spec.argument}: takes one vector an image, got {rows.shape[1]} tokens"
            )
        rows = rows[:, 0]
    return rows


def _place_arrays(spec: CallArgument, rows: NDArray[np.float32], pipeline: Any) -> dict[str, Any]:
    import torch

    given = torch.from_numpy(rows).to(pipeline.device, pipeline.dtype)
    null = torch.zeros_like(given)
    if spec.null != "zeros":
        null = getattr(pipeline, spec.null)(len(rows)).to(given)
    if spec.shape == "pair token dim":
        given = torch.cat([null, given])
    arguments: dict[str, Any] = {spec.argument: [given] if spec.listed else given}
    if spec.null_argument is not None:
        arguments[spec.null_argument] = [null] if spec.listed else null
    return arguments
