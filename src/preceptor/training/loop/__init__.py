"""The training loop, its step, and the state that it goes on from."""
