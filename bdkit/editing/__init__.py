"""Ways to steer a picture beyond its prompt."""
