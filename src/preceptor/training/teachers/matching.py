"""Which stored output is of which training sample: by ids, by labels, or by position where somebody says so."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from preceptor.data.ids import as_id, ids_of
from preceptor.data.readings import first_changed
from preceptor.errors import InputError
from preceptor.notices import note
from preceptor.outputs.asking import as_table
from preceptor.recipe import DistillRecipe
from preceptor.tasks.stored import Stored
from preceptor.tasks.teacher import Leaf, Lookup
from preceptor.training.data.samples import Samples
from preceptor.training.scoring.evaluate import refuse_teacher_not_finite

_ROUNDED = 1e-2  # what half precision may leave of a sum of 1


def matched(leaf: Leaf, recipe: DistillRecipe, samples: Samples) -> Leaf:
    """Stored outputs as a table by sample index, with a row for each sample that a student sees; others as they are.

    Raises:
        InputError: it cannot be known which row is of which sample; a row that is lacking, there twice, not finite, or
            no distribution; other classes, or labels, than the data's; inputs that are not what they were.
    """
    if not isinstance(leaf, Stored):
        return leaf
    _refuse_changed_inputs(leaf, recipe, samples)
    columns = _columns(leaf, samples.data.class_names)
    labels = _labels(leaf, columns)
    index, rows = _matched_rows(leaf, labels, recipe.teacher_rows, samples)
    _refuse_missing(leaf, index, samples)
    if labels is not None:
        _refuse_other_labels(leaf, labels[rows], index, rows, samples.labels)
    table = as_table(leaf.table[rows][:, columns].float(), index, len(samples.train))
    refuse_teacher_not_finite(table[samples.for_students], samples.for_students)
    if leaf.distribution == "probabilities":
        _refuse_no_probabilities(leaf, table[samples.for_students], samples.for_students)
    return Lookup(table, distribution=leaf.distribution)


def _refuse_no_probabilities(stored: Stored, rows: Tensor, index: Tensor) -> None:
    """Refuse rows (n, C) of the samples at `index` that are negative somewhere or sum to another number than 1."""
    total = rows.double().sum(-1)
    wrong = (rows < 0).any(-1) | ((total - 1).abs() > _ROUNDED)
    if wrong.any():
        place = int(wrong.nonzero()[0])
        raise InputError(
            f"{int(wrong.sum())} of the {len(index)} rows of {stored.name} for training samples are no probabilities: "
            f"that of sample {int(index[place])} has the sum {float(total[place]):.4g} and the minimum "
            f"{float(rows[place].min()):.4g}; give rows that sum to 1, or logits without probabilities=True",
            argument="probabilities",
        )


def _refuse_changed_inputs(stored: Stored, recipe: DistillRecipe, samples: Samples) -> None:
    """Refuse outputs for the samples as they are where the student is shown others, unless the recipe says that it may
    learn them all the same.
    """
    if recipe.teacher_unaugmented:
        return
    remedy = (
        "record the teacher under the same augmentation (preceptor record), ask it live, or say "
        "teacher_unaugmented=true"
    )
    if recipe.augmentation is not None:
        raise InputError(
            f"{stored.name} are of samples as they are, and the recipe's augmentation '{recipe.augmentation.name}' "
            f"changes them; {remedy}"
        )
    changed = first_changed(samples.train, samples.for_students, samples.labels, epoch=1)
    if changed is not None:
        raise InputError(
            f"{stored.name} are of samples as they were once, and the data set changes them at random (sample "
            f"{changed} differs between two epochs); {remedy}"
        )


def _columns(stored: Stored, names: Sequence[str]) -> Tensor:
    """The columns in the order of the data's classes, by name where both have names."""
    theirs = stored.class_names
    if stored.table.shape[1] != len(names):
        raise InputError(
            f"{stored.name} have {stored.table.shape[1]} columns and the data set {len(names)} classes; give a column "
            "for each class"
        )
    numbers = tuple(map(str, range(len(names))))
    if not theirs or theirs == tuple(names) or (numbers in (theirs, tuple(names)) and set(theirs) != set(names)):
        return torch.arange(len(names))
    if set(theirs) != set(names):
        other = next(name for name in theirs if name not in names)
        raise InputError(
            f"{stored.name} have the class '{other}', which the data set has not; give outputs for its classes"
        )
    note(f"the columns of {stored.name} are put into the order of the data set's classes, by their names")
    place = {name: column for column, name in enumerate(theirs)}
    return torch.tensor([place[name] for name in names])


# -- rows --------------------------------------------------------------------------------------------------------------


def _matched_rows(stored: Stored, labels: Tensor | None, rule: str, samples: Samples) -> tuple[Tensor, Tensor]:
    """Samples of the training set and, for each, its row: int64 (n,) both."""
    if stored.ids is not None:
        return _by_id(stored, rule, samples)
    count, rows = len(samples.train), torch.arange(len(stored.table))
    if rule == "position":
        # Held-out samples that the data bring follow their training samples, whose positions are then the same.
        if len(rows) != count and not torch.equal(samples.for_students.sort().values, rows):
            raise InputError(
                f"{stored.name} have {len(rows)} rows and the training set {count} samples, so that positions match "
                "nothing; give ids, or a row for each sample"
            )
        return rows, rows
    if labels is None:
        raise InputError(
            f"nothing says which sample each row of {stored.name} is of; put ids beside them, or say "
            "teacher_rows=position where row i is of sample i of the training set"
        )
    return _by_label(stored, labels, samples), rows


def _by_label(stored: Stored, labels: Tensor, samples: Samples) -> Tensor:
    """The samples that rows are of where labels alone are beside them: all of train, or the training part, in order."""
    if bool((labels.diff() >= 0).all()):
        raise InputError(
            f"the labels beside {stored.name} are sorted, so that they do not tell one sample of a class from another; "
            "put ids beside them, or say teacher_rows=position"
        )
    candidates = [torch.arange(len(samples.train)), samples.for_students]
    fitting = [index for index in candidates if len(index) == len(labels)]
    if not fitting:
        raise InputError(
            f"{stored.name} have {len(labels)} rows with labels and no ids, where the training set has "
            f"{len(samples.train)} samples and its training part {len(samples.for_students)}; put ids beside them"
        )
    for index in fitting:
        if torch.equal(samples.labels[index], labels):
            return index
    row = int((samples.labels[fitting[0]] != labels).nonzero()[0])
    raise InputError(
        f"the labels beside {stored.name} are not the training set's in its order: row {row} has {int(labels[row])} "
        f"where sample {int(fitting[0][row])} has {int(samples.labels[fitting[0][row]])}; put ids beside them"
    )


def _by_id(stored: Stored, rule: str, samples: Samples) -> tuple[Tensor, Tensor]:
    assert stored.ids is not None
    ids = [as_id(each) for each in stored.ids]
    row_of = {each: row for row, each in enumerate(ids)}
    if len(row_of) < len(ids):
        again = next(each for row, each in enumerate(ids) if row_of[each] != row)
        raise InputError(f"{stored.name} have the id '{again}' {ids.count(again)} times; give each sample one row")
    known = list(map(str, range(len(samples.train)))) if rule == "position" else ids_of(samples.train)
    if known is None:
        raise InputError(
            f"{stored.name} have ids and the data set has none to match them by; give it an attribute 'ids', or say "
            "teacher_rows=position where they are positions in the training set"
        )
    if len(set(known)) < len(known):
        again = next(each for each in known if known.count(each) > 1)
        raise InputError(f"the data set has the id '{again}' for several samples; give each an id of its own")
    pairs = [(index, row_of[each]) for index, each in enumerate(known) if each in row_of]
    if len(pairs) < len(ids):
        strange = next(each for each in ids if each not in set(known))
        note(
            f"{len(ids) - len(pairs)} of the {len(ids)} rows of {stored.name} are of no training sample (the first: id "
            f"'{strange}'), and are left out"
        )
    index, rows = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return index, rows


def _refuse_missing(stored: Stored, index: Tensor, samples: Samples) -> None:
    wanted = samples.for_students
    lacking = wanted[~torch.isin(wanted, index)]
    if len(lacking):
        ids = ids_of(samples.train)
        first = int(lacking[0])
        called = f"sample {first}" if ids is None else f"sample {first}, id '{ids[first]}'"
        raise InputError(
            f"{stored.name} have no row for {len(lacking)} of the {len(wanted)} training samples (the first: "
            f"{called}); give a row for each"
        )


def _labels(stored: Stored, columns: Tensor) -> Tensor | None:
    """The labels beside stored outputs in the data's numbers, int64 (R,); a number that is no class stays as it is."""
    if stored.labels is None:
        return None
    found = np.asarray(stored.labels)
    if found.dtype.kind not in "biuf" or (found != np.round(found)).any():
        raise InputError(f"the labels beside {stored.name} are no class numbers; number the classes as its columns")
    labels = torch.from_numpy(found.astype(np.int64))
    known = (labels >= 0) & (labels < len(columns))
    return torch.where(known, columns.argsort()[labels * known], labels)


def _refuse_other_labels(stored: Stored, theirs: Tensor, index: Tensor, rows: Tensor, labels: Tensor) -> None:
    """Refuse labels (n,) beside the rows of the samples at `index` that are not the data's."""
    wrong = theirs != labels[index]
    if not wrong.any():
        return
    place = int(wrong.nonzero()[0])
    which = f"sample {int(index[place])}"
    if stored.ids is not None:
        which += f" (id '{as_id(stored.ids[int(rows[place])])}')"
    raise InputError(
        f"the labels beside {stored.name} differ from the data's for {int(wrong.sum())} of {len(index)} samples: that "
        f"of {which} is {int(theirs[place])} there and {int(labels[index][place])} in the data; look whether rows, ids "
        "and classes are of these samples"
    )
