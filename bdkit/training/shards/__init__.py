"""Training data on disk: tar files that any webdataset reader can read, and an index for exact order and resume.

A folder of shards holds

    shard-000000.tar   records of `KEY.json`, `KEY.jpg` (mini: `KEY.png`) and, where the subject is cut out,
                       `KEY.alpha.png`, `KEY.foreground.jpg` and `KEY.trimap.png`
    index.parquet      one row a record: shard, offset, size, key, hash (SHA-256 of its bytes in the tar)
    dataset.json       settings, counts, and each shard's name, size in bytes and number of records
    rejected.csv       row, source, reason and detail of every image that was left out

`KEY.json` holds caption, subject (the class noun), source, width, height, pixels (SHA-256 of the source's pixels) and,
where there is an alpha, box (its left, top, right and bottom edge in pixels) and area (its share of the image).

The mini world's records also hold, where they are needed, `KEY.plain.png` and `KEY.plain_alpha.png` (the subject
without outfit or change), `KEY.foreground.png` and `KEY.matte.png` (closed-form matting); the json's template and
detail (its captions).
"""
