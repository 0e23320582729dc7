"""Learning rates against torch's own schedulers."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, lr_scheduler

from preceptor.recipe import Optimizer, Schedule
from preceptor.training.optim.schedule import make_optimizer, multiplier, set_lr

STEPS, EPOCHS = 7, 6
TOTAL = STEPS * EPOCHS


def ours(schedule: Schedule) -> list[float]:
    return [0.3 * multiplier(schedule, step, steps_per_epoch=STEPS, epochs=EPOCHS) for step in range(TOTAL)]


def theirs(scheduler: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], steps: int) -> list[float]:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduled, rates = scheduler(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduled.step()
    return rates


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine(final: float) -> None:
    expected = theirs(lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL, eta_min=0.3 * final), TOTAL)
    assert ours(Schedule(final=final)) == pytest.approx(expected)


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cycles(final: float) -> None:
    length = TOTAL // 3
    expected = theirs(lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, length, eta_min=0.3 * final), TOTAL)
    assert ours(Schedule(name="cyclic", cycles=3, final=final)) == pytest.approx(expected)


def test_cycles_after_a_warm_up() -> None:
    rates = ours(Schedule(name="cyclic", cycles=2, warmup_epochs=2))
    assert rates[: 2 * STEPS] == pytest.approx([0.3 * (step + 1) / (2 * STEPS) for step in range(2 * STEPS)])
    one = theirs(lambda o: lr_scheduler.CosineAnnealingLR(o, 2 * STEPS), 2 * STEPS)
    assert rates[2 * STEPS :] == pytest.approx([*one, *one])
    assert Schedule(name="cyclic", cycles=2, warmup_epochs=2).cycle_ends(EPOCHS) == (4, 6)


def test_step() -> None:
    expected = theirs(lambda o: lr_scheduler.MultiStepLR(o, [2 * STEPS, 4 * STEPS], gamma=0.2), TOTAL)
    assert ours(Schedule(name="step", milestones=(2, 4), factor=0.2)) == pytest.approx(expected)


def test_constant() -> None:
    assert ours(Schedule(name="constant")) == [0.3] * TOTAL


@pytest.mark.parametrize(("warmup", "initial", "final"), [(1.0, 0.04, 0.0), (2.0, 0.1, 0.05), (5.0, 0.04, 0.01)])
def test_one_cycle(warmup: float, initial: float, final: float) -> None:
    def scheduler(optimizer: torch.optim.Optimizer) -> lr_scheduler.OneCycleLR:
        return lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=0.3,
            total_steps=TOTAL,
            pct_start=warmup / EPOCHS,
            anneal_strategy="linear",
            cycle_momentum=False,
            div_factor=1 / initial,
            final_div_factor=initial / final if final else float("inf"),
        )

    schedule = Schedule(name="one_cycle", warmup_epochs=warmup, initial=initial, final=final)
    assert ours(schedule) == pytest.approx(theirs(scheduler, TOTAL))


def test_one_cycle_within_a_step_of_the_beginning() -> None:
    rates = ours(Schedule(name="one_cycle", warmup_epochs=1 / STEPS))
    assert rates == pytest.approx([0.3 * (1 - step / (TOTAL - 1)) for step in range(TOTAL)])


@pytest.mark.parametrize("name", ["cosine", "constant", "step"])
def test_warm_up(name: str) -> None:
    warmup = 2 * STEPS
    schedule = Schedule.model_validate({"name": name, "warmup_epochs": 2, "milestones": (4,)})
    rising = theirs(lambda o: lr_scheduler.LinearLR(o, 1 / warmup, total_iters=warmup - 1), warmup)
    assert ours(schedule)[:warmup] == pytest.approx(rising)
    later = {
        "cosine": theirs(lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL - warmup), TOTAL - warmup),
        "constant": [0.3] * (TOTAL - warmup),
        "step": theirs(lambda o: lr_scheduler.MultiStepLR(o, [2 * STEPS]), TOTAL - warmup),
    }
    assert ours(schedule)[warmup:] == pytest.approx(later[name])


def test_optimizers_get_their_options() -> None:
    weight = nn.Parameter(torch.zeros(2))
    sgd = make_optimizer([weight], Optimizer(lr=0.2, momentum=0.5, nesterov=True, weight_decay=0.1))
    assert isinstance(sgd, SGD)
    assert {"lr": 0.2, "momentum": 0.5, "nesterov": True, "weight_decay": 0.1}.items() <= sgd.defaults.items()
    adamw = make_optimizer([weight], Optimizer(name="adamw", lr=0.2, betas=(0.8, 0.9), weight_decay=0.1))
    assert isinstance(adamw, AdamW)
    assert {"lr": 0.2, "betas": (0.8, 0.9), "weight_decay": 0.1}.items() <= adamw.defaults.items()
    set_lr(adamw, 0.7)
    assert adamw.param_groups[0]["lr"] == 0.7
