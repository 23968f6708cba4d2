"""How it is measured: images on disk -> scores -> tables. Write `from eval.x import y`: `eval` is also a builtin."""
