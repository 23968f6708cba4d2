"""Images on disk -> scores; knows nothing of models, methods or the mini world."""
