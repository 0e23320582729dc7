"""Classifiers of transformers, whole: a fine-tuned one as it is, an encoder under a new head, or a fresh one.

transformers is optional (`pip install 'preceptor[text]'`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.models.encoder import ABSENT, rectangle
from preceptor.models.hub import architectures, loaded, place_of, refuse_missing
from preceptor.models.texts import require_bytes, text_length, to_texts

Start: TypeAlias = Literal["whole", "encoder", "config"]
_TEXT = "config.json, a tokenizer and model.safetensors"
_IMAGE = "config.json and model.safetensors"


def text_classifier(
    *,
    num_classes: int,
    input_shape: Sequence[int],
    pretrained: str,
    start: Start = "whole",
    max_tokens: int | None = None,
) -> nn.Module:
    """A text classifier that `transformers.AutoModelForSequenceClassification` loads, with its own tokenizer.

    It reads rows of bytes as every text model here does, so that teacher and student may have unlike tokenizers.

    Args:
        num_classes: width of the output, which is logits (B, num_classes).
        input_shape: (bytes,) of one input; inputs are rows of UTF-8 bytes, uint8 or int64 (B, bytes), zero-padded.
        pretrained: a folder (config.json, tokenizer, model.safetensors), a name on the Hugging Face hub, or
            "package:folder" for a folder inside an installed package, which is not imported.
        start: "whole" takes the weights with the head as they are, "encoder" all but the head, which is drawn anew for
            the data's classes, "config" the architecture alone.
        max_tokens: longer texts are cut to so many tokens; by default to as many as it reads, 512 at most.

    Raises:
        InputError: transformers is not installed; nothing can be loaded; "whole" and another number of classes.
    """
    text_length(input_shape, "text_classifier")
    return _of_texts(pretrained, num_classes, start, max_tokens)


def image_classifier(
    *, num_classes: int, input_shape: Sequence[int], pretrained: str, start: Start = "whole"
) -> nn.Module:
    """An image classifier that `transformers.AutoModelForImageClassification` loads.

    Args:
        num_classes: width of the output, which is logits (B, num_classes).
        input_shape: (channels, height, width) of one input.
        pretrained, start: as of `text_classifier`; no tokenizer is needed. Where the folder has a
            preprocessor_config.json, a teacher is given images with the mean, the deviation and (``resize: true``) the
            size that stand there.

    Raises:
        InputError: as `text_classifier`; images of another number of channels.
    """
    if len(input_shape) != 3:
        raise InputError(
            f"the model 'image_classifier' reads images (channels, height, width), but inputs have shape "
            f"{tuple(input_shape)}; choose a model for these inputs"
        )
    made = _of_images(pretrained, num_classes, start)
    channels = getattr(made.config, "num_channels", input_shape[0])
    if channels != input_shape[0]:
        raise InputError(
            f"the classifier '{pretrained}' reads images of {channels} channels, and the data's have "
            f"{input_shape[0]}; give images of {channels}"
        )
    return made


def classifier_of(folder: Path) -> "Classifier":
    """A classifier that transformers has saved to a folder, whole, for inputs of its own size.

    Raises:
        InputError: as `text_classifier`; a model of another kind.
    """
    kinds = architectures(folder)
    if any("ForSequenceClassification" in each for each in kinds):
        return _of_texts(str(folder))
    if any("ForImageClassification" in each for each in kinds):
        return _of_images(str(folder))
    raise InputError(
        f"the model in '{folder}' is {', '.join(kinds) or 'of no stated kind'}, and no classifier of texts or images "
        "and no causal language model; give a run, or hand over a function of the batch as the teacher"
    )


class Classifier(nn.Module):
    """A classifier of transformers; `model` holds its weights."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: nn.Module = model

    @property
    def config(self) -> Any:
        """Its configuration, which names the classes it was trained for."""
        return self.model.config

    def save_pretrained(self, folder: Path | str) -> None:
        """Write it so that transformers loads it."""
        self.model.save_pretrained(folder)  # type: ignore[operator]


class TextClassifier(Classifier):
    """`text_classifier`: bytes to tokens, with a tokenizer of its own, to logits."""

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:
        super().__init__(model)
        self.tokenizer: Any = tokenizer
        self.max_tokens: int = max_tokens
        self.padding: int = getattr(model.config, "pad_token_id", None) or 0

    def prepare(self, input: Tensor) -> Tensor:
        """The part without weights: bytes (..., B, L) to token numbers (..., B, T), -1 after shorter ones."""
        require_bytes(input)
        texts = to_texts(input.flatten(0, -2))
        tokens = self.tokenizer(texts, truncation=True, max_length=self.max_tokens)["input_ids"] if texts else []
        return rectangle(tokens).to(input.device).view(*input.shape[:-1], -1)

    def forward(self, input: Tensor, prepared: bool = False) -> Tensor:
        """Logits (B, C) of bytes (B, L), or with `prepared` of what `prepare` gave for them."""
        ids = input if prepared else self.prepare(input)
        there = ids != ABSENT
        return self.model(input_ids=ids.masked_fill(~there, self.padding), attention_mask=there.long()).logits

    def save_pretrained(self, folder: Path | str) -> None:
        """Write model and tokenizer so that transformers loads them."""
        super().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


class ImageClassifier(Classifier):
    """`image_classifier`: images to logits."""

    def __init__(self, model: Any, processing: Mapping[str, Any]) -> None:
        super().__init__(model)
        self._as_teacher: dict[str, Any] = dict(processing)

    def forward(self, input: Tensor) -> Tensor:
        """Logits (B, C) of images (B, channels, height, width)."""
        return self.model(pixel_values=input).logits


def _of_texts(
    pretrained: str, num_classes: int | None = None, start: Start = "whole", max_tokens: int | None = None
) -> TextClassifier:
    tokenizer, model = _load("AutoModelForSequenceClassification", pretrained, num_classes, start)
    most = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 2**31)
    length = min(most, 512) if max_tokens is None else max_tokens
    if not 1 <= length <= most:
        raise InputError(f"max_tokens is {max_tokens}, but the classifier '{pretrained}' reads 1 to {most}; give fewer")
    return TextClassifier(model, tokenizer, length)


def _of_images(pretrained: str, num_classes: int | None = None, start: Start = "whole") -> ImageClassifier:
    _, model = _load("AutoModelForImageClassification", pretrained, num_classes, start)
    return ImageClassifier(model, _processing(Path(place_of(pretrained))))


def _load(kind: str, pretrained: str, num_classes: int | None, start: Start) -> tuple[Any, Any]:
    """Tokenizer, where it is one of texts, and model, in eval mode; without `num_classes` with as many as it has."""
    if start not in ("whole", "encoder", "config"):
        raise InputError(f"start is {start!r}; choose 'whole', 'encoder' or 'config'")
    of_text = "Sequence" in kind

    def read(place: str, **safe: bool) -> tuple[Any, Any, Any]:
        import transformers  # pyright: ignore[reportMissingImports]

        config = transformers.AutoConfig.from_pretrained(place, **safe)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, config=config, **safe) if of_text else None
        auto, options = getattr(transformers, kind), safe | {"use_safetensors": True, "output_loading_info": True}
        if start == "whole":
            return tokenizer, *auto.from_pretrained(place, config=config, dtype=torch.float32, **options)
        config.num_labels = num_classes  # type: ignore[assignment]
        model, report = auto.from_config(config), {"missing_keys": set()}
        if start == "encoder":
            encoder, report = transformers.AutoModel.from_pretrained(place, dtype=torch.float32, **options)
            model.base_model.load_state_dict(encoder.state_dict(), strict=False)
        return tokenizer, model, report

    name = "text_classifier" if of_text else "image_classifier"
    tokenizer, model, report = loaded(
        pretrained, read, what="classifier", needs=_TEXT if of_text else _IMAGE, model=name
    )
    # A pooler is often not in an encoder's file, and belongs to the new head.
    missing = [key for key in report["missing_keys"] if start == "whole" or "pooler." not in key]
    refuse_missing(missing, pretrained, "classifier")
    if num_classes is not None and model.config.num_labels != num_classes:
        raise InputError(
            f"the classifier '{pretrained}' has {model.config.num_labels} classes and the data {num_classes}; "
            "start='encoder' draws a head for the data's classes"
        )
    return tokenizer, model.eval()


def _processing(folder: Path) -> dict[str, Any]:
    """How a folder says that its images were made, as `preceptor.tasks.Teacher` takes it, if it does."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return {}
    said = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    mean, std = said.get("image_mean"), said.get("image_std")
    if said.get("do_normalize", True) and mean and std:
        found["preprocessing"] = {
            "divide_by": round(1 / said.get("rescale_factor", 1 / 255), 6),
            "mean": mean,
            "std": std,
        }
    size = said.get("crop_size") if said.get("do_center_crop") else said.get("size")
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys() and mean:
        found["input_shape"] = (len(mean), size["height"], size["width"])
    return found
