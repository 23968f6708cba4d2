"""How the mini world is drawn: pen and brush, patterns, every class of subjects and every context."""
