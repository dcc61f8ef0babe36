"""`unsupported`: models that are on record for their terms and training data alone."""

from factory.core.errors import InputError
from factory.models.generators.base import Generator
from factory.models.generators.families.base import Family


class UnsupportedFamily(Family):
    """Models that nothing here samples."""

    kind = "unsupported"
    is_on_record = True

    def load(self) -> Generator:
        """Refuses.

        Raises:
            InputError: always.
        """
        raise InputError(
            "this model is on record only, for its terms and training data: no pipeline family "
            "samples it yet: take another model"
        )

    def explain_missing(self) -> str:
        """Says so."""
        return "on record only"
