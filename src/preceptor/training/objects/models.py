"""The model of a recipe, made and looked at, with weights drawn from the seed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from preceptor import names
from preceptor.data.dataset import Data, Indexed
from preceptor.errors import InputError
from preceptor.inputs import Inputs, call, described, tensors_of
from preceptor.models.preparation import own_memory_, to_channels_last_
from preceptor.recipe import Recipe
from preceptor.training.checks.vocabulary import check_apart, check_tokens
from preceptor.training.data.streams import Streams
from preceptor.training.objects.starting import started_


def new_model(recipe: Recipe, data: Data, seed: int, model: Callable[..., nn.Module] | None = None) -> nn.Module:
    """A model drawn from the ``initialization`` stream of `seed`, or with the weights that the recipe starts from; the
    global generator is left alone.

    The recipe is one that the caller was given to train: what it names is imported.

    Raises:
        InputError: no such model or option, what the factory returns is no module, or it cannot take the data's inputs.
    """
    streams = Streams(seed, recipe.streams)
    generation = [recipe.generation] if recipe.generation else []
    supplied = {"num_classes": data.num_classes, "input_shape": data.input_shape}
    name = model_name(recipe, model)
    inputs = Indexed(data.train, collate_fn=data.collate_fn)[[0, 1]]["input"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.seed("initialization", *generation))
        if model is not None:
            made = _made_by(model, supplied, name)
        elif recipe.model is not None:
            made = names.call("model", recipe.model, supplied, trust=True)
        else:
            raise InputError(
                "there is no model: the recipe lacks the key 'model'; give it the name of one, or hand a function over "
                "that makes one",
                argument="model",
            )
        if not isinstance(made, nn.Module):
            raise InputError(f"the model '{name}' is a {type(made).__name__}, not a torch.nn.Module")
        check_tokens(made, data.class_names)
        check_apart(made, data)
        _said(made, inputs, name)  # lazy layers are made, and their weights drawn, in the first forward pass
    for weight, tensor in made.named_parameters():
        if not is_lazy(tensor) and tensor.numel() == 0:
            raise InputError(f"the model '{name}' has a weight of no numbers, '{weight}'; give its widths above 0")
    own_memory_(made)
    started_(made, recipe, data)
    to_channels_last_(made, inputs)
    return made


def _made_by(model: Callable[..., nn.Module], supplied: dict[str, Any], name: str) -> Any:
    """What somebody's factory makes; of the keywords that there are it is given those that it takes."""
    try:
        return model(**names.accepted(model, supplied))
    except InputError:
        raise
    except Exception as error:  # somebody else's code
        raise InputError(
            f"the model '{name}' cannot be made: {error}; it is called with {' and '.join(supplied)}, by name"
        ) from error


def _said(model: nn.Module, inputs: Inputs, name: str) -> Any:
    """What a model in eval mode makes of two inputs.

    Raises:
        InputError: it cannot take them.
    """
    was_training = model.training
    try:
        with torch.no_grad():
            return call(model.eval(), inputs)
    except InputError:
        raise
    except Exception as error:  # somebody else's code
        remedy = "; give the data set inputs in float32, such as array.astype('float32')"
        raise InputError(
            f"the model '{name}' cannot take inputs of {described(inputs)}: {error}"
            f"{remedy if any(each.dtype == torch.float64 for each in tensors_of(inputs)) else ''}"
        ) from error
    finally:
        model.train(was_training)


def model_name(recipe: Recipe, factory: Callable[..., nn.Module] | None) -> str:
    """What an error calls the model."""
    if factory is not None:
        return getattr(factory, "__name__", type(factory).__name__)
    return recipe.model.name if recipe.model else "given"
