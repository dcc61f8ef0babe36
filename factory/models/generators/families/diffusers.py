"""`diffusers`: any pipeline of diffusers, asked as its own signature says."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from factory.catalog.entries import CallArgument
from factory.core.errors import GenerationError, InputError
from factory.data.records import Condition
from factory.data.streams import Control, Reference, Source
from factory.models.generators import weights
from factory.models.generators.autoencoders import can_encode
from factory.models.generators.base import Capabilities
from factory.models.generators.binding import bind_stream, draw_changed
from factory.models.generators.calls import REQUIRED, Call, find_call, find_image_twin
from factory.models.generators.families.base import name_class, name_component, read_index
from factory.models.generators.families.pipeline import Prompts, TextFamily
from factory.models.generators.labels import find_labels
from factory.models.generators.prompts import find_token_limits
from factory.models.generators.rows import find_enlargement, supply_config, take_bare

if TYPE_CHECKING:
    from factory.models.generators.diffusers import DiffusersGenerator
    from factory.models.generators.loading import LoadedModel

_TEXT = frozenset({"caption", "class_name"})
_UNKNOWN = Call("DiffusionPipeline", {})


class DiffusersFamily(TextFamily):
    """Any image pipeline of diffusers, or of a model's own code, that no other family reads.

    Which streams it takes, and as which arguments, follows from the signature of its call: a
    prompt from captions and classes, class labels, an image to vary with a strength, a mask, a
    control image. What a signature does not tell stands in the catalog entry, which `factory models
    adopt` writes: arrays (`call`), fixed arguments, how guidance is read, and whether the images of
    one call mix.
    """

    kind = "diffusers"
    is_general = True
    optional: frozenset[str] | None = None
    guidance: Literal["step", "call", "distilled"] = "call"
    predicts = None
    scale = 5.0

    def adjust(self) -> None:
        """Reads what the call takes, as far as the model is here."""
        self._is_fetched = False
        self._read_signature(self._find_folder())
        kind = self.entry.guidance_kind if self.entry is not None else None
        if kind is not None:
            self.guidance = "call" if kind == "none" else kind

    @classmethod
    def reads(cls, index: Mapping[str, Any]) -> bool:
        """Tells whether diffusers has the class, or the folder its own code."""
        name = index.get("_class_name")
        return isinstance(name, list) or find_call(str(name)) is not None

    def load(self) -> "DiffusersGenerator":
        """Returns the generator; reads first what the call takes, of a model not here yet, too.

        A Hub that is out of reach now is told when the weights are loaded.
        """
        if self.signature is _UNKNOWN and not self._awaits_consent:
            with suppress(GenerationError):
                self._read_signature(self._fetch_folder())
                self._is_fetched = True
                self.prepare(None)
        return super().load()

    def prepare(self, pipeline: Any) -> None:
        """Refuses a model whose call nothing tells the arguments of: it could not be read."""
        supply_config(self.signature, pipeline)
        if self.signature is _UNKNOWN and not self.arguments:
            raise InputError(
                f"model {self.settings.model}: the call of its pipeline "
                f"{name_class(self.index)!r} cannot be read, so nothing would be sent to it: "
                "update diffusers, or write the arguments into the catalog entry's `call`"
            )

    # --- what the signature says ------------------------------------------------------------------

    @property
    def _place(self) -> tuple[str, str | None]:
        """Source and revision."""
        entry, settings = self.entry, self.settings
        if entry is None:
            return settings.model, settings.revision
        return entry.source, settings.revision or entry.revision

    @property
    def _awaits_consent(self) -> bool:
        """Whether the model's own code would run, to which the recipe has not consented."""
        entry = self.entry
        has_code = entry is not None and (entry.remote_code or entry.custom_pipeline is not None)
        return has_code and not self.settings.trust_remote_code

    def _find_folder(self) -> Path | None:
        """Returns the model's folder on the disk; None where it is not there yet."""
        source, revision = self._place
        try:
            return weights.find_folder(source, self.base) or weights.find_cached(source, revision)
        except InputError:
            return None

    def _fetch_folder(self) -> Path:
        """Returns a folder with the index, and with the code where the index names some."""
        source, revision = self._place
        folder = weights.find_folder(source, self.base) or weights.fetch_index(source, revision)
        name = read_index(folder).get("_class_name")
        if isinstance(name, list) and name and not (folder / f"{name[0]}.py").is_file():
            with suppress(InputError):  # a pipeline whose code lies elsewhere
                weights.fetch_file(source, f"{name[0]}.py", revision)
        return folder

    def _find_code(self, folder: Path | None) -> Path | None:
        """Returns the folder that the model's own code is in."""
        custom = self.entry.custom_pipeline if self.entry is not None else None
        place = self.base / Path(custom).expanduser() if custom else None
        return place if place is not None and place.is_dir() else folder

    def _read_signature(self, folder: Path | None) -> None:
        """Reads index and call of the model in a folder; None: neither is known yet."""
        try:
            self.index = {} if folder is None else read_index(folder)
        except InputError:  # told where the weights are loaded
            self.index = {}
        name = name_class(self.index)
        found = find_call(name, self._find_code(folder)) if name else None
        self.signature = found or _UNKNOWN
        self._describe_signature()

    def _describe_signature(self) -> None:
        call, has_code = self.signature, isinstance(self.index.get("_class_name"), list)
        if find_call(call.name) == call:
            self.lacking = call.explain_lack()
        if call is not _UNKNOWN and not has_code:
            self.pipelines = (f"diffusers:{call.name}",)
        else:
            self.pipelines = ("diffusers:DiffusionPipeline",)
        twin = None if call.image or call.control else find_image_twin(call.name)
        self.image_call = call if call.image else find_call(twin) if twin else None
        if self.image_call is not None:
            self.image_pipelines = self.pipelines if call.image else (f"diffusers:{twin}",)
        autoencoder = name_component(self.index, "vae")
        self.inverts = call.starts_from_latents and can_encode(call.name, autoencoder)
        self.paints_masks = call.mask is not None and call.control is None
        self.is_indexed = "class_labels" in call
        self.sized = "height" in call or self.image_call is call
        self.null_condition = "negative prompt" if "negative_prompt" in call else "its own"
        scheduler = name_component(self.index, "scheduler")
        is_flow = scheduler.startswith("FlowMatch")
        self.predicts = ("flow" if is_flow else "noise") if scheduler else None
        self.shifts = is_flow
        self.call_arguments = call.fixed
        self.load_arguments = call.choose_load_arguments(self.index)
        self.token_limits = find_token_limits(self.index, call.fixed)

    @property
    def arguments(self) -> Mapping[str, tuple[CallArgument, ...]]:
        """Stream -> arguments that it becomes, besides texts and an image to vary."""
        call, found = self.signature, dict[str, tuple[CallArgument, ...]]()
        control = []
        if call.control is not None:
            shape: Literal["pixels", "image"] = "pixels" if call.control == "hint" else "image"
            control.append(CallArgument(argument=call.control, shape=shape))
        if call.mask is not None:
            control.append(CallArgument(argument=call.mask, shape="mask"))
        if control:
            found[Control.name] = tuple(control)
        if call.parameters.get("image_embeds") is REQUIRED:
            null = "negative_image_embeds" if "negative_image_embeds" in call else None
            found["embedding"] = (
                CallArgument(argument="image_embeds", shape="row dim", null_argument=null),
            )
        return {**found, **(self.entry.call if self.entry is not None else {})}

    @property
    def own_streams(self) -> tuple[frozenset[str], frozenset[str] | None]:
        """As the catalog entry says, else the signature."""
        entry, call = self.entry, self.signature
        if entry is not None and (entry.required or entry.optional):
            return frozenset(entry.required), frozenset(entry.optional)
        if call is _UNKNOWN:
            return frozenset(self.arguments), None
        required = set(self.arguments)
        optional = set(_TEXT) if "prompt" in call else set[str]()
        if self.is_indexed:
            is_free = call.parameters["class_labels"] is not REQUIRED
            (optional if is_free else required).add("class_name")
        if self.image_call is not None:
            is_needed = self.image_call is call and call.needs_image
            (required if is_needed else optional).add(Reference.name)
        return frozenset(required), frozenset(optional - required)

    @property
    def _labels(self) -> frozenset[str]:
        """Streams that label a row and are not sent."""
        if "prompt" in self.signature:
            return frozenset()
        is_all = self.entry is not None and len(self.entry.class_names or ()) == 1  # all it makes
        return _TEXT - {"class_name" if self.is_indexed or is_all else ""} - set(self.arguments)

    @property
    def native_size(self) -> tuple[int, int] | None:
        """As the catalog entry says, else the defaults of the call."""
        return super().native_size or self.signature.size

    @property
    def runs_alone(self) -> bool:
        """Whether each row has a call of its own: as the entry says, else as the call is written.

        Images without a strength are often for one picture, as are embeddings of IP-Adapters.
        """
        if self.entry is not None and self.entry.one_per_call is not None:
            return self.entry.one_per_call
        image = self.image_call is self.signature and not self.signature.has_strength
        used = {each.argument for each in self.arguments.get("embedding", ())}
        mixes = (image and self.signature.mask is None) or "ip_adapter_image_embeds" in used
        return mixes or self.signature.takes_one

    @property
    def guidance_argument(self) -> str | None:
        """The one that the signature has; what is not known yet has the usual one."""
        return "guidance_scale" if self.signature is _UNKNOWN else self.signature.guidance

    # --- what a call is given ---------------------------------------------------------------------

    def group(self, condition: Condition) -> Any:
        """Conditions with the same streams share a call."""
        return frozenset(each.name for each in condition.streams if each.name in self.arguments)

    def write_prompts(self, conditions: Sequence[Condition]) -> Prompts:
        """Returns captions, and classes in the template, where there is a prompt to send."""
        if "prompt" not in self.signature:
            return [None] * len(conditions)
        return super().write_prompts(conditions)

    def bind(self, conditions: Sequence[Condition], model: "LoadedModel") -> dict[str, Any]:
        """Returns prompts, class labels, and what the streams of `arguments` become."""
        call, count = self.signature, len(conditions)
        bound: dict[str, Any] = {}
        if "prompt" in call:
            bound["prompt"] = self.write_prompts(conditions)
            negative = self._choose_negative_prompt()
            bound |= {} if negative is None else {"negative_prompt": [negative] * count}
        if self.is_indexed:
            labels = model.class_labels
            bound["class_labels"] = [labels.get(str(c.class_name), len(labels)) for c in conditions]
        if "batch_size" in call and "prompt" not in call and call.image is None:
            bound["batch_size"] = count
        size = self.settings.width or model.width, self.settings.height or model.height
        if "max_area" in call:  # else it makes a megapixel, whatever size is asked for
            bound["max_area"] = size[0] * size[1]
        for name, specs in self.arguments.items():
            streams = [s for each in conditions for s in each.streams if s.name == name]
            for spec in specs if len(streams) == count else ():
                bound |= bind_stream(spec, streams, size, model.pipeline)
        if call.mask is not None and call.mask not in bound:
            sources = [source for each in conditions if (source := each.get(Source)) is not None]
            bound[call.mask] = [draw_changed(each, size) for each in sources]
        return bound

    def _choose_negative_prompt(self) -> str | None:
        """Returns the recipe's, or the pipeline's own as one row for each image; None: none."""
        if self.settings.negative_prompt is not None:
            return self.settings.negative_prompt
        default = self.signature.parameters.get("negative_prompt")
        if isinstance(default, str):
            return default
        return " " if self.signature.guidance == "true_cfg_scale" and default is None else None

    def bind_references(self, images: Sequence[Any], strength: float) -> dict[str, Any]:
        """Returns the images, with the strength where the call has one."""
        call = self.image_call or self.signature
        bound: dict[str, Any] = {call.image or "image": list(images)}
        if "original_image" in call:  # what the small image of a second stage was made from
            bound["original_image"] = list(images)
        return {**bound, "strength": strength} if call.has_strength else bound

    def adapt_call(self, arguments: dict[str, Any], rows: int) -> dict[str, Any]:
        """Returns what a call that takes one row is asked with: no lists of one."""
        alone = rows == 1 and self.signature.takes_one
        return take_bare(self.signature, arguments) if alone else arguments

    def find_enlargement(self, pipeline: Any) -> int:
        """Reads it off the autoencoder of an upscaler."""
        return find_enlargement(self.signature, pipeline)

    def find_labels(self, pipeline: Any, index: Mapping[str, Any]) -> dict[str, int]:
        """Returns the classes of a model of class labels.

        Raises:
            InputError: model and catalog entry disagree, or neither names a class.
        """
        return find_labels(self.entry, pipeline, index) if self.is_indexed else {}

    # --- what is refused --------------------------------------------------------------------------

    def list_faults(self) -> Iterator[tuple[str, str]]:
        """Adds a pipeline of films, sound or depth, or a part of one."""
        yield from super().list_faults()
        if self.lacking is not None:
            yield "model", self.lacking

    def explain_no_negative(self) -> str | None:
        """Says that the call has none; what is not known yet may have one."""
        is_known = self.signature is not _UNKNOWN
        return (
            "takes no negative prompt"
            if is_known and "negative_prompt" not in self.signature
            else None
        )

    def replace(self, streams: frozenset[str]) -> frozenset[str]:
        """A class stands for a caption where classes are words, a source for image and mask."""
        found = frozenset[str]() if self.is_indexed else super().replace(streams)
        if Source.name not in streams:
            return found
        masks = {Control.name} if self.paints_masks else set()
        return found | {Reference.name} | masks

    def check_condition(self, condition: Condition, capabilities: Capabilities) -> None:
        """Checks that something of it is sent, and no strength where the call has none, too.

        Raises:
            InputError: a condition that the model does not take.
        """
        super().check_condition(condition, capabilities)
        is_known = self.signature is not _UNKNOWN or self._is_fetched
        if is_known and not (streams := condition.shown) - self._labels:
            takes = ", ".join(sorted(capabilities.required | capabilities.optional - self._labels))
            raise InputError(
                f"model {self.settings.model}: {', '.join(sorted(streams))} would only label the "
                f"image and is not sent: give {takes or 'another model'} beside it"
            )
        reference, source, call = condition.get(Reference), condition.get(Source), self.image_call
        strength = 1.0 if reference is None else reference.strength
        if source is not None and source.translation.method == "image_to_image":
            strength = source.translation.strength
        if call is None or call.has_strength or strength == 1.0:
            return
        raise InputError(
            f"model {self.settings.model}: {call.name} starts from noise and only looks at the "
            f"image, got strength {strength:g}: set strength: 1.0"
        )
