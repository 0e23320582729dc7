"""Files of other programs: written, and read back as somebody else would read them."""

import contextlib
import copy
import functools
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.models.causal_lm import CausalLM, causal_lm_of
from preceptor.models.classifiers import Classifier, classifier_of
from preceptor.models.hub import save_pretrained
from preceptor.runs import Factory, files
from preceptor.runs.tokenizer import copy_tokenizer, end_of
from preceptor.runs.weights import load_model, save_weights
from preceptor.serving.served import Served, Whole

Reader = Callable[[Tensor], Tensor]
"""From inputs (B, ...) to probabilities (B, C)."""
NAMES = ["logits", "probabilities"]


def write_onnx(served: Served, path: Path, example: Tensor, raw: bool) -> Reader:
    """A graph with the input ``input`` (batch, ...) and the outputs ``logits`` and ``probabilities``."""
    runtime = _needed("onnx", "onnx", "onnxscript", "onnxruntime")
    program = _program(served, example, raw, "onnx")
    with _translated(served, "onnx"):
        made = torch.onnx.export(program, dynamo=True, input_names=["input"], output_names=NAMES, verbose=False)
    assert made is not None
    for key, value in served.described(raw=raw).items():
        made.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    made.model.metadata_props["names"] = json.dumps(dict(enumerate(served.weights.class_names)))
    made.save(str(path))
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def read(inputs: Tensor) -> Tensor:
        found: list[np.ndarray] = session.run(["probabilities"], {"input": inputs.numpy()})
        return torch.from_numpy(found[0])

    return read


def write_pt2(served: Served, path: Path, example: Tensor, raw: bool) -> Reader:
    """A program of torch.export, called with inputs (batch, ...) for (logits, probabilities); JSON beside it."""
    program = _program(served, example, raw, "pt2")
    with _quiet():
        stream = io.BytesIO()  # by a path torch asks for the suffix, which a temporary file has not
        torch.export.save(program, stream, extra_files={"preceptor.json": json.dumps(served.described(raw=raw))})
        path.write_bytes(stream.getvalue())
        stream.seek(0)
        loaded = torch.export.load(stream).module()
    return lambda inputs: loaded(inputs)[1]


def write_safetensors(served: Served, path: Path, model: Factory | str | None) -> Reader:
    """The model's own tensors, with all that is known of them in the header; `preceptor.load` reads it."""
    weights = served.weights
    metadata = {
        "model": weights.model,
        "num_classes": weights.num_classes,
        "members": None,
        "transform": weights.transform and weights.transform.model_dump(mode="json"),
        **served.described(raw=False),
    }
    save_weights(path, served.model.state_dict(), metadata)
    loaded, _ = load_model(path, model=model, trust=True)
    return _reader(served, loaded)


def write_pretrained(served: Served, path: Path, model: Factory | str | None) -> Reader:
    """A folder: `save_pretrained` of transformers, a folder of timm's, or config.json and model.safetensors."""
    files.make_folder(path)
    files.write_json(path / "preceptor.json", served.described(raw=False))
    if served.is_normalized and len(served.weights.input_shape) == 3:
        files.write_json(path / "preprocessor_config.json", _processor(served))
    if hasattr(served.model, "save_pretrained") and hasattr(served.model, "config"):
        return _reader(served, _of_transformers(served, path))
    if isinstance(getattr(served.model, "pretrained_cfg", None), dict):
        return _reader(served, _of_timm(served, path))
    names = dict(enumerate(served.weights.class_names))
    config = {"model": served.weights.model, "num_labels": served.weights.num_classes, "id2label": names}
    files.write_json(path / "config.json", config | {"label2id": {name: label for label, name in names.items()}})
    return write_safetensors(served, path / "model.safetensors", model)


def _of_transformers(served: Served, path: Path) -> nn.Module:
    with _quiet():
        names, run = served.weights.class_names, served.reference.run
        end = end_of(served.weights.preprocessing, names)
        save_pretrained(served.model, path, names, save_tokenizer=functools.partial(copy_tokenizer, run), end=end)
        if isinstance(served.model, Classifier):
            return classifier_of(path).eval()
        if isinstance(served.model, CausalLM):
            return causal_lm_of(path).with_classes(served.weights.num_classes).eval()
        return type(served.model).from_pretrained(path, local_files_only=True).eval()  # type: ignore[attr-defined]


def _of_timm(served: Served, path: Path) -> nn.Module:
    timm = _needed("timm", "timm")
    model, how = copy.copy(served.model), served.weights.preprocessing
    shown = {k: list(how[k]) for k in ("mean", "std")} if served.is_pixels else {}
    model.pretrained_cfg = {**model.pretrained_cfg, **shown, "input_size": list(served.weights.input_shape)}  # type: ignore
    options = {
        k: v for k, v in served.weights.model.items() if k not in ("name", "factory", "model_name", "pretrained")
    }
    named = {"label_names": list(served.weights.class_names)}
    model.state_dict = lambda: {n: t.contiguous() for n, t in served.model.state_dict().items()}  # type: ignore
    timm.models.save_for_hf(model, str(path), model_config=named, model_args=options or None, safe_serialization=True)
    return timm.create_model(f"local-dir:{path}", pretrained=True).eval()


def _processor(served: Served) -> dict[str, Any]:
    """As transformers' image processors read it."""
    how, (_, height, width) = served.weights.preprocessing, served.weights.input_shape
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / how["divide_by"],
        "do_normalize": True,
        "image_mean": list(how["mean"]),
        "image_std": list(how["std"]),
    }


def _reader(served: Served, loaded: nn.Module) -> Reader:
    whole = Whole(served, raw=False, model=loaded)

    def read(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return whole(inputs)[1]

    return read


def _program(served: Served, example: Tensor, raw: bool, to: str) -> torch.export.ExportedProgram:
    """The model as a graph, for batches of any size."""
    if hasattr(served.model, "prepare"):
        raise InputError(
            f"'{served.name}' cannot become {to}: its model reads texts by steps that are no graph of tensors; export "
            "it to safetensors",
            argument="to safetensors",
        )
    batch = {"input": {0: torch.export.Dim("batch")}}
    with _translated(served, to), torch.no_grad():
        # Channels-last weights, which torch.export would save with a warning.
        plain = copy.deepcopy(served.model).to(memory_format=torch.contiguous_format)
        whole = Whole(served, raw=raw, model=plain).eval()
        return torch.export.export(whole, (example,), dynamic_shapes=batch)


@contextlib.contextmanager
def _translated(served: Served, to: str) -> Iterator[None]:
    """What torch cannot translate is one sentence."""
    try:
        with _quiet():
            yield
    except Exception as error:  # of anybody's model, by a compiler: of any kind
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"'{served.name}' cannot become {to}: torch cannot make a graph of its model ({reason[:200].rstrip('.')}); "
            "export it to safetensors",
            argument="to safetensors",
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch prints the graph that it could not make, and transformers a bar of its progress."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _needed(extra: str, *packages: str) -> Any:
    """The last of some packages; all are needed."""
    import importlib

    found: Any = None
    for name in packages:
        try:
            found = importlib.import_module(name)
        except ImportError:
            raise InputError(f"this needs {name}; run pip install 'preceptor[{extra}]'") from None
    return found
