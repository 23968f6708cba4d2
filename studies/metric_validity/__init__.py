"""What the metrics mean in a world whose truth is known, and how they can be fooled."""
