"""What can be tapped in a model: its modules as one forward pass calls them, and what patterns and words stand for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from preceptor.errors import InputError, did_you_mean
from preceptor.losses.features.base import LAST, PENULTIMATE, PREACTIVATIONS, STAGES
from preceptor.outputs import logits_of
from preceptor.tasks.layouts import Layouts
from preceptor.tasks.taps import INPUT, first_tensor, module_of, refuse_compiled

_MOST_STAGES = 5  # of more blocks, such as a transformer's, as many as most networks have are taken
_FEW_STAGES = 4
_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish,
)  # fmt: skip


@dataclass(eq=False)
class Seen:
    """A module in one forward pass.

    Attributes:
        name, module: as `torch.nn.Module.named_modules` has them.
        given, gave: the first tensor that it was given and that it gave; None where there was none.
        began: how many modules had ended before it was called.
        calls: how often it was called.
        in_place: what it gave was changed in place later; and what it was given.
    """

    name: str
    module: nn.Module
    given: Tensor | None
    gave: Tensor | None
    began: int
    calls: int = 1
    gave_changed: bool = False
    given_changed: bool = False


class Look:
    """One forward pass of a model, watched.

    Args:
        model: the model.
        ask: makes the pass, and returns what the model does.
        whose: what an error calls the model.

    Attributes:
        seen: the modules that were called, in the order in which they ended.
        logits: what came out.
        image: what the model was given, if it is one tensor.

    Raises:
        InputError: the model is compiled.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 10))
    >>> look = Look(model, lambda: model(torch.zeros(2, 3, 4, 4)), "student")
    >>> look.resolve(["penultimate", "last"])
    ['3:input', '1']
    """

    seen: list[Seen]
    logits: Tensor
    image: Tensor | None

    def __init__(self, model: nn.Module, ask: Callable[[], Any], whose: str) -> None:
        refuse_compiled(model, whose)
        self._model, self._whose = model, whose
        self.seen = []
        self._versions: list[tuple[Seen, int | None, int | None]] = []
        self._open: dict[str, list[tuple[int, Tensor | None, int | None]]] = {}
        self.image = None
        handles: list[Any] = [model.register_forward_pre_hook(self._shown)]
        for name, module in model.named_modules():
            if name:
                handles.append(module.register_forward_pre_hook(self._began(name)))
                handles.append(module.register_forward_hook(self._ended(name)))
        try:
            with torch.no_grad():
                self.logits = logits_of(ask())
        finally:
            for handle in handles:
                handle.remove()
        for seen, gave, given in self._versions:
            seen.gave_changed = seen.gave is not None and seen.gave._version != gave
            seen.given_changed = seen.given is not None and seen.given._version != given

    def _shown(self, _module: nn.Module, given: Any) -> None:
        self.image = first_tensor(given)

    def _began(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, given: Any) -> None:
            tensor = first_tensor(given)
            version = None if tensor is None else tensor._version
            self._open.setdefault(name, []).append((len(self.seen), tensor, version))

        return hook

    def _ended(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _given: Any, output: Any) -> None:
            began, given, version = self._open[name].pop()
            before = next((each for each in self.seen if each.name == name), None)
            if before is not None:
                before.calls += 1
                return
            gave = first_tensor(output)
            seen = Seen(name, module, given, gave, began)
            self.seen.append(seen)
            self._versions.append((seen, None if gave is None else gave._version, version))

        return hook

    # -- names ---------------------------------------------------------------------------------------------------------

    def resolve(self, names: Sequence[str]) -> list[str]:
        """The taps that names, patterns and words stand for, in this order, each once.

        Raises:
            InputError: a name that is not there (the nearest are offered), a module that is not called, or several
                times; a word that stands for nothing in this model.
        """
        found = [tap for name in names for tap in self._of(name)]
        for tap in found:
            calls = next(each.calls for each in self.seen if each.name == module_of(tap))
            if calls > 1:
                raise InputError(
                    f"the module '{module_of(tap)}' of the {self._whose} is called {calls} times in a forward pass, so "
                    "that it is not clear which of them is meant; name one that is called once (preceptor taps lists "
                    "them)"
                )
        return list(dict.fromkeys(found))

    def copied(self, taps: Sequence[str]) -> set[str]:
        """Those of some taps that what follows changes in place."""
        known = {each.name: each for each in self.seen}
        seen = {tap: known[module_of(tap)] for tap in taps if module_of(tap) in known}
        return {tap for tap, m in seen.items() if (m.given_changed if tap.endswith(INPUT) else m.gave_changed)}

    @cached_property
    def layouts(self) -> Layouts:
        """Where the channels of its maps are."""
        return Layouts(self.seen, self.image)

    def turned(self, taps: Sequence[str]) -> set[str]:
        """Those of some taps at which maps come with their channels last."""
        return {tap for tap in taps if self.layouts.of(self._at(tap)) == "last"}

    def refuse_open(self, taps: Sequence[str]) -> None:
        """Refuse taps at maps of which it cannot be told where their channels are.

        Raises:
            InputError: naming the tap.
        """
        for tap in taps:
            found = self._at(tap)
            if found is not None and self.layouts.is_open(found):
                raise InputError(
                    f"the tap '{tap}' of the {self._whose} has shape {tuple(found.shape)}, of which it cannot be told "
                    "whether the channels are its second axis or its last; name a convolution or normalization beside "
                    "it (preceptor taps lists them)"
                )

    def _at(self, tap: str) -> Tensor | None:
        found = next((each for each in self.seen if each.name == module_of(tap)), None)
        return None if found is None else found.given if tap.endswith(INPUT) else found.gave

    def _of(self, name: str) -> list[str]:
        words: dict[str, Callable[[], list[str]]] = {
            PENULTIMATE: self._penultimate,
            LAST: self._last,
            STAGES: self.stages,
            PREACTIVATIONS: self._preactivations,
        }
        known = [each.name for each in self.seen]
        wanted, end = module_of(name), INPUT if name.endswith(INPUT) else ""
        if name in words:  # also where a module is called so, as in ConvNeXt
            return words[name]()
        if wanted in known:
            return [name]
        if any(letter in wanted for letter in "*?["):
            fitting = [each for each in known if fnmatchcase(each, wanted)]
            if fitting:
                return [each + end for each in fitting]
        there = [each for each, _ in self._model.named_modules() if each]
        if wanted in there:
            raise InputError(
                f"the module '{wanted}' of the {self._whose} is not called in a forward pass, so that there is nothing "
                f"to tap; {did_you_mean(wanted, [each for each in known if each != wanted])}"
            )
        raise InputError(
            f"the {self._whose} has no module '{name}' to tap; {did_you_mean(wanted, [*known, *words])} "
            "(preceptor taps lists them)"
        )

    # -- words ---------------------------------------------------------------------------------------------------------

    @property
    def head(self) -> Seen | None:
        """The classifier: the module without others in it whose output the logits are, else the last `nn.Linear`."""
        leaves = [each for each in self.seen if not any(True for _ in each.module.children())]
        made = [each for each in leaves if each.gave is self.logits]
        linear = [each for each in leaves if isinstance(each.module, nn.Linear)]
        return next(iter([*made, *reversed(linear)]), None)

    def _penultimate(self) -> list[str]:
        if self.head is None:
            raise self._nothing(PENULTIMATE, "classifier")
        return [self.head.name + INPUT]

    def _last(self) -> list[str]:
        until = len(self.seen) if self.head is None else self.seen.index(self.head)
        maps = [each for each in self.seen[:until] if _is_spatial(each.gave)]
        if not maps:
            raise self._nothing(LAST, "maps (B, C, H, W) or tokens (B, T, D)")
        made_by = [each for each in maps if each.gave is maps[-1].gave]
        return [made_by[-1].name]

    def stages(self) -> list[str]:
        """The ends of its stages: as timm says, else where the size of maps changes, else some of its blocks."""
        found = self._told() or self._by_size() or self._blocks()
        if not found:
            raise self._nothing(STAGES, "maps (B, C, H, W) or blocks")
        return found if len(found) <= _MOST_STAGES else spread(found, _FEW_STAGES)

    def _told(self) -> list[str]:
        said = getattr(self._model, "feature_info", None)
        info = getattr(said, "info", said)
        if not isinstance(info, list) or not all(isinstance(each, Mapping) and "module" in each for each in info):
            return []
        called = {each.name: each for each in self.seen}
        names = [str(each["module"]) for each in info if each["module"] in called]
        blocks = [name for name in names if any(True for _ in called[name].module.children())]
        return blocks or names

    def _by_size(self) -> list[str]:
        ends: dict[tuple[int, ...], str] = {}
        for each in self._parts(""):
            assert each.gave is not None
            size = tuple(each.gave.shape[2:])
            if size not in ends or any(True for _ in each.module.children()):
                ends[size] = each.name
        stem, *others = ends.values() if ends else [""]
        if len(others) > 1 and not any(True for _ in self._model.get_submodule(stem).children()):
            return others  # what stands before the first block
        return [stem, *others] if others else []

    def _parts(self, within: str) -> list[Seen]:
        """The modules that give maps, those with parts of several sizes taken apart."""
        prefix = f"{within}." if within else ""
        own = [each for each in self.seen if each.name.startswith(prefix) and "." not in each.name[len(prefix) :]]
        inner = [each for each in self.seen if each.name.startswith(prefix)] if not own else []
        found: list[Seen] = []
        for each in own or inner:
            parts = self._parts(each.name)
            sizes = {tuple(part.gave.shape[2:]) for part in parts if part.gave is not None}
            ends = _is_map(each.gave) and (not parts or parts[-1].gave is None or _same_size(each.gave, parts[-1].gave))
            if len(sizes) > 1 and not (ends and _is_block(each, parts)):
                found += parts
            elif _is_map(each.gave):
                found.append(each)
            elif parts:
                found += parts
        return found

    def _blocks(self) -> list[str]:
        called = {each.name for each in self.seen}
        lists = [
            [f"{name}.{number}" for number in range(len(module)) if f"{name}.{number}" in called]
            for name, module in self._model.named_modules()
            if isinstance(module, nn.ModuleList | nn.Sequential)
        ]
        alike = [names for names in lists if len({type(self._model.get_submodule(name)) for name in names}) == 1]
        found = max(alike, key=len, default=[])
        return [] if self.head is not None and found == [self.head.name] else found

    def _preactivations(self) -> list[str]:
        found = []
        for stage in self.stages():
            place = next(i for i, each in enumerate(self.seen) if each.name == stage)
            gave = self.seen[place].gave
            acting = [each for each in self.seen if isinstance(each.module, _ACTIVATIONS) and _is_map(each.given)]
            ends = [each for each in acting if each.gave is gave]
            later = [
                each for each in acting if each.began > place and gave is not None and _same_size(each.given, gave)
            ]
            if not ends and not later:
                wanted = f"activation at the end of '{stage}' that is a module of its own"
                raise self._nothing(PREACTIVATIONS, wanted, self._ends())
            found.append((ends or later)[0].name + INPUT)
        return found

    def _ends(self) -> list[str]:
        """Of each stage the layer that gives its last map before an activation, as far as there is one in all."""
        found: list[str] = []
        for stage in self.stages():
            gave = self._at(stage)
            inner = [each for each in self.seen if each.name.startswith(f"{stage}.") and each.calls == 1]
            layers = [each for each in inner if isinstance(each.module, nn.modules.batchnorm._BatchNorm | nn.Conv2d)]
            fitting = [each.name for each in layers if each.gave is not None and _same_shape(each.gave, gave)]
            if not fitting:
                return []
            depth = min(name.count(".") for name in fitting)  # deeper are the layers of a shortcut
            found.append([name for name in fitting if name.count(".") == depth][-1])
        return found

    def _nothing(self, word: str, wanted: str, instead: Sequence[str] = ()) -> InputError:
        such = f", such as the last layers, [{', '.join(instead)}]" if instead else ""
        return InputError(
            f"'{word}' stands for nothing in the {self._whose}, as it has no {wanted}; name modules{such} "
            "(preceptor taps lists them)"
        )


def spread(names: Sequence[str], count: int) -> list[str]:
    """`count` of some names, evenly over them, the last among them.

    >>> spread(["a", "b", "c", "d"], 2)
    ['b', 'd']
    """
    return [names[round((i + 1) * len(names) / count) - 1] for i in range(count)]


def _is_map(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.ndim == 4 and tensor.shape[2] * tensor.shape[3] > 1


def _is_spatial(tensor: Tensor | None) -> bool:
    return _is_map(tensor) or (tensor is not None and tensor.ndim == 3)


def _same_size(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape[2:] == other.shape[2:]


def _same_shape(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape


def _is_block(seen: Seen, parts: Sequence[Seen]) -> bool:
    """Whether a module with parts of several sizes is one stage all the same: it shrinks its input once."""
    sizes = [tuple(part.gave.shape[2:]) for part in parts if part.gave is not None]
    given = seen.given
    return given is not None and given.ndim == 4 and set(sizes) <= {tuple(given.shape[2:]), sizes[-1]}
