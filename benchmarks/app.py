"""What the app costs: from click to image in a real browser, beside the library's call, one after the other.

python benchmarks/app.py --draws 12 --images 4
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

CLICK = """
const [prompt, seeds, done] = [arguments[0], arguments[1], arguments[2]];
const set = (selector, text) => {
  const field = document.querySelector(selector); field.value = text;
  field.dispatchEvent(new Event('input', {bubbles: true})); field.dispatchEvent(new Event('change'));
};
set('#draw-prompt textarea', prompt); set('#draw-seeds textarea', seeds);
setTimeout(() => {
  const before = document.querySelector('#draw-images img')?.src, start = performance.now();
  document.querySelector('#draw-go').click();
  const look = () => {
    const image = document.querySelector('#draw-images img');
    if (image && image.src !== before && image.complete && image.naturalWidth) done(performance.now() - start);
    else setTimeout(look, 5);
  };
  look();
}, 200);
"""


def main() -> int:
    """Prints the medians in milliseconds, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--images", type=int, default=4, help="images of one click; the page's own default is 4")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--chromedriver", default="/usr/bin/chromedriver")
    args = parser.parse_args()
    command = [sys.executable, "-m", "bdkit.cli", "app"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found, "the server did not start"
        measure(found[0], args)
    finally:
        server.terminate()
        server.wait()
    return 0


def measure(url: str, args: argparse.Namespace) -> None:
    """Draws each seed in the browser and by the library, in turn."""
    from selenium import webdriver

    from bdkit import BlipDiffusion
    from bdkit.utils.env import device_name
    from dreambench.registry import load_suite
    from eval.generate.references import load_references

    suite = load_suite("mini")
    dog = next(subject for subject in suite.subjects if subject.name == "dog")
    images, model = load_references(suite, dog), BlipDiffusion.from_pretrained("mini")
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = args.chromium
        for flag in ("headless", "no-sandbox", "disable-gpu", "window-size=1280,1000", f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        browser: Any = webdriver.Chrome(options=options, service=webdriver.ChromeService(args.chromedriver))
        browser.set_script_timeout(300)
        try:
            browser.get(url)
            while not browser.execute_script("return document.querySelectorAll('.thumbs img').length"):
                time.sleep(0.2)
            clicks, calls, turns = [], [], []
            for draw in range(args.draws + 1):
                seeds = [draw * args.images + number for number in range(args.images)]
                text = ",".join(map(str, seeds))
                clicks.append(float(browser.execute_async_script(CLICK, "a {} in the snow", text)))
                turns.append(browser.execute_script("return document.querySelector('#draw-status').textContent"))
                start = time.perf_counter()
                model("a {} in the snow", images, dog.class_noun, seeds=seeds)
                calls.append((time.perf_counter() - start) * 1000)
        finally:
            browser.quit()
    click, call = statistics.median(clicks[1:]), statistics.median(calls[1:])  # the first of each warms up
    print(f"{device_name()}; load {os.getloadavg()[0]:.1f}; {args.draws} draws of {args.images} images, mini")
    print(f"click to image {click:.0f} ms, library call {call:.0f} ms, overhead {100 * (click / call - 1):.0f}%")
    for name, values in (("clicks", clicks), ("calls", calls)):
        print(name, " ".join(f"{value:.0f}" for value in values))
    print("the server says:", " ".join(turns))


if __name__ == "__main__":
    sys.exit(main())
