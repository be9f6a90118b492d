"""Hooks of MkDocs: pages from files outside docs/, the glossary, links that leave docs/, and a search without a server.

The files are written for GitHub, where a link names a file of the repository. Here, a link to a file that has a page
becomes a link to this page. A link to any other file becomes a link into the repository, if SITE_REPOSITORY says where
that is, such as https://github.com/acme/learnink-webhooks; otherwise its text stays. A link to a file that does not
exist is a warning, which fails the build.
"""

import logging
import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
REPOSITORY = os.environ.get("SITE_REPOSITORY", "").rstrip("/")

# Files outside docs/ that have a page, and its name.
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/README.md": "examples.md",
}

# `](target)` of links and pictures. No target of ours has a space or a parenthesis.
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")

# A browser does not start a worker from a file. With this, the search runs in a frame instead. The theme would load it
# from the network.
SHIM = "https://unpkg.com/iframe-worker/shim"
SHIM_FILE = ROOT / "scripts/npm/node_modules/iframe-worker/shim/index.js"
SHIM_PAGE = "assets/iframe-worker.js"

log = logging.getLogger("mkdocs.hooks.site")


def on_config(config):
    """Adds the pages that the navigation does not name: each decision, and new pages of docs/."""
    named = set(_pages(config.nav))
    decisions = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.glob("decisions/*.md"))
    for entry in config.nav:
        if "Decisions" in entry:
            entry["Decisions"] = decisions
    others = sorted({path.name for path in DOCS.glob("*.md")} - named)
    if others:
        config.nav.append({"More": others})
    return config


def on_files(files, config):
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    words = contributing.partition("\n## Words\n")[2].partition("\n## ")[0]
    files.append(File.generated(config, "glossary.md", content=f"# Glossary\n{words}"))
    files.append(File.generated(config, SHIM_PAGE, content=SHIM_FILE.read_text(encoding="utf-8")))
    return files


def on_post_page(output, page, config):
    up = "../" * (len(PurePosixPath(page.url).parts) - 1)
    output = output.replace(SHIM, f"{up}{SHIM_PAGE}")
    for source in re.findall(r"""(?:src|srcset)=["'](https?:[^"']*)""", output):
        log.warning("%s loads %s from the network", page.url, source)
    return output


def on_post_template(output, template_name, config):
    return output.replace(SHIM, SHIM_PAGE)


def on_page_markdown(markdown, page, config, files):
    name = page.file.src_uri
    source = next((path for path, made in PAGES.items() if made == name), None)
    folder = (ROOT / source).parent if source else (ROOT if name == "glossary.md" else (DOCS / name).parent)
    lines, is_code = [], False
    for line in markdown.splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            is_code = not is_code
        lines.append(line if is_code else LINK.sub(lambda link: _link(link, folder, name), line))
    return "\n".join(lines) + "\n"


def _pages(nav):
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [value] if isinstance(value, str) else _pages(value)


def _link(link, folder, name):
    picture, text, target = link.groups()
    # A picture can be a link.
    text = LINK.sub(lambda inner: _link(inner, folder, name), text)
    path, hash_, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", target):
        return f"{picture}[{text}]({target})"
    file = Path(os.path.normpath(folder / path))
    if not file.is_relative_to(ROOT) or not file.exists():
        log.warning("%s links to %s, which does not exist", name, target)
        return text
    source = file.relative_to(ROOT).as_posix()
    page = PAGES.get(source) or (file.relative_to(DOCS).as_posix() if file.is_relative_to(DOCS) else None)
    if page and file.is_file():
        up = "../" * (len(PurePosixPath(name).parts) - 1)
        return f"{picture}[{text}]({up}{page}{hash_}{anchor})"
    if REPOSITORY:
        return f"[{text}]({REPOSITORY}/{'tree' if file.is_dir() else 'blob'}/main/{source}{hash_}{anchor})"
    return text
