"""Whatever rows, columns, categories and names hold: in the card, its metadata and the page it is only text."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from support.hostile import HOSTILE
from support.made_runs import SCORER, sample_rows

from larf_curate.deciding.results import Results
from larf_curate.deciding.summary import ExecutorRecord, RunRecord, ScorerRecord, SourceRecord, Summary
from larf_curate.inert import fenced, markdown, visible
from larf_curate.publishing.build_report import build_report
from larf_curate.publishing.card import BEGIN, END, CardRequest, render_card, split_card
from larf_curate.publishing.excerpts import highest_rows
from larf_curate.publishing.page import render_page, write_page
from larf_curate.publishing.plots import draw_plots
from larf_curate.publishing.publication import publish_files
from larf_curate.scoring.records import ReferencesRecord, Separation

RENDER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
ACTIVE = {"script", "img", "svg", "iframe", "a", "style", "base", "meta", "form", "input", "object", "link", "video"}


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def tags(text: str) -> list[tuple[str, dict[str, str | None]]]:
    return Tags(RENDER.render(text)).found


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_text_in_markdown_is_text(number):
    shown = markdown(HOSTILE[number], 300)
    table = f"| a | b |\n| --- | --- |\n| {shown} | second |\n"
    for whole in (f"{shown}\n", f"- {shown}\n", table):
        found = Tags(RENDER.render(whole))
        assert {tag for tag, _ in found.found} <= {"p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    assert sum(tag == "td" for tag, _ in found.found) == 2
    assert "".join(Tags(RENDER.render(shown)).text).strip() == visible(HOSTILE[number], 300).strip()


@given(st.text(max_size=80))
def test_any_text_in_markdown_is_text(text):
    found = Tags(RENDER.render(f"x{markdown(text)}\n"))
    assert {tag for tag, _ in found.found} == {"p"}
    assert "".join(found.text).strip("\n") == f"x{visible(text, 200)}".rstrip()


@given(st.text(max_size=80))
def test_nothing_ends_a_fence(text):
    found = Tags(RENDER.render(f"{fenced(text)}\n\nafter\n"))
    assert [tag for tag, _ in found.found] == ["pre", "code", "p"]


def test_nothing_steers_what_is_visible():
    for text in HOSTILE:
        shown = visible(text, 500)
        assert len(shown) <= 500
        assert not re.search("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", shown)


@pytest.fixture
def hostile_run(make_run):
    """Every string as a prompt, an answer, a category and, some of them, the name of a column."""
    text = "<img src=x onerror=alert(1)> | `x` {{ 7*7 }} [a](javascript:b) \u202e <script>alert(1)</script>\n# b"
    rows = [
        {
            "question": HOSTILE[number % len(HOSTILE)],
            "answer": "a" + HOSTILE[(number + 7) % len(HOSTILE)],
            f"category {text}": HOSTILE[number % 25],
        }
        for number in range(256)
    ]
    scorer = replace(
        SCORER,
        model=HOSTILE[2],
        version=HOSTILE[6],
        references=ReferencesRecord(HOSTILE[0], HOSTILE[11], 3, 0, {}, tuple(HOSTILE[:29])),
        separation=Separation(0.5, 3, HOSTILE[22]),
    )
    run = make_run(rows, [number / 256 for number in range(256)], scorer=scorer)
    path = run / "larf_summary.json"
    source = SourceRecord(HOSTILE[1], rows=256, shards=1, digest=HOSTILE[3])
    record = RunRecord(
        source=source,
        scorer=ScorerRecord("scorer", HOSTILE[3]),
        scored="scored",
        format="auto",
        executor=ExecutorRecord("local", tasks=1),
        digest=HOSTILE[3],
        started=HOSTILE[8],
        model=HOSTILE[2],
        version=HOSTILE[6],
        layers=(3,),
        formula=HOSTILE[16],
        dtype=HOSTILE[13],
        finished=HOSTILE[9],
    )
    summary = replace(Summary.from_json(path.read_text()), issues={HOSTILE[12]: 3}, run=record)
    path.write_text(summary.to_json())
    (run / "recipe.yaml").write_text(
        yaml.safe_dump({"source": {"path": HOSTILE[18]}, "scorer": {"model": HOSTILE[11]}, "threshold": {}})
    )
    return run


@pytest.mark.usefixtures("blank_pictures")
def test_hostile_texts_in_the_card(hostile_run):
    results = Results.open(hostile_run)
    files = publish_files(results, "acme/clean", removed=True, examples=25)
    assert files.card.report.groups, "no group was found: the test tests nothing"
    assert files.card.report.scorer is not None, "no scorer is known: the test tests nothing"
    metadata = {"license": HOSTILE[18], "language": ["en", HOSTILE[19]]}
    request = CardRequest(**{**vars(files.card), "source_metadata": metadata})
    card = render_card(request)
    front, body = split_card(card)
    assert set(front) == {"tags", "size_categories", "configs"}  # neither licence nor language is one
    assert yaml.safe_load(card.split("---\n")[1]) == front
    assert (body.count(BEGIN), render_card(request, card)) == (1, card)
    found = Tags(RENDER.render(body)).found
    links = {attributes.get("href") for tag, attributes in found if tag == "a"}
    assert links == {"https://arxiv.org/abs/2507.18631"}
    pictures = [attributes["src"] for tag, attributes in found if tag == "img"]
    assert pictures == [f"larf/plots/{plot.name}" for plot in files.card.plots]
    assert {tag for tag, _ in found} & (ACTIVE - {"a", "img"}) == set()
    clean = render_card(CardRequest(**{**vars(files.card), "examples": ()}))
    headings = re.findall(r"^## .*", card, re.MULTILINE)
    assert [line for line in headings if "Examples" not in line] == re.findall(r"^## .*", clean, re.MULTILINE)
    assert len(card) < 100_000
    assert body.rstrip().endswith(END)


def test_hostile_texts_in_pictures_and_report(hostile_run):
    report = build_report(Results.open(hostile_run))
    assert len(draw_plots(report)) == 3
    assert len(report.to_json()) < 300_000


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--virtual-time-budget=15000"]


def browse(page: Path, script: str, tmp_path: Path, *flags: str) -> Any:
    """What a script finds in the page once the table is there; the script returns a JSON value."""
    asked = tmp_path / "asked.html"
    driver = f"""<script>
    window.addEventListener("error", (event) => {{ document.body.dataset.error = event.message; }});
    const waiting = setInterval(async () => {{
      if (document.body.dataset.ready) {{
        clearInterval(waiting);
        const found = await (async () => {{ {script} }})();
        document.body.textContent = "FOUND" + btoa(unescape(encodeURIComponent(JSON.stringify(found)))) + "END";
      }}
    }}, 20);
    </script>"""
    asked.write_text(page.read_text(encoding="utf-8").replace("</body>", driver + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", asked.as_uri()],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    found = re.search("FOUND(.*?)END", done.stdout)
    assert found, done.stdout[-500:] + done.stderr[-2000:]
    return json.loads(base64.b64decode(found[1]))


@pytest.mark.usefixtures("blank_pictures")
def test_hostile_texts_in_the_page_source(hostile_run):
    results = Results.open(hostile_run)
    hostile = Tags(render_page(results, build_report(results))).found
    assert {tag for tag, _ in hostile} & {"svg", "iframe", "base", "object", "link", "form"} == set()
    assert sum(tag == "script" for tag, _ in hostile) == 2
    assert all(not name.startswith("on") for _, attributes in hostile for name in attributes)
    sources = [attributes["src"] for tag, attributes in hostile if "src" in attributes]
    assert all(source.startswith("data:image/png;base64,") for source in sources)


@pytest.mark.process
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.usefixtures("blank_pictures")
def test_hostile_texts_in_a_browser(hostile_run, tmp_path):
    write_page(hostile_run, tmp_path / "page.html")
    script = """
    const rows = [...document.querySelectorAll("#rows tbody tr")];
    return {hit: document.body.dataset.hit || null, rows: rows.length,
            active: ["script", "img", "svg", "iframe", "a", "style"]
              .filter((tag) => document.querySelector(`td ${tag}`)),
            text: rows[0].cells[4].textContent};
    """
    found = browse(tmp_path / "page.html", script, tmp_path)
    assert found["hit"] is None
    assert found["active"] == []
    assert found["rows"] == 25
    best = highest_rows(Results.open(hostile_run), "removed", 1)[0]
    assert found["text"].strip() == visible(best.answer, 1000, lines=True).strip()


@pytest.mark.process
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_in_a_browser(plain_run, tmp_path):
    write_page(plain_run, tmp_path / "page.html")
    script = """
    const say = () => document.getElementById("outcome").textContent;
    const goes = () => document.querySelectorAll("#rows tr.goes").length;
    const slider = document.getElementById("threshold");
    const found = {start: [say(), goes()], stops: stops, moved: []};
    for (const place of [0, 100, slider.max]) {
      slider.value = place; slider.dispatchEvent(new Event("input"));
      found.moved.push([Number(place), say(), goes()]);
    }
    const search = document.querySelector("input[type=search]");
    search.value = "question 145?"; search.dispatchEvent(new Event("input"));
    found.searched = [...document.querySelectorAll("#rows tbody tr")].map((row) => row.cells[3].textContent.trim());
    search.value = ""; search.dispatchEvent(new Event("input"));
    const head = document.querySelector("#rows thead th");
    head.click();
    await new Promise((after) => setTimeout(after, 200));
    found.sorted = [...document.querySelectorAll("#rows tbody tr")].map((row) => row.cells[0].textContent.trim());
    found.wide = document.documentElement.scrollWidth <= window.innerWidth;
    return found;
    """
    found = browse(tmp_path / "page.html", script, tmp_path)
    results = Results.open(plain_run)
    scores = [float(score) for chunk in results.values("larf_score")() for score in chunk if score == score]
    assert "19 of 195 scored rows would be removed (9.7%), as they were" in found["start"][0]
    assert found["start"][1] == 19
    for place, said, goes in found["moved"]:
        stop = found["stops"]["scores"][place]
        count = sum(score > stop for score in scores)
        assert f": {count} of 195 scored rows" in said
        assert goes == min(count, 25)
    assert found["searched"] == ["question 145?"]
    order = [float(text) for text in found["sorted"] if text]
    assert len(order) > 15
    assert order == sorted(order)
    assert found["wide"]


CONTRAST = """
(frame) => {
  const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
  const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const parts = (colour) => [...numbers(colour).slice(0, 3), numbers(colour)[3] ?? 1];
  const view = frame.contentWindow, page = frame.contentDocument;
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parts(view.getComputedStyle(at).backgroundColor);
      if (colour[3] === 1) return colour;
      if (colour[3] !== 0) throw new Error("a half transparent ground");
    }
    throw new Error("no ground");
  };
  const found = [];
  const walk = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !element.getClientRects().length) continue;
    for (const pseudo of [null, "::before", "::after"]) {
      const style = view.getComputedStyle(element, pseudo);
      if (pseudo && ["none", "normal"].includes(style.content)) continue;
      const [a, b] = [light(parts(style.color)), light(ground(element))];
      found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.tagName + (pseudo ?? "")]);
    }
  }
  return {worst: found.sort((a, b) => a[0] - b[0])[0], texts: found.length, ground: ground(page.body),
          fits: page.documentElement.scrollWidth <= frame.clientWidth,
          headings: view.getComputedStyle(page.querySelector("#rows thead")).display};
}
"""


@pytest.mark.process
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("mode", ["dark", "light"])
def test_every_text_of_the_page_can_be_read_in_both_modes_at_both_widths(make_run, tmp_path, mode):
    rows, scores = sample_rows()
    rows[3]["answer"] = "long " * 1000  # one that is cut, in the mark's own colour
    scores[3] = 1.0
    write_page(make_run(rows, scores), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    outer = tmp_path / "outer.html"
    frames = "".join(
        f'<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{html.escape(page)}"></iframe>'
        for width in (390, 1280)
    )
    outer.write_text(f"<!DOCTYPE html><meta charset=utf-8><body data-ready=yes>{frames}</body>", encoding="utf-8")
    script = f"""
    const frames = [...document.querySelectorAll("iframe")];
    while (!frames.every((frame) => frame.contentDocument?.body?.dataset.ready)) {{
      await new Promise((after) => setTimeout(after, 20));
    }}
    return frames.map({CONTRAST});
    """
    phone, desk = browse(outer, script, tmp_path, f"--blink-settings=preferredColorScheme={int(mode == 'light')}")
    for found in (phone, desk):
        assert found["texts"] > 150
        assert found["worst"][0] >= 4.5, found["worst"]
        assert (sum(found["ground"][:3]) > 3 * 128) == (mode == "light")
        assert found["fits"]
    assert (phone["headings"], desk["headings"]) == ("none", "table-header-group")


@pytest.mark.process
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.usefixtures("blank_pictures")
def test_what_the_page_says_of_a_row_follows_the_slider(make_run, tmp_path):
    rows, scores = sample_rows()
    rows[3]["answer"] = "long " * 1000
    scores[3] = 1.0
    run = make_run(rows, scores)
    write_page(run, tmp_path / "page.html")
    script = """
    const cell = (name) => [...document.querySelectorAll("#rows tbody tr")]
      .map((row) => row.querySelector(`[data-label=${name}]`).textContent.trim());
    const pick = (box, value) => { box.value = value; box.dispatchEvent(new Event("change")); };
    const found = {title: document.title, before: cell("outcome")[0], cut: cell("answered")[0].slice(-9)};
    found.first = [document.getElementById("outcome").textContent, document.getElementById("command").textContent];
    pick(document.getElementById("size"), "500");
    found.near = cell("outcome").filter((text) => text.includes("just under")).length;
    found.kept = cell("outcome").filter((text) => text.startsWith("kept")).length;
    slider.value = slider.max; slider.dispatchEvent(new Event("input"));
    found.after = cell("outcome")[0];
    slider.value = 100; slider.dispatchEvent(new Event("input"));
    found.command = document.getElementById("command").textContent;
    found.stop = stops.scores[100];
    found.now = cell("outcome").filter((text) => text.startsWith("removed")).length;
    found.unsafe = document.getElementById("outcome").textContent;
    pick(document.getElementById("sort"), "2 up");
    found.sorted = cell("row").slice(0, 3);
    found.category = document.querySelector("td[data-label=category]").hidden;
    const box = document.querySelector("#columns input");
    box.click();
    found.then = document.querySelector("td[data-label=category]").hidden;
    return found;
    """
    found = browse(tmp_path / "page.html", script, tmp_path)
    assert (found["before"], found["after"]) == ("removed", "kept, just under the threshold (was removed)")
    assert found["cut"] == " cut here"
    said, copied = found["first"]  # the same threshold in both
    assert said.startswith(f"above {copied.rpartition(' ')[2]}: ")
    assert found["kept"] > 100
    assert 0 < found["near"] < 30
    assert found["command"].startswith("larf-curate filter ")
    shown = float(found["command"].rpartition(" ")[2])
    assert shown == found["stop"]
    assert found["now"] == sum(score is not None and np.float32(score) > shown for score in scores)
    assert "% of the unsafe references score above it" in found["unsafe"]
    assert found["sorted"] == ["0", "1", "2"]
    assert (found["category"], found["then"]) == (False, True)
