"""The contact sheet: what it shows, that it needs no network, and that names stay text."""

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import corpus
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page
from pyarrow import parquet as pq

from raytransfer.cli import main
from raytransfer.data.manifest import demo_shards, read_labels, read_manifest
from raytransfer.data.shards import prepare
from raytransfer.data.sheet import write_sheet
from raytransfer.errors import UserError

NAME = "<img src=x onerror=alert(1)> &amp; \"'"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards in which a class and an image have names with HTML in them."""
    folder = tmp_path_factory.mktemp("named")
    tree = corpus.imagenet_tree(folder / "source")
    for split in ("train", "val"):
        (tree / split / "n01440764").rename(tree / split / NAME)
    image = next((tree / "train" / NAME).iterdir())
    image.rename(image.with_name("<script>alert(2)<\\script>.JPEG"))
    prepare(tree, folder / "shards", size=96)
    return folder / "shards"


def sheet(shards: Path, tmp_path: Path, **settings: object) -> str:
    write_sheet(shards, tmp_path / "sheet.html", **settings)
    return (tmp_path / "sheet.html").read_text(encoding="utf-8")


def sections(page: str) -> dict[str, list[str]]:
    """The data: URIs of the images of each class."""
    found = re.findall(r"<section>\s*<h2><bdi>(.*?)</bdi>(.*?)</section>", page, re.DOTALL)
    return {unescape(name): re.findall(r'src="(data:[^"]+)"', body) for name, body in found}


def test_the_first_images_of_each_class_are_shown(shards: Path, tmp_path: Path) -> None:
    page = sheet(shards, tmp_path, per_class=3, split="val")
    shown = sections(page)
    manifest = read_manifest(shards)
    assert tuple(shown) == manifest.classes
    rows = pq.read_table(shards / manifest.val[0].name).to_pylist()
    for label, name in enumerate(manifest.classes):
        mine = [row for row in rows if row["label"] == label][:3]
        assert len(shown[name]) == len(mine) == corpus.VAL
        for uri, row in zip(shown[name], mine, strict=True):
            kind, data = uri.split(",")
            assert kind == "data:image/jpeg;base64"
            stored = Image.open(io.BytesIO(row["image"]))
            there = Image.open(io.BytesIO(base64.b64decode(data)))
            assert there.size == stored.size
            means = (image.resize((1, 1)).getpixel((0, 0)) for image in (there, stored))
            assert all(abs(a - b) < 6 for a, b in zip(*means, strict=True))
    assert "16 validation images in 8 classes, 2 each, stored in colour at 96x96" in page


def test_small_images_are_shown_pixel_by_pixel(tmp_path: Path) -> None:
    manifest = read_manifest(demo_shards())
    shown = sections(sheet(demo_shards(), tmp_path, per_class=2))
    labels = read_labels(manifest, "train")
    rows = pq.read_table(demo_shards() / manifest.train[0].name)["image"]
    for label, name in enumerate(manifest.classes):
        for uri, row in zip(shown[name], (labels == label).nonzero()[0][:2].tolist(), strict=True):
            there = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("L")
            stored = Image.open(io.BytesIO(rows[row].as_py()))
            assert there.tobytes() == stored.tobytes()


def test_of_many_classes_evenly_spread_ones_are_shown(shards: Path, tmp_path: Path) -> None:
    page = sheet(shards, tmp_path, classes=4)
    assert tuple(sections(page)) == read_manifest(shards).classes[::2]
    assert "Shown are 4 classes, evenly spread." in page
    assert len(re.findall(r"<td>6</td><td>2</td>", page)) == 8


def test_the_same_shards_give_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    assert sheet(shards, tmp_path) == sheet(shards, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.html"]


def test_a_page_of_fifty_classes_of_photographs_is_under_10_mb(tmp_path: Path) -> None:
    source = tmp_path / "source"
    images = [image.jpeg for image in corpus.photographs()]
    for split, n in (("train", 8), ("val", 1)):
        for i in range(50 * n):
            corpus.write(source / split / f"{i % 50:02d}" / f"{i}.JPEG", images[i % len(images)])
    prepare(source, tmp_path / "shards", size=256)
    page = sheet(tmp_path / "shards", tmp_path)
    assert page.count("<img ") == 400
    assert len(page) < 10e6


def test_an_image_that_cannot_be_decoded_is_said_so(shards: Path, tmp_path: Path) -> None:
    spoilt = Path(shutil.copytree(shards, tmp_path / "spoilt"))
    path = spoilt / read_manifest(spoilt).train[0].name
    whole = path.read_bytes()
    row = pq.read_table(path).to_pylist()[0]
    path.write_bytes(whole.replace(row["image"], bytes(len(row["image"]))))
    page = sheet(spoilt, tmp_path)
    assert page.count("cannot be decoded: ") == 1
    assert page.count("<img ") == 47


def test_wrong_settings_and_places_are_refused(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="--per-class is 1 or more, not 0"):
        write_sheet(shards, tmp_path / "sheet.html", per_class=0)
    with pytest.raises(UserError, match="--classes is 1 or more, not -1"):
        write_sheet(shards, tmp_path / "sheet.html", classes=-1)
    assert main(["show", str(tmp_path)]) == 2
    assert "is empty" in capsys.readouterr().err
    assert main(["show", str(shards), "--out", str(tmp_path / "no" / "where.html")]) == 2
    assert "where.html cannot be written: No such file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_prints_the_path_of_its_page(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "here.html"
    args = ["show", shards.as_uri(), "--out", str(out), "--per-class", "1", "--classes", "2"]
    assert main([*args, "--split", "val"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_text().count("<img ") == 2


def test_names_that_are_no_text_do_not_stop_it(shards: Path, tmp_path: Path) -> None:
    odd = Path(shutil.copytree(shards, tmp_path / "odd"))
    content = json.loads((odd / "manifest.json").read_text())
    content["classes"][1] = "\ud800 half a letter"
    (odd / "manifest.json").write_text(json.dumps(content))
    assert "? half a letter" in sheet(odd, tmp_path)


@pytest.fixture
def tab(shards: Path, tmp_path: Path, browser: Browser) -> Iterator[Page]:
    """The page on a phone in the dark. Fails on any other request and on what it complains of."""
    write_sheet(shards, tmp_path / "sheet.html")
    uri = (tmp_path / "sheet.html").as_uri()
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True
    )
    page = context.new_page()
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.goto(uri)
    yield page
    context.close()
    assert [url for url in asked if not url.startswith("data:")] == [uri]
    assert said == []


def test_names_with_html_stay_text_and_the_page_fits_a_phone(tab: Page) -> None:
    assert tab.locator("h2 bdi").first.text_content() == NAME
    assert tab.locator("img").count() == 48
    assert tab.locator("script").count() == 0
    titles = tab.locator("img").evaluate_all("all => all.map(image => image.title)")
    assert sum("<script>alert(2)<\\script>.JPEG" in title for title in titles) == 1
    sizes = tab.locator("img").evaluate_all("all => all.map(image => image.naturalWidth)")
    assert set(sizes) == {96}
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == "rgb(20, 22, 26)"
    tab.locator("summary").click()
    assert tab.locator("tbody th").first.text_content() == NAME
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
