"""`pixcell`: PixCell, asked by embeddings of UNI2-h; its own code, the VAE of another model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.catalog.entries import CallArgument
from factory.core.errors import InputError
from factory.data.records import Condition
from factory.data.streams import Control, Embedding
from factory.models.generators import weights
from factory.models.generators.binding import bind_stream
from factory.models.generators.families.pipeline import PipelineFamily

if TYPE_CHECKING:
    from factory.models.generators.loading import LoadedModel

_CALL = CallArgument(
    argument="uni_embeds",
    shape="row token dim",
    null_argument="negative_uni_embeds",
    null="get_unconditional_embedding",
)
"""uni_embeds (B, 1, 1536) at 256 px, (B, 16, 1536) at 1024 px: the 4 x 4 crops of an image row by
row; guidance is refused without the learned null embedding (PixCell's model card)."""
_MASK = CallArgument(argument="controlnet_input", shape="mask array")
"""(H, W, 3) of 0 and 255, of one image, as those who run PixCell-256-Cell-ControlNet give it."""


class PixCellFamily(PipelineFamily):
    """PixCell: a diffusion transformer of UNI2-h embeddings; its ControlNet takes masks of cells.

    A class or caption beside the embedding labels the row and is not sent. Where the catalog entry
    names `control`, each image has a call of its own, as a call takes one mask.
    """

    kind = "pixcell"
    pipelines = ("diffusers:DiffusionPipeline",)
    required = frozenset({"embedding"})
    optional = frozenset({"class_name", "caption", "control"})
    guidance = "call"
    null_condition = "learned embedding"
    steps = 20
    scale = 2.0
    sized = False

    @classmethod
    def reads(cls, index: Mapping[str, Any]) -> bool:
        """Its pipeline is code of its repository, without a class of its own."""
        return False

    @property
    def runs_alone(self) -> bool:
        """Whether masks are taken, of which a call reads one."""
        required, optional = self.streams
        return Control.name in required | (optional or frozenset())

    def bind(self, conditions: Sequence[Condition], model: "LoadedModel") -> dict[str, Any]:
        """Returns the embeddings, a null embedding for each, and the mask where there is one."""
        bound: dict[str, Any] = {}
        for spec, kind in ((_CALL, Embedding), (_MASK, Control)):
            streams = [each for c in conditions if (each := c.get(kind)) is not None]
            if streams:
                size = model.width, model.height
                bound |= bind_stream(spec, streams, size, model.pipeline)
        return bound

    def find_parts(self, folder: Path) -> dict[str, Path]:
        """Returns the VAE of the catalog entry, where the model's own folder has none.

        Raises:
            InputError: nothing says which, or it is not on this disk.
        """
        if (folder / "vae").is_dir():
            return {}
        parts = () if self.entry is None else self.entry.components
        part = next((each for each in parts if each.role == "vae"), None)
        if part is None:
            raise InputError(
                f"{folder}: has no vae: name one in the catalog entry's components (role: vae)"
            )
        known = weights.find_folder(part.source, self.base)
        place = known or weights.find_cached(part.source, part.revision, "vae/config.json")
        if place is None or not (place / "vae").is_dir():
            raise InputError(
                f"vae {part.source}: not here: accept its terms on {part.licence.url or 'the Hub'}"
                f" and run `hf download {part.source} --include 'vae/*'`"
            )
        return {"vae": place / "vae"}
