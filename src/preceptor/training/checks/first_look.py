"""What a person should know of the data before training: classes without samples, samples masked or that change."""

from preceptor.data.class_names import say_what_is_lacking
from preceptor.data.masks import first_masked
from preceptor.data.readings import first_changed
from preceptor.notices import note
from preceptor.training.data.samples import Samples


def say_what_is_odd(samples: Samples) -> None:
    """Note it, once for all seeds.

    Raises:
        InputError: none of the samples of a part counts, as all are masked.
    """
    if samples.are_tokens:  # in memory, the same each time, and most texts lack some tokens
        return
    data, heldout = samples.data, samples.parts["heldout"]
    say_what_is_lacking(data.class_names, samples.labels[samples.parts["train"]])
    _say_what_is_masked(samples)
    unseeded = first_changed(samples.train, samples.for_students, samples.labels, epoch=0)
    if unseeded is not None:
        note(
            f"sample {unseeded} differs between two readings under one seed: a resumed run, or one with workers, is "
            "another run; draw from the global generators of torch, numpy or random, which are seeded for each sample"
        )
        return
    changed = first_changed(samples.train, heldout, samples.labels, epoch=1)
    if changed is not None:
        cut_off = "" if "heldout" in (data.pools or {}) else ", being cut from a training set that is"
        note(
            f"the held-out samples are augmented at random (sample {changed} differs between two epochs){cut_off}: "
            "scores and the best epoch rest on that; give (train, heldout, test) with a held-out set that is not"
        )
    if samples.test is None or samples.test_labels is None:
        return
    changed = first_changed(samples.test, samples.test_indices, samples.test_labels, epoch=1)
    if changed is not None:
        note(
            f"the test samples are augmented at random (sample {changed} differs between two epochs): give a test "
            "set that is not"
        )


def _say_what_is_masked(samples: Samples) -> None:
    masked = first_masked(samples.train, samples.for_students, "training")
    if masked is not None:
        note(f"sample {masked} is masked: it counts for nothing in training")
    scored = [("held-out", samples.train, samples.parts["heldout"])]
    if samples.test is not None:
        scored.append(("test", samples.test, samples.test_indices))
    for part, dataset, indices in scored:
        masked = first_masked(dataset, indices, part)
        if masked is not None:
            note(f"the {part} sample {masked} is masked and is scored like any other: leave it out of the data set")
