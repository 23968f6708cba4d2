"""From a user's images and captions to shards: segmentation, matting, filters."""
