"""The documentation site builds without a warning, its links hold, and its command lines are what hemolens takes."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html import unescape
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest
from pymdownx.slugs import slugify

from ..conftest import load_module

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
REPOSITORY_PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
TAG = re.compile(r"<[a-zA-Z][^<>]*>")
ATTRIBUTE = re.compile(r'\s(href|src|id|name)=("[^"]*"|[^\s">]+)')


@pytest.fixture(scope="module")
def commands() -> ModuleType:
    return load_module(Path(__file__).with_name("commands.py"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_command_lines_are_those_that_hemolens_takes(commands: ModuleType, tmp_path: Path) -> None:
    checker = commands.Checker(tmp_path)
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
    found = [finding for page in pages for finding in checker.findings(page)]
    assert not found, "\n".join(found)


STALE = """\
Say `hemolens trian` and `hemolens train --help`.

```sh
hemolens train experiment=demo optimiser.lr=1e-3      # a key that is not there
hemolens train experiment=dem
hemolens train experiment=demo seed=0,1               # without -m
hemolens train -m experiment=demo seed=0,1 net=fcos_r18_pafpn,fcos_r19
hemolens predict ckpt_path=<run>/checkpoints/best.ckpt
hemolens predict ckpt_path=demo input=images/ hematology.mode=gp_threshold
hemolens collect outputs/ --compared arm=plain
make demos && python scripts/no_such.py
pip install 'hemolens[gpu]'
hemolens train --config-dir my_configs experiment=mine
```
"""
SOUND = """\
In the text keys may be left out: `hemolens predict pipeline=storage`, `hemolens train data=holograms …`.

    hemolens train -m experiment=demo seed=0,1 net=fcos_{r18_pafpn,r50_fpn} \\
        logger=wandb_offline

```yaml title="my_configs/experiment/mine.yaml"
# @package _global_
defaults:
  - demo
task_name: mine
```

```sh
make demo && source .venv/bin/activate                # the rest of a line
HEMOLENS_ACEVEDO=<folder> hemolens train experiment=ssl_resunet18_{set}_quick trainer.max_time=…
hemolens train --config-dir my_configs experiment=mine trainer.max_epochs=2
hemolens train -m sweep=seeds experiment=… optimizer.lr=1e-4,1e-3
hemolens predict ckpt_path=<run>/checkpoints/best.ckpt input=images/ | tee log
hemolens collect outputs/ --metric test/ap_PLT && python -c "
import json
print(json.dumps({}))"
```
"""


def test_stale_command_lines_are_found(commands: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(STALE)
    found = commands.Checker(tmp_path / "configs_of_stale").findings(page)
    expected = ["trian", "optimiser.lr", "'dem'", "several values", "fcos_r19", "input must", "hematology.mode"]
    expected += ["--compared", "demos", "no_such.py", "extra gpu", "folder my_configs"]
    assert len(found) == len(expected), "\n".join(found)
    for what in expected:
        assert any(what in finding for finding in found), f"{what}\n" + "\n".join(found)
    page.write_text(SOUND)
    assert commands.Checker(tmp_path / "configs_of_sound").findings(page) == []


def anchors_of(text: str) -> set[str]:
    """Anchors of a Markdown file's headings."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    slug = slugify(case="lower")
    return {slug(re.sub(r"[`*]", "", title), "-") for title in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)}


@pytest.mark.parametrize("page", [*REPOSITORY_PAGES, *PAGES], ids=lambda page: page.name)
def test_links_and_images_hold_in_the_repository(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\(([^()\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors_of(file.read_text())):
            broken.append(target)
    assert not broken


@pytest.mark.slow
def test_site_builds_and_every_link_in_it_holds(site: Path) -> None:
    @cache
    def read(path: Path) -> tuple[frozenset[str], tuple[str, ...]]:
        attributes = [
            match for tag in TAG.findall(path.read_text(encoding="utf-8")) for match in ATTRIBUTE.findall(tag)
        ]
        plain = [(name, unescape(value.strip('"'))) for name, value in attributes]
        anchors = frozenset(value for name, value in plain if name in ("id", "name"))
        return anchors, tuple(value for name, value in plain if name in ("href", "src"))

    pages = sorted(site.rglob("*.html"))
    broken = {
        f"{page.relative_to(site)}: {link}"
        for page in pages
        for link in dict.fromkeys(read(page)[1])
        if not holds(link, page, site, lambda path: read(path)[0])
    }
    assert len(pages) > len(PAGES) + 100  # the API's too
    assert not broken, "\n".join(sorted(broken)[:40])


def holds(link: str, page: Path, site: Path, anchors: object) -> bool:
    """Whether the file of a link is in the site, with its anchor; links to elsewhere are not followed."""
    if re.match(r"[a-z]+:", link):
        return True
    path, _, anchor = link.partition("#")
    path = unquote(path.partition("?")[0])
    file = page if not path else (site / path.lstrip("/") if path.startswith("/") else page.parent / path)
    file = file / "index.html" if file.is_dir() else file
    if not file.is_file():
        return False
    return not anchor or file.suffix != ".html" or unquote(anchor) in anchors(file)  # type: ignore[operator]


@pytest.mark.slow
def test_site_shows_all_and_fetches_nothing(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    for page in [path.relative_to(ROOT / "docs").with_suffix(".html") for path in PAGES]:
        assert (site / page).is_file()
    assert "detection.html" in start  # the navigation
    for module in ("data/contracts", "nets/fcos/model", "optics/holography/retrieval", "inference/load"):
        assert (site / "reference" / f"{module}.html").is_file()
    assert 'class="doc doc-heading"' in (site / "reference/inference/load.html").read_text(encoding="utf-8")
    fetched = {
        tag
        for page in site.rglob("*.html")
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text(encoding="utf-8"))
        if re.search(r'(?:src|href)="?(?:https?:)?//', tag) and 'rel="canonical"' not in tag
    }
    assert not fetched
    assert not [css for css in site.rglob("*.css") if re.search(r"url\(['\"]?https?:", css.read_text(encoding="utf-8"))]


@pytest.mark.slow
def test_markdown_of_the_repository_is_understood_by_the_site(site: Path) -> None:
    """Lists, fences and tables that only one of the two reads as such would be seen as text."""
    odd = []
    for page in [site / path.relative_to(ROOT / "docs").with_suffix(".html") for path in PAGES]:
        text = re.sub(r"<(pre|code|svg|script)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        odd += [
            f"{page.name}: {line[:90]}" for line in paragraphs(text) if re.search(r"```|^\s*([-*]|\d+\.) |^\|", line)
        ]
    assert not odd, "\n".join(odd)


def paragraphs(html: str) -> Iterator[str]:
    for body in re.findall(r"<p>(.*?)</p>", html, flags=re.DOTALL):
        yield from body.splitlines()
