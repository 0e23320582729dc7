"""How weights move: optimizers, schedules, averages of weights."""
