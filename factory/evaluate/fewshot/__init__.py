"""Few-shot study: what synthetic images add to a few real ones, against arms of control.

Protocol after the augmentation study of MUPAD (k real images of each class, a small classifier
trained on them with and without synthetic ones, several draws), with all that it leaves open stated
in the settings. Differences: every arm gets the same number of optimisation steps, patients or
slides of the test never give a shot, and every figure carries an interval.
"""
