"""The verb that writes a teacher's outputs down: ``record``."""

from pathlib import Path
from typing import Annotated

import typer

from preceptor.cli.options import AllowCode, DataDir, Json, Model, factory, with_data_dir
from preceptor.cli.output import show_json
from preceptor.errors import InputError

# What is said beside the recipe, and how.
_OPTIONS = {
    "teacher": "the argument TEACHER",
    "folder": "--out",
    "recipe": "--recipe",
    "views": "--views",
    "form": "--form",
    "dtype": "--dtype",
    "k": "-k",
    "features": "--features",
    "features_dtype": "--features-dtype",
    "heldout": "--no-heldout",
}


def record(
    teacher: Annotated[
        str, typer.Argument(metavar="TEACHER", help="As assess names them: RUN, RUN:best, RUN:epoch-4, A+B.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Of the recipe, e.g. augmentation=crop_flip.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--out", "-o", help="The folder of the record.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", help="Whose data, split, seed, augmentation and mixing are asked for; default: the teacher's."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="The data set's name, in place of the recipe's.")] = None,
    data_dir: DataDir = None,
    views: Annotated[
        int, typer.Option("--views", help="How often each sample is recorded, with draws of its own.")
    ] = 1,
    form: Annotated[
        str, typer.Option("--form", help="dense, top_k, sampled, or of a language model hidden.")
    ] = "dense",
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="Of the log-probabilities: float32, float16, bfloat16, or of top_k uint8."),
    ] = None,
    k: Annotated[int | None, typer.Option("-k", "--k", help="Classes a sample, of top_k and sampled.")] = None,
    features: Annotated[
        list[str] | None,
        typer.Option("--features", help="A tap, or penultimate, last, stages, to be stored, too; may be repeated."),
    ] = None,
    features_dtype: Annotated[
        str, typer.Option("--features-dtype", help="Of the features: float16, bfloat16, float32.")
    ] = "float16",
    heldout: Annotated[
        bool, typer.Option("--heldout/--no-heldout", help="Record the held-out samples, too, to be assessed by.")
    ] = True,
    model: Model = None,
    trust: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Write down what a student's run would ask its teacher. Stopped or killed, the same command goes on.

    Students learn from it without the teacher: preceptor distill RECIPE --teacher DIR.

    What it holds, and whether it is whole: preceptor record info DIR, preceptor record verify DIR.
    """
    from preceptor.recipe.text import override
    from preceptor.training.recording import record as recorded

    if folder is None:
        raise InputError("the record needs a folder; give --out DIR")
    said = [f"data={data}"] if data else []
    keywords = override({}, [*said, *with_data_dir(overrides, data_dir)])
    taken = next((key for key in keywords if key in _OPTIONS), None)
    if taken is not None:
        raise InputError(f"'{taken}' is no key of a recipe that is recorded; give {_OPTIONS[taken]}")
    found = recorded(
        teacher,
        folder,
        recipe=recipe,
        views=views,
        form=form,
        dtype=dtype,
        k=k,
        features=features or (),
        features_dtype=features_dtype,
        heldout=heldout,
        teacher_model=factory(model),
        trust=trust,
        progress=True,
        **keywords,
    )
    told = {
        "folder": str(folder),
        "samples": len(found),
        "views": found.views,
        "form": found.manifest.form.kind,
        "classes": found.num_classes,
        "bytes": found.num_bytes,
    }
    if as_json:
        show_json(told)
    else:
        size = f"{found.num_bytes / 1e6:.1f} MB"
        what = "tokens" if found.is_of_tokens else "samples"
        typer.echo(f"recorded: {len(found)} {what} x {found.views} views, {told['form']}, {size}, in {folder}")
