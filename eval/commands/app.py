"""`bdkit app`: a page to draw, teach, edit, look and compare in.

examples:
  bdkit app
  bdkit app --model salesforce/blipdiffusion --subjects my-dog,my-cat --port 8000
"""

import argparse
import os

from bdkit.utils.config import add_dataclass_arguments, config_from_args
from bdkit.utils.errors import InputError
from eval.app.config import AppConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `AppConfig`."""
    add_dataclass_arguments(parser, AppConfig)


def run(args: argparse.Namespace) -> int:
    """Serves the page until it is stopped."""
    config = config_from_args(AppConfig, args)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait in between must not spin
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise InputError("bdkit app needs Gradio; install it with: pip install 'bdkit[app]'") from None
    from eval.app.page import serve

    serve(config)
    return 0
