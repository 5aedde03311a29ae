"""A compilation's pages in real Chromium, wide and narrow: what decides can be seen without asking.

Screenshots go to build/screens.
"""

import dataclasses
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_delivery_engine.bundle import open_bundle
from model_delivery_engine.comparison import comparison_row, render_comparison
from model_delivery_engine.manifest import Manifest
from onnxruntime import InferenceSession
from playwright.sync_api import Browser, Page, expect

from stack.credentials import ACCOUNT
from stack.localcloud import PORTAL_USER
from stack.object_store import BUCKET

SCREENS = Path(__file__).resolve().parents[2] / "build" / "screens"
WIDTHS = [1280, 390]
TIMES = "\u00d7"
NEURON = "ValidationException: TargetDevice ml_inf1 needs AWS's Neuron compiler; choose ml_c5"
# Texts of figures and tables that lie outside of what is shown, or are cut off by what holds them.
CUT_OFF = """() => [...document.querySelectorAll("svg text, th, td, dd, p")].filter((each) => {
  const box = each.getBoundingClientRect();
  if (!box.width || each.closest("pre")) return false;
  const holder = each.closest("svg") ?? each.closest(".scroll") ?? document.documentElement;
  const around = holder.getBoundingClientRect();
  return box.left < around.left - 1 || box.right > around.right + 1 || box.right > innerWidth + 1;
}).map((each) => each.textContent.trim().slice(0, 80))"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    yield page
    page.close()


def answered(packed: bytes, pixels: Any) -> Any:
    """Return the classes that the model in an archive answers, which it scores full marks on."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as opened:
        member = opened.extractfile("model.onnx")
        assert member is not None
        session = InferenceSession(member.read(), providers=["CPUExecutionProvider"])
    batches = pixels.reshape(-1, 4, 8)
    return np.concatenate([session.run(None, {"pixels": each})[0].argmax(1) for each in batches])


@pytest.fixture(scope="module")
def compiled(
    cloud: Any, worker: None, put: Callable[[bytes], str], archive: Callable[..., bytes],
    job_request: Any, wait: Any, tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Manifest]:  # fmt: skip
    """Return the name of a job with candidates rejected by the metric, and its manifest."""
    samples = io.BytesIO()
    rng = np.random.default_rng(11)
    pixels = rng.normal(size=(200, 8)).astype(np.float32)
    packed = archive(width=256, depth=6)
    np.savez(samples, pixels=pixels, labels=answered(packed, pixels))
    key = "pages/samples.npz"
    cloud.store.client().put_object(Bucket=BUCKET, Key=key, Body=samples.getvalue())
    request = job_request(put(packed))
    options = {"precision": "int8", "samples": f"s3://{BUCKET}/{key}", "min_snr_db": 60}
    request["OutputConfig"]["CompilerOptions"] = json.dumps(options)
    client = cloud.client("sagemaker")
    client.create_compilation_job(**request)
    done = wait(client, request["CompilationJobName"])
    assert done["CompilationJobStatus"] == "COMPLETED", done["FailureReason"]
    folder = tmp_path_factory.mktemp("bundle")
    key = done["ModelArtifacts"]["S3ModelArtifacts"].removeprefix(f"s3://{BUCKET}/")
    cloud.store.client().download_file(BUCKET, key, str(folder / "bundle.tar.gz"))
    manifest = open_bundle(folder / "bundle.tar.gz", folder / "opened").manifest
    return request["CompilationJobName"], manifest


def shown(page: Page, width: int, name: str) -> None:
    """Hold a page to its width, and nothing on it to be cut off."""
    page.screenshot(path=SCREENS / f"{name}-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT_OFF) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_jobs_page_shows_reasons_kinds_and_throughput(
    cloud: Any, compiled: tuple[str, Manifest], page: Page, width: int
) -> None:
    name, manifest = compiled
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{cloud.url}/jobs/compilation/{ACCOUNT}/eu-west-1/{name}")
    page.fill("input[name=name]", PORTAL_USER)
    page.fill("input[name=password]", cloud.password)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Candidates")).to_be_visible()
    shown(page, width, "job")
    rejected = [each for each in manifest.candidates if each.status == "rejected"]
    assert rejected
    for each in rejected:
        assert each.reason is not None
        reason = page.get_by_text(each.reason, exact=True).first
        reason.scroll_into_view_if_needed()
        expect(reason).to_be_in_viewport(ratio=1)
    chosen = next(each for each in manifest.candidates if each.status == "chosen")
    assert chosen.throughput is not None
    expect(page.get_by_text(f"{chosen.throughput:.2f} {TIMES}").first).to_be_visible()
    assert manifest.latency is not None
    # A c5 is what no machine of the project's is: its figures are another's, and say whose.
    assert manifest.latency.kind == "proxy"
    machine = manifest.latency.machine
    expect(page.get_by_text(f"taken on {machine}, which is no ml_c5")).to_be_visible()
    operators = page.locator("svg[aria-label='time of the slowest operators'] .label")
    labels = operators.all_text_contents()
    assert len(set(labels)) == len(labels) > 2
    axis = page.locator("svg[aria-label='size and speed of each candidate'] .label")
    assert any(text in ("size, MiB", "size, KiB") for text in axis.all_text_contents())


@pytest.mark.parametrize("width", WIDTHS)
def test_the_comparison_says_what_it_was_measured_on_and_why_not(
    compiled: tuple[str, Manifest], page: Page, width: int, tmp_path: Path
) -> None:
    _name, manifest = compiled
    assert manifest.latency is not None
    here = dataclasses.replace(
        manifest, latency=dataclasses.replace(manifest.latency, kind="measured")
    )
    rows = [
        comparison_row("LINUX_X86_64", status="COMPLETED", output_uri="s3://b/0", manifest=here),
        comparison_row("rasp4b", status="COMPLETED", output_uri="s3://b/1", manifest=manifest),
        comparison_row("ml_inf1", status="REFUSED", reason=NEURON),
    ]
    html = render_comparison(
        rows, run_id="manual__1", title="Compared", model_uri="s3://b/m.tar.gz"
    )
    (tmp_path / "page.html").write_text(html)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto((tmp_path / "page.html").as_uri())
    shown(page, width, "comparison")
    expect(page.get_by_text(NEURON)).to_be_visible()
    machine = manifest.latency.machine
    expect(page.get_by_text(f"rasp4b: taken on {machine}").first).to_be_visible()
    expect(page.locator("svg text", has_text="rasp4b (proxy)")).to_be_visible()
    assert page.locator("svg text", has_text="LINUX_X86_64 (").count() == 0
    chosen = next(each for each in manifest.candidates if each.status == "chosen")
    expect(page.get_by_text(f"{chosen.throughput:.2f} {TIMES}").first).to_be_visible()
