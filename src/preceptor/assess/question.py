"""What is asked of teachers: under which losses, ranked by what, how surely."""

from collections.abc import Sequence
from dataclasses import dataclass

from preceptor.assess.forecasts import Array
from preceptor.assess.intervals import check_level, check_resamples, check_seed
from preceptor.assess.optimum import OPTIMA, LossLike, check_temperature, known, takes, with_options
from preceptor.errors import InputError, did_you_mean
from preceptor.schema import Component

__all__ = ["CRITERIA", "Question", "check_criterion"]

CRITERIA = ("brier", "brier_recalibrated")


@dataclass(frozen=True)
class Question:
    """What is asked of teachers; made by `Question.of`, which checks it.

    Attributes:
        losses: what students minimise, each with the options that shape its optimum.
        temperature: of the Rényi entropy and the power sum, for losses that have one.
        criterion: what ranks.
        level: coverage of the intervals.
        resamples: of the bootstrap.
        seed: of the resampling.
    """

    losses: tuple[Component, ...]
    temperature: float | None
    criterion: str
    level: float
    resamples: int
    seed: int

    @classmethod
    def of(
        cls,
        losses: Sequence[LossLike],
        *,
        temperature: float | None = None,
        coefficients: Array | None = None,
        criterion: str = "brier",
        level: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
    ) -> "Question":
        """Options as a user gives them: of several losses, each takes those that it has.

        Raises:
            InputError: a loss of unknown optimum or given twice, an option that one needs or that none takes, or a
                criterion or level that cannot be.
        """
        check_level(level)
        check_resamples(resamples)
        check_seed(seed)
        check_temperature(temperature)
        check_criterion(criterion)
        given = {"temperature": temperature, "coefficients": coefficients}
        given = {name: value for name, value in given.items() if value is not None}
        wanted = [known(loss) for loss in losses]
        for option in given:
            if wanted and not any(takes(loss.name, option) for loss in wanted):
                takers = " and ".join(name for name in OPTIMA if takes(name, option))
                raise InputError(
                    f"The loss {wanted[0].name!r} takes no {option}, only {takers}: leave {option} out, or ask for "
                    "such a loss.",
                    argument=option,
                )
        named = [with_options(loss, **{n: v for n, v in given.items() if takes(loss.name, n)}) for loss in wanted]
        if not named or any(named.count(loss) > 1 for loss in named):
            raise InputError(
                f"The losses are {[loss.name for loss in named]}: give at least one, and each once.", argument="losses"
            )
        return cls(tuple(named), temperature, criterion, level, resamples, seed)

    def temperature_of(self, loss: Component) -> float | None:
        """The temperature at which a loss has a Rényi entropy and a power sum, if it has one."""
        return loss.options.get("temperature", self.temperature if takes(loss.name, "temperature") else None)


def check_criterion(criterion: str) -> None:
    """Refuse a criterion that there is not.

    Raises:
        InputError: naming the nearest.
    """
    if criterion not in CRITERIA:
        raise InputError(
            f"There is no criterion {criterion!r}; {did_you_mean(criterion, CRITERIA)}", argument="criterion"
        )
