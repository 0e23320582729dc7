"""A study that never ran, by formulas: for the tests of its statistics and its report."""

from typing import Any

import numpy as np

TEACHERS = ("cross_entropy", "early_stopped", "label_smoothing", "mse", "soteacher", "tolerant")
LOSSES = ("kd", "ttm", "wttm", "ptloss")


def fake_study(
    teachers: tuple[str, ...] = TEACHERS, losses: tuple[str, ...] = LOSSES, num_seeds: int = 10, seed: int = 0
) -> dict[str, Any]:
    """A result in which a teacher's Brier scores say a good deal, not all, about its students."""
    rng = np.random.default_rng(seed)
    worth = np.linspace(-1.0, 1.0, len(teachers))[rng.permutation(len(teachers))]
    luck = rng.normal(size=num_seeds)
    baseline = 0.900 + 0.006 * luck + 0.004 * rng.normal(size=num_seeds)
    brier = {
        t: 0.125 - 0.02 * w + 0.008 * luck + 0.006 * rng.normal(size=num_seeds)
        for t, w in zip(teachers, worth, strict=True)
    }
    students = {
        loss: {
            teacher: _scores(
                baseline + 0.012 + 0.01 * w + 0.003 * rng.normal() + 0.006 * rng.normal(size=num_seeds), rng
            )
            for teacher, w in zip(teachers, worth, strict=True)
        }
        for loss in losses
    }
    return {
        "schema_version": 1,
        "name": "quickstart",
        "command": "preceptor quickstart",
        "data": "digits",
        "seeds": list(range(num_seeds)),
        "teachers": {
            teacher: {
                **_scores(0.930 + 0.01 * w + 0.005 * luck, rng, brier[teacher]),
                "reliability": _reliability(w, rng),
                "brier_recalibrated": (0.97 * brier[teacher]).tolist(),
                "optimum_brier": {
                    loss: (brier[teacher] + 0.01 * i + 0.004 * rng.normal()).tolist() for i, loss in enumerate(losses)
                },
                "optimum_brier_recalibrated": {
                    loss: (0.97 * brier[teacher] + 0.003 * rng.normal()).tolist() for loss in losses
                },
            }
            for teacher, w in zip(teachers, worth, strict=True)
        },
        "baseline": _scores(baseline, rng),
        "students": students,
        "recipe": {"data": "digits", "split": {"train": 300, "heldout": 200, "transfer": 600}, "epochs": 40},
        "circumstances": {
            "preceptor": "0.1.0",
            "python": "3.12.4",
            "packages": {"torch": "2.7.1", "numpy": "2.4.6", "scipy": "1.17.1"},
            "commit": "4f7f8c4",
            "device": "cpu",
            "threads": 2,
            "date": "2026-08-01T12:00:00+00:00",
        },
        "time_total": 71.4,
    }


def fake_generations() -> dict[str, Any]:
    """Two chains of two generations, three seeds."""
    study = fake_study(("mse",), ("kd",), 3)
    kept = ("schema_version", "name", "command", "data", "seeds", "recipe", "circumstances", "time_total")
    keys = ("accuracy", "brier", "nll", "calibration_error", "entropy", "top_k_mass")

    def scores(accuracy: list[float]) -> dict[str, list[float]]:
        return {key: [0.5, 0.25, 0.75] for key in keys} | {"accuracy": accuracy}

    def link(generation: int, accuracy: list[float]) -> dict[str, Any]:
        return {"generation": generation, "test": scores(accuracy), "ensemble": scores([0.9, 0.9, 0.9])}

    chains = {start: [link(0, [0.8] * 3), link(1, [0.8, 0.81, 0.82])] for start in ("strict", "tolerant")}
    return {key: study[key] for key in kept} | {"top_k": 5, "chains": chains}


def _scores(accuracy: np.ndarray, rng: np.random.Generator, brier: np.ndarray | None = None) -> dict[str, Any]:
    brier = 1.4 * (1 - accuracy) if brier is None else brier
    heldout = {
        "accuracy": accuracy.tolist(),
        "brier": brier.tolist(),
        "nll": (2.1 * brier + 0.01 * rng.normal(size=brier.shape)).tolist(),
        "calibration_error": np.abs(0.04 + 0.01 * rng.normal(size=brier.shape)).tolist(),
    }
    return {"heldout": heldout, "test": dict(heldout)}


def _reliability(worth: float, rng: np.random.Generator, bins: int = 15) -> dict[str, list[float | None]]:
    """Bins of equal mass that crowd near 1, as those of a good classifier do; the first is empty."""
    confidence = 1 - 0.7 * np.linspace(0.02, 0.9, bins)[::-1] ** 2.2
    gap = 0.25 * worth * (1 - confidence) * confidence * 4 - 0.02
    accuracy = np.clip(confidence + gap + 0.03 * rng.normal(size=bins), 0, 1)
    count = rng.integers(100, 160, size=bins)
    return {
        "count": [0, *count[1:].tolist()],
        "confidence": [None, *confidence[1:].tolist()],
        "accuracy": [None, *accuracy[1:].tolist()],
    }
