"""What the keys of evaluation results are called in tables for people."""

import re

NAMES = {
    "all_real": "all real images (the ceiling)",
    "auroc": "AUROC",
    "authpct": "AuthPct, %: share that is no nearest copy",
    "balanced_accuracy": "balanced accuracy",
    "c_t": "C_T (below 0: copies)",
    "cmmd": "CMMD",
    "distance": "distance to the nearest training image",
    "fd": "Fréchet distance",
    "i2t": "image to text",
    "kid": "KID",
    "label_fidelity": "label fidelity: taken for its class by a classifier of real images",
    "macro_f1": "macro F1",
    "own_reference": "beside the real image that each varies",
    "paired": "difference",
    "ratio": "ratio of medians to the usual",
    "relative_gain": "relative gain over real",
    "rho": "Spearman's rho",
    "same_bin": "share in the asked bin",
    "share_above": "share above that similarity",
    "share_nearest": "share whose own reference is the nearest",
    "similarity": "similarity, as of the filter training_copy",
    "t2i": "text to image",
    "within_one_bin": "share within one bin",
}
"""Key -> words; other keys have their underscores taken out."""
_NEARER = re.compile(r"nearer_than_(0\.\d+)")
_RECALL = re.compile(r"(i2t|t2i)_r@(\d+)")


def name_measure(key: str) -> str:
    """Returns what a key is called, e.g. `nearer_than_0.01`: `nearer than 99 % of the usual`."""
    if key in NAMES:
        return NAMES[key]
    nearer, recall = _NEARER.fullmatch(key), _RECALL.fullmatch(key)
    if nearer is not None:
        return f"share nearer than {1 - float(nearer[1]):.0%} of the usual"
    if recall is not None:
        return f"{NAMES[recall[1]]}: recall at {recall[2]}"
    return key.replace("_", " ")
