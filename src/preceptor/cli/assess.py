"""The verb that trains nothing: ``assess``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from preceptor.cli.options import AllowCode, DataDir, Json, Model, factory
from preceptor.cli.output import command, show_json, show_table
from preceptor.errors import InputError
from preceptor.notices import say


def assess(
    candidates: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_FILE...",
            help="RUN, RUN:best, RUN:epoch-4, RUN:epochs (all that it kept), RUN:member-2 (of a stack); .npz, .npy or "
            ".parquet files of logits; A+B for the ensemble of both, A:0.7+B:0.3 with weights.",
        ),
    ],
    losses: Annotated[
        list[str] | None,
        typer.Option(
            "--loss",
            help="kd, wttm or another of known optimum, or as in a recipe, '{name: wttm, temperature: 4}': score what "
            "it makes of a teacher, a ranking each.",
        ),
    ] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Of the losses that have one.")] = None,
    coefficients: Annotated[
        str | None, typer.Option("--coefficients", help="Of ptloss: 0.5,0.1 or a .npy file of (M,) or (C, M).")
    ] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="A .npy file of labels.")] = None,
    counts: Annotated[
        Path | None,
        typer.Option(
            "--counts",
            help="A .npy file: how many people chose each class, (N, C); for runs, of held-out or of all samples.",
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            "--truth", help="A .npy file: the true label distribution, (N, C), where it is known; as with --counts."
        ),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option("--groups", help="A .npy file: names the group of each sample; intervals are by group."),
    ] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="A .npy file: what each sample stands for.")] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            "--data", help="An .npz or .parquet file of labels, counts, truth, groups, weights and ids, for files."
        ),
    ] = None,
    data_dir: DataDir = None,
    model: Model = None,
    trust: AllowCode = False,
    transfer: Annotated[
        bool | None,
        typer.Option(
            "--transfer/--no-transfer",
            help="Score runs on the samples that students learn from, too; default: where model and data are found.",
        ),
    ] = None,
    criterion: Annotated[
        str,
        typer.Option(
            "--criterion",
            help="What ranks: brier (students' distance to the truth) or brier_recalibrated (students' accuracy).",
        ),
    ] = "brier",
    level: Annotated[float, typer.Option("--level", help="Of the simultaneous intervals.")] = 0.95,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="The files hold probabilities.")] = False,
    page: Annotated[Path | None, typer.Option("--page", help="Write an HTML page with pictures.")] = None,
    as_json: Json = False,
) -> None:
    """Rank teachers by what they are worth to a student, from held-out labels alone.

    The held-out score predicts the student, where its labels served nothing else.
    Shown beside it, on a teacher's own training samples, is one that is too good.
    """
    from preceptor.study import page as pages
    from preceptor.study.teachers import assess_teachers

    if page:
        pages.refuse_foreign(page)
    assessment = assess_teachers(
        candidates,
        losses=[_loss(text) for text in losses or ["kd"]],
        temperature=temperature,
        coefficients=coefficients,
        labels=labels,
        counts=counts,
        truth=truth,
        groups=groups,
        weights=weights,
        samples=samples,
        data_dir=data_dir,
        model=factory(model),
        trust=trust,
        transfer=transfer,
        criterion=criterion,
        level=level,
        probabilities=probabilities,
        progress=True,
    )
    if page:
        from preceptor.study.teachers.page import write_page

        say(f"page: {write_page(assessment, page, command=command())}")
    if as_json:
        show_json(assessment.to_dict())
        return
    for comparison in assessment:
        show_table(comparison.table(), keep=2)
    for note in assessment.remarks:
        say(f"note: {note}")


def _loss(text: str) -> Any:
    """A loss's name, or its name and options in YAML."""
    if not text.startswith("{"):
        return text
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(
            f"the loss is '{text}', which is not YAML; write such as {{name: wttm, temperature: 4}}"
        ) from None
