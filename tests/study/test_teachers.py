"""What `preceptor assess` says of candidates: rankings for each loss, where students learn, notes, the page."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from preceptor import assess
from preceptor.assess import Comparison, SeenScore
from preceptor.assess.comparison import WHICH_PREDICTS
from preceptor.assess.question import CRITERIA
from preceptor.errors import InputError
from preceptor.recipe import TeacherRef
from preceptor.study.teachers import (
    Assessment,
    Candidate,
    Predictions,
    assess_candidates,
    assess_teachers,
    read_candidates,
)
from preceptor.study.teachers.page import write_page
from preceptor.training import teach
from study.html_page import Page, assert_no_network
from training.toys import teach_recipe

CLASSES = 4


def drawn(seed: int = 0, **noise: float) -> list[Candidate]:
    """Runs of one data set of 400 samples: 0 to 199 are held out, 200 to 299 trained on, the others for transfer."""
    rng = np.random.default_rng(seed)
    truth = 2 * rng.normal(size=(400, CLASSES))
    labels = (truth + rng.gumbel(size=truth.shape)).argmax(-1)
    parts = {"heldout": np.arange(200), "train": np.arange(200, 300), "transfer": np.arange(300, 400)}
    found = []
    for epoch, (name, scale) in enumerate(noise.items(), start=1):
        logits = log_softmax(truth + scale * rng.normal(size=truth.shape), -1)
        logits[200:300] += 3 * np.eye(CLASSES)[labels[200:300]]  # fitted to their labels
        predictions = {part: Predictions(log_softmax(logits[i], -1), labels[i], i) for part, i in parts.items()}
        heldout = predictions.pop("heldout")
        reference = TeacherRef(run=Path("runs") / "deep" / "a", epoch=epoch)
        found.append(
            Candidate(
                name,
                heldout.logits,
                heldout.labels,
                heldout.ids,
                parts["train"],
                (reference,),
                students_see=predictions,
            )
        )
    return found


@pytest.fixture(scope="module")
def three() -> list[Candidate]:
    return drawn(good=0.3, twin=0.31, bad=2.0)


def seen_by(comparison: Comparison, part: str, teacher: str) -> SeenScore:
    [found] = [each for each in comparison.teachers if each.name == teacher]
    return found.students_see[part]


def refused(candidates: list[Candidate], **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        assess_candidates(candidates, **options)
    return str(caught.value)


def test_counts_that_disagree_are_refused_in_any_order(three: list[Candidate]) -> None:
    rng = np.random.default_rng(3)
    one, other = (rng.multinomial(5, np.full(CLASSES, 1 / CLASSES), size=200) for _ in range(2))
    candidates = [dataclasses.replace(c, counts=counts) for c, counts in zip(three, (one, other, one), strict=True)]
    assert "the counts of 'twin' are not those of 'good'" in refused(candidates)
    assert "the counts of 'good' are not those of 'twin'" in refused([candidates[1], candidates[0]])
    whole = rng.multinomial(5, np.full(CLASSES, 1 / CLASSES), size=400)
    agreeing = [dataclasses.replace(three[0], counts=whole), dataclasses.replace(three[1], counts=whole[:200])]
    assert seen_by(assess_candidates(agreeing)[0], "train", "good").measure == "distance"
    assert assess_candidates(candidates, counts=one)[0].criterion == "distance"


def test_counts_or_a_truth_alone_are_enough(three: list[Candidate]) -> None:
    rng = np.random.default_rng(4)
    truth = rng.dirichlet(np.ones(CLASSES), size=200)
    counts = np.stack([rng.multinomial(4, row) for row in truth])
    bare = [Candidate(c.name, c.logits) for c in three]
    for known in ({"counts": counts}, {"truth": truth}):
        found = assess_candidates(bare, **known)  # type: ignore[arg-type]
        with_labels = assess_candidates(bare, labels=np.zeros(200, int), **known)  # type: ignore[arg-type]
        assert "No labels were given" in found.notes[0]
        assert not any("No labels" in note for note in with_labels.notes)
        one, other = (each[0] for each in (found, with_labels))
        assert [t.scores["distance"] for t in one.teachers] == [t.scores["distance"] for t in other.teachers]
        # The labels are draws: an accuracy is what the distribution says of the top class.
        top = bare[0].logits.argmax(1)
        expected = truth[np.arange(200), top].mean()
        accuracy = next(t for t in one.teachers if t.name == "good").scores["accuracy"]
        assert accuracy.low < expected < accuracy.high
    assert "there are no labels: give labels, counts or truth" in refused(bare)


def test_options_are_refused_before_anything_is_read() -> None:
    with pytest.raises(InputError, match="There is no criterion 'bier'; did you mean 'brier'"):
        assess_teachers(["nothing"], criterion="bier")
    with pytest.raises(InputError, match="level is 2"):
        assess_teachers(["nothing"], level=2)


def test_a_ranking_for_each_loss(three: list[Candidate]) -> None:
    found = assess_candidates(three, losses=["kd", "wttm", "ptloss"], temperature=3.0, coefficients=[0.2])
    logits = {candidate.name: candidate.logits for candidate in three}
    labels = three[0].labels
    kd, wttm, ptloss = found
    assert kd == assess.compare(logits, labels, temperature=3.0)
    assert wttm == assess.compare(logits, labels, loss="wttm", temperature=3.0)
    assert ptloss == assess.compare(logits, labels, loss="ptloss", coefficients=[0.2])
    assert "power_sum" not in ptloss.teachers[0].scores


@pytest.mark.parametrize("loss", ["kd", "ttm"])
def test_where_students_learn_the_same_thing_is_scored(loss: str, three: list[Candidate]) -> None:
    found = assess_candidates(three, losses=[loss], temperature=2.0)[0]
    for candidate in three:
        for part, seen in candidate.students_see.items():
            probs = softmax(seen.logits / (2.0 if loss == "ttm" else 1.0), -1)
            score = seen_by(found, part, candidate.name)
            expected = ((probs - np.eye(CLASSES)[seen.labels]) ** 2).sum(-1).mean()
            assert score.estimate.value == pytest.approx(expected)
            assert score.estimate.low < expected < score.estimate.high
            assert (score.measure, score.num_samples) == ("brier", 100)
    # What the note says: the training samples flatter, the transfer samples do not.
    train, transfer = (seen_by(found, part, "good").estimate for part in ("train", "transfer"))
    assert train.high < transfer.low


def test_counts_for_every_sample_of_the_data_set(three: list[Candidate]) -> None:
    counts = np.random.default_rng(1).multinomial(5, np.full(CLASSES, 1 / CLASSES), size=400)
    found = assess_candidates(three, counts=counts)[0]
    assert found.criterion == "distance"
    assert found == assess_candidates(three, counts=counts[:200])[0]
    score = seen_by(found, "transfer", "bad")
    probs = np.exp(three[2].students_see["transfer"].logits)
    assert score.measure == "distance"
    assert score.estimate.value == pytest.approx(assess.rater_distance(probs, counts[300:]).mean())
    only_heldout = assess_candidates(three, counts=counts[:200])[0]
    assert seen_by(only_heldout, "transfer", "bad").measure == "brier"
    assert "Row 3 of the counts is empty" in refused(three, counts=counts[:200] * (np.arange(200) != 3)[:, None])
    assert "The counts have shape (150, 4)" in refused(three, counts=counts[:150])


def test_samples_of_unknown_truth_among_those_that_students_learn_from(three: list[Candidate]) -> None:
    rng = np.random.default_rng(1)
    counts, truth = rng.multinomial(5, np.full(CLASSES, 1 / CLASSES), size=400), rng.dirichlet(np.ones(CLASSES), 400)
    counts[399], truth[399] = 0, np.nan
    for known in ({"counts": counts}, {"truth": truth}):
        found = assess_candidates(three, **known)
        assert found[0].criterion == "distance"
        assert seen_by(found[0], "transfer", "bad").measure == "brier"
        assert "fewer than two raters or no truth" in " ".join(found.notes)
    rare = rng.multinomial(5, np.full(CLASSES, 1 / CLASSES), size=400)
    rare[0] = np.eye(CLASSES)[0]  # held out, where one rating is enough to rank by
    found = assess_candidates(three, counts=rare)
    assert seen_by(found[0], "transfer", "bad").measure == "distance"
    assert "fewer than two raters" not in " ".join(found.notes)


def test_the_truth_of_every_sample_of_the_data_set(three: list[Candidate]) -> None:
    truth = np.random.default_rng(1).dirichlet(np.ones(CLASSES), size=400)
    found = assess_candidates(three, truth=truth)[0]
    assert found == assess_candidates(three, truth=truth[:200])[0]
    score, view = seen_by(found, "transfer", "bad"), three[2].students_see["transfer"]
    assert score.measure == "distance"
    assert score.estimate.value == pytest.approx(((np.exp(view.logits) - truth[300:]) ** 2).sum(1).mean())
    assert "The true label distributions have shape (150, 4)" in refused(three, truth=truth[:150])
    assert "The true label distributions are no distribution in row 0" in refused(three, truth=2 * truth[:200])


def bare(candidate: Candidate, **changes: Any) -> Candidate:
    """The logits alone, as from a file."""
    fields: dict[str, Any] = {"name": "file", "logits": candidate.logits, **changes}
    return Candidate(**fields)


def test_ids_are_compared_among_those_who_have_them(three: list[Candidate]) -> None:
    good = three[0]
    other = bare(good, ids=np.arange(200)[::-1])
    for candidates in ([good, bare(good, name="none"), other], [bare(good, name="none"), other, good]):
        assert "in place 0" in refused(candidates)
        assert "bring all teachers into one order" in refused(candidates)
    fitting = bare(good, ids=np.arange(200))
    assert assess_candidates([good, fitting]).notes == ()
    assert "The ids of teacher 'good' have 0 in place 0 where 'samples' has 1" in refused(three, ids=np.arange(200) + 1)
    [note] = assess_candidates([good, bare(good)]).notes
    assert "The order of the samples of 'file' could not be checked" in note
    assert assess_candidates([good, bare(good, labels=good.labels)]).notes == ()
    assert "ids of teacher 'file' have shape (199,)" in refused([good, bare(good, ids=np.arange(199))])


def test_labels_of_all_must_agree_and_others_may_be_given(three: list[Candidate]) -> None:
    good = three[0]
    assert good.labels is not None
    turned = (good.labels + 1) % CLASSES
    assert "labels of teacher 'file'" in refused([good, bare(good, labels=turned)])
    assert "there are no labels: give labels, counts or truth" in refused([bare(good)])
    relabelled = good.labels.copy()
    relabelled[:7] = turned[:7]
    found = assess_candidates([good], labels=relabelled)
    assert "The labels given differ from those of good in 7 samples; those given were used." in found.notes
    expected = assess.brier(good.logits, relabelled).mean()
    assert found[0].teachers[0].scores["brier"].value == pytest.approx(expected)


def test_a_teacher_that_saw_the_held_out_samples(three: list[Candidate]) -> None:
    seen = dataclasses.replace(three[1], trained_on=np.array([300, 7, 250]))
    for candidates in ([three[0], seen], [seen, three[0]], [three[0], bare(three[0]), seen]):
        assert "'twin' was trained on 1 of the held-out samples (the first: 7)" in refused(candidates)


def test_best_weights_were_selected_on_the_held_out_samples(three: list[Candidate]) -> None:
    best = dataclasses.replace(three[0], references=(TeacherRef(run=Path("a"), weights="best"),))
    assert "The weights or the temperature of 'good' were selected" in assess_candidates([best]).notes[0]
    teaching = dataclasses.replace(three[0], references=(TeacherRef(run=Path("a"), weights="teaching"),))
    assert "The weights or the temperature of 'good' were selected" in assess_candidates([teaching]).notes[0]


def test_class_names_in_another_order(three: list[Candidate]) -> None:
    ours, theirs = (dataclasses.replace(three[i], class_names=tuple(n)) for i, n in ((0, "abcd"), (1, "abdc")))
    assert "class_names of teacher 'twin' have d in place 2 where 'good' has c" in refused([ours, three[2], theirs])
    assert assess_candidates([ours, three[2]])[0].class_names == tuple("abcd")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"losses": ["wttm"]}, "'wttm' has no optimum without its temperature"),
        ({"losses": ["kd", "kd"]}, "give at least one, and each once"),
        ({"losses": []}, "give at least one"),
        ({"losses": ["dist"]}, "'dist' has no known optimum"),
        ({"losses": ["ptloss"]}, "'ptloss' has no optimum without its coefficients"),
        ({"coefficients": [0.1]}, "takes no coefficients, only ptloss"),
        ({"losses": ["ptloss"], "coefficients": [0.1], "temperature": 2.0}, "leave temperature out"),
        ({"level": 95}, "level is 95"),
    ],
)
def test_options_that_do_not_suit(options: dict[str, Any], sentence: str, three: list[Candidate]) -> None:
    assert sentence in refused(three, **options)


def test_unlike_shapes_few_samples_and_broken_rows(three: list[Candidate]) -> None:
    good = three[0]
    assert "hand in the same samples and classes" in refused([good, bare(good, logits=good.logits[:9])])
    few = [bare(good, logits=good.logits[:3], labels=np.arange(3))]
    assert "There are 3 samples for 4 classes" in refused(few)
    broken = good.logits.copy()
    broken[5] = np.nan
    assert "The logits of teacher 'file' are not finite in row 5" in refused([good, bare(good, logits=broken)])
    probabilities = refused([good, bare(good, logits=np.exp(good.logits))])
    assert "The logits of teacher 'file' look like probabilities" in probabilities
    assert "pass probabilities=True" in probabilities


# -- what is written --------------------------------------------------------------------------------------------------


def written(assessment: Assessment, folder: Path, **options: Any) -> tuple[str, Page]:
    text = write_page(assessment, folder / "new" / "page.html", **options).read_text(encoding="utf-8")
    assert [path.name for path in (folder / "new").iterdir()] == ["page.html"]
    assert_no_network(text)
    assert "nan" not in text.lower()
    return text, Page(text)


def test_the_dictionary_is_json_and_holds_all(three: list[Candidate]) -> None:
    content = assess_candidates(three, losses=["kd", "ttm"], temperature=2.0).to_dict()
    assert content == json.loads(json.dumps(content, allow_nan=False))
    assert content["schema_version"] == 2
    assert [ranking["loss"] for ranking in content["rankings"]] == ["kd", "ttm"]
    teacher = content["rankings"][1]["teachers"][0]
    assert teacher["students_see"]["train"].keys() == {"measure", "value", "low", "high", "num_samples"}
    assert sum(teacher["reliability"]["count"]) == 200
    assert content["candidates"]["good"][0] == TeacherRef(run=Path("runs/deep/a"), epoch=1).model_dump(mode="json")


def test_the_page(three: list[Candidate], tmp_path: Path) -> None:
    assessment = assess_candidates(three, losses=["kd", "ttm"], temperature=2.0)
    text, page = written(assessment, tmp_path, command="preceptor assess a:epochs --loss kd")
    assert page.tags.count("svg") == len(page.labels) == 2 * (1 + 1 + 3)
    for words in ("Under kd the best teacher is", WHICH_PREDICTS, "on its own training samples (too good)"):
        assert words in page.text.replace("’", "'")
    assert "on transfer samples" in page.text
    assert "preceptor assess a:epochs --loss kd" in page.text
    assert "teachers cannot be told from the best" in page.text or "the two cannot be told apart" in page.text
    assert "power sum at T" in page.text
    assert text.count("<tr>") == 2 * (1 + 3)
    assert any(label.startswith("Brier score along the epochs under kd") for label in page.labels)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("known", ["labels", "truth"])
def test_a_page_for_every_criterion(criterion: str, known: str, three: list[Candidate], tmp_path: Path) -> None:
    truth = np.random.default_rng(0).dirichlet(np.ones(CLASSES), size=200) if known == "truth" else None
    _, page = written(assess_candidates(three, criterion=criterion, truth=truth), tmp_path)
    name = "Brier score at the best temperature" if criterion != "brier" else "distance to the truth"
    assert (name if known == "truth" or criterion != "brier" else "Brier score") in page.text


def test_a_page_of_very_many_draws_the_first_thirty(tmp_path: Path) -> None:
    many = drawn(1, **{f"t{i}": 0.1 * i for i in range(33)})
    _, page = written(assess_candidates(many), tmp_path)
    assert "The last 3 are in the table" in " ".join(page.text.split())
    with pytest.raises(InputError, match="is a folder; give the name of a file in it"):
        write_page(assess_candidates(many[:2]), tmp_path)


def test_pages_of_little_and_of_much(three: list[Candidate], tmp_path: Path) -> None:
    alone = bare(three[0], name="<b>&", labels=three[0].labels)
    _, page = written(assess_candidates([alone]), tmp_path)
    assert "There is one teacher: it is scored and not ranked." in page.text
    assert "b" not in page.tags
    assert page.tags.count("svg") == 2
    many = drawn(1, **{f"a-rather-long-name-of-a-teacher-that-nobody-would-type-{i}": 0.1 * i for i in range(14)})
    _, page = written(assess_candidates(many), tmp_path)
    assert page.tags.count("svg") == 2 + 12
    assert "first 12 of 14 teachers" in page.text
    # A certain teacher that errs has an infinite NLL.
    certain = bare(three[0], logits=np.tile([0.0, *[-np.inf] * (CLASSES - 1)], (200, 1)))
    _, page = written(assess_candidates([alone, certain]), tmp_path)
    assert "–" in page.text


def test_from_files_and_runs(tmp_path: Path) -> None:
    recipe = teach_recipe("training.keep=all", "split.transfer=40")
    teach(recipe, tmp_path / "run")
    name = str(tmp_path / "run")
    found = assess_teachers([name, f"{name}:epoch-1"])
    [comparison] = found
    assert comparison.parts_seen.keys() == {"train", "transfer"}
    assert found.remarks[0] == WHICH_PREDICTS
    [run] = read_candidates([name])
    data, logits = tmp_path / "data.npz", tmp_path / "theirs.npy"
    np.savez(data, labels=run.labels, ids=run.ids)  # type: ignore[arg-type]
    np.save(logits, run.logits)
    np.save(tmp_path / "eps.npy", np.full((10, 1), 0.1))
    same = assess_teachers(
        [logits, name], samples=data, losses=["ptloss"], coefficients=str(tmp_path / "eps.npy"), transfer=False
    )
    assert same[0].tie_groups == [["theirs", name]]
    assert same[0].parts_seen == {}
    np.savez(data, labels=run.labels, ids=run.ids[::-1])  # type: ignore[index]
    with pytest.raises(InputError, match="where 'samples' has"):
        assess_teachers([name], samples=data, transfer=False)
    with pytest.raises(InputError, match=r"the coefficients are '0\.1;0\.2'; give numbers with commas"):
        assess_teachers([name], losses=["ptloss"], coefficients="0.1;0.2")
    unreachable = assess_teachers([name], data=[(np.zeros((1, 8, 8)), i % 10) for i in range(20)])
    assert unreachable[0].parts_seen == {}
    assert "gives other labels for the held-out samples" in unreachable.notes[0]
