"""What `make docs` adds to the pages of this folder: the README, the figures and the notebooks, which lie beside it.

The pages link to them where they lie, so that they can be read in the repository too.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File
from nbconvert import HTMLExporter

ROOT = Path(__file__).parents[1]
#: The README's place among the pages.
_README = "readme.md"
#: What else of the repository may be linked to; it is shown as text.
_TEXTS = ("results/README.md", "results/SHA256SUMS", "CITATION.cff", "CHANGELOG.md", "LICENSE")


def on_files(files, config):
    """Add the README, every figure, every notebook as a page of its own, and the texts that pages link to."""
    readme = re.sub(r"\]\(docs/", "](", (ROOT / "README.md").read_text(encoding="utf-8"))
    files.append(File.generated(config, _README, content=re.sub(r"\]\((?!https?:|#|[\w-]+\.md\))", "](../", readme)))
    for figure in sorted((ROOT / "figures").glob("*.png")):
        files.append(File.generated(config, f"figures/{figure.name}", abs_src_path=str(figure)))
    exporter = HTMLExporter()
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        content, _ = exporter.from_filename(str(notebook))
        files.append(File.generated(config, f"notebooks/{notebook.stem}.html", content=content))
    for name in _TEXTS:
        files.append(File.generated(config, f"{name}.txt", content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    """Let links out of this folder lead to where `on_files` puts their files."""
    markdown = markdown.replace("](../README.md)", f"]({_README})").replace("](../docs/", "](")
    markdown = re.sub(r"\]\(\.\./(notebooks/\w+)\.ipynb\)", r"](\1.html)", markdown)
    markdown = re.sub(rf"\]\(\.\./({'|'.join(map(re.escape, _TEXTS))})\)", r"](\1.txt)", markdown)
    return re.sub(r"\]\(\.\./(figures/\w+\.png)\)", r"](\1)", markdown)
