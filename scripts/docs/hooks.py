"""What the documentation site shows that does not lie in ``docs/``, and the links to it. Read by MkDocs (mkdocs.yml).

- A page for each public module of ``src/hemolens`` (below ``reference/``): a new module appears by itself.
- Each notebook as a page (below ``notebooks/``), with the notebook to download.
- CONTRIBUTING.md and CHANGELOG.md.
- Whatever file of the repository a page links to, such as ``../results/demo.json``, under its own path.

Links in ``docs/`` are written for the repository, where they work as they stand; here they are turned to the site's.
"""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "hemolens"
NOT_SHOWN = ("cli",)  # the command line is described by the pages and by --help
REPOSITORY_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
NOTEBOOKS = {f"notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in sorted(ROOT.glob("notebooks/*.ipynb"))}
LINK = re.compile(r"(?<=\]\()([^()\s]+)(?=\))")
FENCE = re.compile(r"^( *)(`{3,}|~{3,})", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation, and give headings the anchors that GitHub gives them."""
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    trees: dict[str, list[Any]] = {
        "reference/": _reference_nav(),
        "notebooks/": [{_notebook_title(ROOT / name): page} for name, page in NOTEBOOKS.items()],
    }
    config.nav = _filled(config.nav, trees)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of other files, and the files that pages link to."""
    sources = {f"docs/{file.src_uri}": file.src_uri for file in files.documentation_pages()}
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in (*sources, *REPOSITORY_PAGES)}
    texts |= {name: notebook_markdown(ROOT / name) for name in NOTEBOOKS}
    made = REPOSITORY_PAGES | NOTEBOOKS
    for name, page in made.items():
        files.append(File.generated(config, page, content=links_for_site(texts[name], name, page)))
    for name in NOTEBOOKS:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    for page, module in reference_pages():
        files.append(File.generated(config, page, content=f"::: {module}\n"))
    for name in sorted({target for source, text in texts.items() for target in linked_files(text, source)}):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page of ``docs/`` that leave that folder."""
    if page.file.generated_by is not None:
        return markdown
    return links_for_site(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def links_for_site(text: str, source: str, page: str) -> str:
    """``text`` of the repository's file ``source`` with its links as seen from the site's ``page``."""

    def turned(match: re.Match[str]) -> str:
        target, mark, anchor = match[1].partition("#")
        name = _in_repository(target, source)
        if name is None:
            return match[1]
        place = (REPOSITORY_PAGES | NOTEBOOKS).get(name, name.removeprefix("docs/"))
        return posixpath.relpath(place, posixpath.dirname(page) or ".") + mark + anchor

    return LINK.sub(turned, text)


def linked_files(text: str, source: str) -> Iterator[str]:
    """Files of the repository outside of ``docs/`` that ``text`` links to, by their path there."""
    for target in LINK.findall(text):
        name = _in_repository(target.partition("#")[0], source)
        if name and not name.startswith("docs/") and name not in REPOSITORY_PAGES | NOTEBOOKS:
            yield name


def _in_repository(target: str, source: str) -> str | None:
    """The repository's path of a relative link, if a file is there."""
    if not target or ":" in target or target.startswith("/"):
        return None
    name = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    return name if not name.startswith("..") and (ROOT / name).is_file() else None


def notebook_markdown(path: Path) -> str:
    """A notebook as Markdown: its text and code. Outputs are not kept in the repository, so there are none."""
    cells = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"]).strip()
        if text:
            cells.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    download = f"[Download the notebook](./{path.name}): it runs as it stands and draws the pictures."
    return "\n\n".join([cells[0], download, *cells[1:]]) + "\n"


def _notebook_title(path: Path) -> str:
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    return first.splitlines()[0].lstrip("# ")


def reference_pages() -> Iterator[tuple[str, str]]:
    """(page, dotted name) of every public module; a package's page is its folder's index."""
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[0] in NOT_SHOWN or any(part.startswith("_") for part in parts if part != "__init__"):
            continue
        package = parts[-1] == "__init__"
        parts = parts[:-1] if package else parts
        page = "/".join(("reference", *parts, "index") if package else ("reference", *parts))
        yield f"{page}.md", ".".join(("hemolens", *parts))


def _reference_nav() -> list[Any]:
    """The reference's part of the navigation: a section a package, its own page first."""
    sections: dict[str, list[Any]] = {"reference": []}
    for page, module in sorted(reference_pages(), key=lambda entry: entry[0].replace("/index.md", "/")):
        folder, _, name = page.rpartition("/")
        if name == "index.md":
            parent = posixpath.dirname(folder)
            if parent:
                sections[parent].append({folder.rpartition("/")[2]: sections.setdefault(folder, [])})
            sections[folder].append(page)
        else:
            sections[folder].append({module.rpartition(".")[2]: page})
    return sections["reference"]


def _filled(nav: Any, trees: dict[str, list[Any]]) -> Any:
    """``nav`` with each entry that names one of ``trees`` replaced by that tree."""
    if isinstance(nav, list):
        return [_filled(entry, trees) for entry in nav]
    if isinstance(nav, dict):
        return {title: _filled(entry, trees) for title, entry in nav.items()}
    return trees.get(nav, nav)
