"""How fast report.html opens and scrolls in headless Chromium, and how large it is beside its thumbnails.

examples:
  python benchmarks/report.py results/mini-quick
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from eval.report.gallery import thumbnail
from eval.report.html import REPORT_FILE
from eval.results_dir import load_saved_suite, reference_paths
from eval.score.images import read_tree

# A finger's swipe is 2,000 to 4,000 pixels a second; a page is 900
SPEEDS = (3000, 9000)
SECONDS = 6.0
# Each frame: is every card of the screen there, and its two images decoded? Where not, or where no frame comes, the
# screen is blank; the longest such time counts.
SCROLL = """
const [speed, seconds, done] = arguments, gallery = document.getElementById("gallery");
const top = scrollY + gallery.getBoundingClientRect().top;
let started = null, last = null, blankSince = null, longest = 0, gap = 0, frames = 0, seen = new Set();
const empty = (x, y) => [gallery, null].includes(document.elementFromPoint(x, y));
const whole = () => {
  const box = gallery.getBoundingClientRect();
  for (let y = Math.max(45, box.top + 20); y < Math.min(innerHeight, box.bottom - 20); y += 60) {
    for (const x of [box.left + 60, box.left + box.width / 2, box.right - 60]) {
      if (empty(x, y) && empty(x, y + 20)) return false;  // more than the gap between two lines
    }
  }
  for (const image of gallery.querySelectorAll("img")) {
    const at = image.getBoundingClientRect();
    if (at.bottom < 0 || at.top > innerHeight) continue;
    if (!image.complete || !image.naturalWidth) return false;
    seen.add(image.src);
  }
  return true;
};
const frame = () => {
  const now = performance.now();
  if (started === null) started = last = now;
  gap = Math.max(gap, now - last); last = now; frames++;
  if (whole()) { if (blankSince !== null) longest = Math.max(longest, now - blankSince); blankSince = null; }
  else if (blankSince === null) blankSince = now;
  if (now - started > seconds * 1000) { done([longest, gap, frames, seen.size]); return; }
  scrollTo(0, top + speed * (now - started) / 1000);
  requestAnimationFrame(frame);
};
scrollTo(0, top);
setTimeout(() => requestAnimationFrame(frame), 500);
"""


def open_browser(profile: Path) -> Any:
    """Headless Chromium of 1,280 x 900 pixels."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "window-size=1280,900",
                 f"user-data-dir={profile}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def thumbnail_bytes(out: Path) -> tuple[int, int]:
    """How many images a results folder shows, references among them, and the bytes of their thumbnails as files."""
    suite = load_saved_suite(out)
    files = [image.path for image in read_tree(out, suite, out.name).images]
    files += [path for subject in suite.subjects for path in reference_paths(out, suite, subject, None)]
    return len(files), sum(len(thumbnail(path)) for path in files)


def main() -> None:
    """Prints a line for the size, for opening, and for each speed of scrolling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="DIR", help="results folder with report.html and its images")
    parser.add_argument("--times", type=int, default=5, help="how often the page is opened (default: 5)")
    args = parser.parse_args()
    page = args.out / REPORT_FILE
    n, size = thumbnail_bytes(args.out)
    whole = page.stat().st_size
    print(f"size: {whole:,} bytes for {n:,} thumbnails of {size:,} bytes: {whole / size:.3f}")
    with tempfile.TemporaryDirectory() as profile:
        browser = open_browser(Path(profile))
        try:
            opened = []
            for _ in range(args.times):
                browser.get("about:blank")
                started = time.monotonic()
                browser.get(page.resolve().as_uri())
                ready = "return document.documentElement.dataset.ready"
                while not (milliseconds := browser.execute_script(ready)):
                    time.sleep(0.01)
                opened.append((int(milliseconds), round(1000 * (time.monotonic() - started))))
            print("opened, ms from navigation to the last line of the script (and by the wall clock):", opened)
            for speed in SPEEDS:
                blank, gap, frames, seen = browser.execute_async_script(SCROLL, speed, SECONDS)
                print(
                    f"scrolled {speed:,} px/s for {SECONDS:g} s: blank for at most {blank:.0f} ms, longest time "
                    f"between frames {gap:.0f} ms, {frames} frames, {seen} images"
                )
        finally:
            browser.quit()


if __name__ == "__main__":
    main()
