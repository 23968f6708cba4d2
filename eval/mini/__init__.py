"""The shipped evaluators of the mini world: networks, training, measurements."""
