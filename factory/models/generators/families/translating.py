"""Families of diffusion models that translate sources: the ways that each knows."""

from typing import TYPE_CHECKING, Any

from factory.core.errors import InputError
from factory.data.records import Condition
from factory.data.streams import Domain, Reference, Source
from factory.models.generators.families.base import Family

if TYPE_CHECKING:
    from factory.models.generators.loading import LoadedModel


class TranslatingFamily(Family):
    """Translates what it can vary or invert.

    Attributes:
        inverts: sources can be inverted, by the flow's equation or by DDIM.
        sees_domains: is told a domain by the features of its images.
    """

    inverts: bool = False
    sees_domains: bool = False

    @property
    def own_streams(self) -> tuple[frozenset[str], frozenset[str] | None]:
        """Those required and optional besides sources and domains; optional None: any."""
        return super().streams

    @property
    def streams(self) -> tuple[frozenset[str], frozenset[str] | None]:
        """Adds sources and domains, for which a catalog entry need not say anything."""
        required, optional = self.own_streams
        if optional is None:
            return required, optional
        if self.inverts or Reference.name in required | optional:
            optional |= {Source.name}
        if self.sees_domains and Reference.name in optional:
            optional |= {Domain.name}
        return required, optional

    @property
    def translations(self) -> frozenset[str]:
        """From noise on the source where it varies references, and by inversion."""
        required, optional = self.streams
        if optional is None:
            return frozenset()
        varies = {"image_to_image"} if Reference.name in required | optional else set()
        return frozenset(varies | ({"invert"} if self.inverts else set()))

    def tell_source(self, source: Source, model: "LoadedModel") -> Condition:
        """Returns what a source shows, as far as it is told: what it is inverted under."""
        return Condition(source.translation.class_name, source.translation.caption)

    def run_latents(self, pipeline: Any, latents: Any, arguments: dict[str, Any], to: str) -> Any:
        """Returns the images, or latents, as `to` says, that a call makes from latents."""
        return pipeline(**arguments, latents=latents, output_type=to).images

    def check_streams(self, condition: Condition) -> None:
        """Checks the way of a source, too.

        Raises:
            InputError: what the model does not take; says what it does.
        """
        super().check_streams(condition)
        source = condition.get(Source)
        if source is not None and source.translation.method not in self.translations:
            known = " or ".join(sorted(self.translations))
            raise InputError(f"model {self.settings.model}: translates by method {known}")
