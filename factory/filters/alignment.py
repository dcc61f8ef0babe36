"""`alignment`: rejects images that an image-text model does not find in their caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from factory.core.errors import CatalogError, FilterError, RecipeError, SourceError
from factory.core.late import NDArray, np
from factory.filters.asked import Images
from factory.filters.base import Score, Scores
from factory.filters.check import FilterCheck
from factory.filters.distractors import CaptionPool, draw_distractors, open_pool
from factory.filters.image_text import ImageTextFilter, ImageTextSettings
from factory.models.session import Session

if TYPE_CHECKING:
    from factory.models.encoders.base import TextEncoder

_MOST_CACHED = 16_384


class AlignmentFilter(ImageTextFilter):
    """Scores how well image and caption agree, by a contrastive image-text model.

    `caption_similarity`: cosine of image and caption features, higher is better: CLIPScore of
    Hessel et al. 2021 (arXiv 2104.08718) without its factor 2.5 and its cut at 0. Its level depends
    on the model. `caption_rank`: 1 plus the number of distractor captions that are more similar to
    the image; 1 is best (retrieval, as Radford et al. 2021). Distractors are drawn by seed and
    caption from `captions`, so that they do not depend on the batch; one may be a paraphrase of the
    caption, where the pool has such. Both are NaN without a caption in the condition, and the rank
    without `captions`: not applicable, accepted.
    """

    scores = (
        Score("caption_similarity", at_least="min_similarity", may_be_nan=True),
        Score("caption_rank", at_most="max_rank", may_be_nan=True),
    )
    needs_class, needs_caption = False, True

    class Settings(ImageTextSettings):
        kind: Literal["alignment"]
        captions: str | None = Field(
            None, min_length=1, description="catalog id or file that distractor captions come from"
        )
        column: str = Field("caption", description="column of the file that holds the caption")
        distractors: int = Field(20, ge=1, le=1000, description="captions ranked with its own")
        seed: int = Field(0, ge=0, description="draws them, for each caption")
        min_similarity: Annotated[float, Field(ge=-1.0, le=1.0)] | None = Field(
            None, description="cosine of image and caption; its level depends on the encoder"
        )
        max_rank: int | None = Field(None, ge=1, description="1: no distractor is nearer")

        @model_validator(mode="after")
        def _check_rank(self) -> Self:
            if self.max_rank is not None and self.captions is None:
                raise ValueError("max_rank: set captions, which distractors come from")
            if self.max_rank is not None and self.max_rank > self.distractors:
                raise ValueError(f"max_rank: lower it to {self.distractors} (distractors) or less")
            return self

    settings: Settings

    def __init__(self, settings: Any, context: Session) -> None:
        super().__init__(settings, context)
        self._text: TextEncoder | None = None
        self._pool: CaptionPool | None = None
        self._texts: dict[str, NDArray[np.float32]] = {}

    def check(self, check: FilterCheck) -> None:
        """Notes a model that cannot be had, and captions that are missing or too few."""
        settings = self.settings
        super().check(check)
        if not check.has_captions:
            check.add("no condition has a caption: remove the filter")
        if settings.captions is None:
            return
        try:
            pool = self._open()
        except CatalogError as error:
            if check.check_files or "/" not in settings.captions:
                check.add(f"no such file, and {error}", "captions")
        except (SourceError, RecipeError) as error:
            check.add(str(error), "captions")
        else:
            if pool.count <= settings.distractors:
                message = f"{settings.captions} has {pool.count} captions: lower it"
                check.add(f"{message} to {pool.count - 1} or less", "distractors")

    def score_asked(self, images: Images, asked: Sequence[str]) -> Scores:
        """Returns both scores; NaN for the rank without `captions`.

        Raises:
            InputError: the model cannot be had.
            FilterError: captions cannot be read or are too few, or the model failed.
        """
        similarity, rank = np.full((2, len(images)), np.nan)
        encoded = self.encode(images).astype(np.float64)
        try:
            compared = [(caption, *self._draw(caption)) for caption in asked]
            self._embed([text for texts in compared for text in texts])
        except (RuntimeError, ValueError, OSError, SourceError) as error:
            raise FilterError(f"alignment: {error}") from error
        for row, (image, texts) in enumerate(zip(encoded, compared, strict=True)):
            features = np.stack([self._texts[text] for text in texts]).astype(np.float64)
            found = features @ (image / max(np.linalg.norm(image), 1e-12))
            similarity[row] = found[0]
            if self.settings.captions is not None:
                rank[row] = 1 + (found[1:] > found[0]).sum()
        return {"caption_similarity": similarity, "caption_rank": rank}

    def describe(self) -> dict[str, Any]:
        """Returns kind, thresholds, what the encoder says of itself, and the captions' digest.

        Raises:
            InputError: the model cannot be had.
            FilterError: the captions cannot be read.
        """
        described = super().describe()
        if self.settings.captions is not None:
            try:
                described["captions_sha256"] = self._open().sha256
            except SourceError as error:
                raise FilterError(f"alignment: {error}") from error
        return described

    def _open(self) -> CaptionPool:
        if self._pool is None:
            settings = self.settings
            base, catalogs = self.context.base, self.context.catalogs
            find = catalogs.find_captions
            self._pool = open_pool(str(settings.captions), base, settings.column, find)
        return self._pool

    def _draw(self, caption: str) -> tuple[str, ...]:
        if self.settings.captions is None:
            return ()
        wanted, seed = self.settings.distractors, self.settings.seed
        return draw_distractors(self._open(), caption, wanted, seed)

    def _embed(self, texts: Sequence[str]) -> None:
        """Has the (D,) unit features of all texts in `_texts`, from before or anew."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if len(self._texts) + len(missing) > _MOST_CACHED:
            self._texts.clear()
            missing = list(dict.fromkeys(texts))
        if missing:
            self._text = self._text or self.open_kind().load_text()
            features = self._text.embed(missing)
            self._texts.update(zip(missing, features, strict=True))
