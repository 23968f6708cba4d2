"""What MkDocs does beside its plugins: the start page from the README, the order of pages, links that leave docs/, and
docstrings' lines "name: what it is" as lists.
"""

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# Pages in the order of the menu; any other page of docs/ follows before the API
TITLES = {
    "index.md": "Start",
    "cli.md": "Commands",
    "results.md": "Results",
    "scoring.md": "Scoring",
    "checkpoints.md": "Checkpoints",
    "files.md": "Files that are read",
    "own_method.md": "Your own method",
    "editing.md": "Editing",
    "scaling.md": "Scaling",
    "app.md": "App",
    "development.md": "Development",
}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
LISTED = re.compile(r"^(\s*)`{0,2}([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*)`{0,2}: (.*)$")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the pages that exist."""
    docs = Path(config.docs_dir)
    names = [name for name in TITLES if name == "index.md" or (docs / name).is_file()]
    names += sorted(path.name for path in docs.glob("*.md") if path.name not in TITLES)
    api = [f"api/{path.name}" for path in sorted((docs / "api").glob("*.md"))]
    config.nav = [{TITLES[name]: name} if name in TITLES else name for name in names] + [{"API": api}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Makes the README the start page."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Writes links to files outside docs/ as the files' paths in the repository."""
    folder = ROOT if page.file.src_uri == "index.md" else (Path(config.docs_dir) / page.file.src_uri).parent

    def replaced(match: "re.Match[str]") -> str:
        text, target = match.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return match[0]
        place = (folder / target.partition("#")[0]).resolve()
        if place.is_relative_to(Path(config.docs_dir)) or files.get_file_from_path(target.partition("#")[0]):
            return match[0]
        path = f"`{place.relative_to(ROOT).as_posix()}`"
        return path if text.strip("`") == path.strip("`") else f"{text} ({path})"

    return LINK.sub(replaced, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Puts our own script in place of the one that the plugin `offline` takes from the network."""
    depth = page.file.dest_uri.count("/")
    return output.replace("https://unpkg.com/iframe-worker/shim", "../" * depth + "iframe_worker.js")


class ListedFields(griffe.Extension):
    """Reads the lines "name: what it is" of this project's docstrings as a section of parameters or attributes."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites an object's docstring."""
        if obj.docstring is not None:
            section = "Attributes" if obj.is_class else "Args"
            text = with_section(obj.docstring.value, section, _names(obj))
            # brackets are no links in docstrings
            obj.docstring.value = "`".join(
                part if place % 2 else part.replace("[", "\\[") for place, part in enumerate(text.split("`"))
            )


def with_section(text: str, section: str, names: set[str]) -> str:
    """A docstring whose lines about `names` are a section of Google's style. Deeper indented lines continue one."""
    lines, result, inside = text.splitlines(), [], False
    if f"{section}:" in text:
        return text
    for line in lines:
        match = LISTED.match(line)
        if match and not match[1] and set(match[2].split(", ")) & names:
            result += [] if inside else ["", f"{section}:"]
            inside = True
            result.append("    " + line)
        elif inside and line.startswith("    "):
            result.append("    " + line)
        else:
            result += [""] if inside and line.strip() else []
            inside = False
            result.append(line)
    return "\n".join(result)


def _names(obj: griffe.Object) -> set[str]:
    if obj.is_function:
        return {parameter.name for parameter in obj.parameters}
    return set(obj.members) if obj.is_class else set()
