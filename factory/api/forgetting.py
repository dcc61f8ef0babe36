"""Patients' rights: removing all that a patient's images touched from a run."""

from typing import TYPE_CHECKING

from factory.api.words import AnyPath, Say, keep_quiet

if TYPE_CHECKING:
    from factory.engine.forget import ForgetOptions, ForgetResult


def forget(folder: AnyPath, options: "ForgetOptions", say: Say = keep_quiet) -> "ForgetResult":
    """Removes all rows of a run that patients' images touched, and makes others instead.

    Reviews, evaluations and reports that show them go, too, and the run makes nothing of theirs
    again. What is published is replaced by publishing the run again.

    Args:
        folder: run folder or fsspec URL.
        options: hashes of the patients or slides, and what is decided of what learned from them.
        say: see above.

    Raises:
        InputError: not a run, nobody of that hash, or something must be decided first; nothing was
            touched.
        HeldError: another command works on the folder; nothing was touched.
        StoreError: damaged data, or storage failed; the same call goes on.
        RunBrokenError: making others stopped, and running the recipe goes on with it.
    """
    from factory.engine.forget import forget_groups
    from factory.publish.card import write_card

    return forget_groups(str(folder), options, say, write_card)
