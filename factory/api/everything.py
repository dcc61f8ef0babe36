"""Every evaluation that the data allow, one after the other, and one table of four tiers."""

from typing import TYPE_CHECKING

from factory.api.evaluating import make_context
from factory.api.sharing import card
from factory.api.words import Say, keep_quiet

if TYPE_CHECKING:
    from factory.evaluate.everything import AllSettings, Tell
    from factory.publish.evaluation import Evaluation


def evaluate_all(
    settings: "AllSettings", tell: "Tell | None" = None, say: Say = keep_quiet
) -> "Evaluation":
    """Runs every evaluation that the data allow, and fills one table of four tiers.

    Each part's result lies in the folder as JSON. A part that cannot be measured is named with its
    reason, and the others go on. The same call resumes the long parts. A run's card is written.

    Args:
        settings: what is measured, and how.
        tell: called before and after each part; None: nobody asks.
        say: called with one line at the start of each step.

    Returns:
        `tiers`, and `not_measured`: part -> reason.

    Raises:
        StoreError: results cannot be written.
    """
    from factory.core.files.atomic import write_file
    from factory.evaluate.everything import Everything, pass_over
    from factory.publish.evaluation import Evaluation

    found = Everything(settings, tell or pass_over).take(make_context(say))
    write_file(settings.folder / "tiers.json", found.dump())
    if settings.has_card:
        card(settings.synthetic)
    return Evaluation(found.to_json())
