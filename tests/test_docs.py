"""The pages: links lead somewhere, the README is short, the reference is what the code makes."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def without_code(text):
    """Markdown without blocks of code and without code in its lines."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def links(text):
    """The targets of links and images."""
    return re.findall(r"\]\(([^()\s]+)\)", without_code(text))


def anchors(text):
    """The anchors of the headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#{1,6} +(.+?) *$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page, *, root=ROOT):
    """The relative links of a page that lead to no file or no heading below `root`."""
    for target in links(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or not file.is_relative_to(root):
            yield f"{target}: no such file"
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
            yield f"{target}: no such heading"


def test_links_are_found_and_checked(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One `thing`, two\n[a](#one-thing-two) [b](#three) ![c](absent.png)\n"
                    "[d](https://example.org/x) `[e](absent.md)`\n```\n[f](absent.md)\n```\n")
    assert list(broken(page, root=tmp_path)) == ["#three: no such heading",
                                                 "absent.png: no such file"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_headings(page):
    assert list(broken(page)) == []


def test_every_page_is_in_the_index():
    index = links((ROOT / "docs" / "index.md").read_text(encoding="utf-8"))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages - set(index) == set()


def test_readme_is_short_and_names_its_limit():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert "Research software, not a medical device" in text


def named_in_reference(pattern):
    return set(re.findall(pattern, (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_fields_and_flags_in_pages_exist(page):
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fields = set(re.findall(r"--config\.([a-z_0-9.]*[a-z_0-9])=", text))
    assert fields - named_in_reference(r"\| `([a-z_0-9.]+)` \|") == set()
    flags = {flag for command in re.findall(r"main\.py +([^\n`#]*)", text)
             for flag in re.findall(r"(?<!\S)--([a-z_]+)(?==|\s|$)", command)}
    assert flags - named_in_reference(r"\| `--([a-z_]+)` \|") - {"helpfull", "help"} == set()


def test_reference_is_what_the_code_makes():
    done = subprocess.run([sys.executable, "docs/make_reference.py", "--check"], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
