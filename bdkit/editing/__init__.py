"""Ways to steer an image beyond its prompt."""
