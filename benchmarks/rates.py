"""The learning rates of the fast form, chosen on held-out images: networks of every family at each rate of one grid.

python benchmarks/rates.py --data-dir DATA --out runs/rates --processes 2              # two CPU cores
python benchmarks/rates.py --size gpu --data-dir DATA --out runs/rates --budget 480    # in pieces

Networks learn 100 classes of Tiny-ImageNet at 32 pixels, which have the shape of CIFAR-100, from labels alone, by the
recipe `teach-cifar100-fast` and at one seed, and are scored on 5,000 images that are held out of the training set. The
test images are not looked at. Epochs of the CPU form are few: a longer run may want another rate, so its table says
where training diverges or stalls, and which way the rate should go. Stopped, or out of its budget, the same command
goes on. DATA holds what benchmarks/images.py reads.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from images import TINY, tinyimagenet_data
from pairs import LIGHT, rate_of, settings
from pieces import Clock, command_line, in_phases, main_of, parsed, write_tables
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.errors import InputError
from preceptor.recipe import TeachRecipe, find_recipe, load
from preceptor.runs import read_result
from preceptor.runs.files import write_text
from preceptor.study.text import facts, markdown_table
from preceptor.training import teach

SEED = 100  # of no table
DIVERGED = "diverged.txt"
WIDE = ("resnet20", "resnet8x4", "wrn_16_2", "wrn_40_2", "vgg8", "vgg13", "resnet32x4")
HIGH, LOW = (0.1, 0.2, 0.4, 0.8), (0.04, 0.08, 0.16, 0.32)  # four rates each, the recipe's among them


class Size(NamedTuple):
    """One form of the table: the rates of each network, and training that differs from the recipe's."""

    networks: Mapping[str, tuple[float, ...]]
    overrides: tuple[str, ...]


SIZES = {
    # Depthwise convolutions train faster in fp32 on a CPU, even where it computes in bf16; ShuffleNets take hours.
    "cpu": Size(
        {"resnet8": HIGH, "mobilenet_v2": LOW, "resnet20": HIGH},
        ("training.epochs=3", "schedule.warmup_epochs=0.6", "training.compile=false"),
    ),
    "gpu": Size(
        {**dict.fromkeys(WIDE, HIGH), **dict.fromkeys(LIGHT, LOW)},
        (),
    ),
    "quick": Size(
        {"resnet8": (0.1, 0.4), "mobilenet_v2": (0.1,)},
        ("training.epochs=1", "schedule.warmup_epochs=0.2", "training.batch_size=32", "split.heldout=40"),
    ),
}


class Rates:
    """The runs of one size in a folder: ``NETWORK/rate-RATE``."""

    def __init__(self, size: Size, data: Data, out: Path, clock: Clock, device: str) -> None:
        self.size, self.data, self.out, self.clock, self.device = size, data, out, clock, device

    def part(self, network: str) -> None:
        """All runs of a network that are not complete yet."""
        for rate in self.size.networks[network]:
            place = folder(self.out, network, rate)
            if outcome(place) is None:
                with self.clock.run(network):
                    self.run(network, rate, place)

    def run(self, network: str, rate: float, place: Path) -> None:
        """Train one network at one rate; one that diverges leaves its sentence in place of a result."""
        precision = "fp32" if network in LIGHT and self.size is SIZES["cpu"] else "auto"
        own = [f"optimizer.lr={rate}", f"training.device={self.device}", f"training.precision={precision}"]
        said = [*settings(network, "fast", SEED), *self.size.overrides, *own]
        try:
            recipe = load(TeachRecipe, find_recipe("teach-cifar100-fast"), said)
            teach(recipe, place, data=self.data, progress=sys.stderr.isatty())
        except InputError as error:
            if "not finite" not in str(error):
                raise
            write_text(place / DIVERGED, f"{error}\n")


def folder(out: Path, network: str, rate: float) -> Path:
    """Where a run is."""
    return out / network / f"rate-{rate:g}"


def outcome(place: Path) -> float | None:
    """The held-out accuracy of the last epoch, 0 where training has diverged; None of a run that is not complete."""
    if (place / DIVERGED).is_file():
        return 0.0
    return read_result(place)["heldout"]["last"]["accuracy"] if (place / "result.json").is_file() else None


def tiny() -> Data:
    """Images of noise, of four classes that differ in their mean colour."""
    labels = torch.arange(160) % 4
    colours = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200], [120, 120, 120]])
    noise = torch.randint(-50, 50, (160, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    images = (colours[labels][:, :, None, None] + noise).to(torch.uint8)
    part = ArrayDataset(images, labels, num_classes=4, transform=TINY)
    return Data(part, part, tuple("abcd"), TINY.as_json())


# -- the table ---------------------------------------------------------------------------------------------------------


def collect(out: Path, size: Size) -> dict[str, dict[str, float]]:
    """Of each network that is complete the held-out accuracy at each rate."""
    complete: dict[str, dict[str, float]] = {}
    for network, rates in size.networks.items():
        scores = {f"{rate:g}": outcome(folder(out, network, rate)) for rate in rates}
        known = {rate: score for rate, score in scores.items() if score is not None}
        if len(known) == len(rates):
            complete[network] = known
    return complete


def markdown(result: Mapping[str, Any]) -> str:
    """The accuracies in per cent, the best of each network in bold, beside the recipe's own rate."""
    rates = sorted({rate for scores in result["networks"].values() for rate in scores}, key=float)
    rows = []
    for network, scores in result["networks"].items():
        best = max(scores.values())
        shown = {
            rate: f"**{100 * score:.1f}**" if score == best else f"{100 * score:.1f}" for rate, score in scores.items()
        }
        rows.append([network, *(shown.get(rate, "") for rate in rates), f"{rate_of(network, 'fast'):g}"])
    table = markdown_table(["network", *rates, "the recipe's"], rows)
    made = "; ".join(f"{name} {value}" for name, value in facts({**result, "time_total": None}).items())
    note = (
        f"Held-out accuracy in per cent, by learning rate; 0: diverged. Made by `{result['command']}`"
        f"{'; ' if result['overrides'] else ''}{', '.join(result['overrides'])}; {made}."
    )
    return f"{table}\n\n{note}\n"


# -- the command -------------------------------------------------------------------------------------------------------


def main(given: Sequence[str] | None = None) -> None:
    """Train what is not trained yet and the budget allows; write `rates.json` and `rates.md`."""
    files = "tinyimagenet100_32px.npz, of benchmarks/images.py"
    arguments = parsed(command_line(str(__doc__), SIZES, files, "resnet8"), given)
    size, out = SIZES[arguments.size], arguments.out
    out.mkdir(parents=True, exist_ok=True)

    def make(clock: Clock) -> Callable[[str], None]:
        data = tiny() if arguments.quick else tinyimagenet_data(arguments.data_dir, out / "images")
        return Rates(size, data, out, clock, arguments.device).part

    in_phases(__file__, [list(size.networks)], arguments, given, make)
    if not arguments.parts:
        result = {"networks": collect(out, size), "size": arguments.size, "overrides": size.overrides, "seeds": [SEED]}
        write_tables("rates", result, markdown, out, arguments.device)


if __name__ == "__main__":
    main_of(main)
