"""The page about a run: complete, self-contained, harmless, and in a real browser where there is one."""

import html.parser
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from safetensors.numpy import save_file

from ddpm_ms import visual
from ddpm_ms.cli import main
from ddpm_ms.config import Config, config_from_dict, to_dict, to_yaml
from ddpm_ms.errors import InputError
from ddpm_ms.visual import plots, report, runs

ROOT = Path(__file__).parents[3]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "<script>document.body.dataset.owned=1<&\"'"
LOG = """2026-01-02 12:00:01,000 step 110/200  loss 0.2
a line of its own <b>&amp;
"""
# Three sessions: of 30 s, of 31 s up to the last row before a kill, and of 1 s. The breaks are an hour.
EVENTS = [
    {"event": "started", "time": 10_000.0, "step": 0, "world": 1, "total_steps": 200},
    {"event": "checkpoint", "time": 10_030.0, "step": 50, "world": 1, "checkpoint": "step_00000050"},
    {"event": "resumed", "time": 13_630.0, "step": 50, "world": 1, "total_steps": 200},
    {"event": "checkpoint_failed", "time": 13_650.0, "step": 75, "world": 1, "reason": HOSTILE, "failures": 1},
    {"event": "resumed", "time": 17_261.0, "step": 50, "world": 2, "total_steps": 200},
    {"event": "skipped", "time": 17_262.0, "step": 51, "world": 2, "loss_scale": 65536.0},
]


# A line that is none and one of another version are passed over.
EVALUATIONS = "\n".join(["{", json.dumps({"scores": {"fid": 3}}), json.dumps({
    "time": 17_300.0, "scores": {"fid": {"value": 12.345678, "deviation": None}, "kid": {"value": -2e-5, "deviation": 1e-4}},
    "judged": {"what": f"run {HOSTILE}", "images": 2048}, "against": {"what": "data digits", "images": 1797},
    "features": {"name": "digits", "identity": "digits 0123", "width": 64}, "notes": ["few images"]})])


def make_run(folder, rows=100, reverse=True):
    """What training leaves, without training."""
    (folder / "samples").mkdir(parents=True)
    config = config_from_dict({"model": {"dim": 32}, "data": {"root": HOSTILE},
                               "training": {"train_num_steps": 200, "precision": "fp32", "amp_level": "O0"}})
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "environment.json").write_text(json.dumps({"device": "CPU", "cpus": 2, "world_size": 1, HOSTILE: HOSTILE}))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    (folder / "evaluations.jsonl").write_text(EVALUATIONS)
    (folder / "log.txt").write_text(LOG + f"2026-01-02 12:00:02,000 {HOSTILE}\n")
    rest = {"loss_q2": None, "lr": 1e-4, "images_per_second": 64.0, "compile_seconds": 10.5, "skipped_steps": 0}
    (folder / "metrics.jsonl").write_text("".join(
        json.dumps({"step": step, "time": 9_980.0 + step if step <= 50 else 13_630 + 0.62 * (step - 50), "loss": 2 / step,
                    "loss_q1": 1 / step, "grad_norm": 1 + step % 3, **rest}) + "\n"
        for step in range(1, rows + 1)))
    for step in (50, 100):
        visual.save_grid(np.random.default_rng(step).uniform(size=(4, 3, 8, 8)), folder / "samples" / f"step_{step:08d}.png")
        checkpoint = folder / "checkpoints" / f"step_{step:08d}"
        checkpoint.mkdir(parents=True)
        save_file({"moment1.a": np.zeros((3, 5), np.float32), "moment2.a": np.zeros((3, 5), np.float32),
                   "moment1.b": np.zeros(7, np.float32)}, checkpoint / "optimizer.safetensors")
    if reverse:
        visual.save_gif([np.full((1, 1, 8, 8), value) for value in (0.0, 0.5, 1.0)], folder / "reverse.gif")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / HOSTILE.replace("/", ""))


@pytest.fixture(scope="module")
def page(run):
    out = run.parent / "page.html"
    assert main(["report", str(run), "--out", str(out)]) == 0
    return out.read_text()


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]


def cards(page):
    return dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)<", page))


def test_the_page_says_what_the_run_is_and_did(page):
    assert cards(page) == {"Steps": "100", "Last loss": "0.0200", "Speed": "64.0", "Wall time": "1 min 02 s", "Device": "CPU",
                           "Parameters": "22"}
    assert "of 200" in page and "about 25.0 s to go" in page  # 100 steps of 16 images at 64 a second
    assert page.count("<svg") == 4 and page.count("data:image/png") == 2 and page.count("data:image/gif") == 1
    assert "step_00000050" in page and "step 110/200" in page
    assert re.search(r"<tr><th>skipped</th><td>51</td><td>[-0-9: ]{19}</td><td>loss scale: 65536; ranks: 2</td></tr>", page)
    assert "<tr><th>model.dim</th><td><mark>32</mark></td><td>64</td></tr>" in page
    fid, kid = re.findall(r"<td>(fid|kid)</td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>", page)
    assert fid[:2] == ("fid", "12.3457") and fid[3:] == ("1797 images: data digits", "digits 0123")
    assert kid[1] == "-2e-05 &plusmn; 0.0001" and kid[4] == "digits 0123; few images"
    # A run records what null became, which is no change.
    assert "<th>training.train_num_steps</th>" in page and "<th>training.precision</th>" not in page
    assert "<tr><th>precision</th><td>fp32</td></tr>" in page
    assert "<tr><th>dim</th><td><mark>32</mark></td></tr>" in page and "<tr><th>timesteps</th><td>1000</td></tr>" in page


def test_without_a_reverse_process_the_page_says_how_to_make_it(tmp_path):
    page = report.report_html(make_run(tmp_path / "a run", reverse=False), to_dict(Config()), to_dict(Config()))
    assert "data:image/gif" not in page and f"--checkpoint {tmp_path}/a run --steps 100 --gif" in page
    assert "Nothing: every key has its default." in page


def test_the_page_fetches_nothing(page):
    found = Tags(page)
    for tag, name, value in found.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert value.startswith(("data:", "#")), (tag, name, value[:80])
        assert "url(" not in (value or "") or "url(#" in value, (tag, name, value[:80])
    assert not {"link", "script", "iframe", "base", "object"} & set(found.tags)
    style = page[page.index("<style>"):page.index("</style>")]
    assert "@import" not in style and "url(" not in style
    assert "default-src 'none'; img-src data:;" in page


def test_nothing_that_a_run_holds_becomes_markup(page, run):
    found = Tags(page)
    assert "script" not in found.tags and not [a for a in found.attributes if a[1].startswith("on")]
    assert page.count("&lt;script&gt;") >= 9  # title, heading, root, environment twice, an event, an evaluation twice, log
    assert "&lt;b&gt;&amp;amp;" in page


def test_every_id_is_there_once_and_every_reference_is_met(page):
    found = Tags(page)
    named = [value for _, name, value in found.attributes if name == "id"]
    referred = {value[1:] for _, name, value in found.attributes if name == "xlink:href"}
    referred |= set(re.findall(r"url\(#(\w+)\)", page))
    assert referred and referred <= set(named)
    assert all(named.count(name) == 1 for name in referred)


@pytest.mark.parametrize(("prepare", "message"), [
    (lambda folder: None, "does not exist"),
    (lambda folder: folder.mkdir(), "has no metrics.jsonl"),
    (lambda folder: (folder.mkdir(), (folder / "metrics.jsonl").write_text("")), "has no rows"),
    (lambda folder: (folder.mkdir(), (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1}')), "config.yaml"),
])
def test_a_run_that_is_none_is_one_line_and_status_2(tmp_path, capsys, prepare, message):
    prepare(tmp_path / "run")
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "out" / "x.html")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error and not (tmp_path / "out").exists()
    if message != "config.yaml":
        assert main(["visualize", "losses", str(tmp_path / "run"), "--out", str(tmp_path / "out" / "x.png")]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_page_is_written_whole_or_not_at_all(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "x.html").write_text("the old page")
    (tmp_path / "folder.html").mkdir()
    assert main(["report", str(run), "--out", str(tmp_path / "folder.html")]) == 2
    assert main(["report", str(run), "--out", str(tmp_path / "x.pdf")]) == 2

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert main(["report", str(run), "--out", str(tmp_path / "x.html")]) == 2
    assert "No space left" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.html", "x.html"]
    assert (tmp_path / "x.html").read_text() == "the old page"


def test_a_page_of_a_run_that_is_still_writing(tmp_path):
    run = make_run(tmp_path / "run", rows=1, reverse=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('3\n[]\n{"step": "x", "loss": 1}\n{"step": 2, "loss": NaN}\n{"step": 3, "lo')
    picture = run / "samples" / "step_00000100.png"
    picture.write_bytes(picture.read_bytes()[:40])
    (run / "reverse.gif").write_bytes(b"GIF89a")
    (run / "environment.json").write_text('{"half a character": "\\ud800"}')
    (run / "log.txt").unlink()
    (run / "events.jsonl").write_text('3\n[]\n{"event": "started", "time": "now", "step": 0}\n{"event": "started", "ti')
    shutil.rmtree(run / "checkpoints")
    visual.save_report(run, to_dict(Config()), to_dict(Config()), run / "report.html")
    page = (run / "report.html").read_text()
    assert "step_00000100.png cannot be read" in page and "reverse.gif cannot be read" in page and page.count("<img") == 1
    assert cards(page)["Steps"] == "2" and cards(page)["Wall time"] == cards(page)["Parameters"] == "not known"


def test_many_and_large_grids_stay_a_page(tmp_path):
    run = make_run(tmp_path / "run", reverse=False)
    for step in range(1, 40):
        visual.save_grid(np.zeros((1, 1, 8, 8)), run / "samples" / f"step_{step:08d}.png")
    visual.save_grid(np.random.default_rng(0).uniform(size=(1, 3, 500, 500)), run / "samples" / "step_00000001.png")
    page = report.report_html(run, to_dict(Config()), to_dict(Config()))
    assert page.count("<img") == 8 and "8 of 41 grids" in page and ">step 1<" in page and ">step 100<" in page
    assert page.count("data:image/jpeg") == 1 and len(page) < 2**20


def test_the_report_needs_neither_mindspore_nor_pyplot_and_is_quick(run, tmp_path):
    code = ("import sys; from ddpm_ms.cli import main; status = main(['report', *sys.argv[1:]]); "
            "print(status, {'mindspore', 'matplotlib.pyplot'} & set(sys.modules))")
    began = os.times().children_user
    done = subprocess.run([sys.executable, "-c", code, str(run), "--out", str(tmp_path / "x.html")], capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout.strip() == "0 set()", done.stderr
    assert os.times().children_user - began < 6  # of processor time; 1.7 s on the machine this was written on


def test_a_row_without_a_speed_is_no_slow_one():
    rows = [{"step": step, "images_per_second": speed} for step, speed in enumerate((8.0, 0.0, None, 8.0, 0.0))]
    assert report._speed(rows) == 8 and len(report._timed(rows)) == 2 and report._speed(rows[1:3]) is None


def test_breaks_between_sessions_are_no_wall_time():
    rows = [{"step": 74, "time": 13_661.0}, {"step": 80, "time": None}, {"step": 81}]
    assert runs.seconds_at_work(EVENTS, rows) == pytest.approx(30 + 31 + 1)
    assert runs.seconds_at_work(EVENTS, []) == pytest.approx(30 + 20 + 1)
    assert runs.seconds_at_work([EVENTS[0], *EVENTS], []) == pytest.approx(30 + 20 + 1)  # begun twice in the same moment
    assert runs.seconds_at_work([], rows) is None
    assert runs.seconds_at_work(EVENTS[1:2], rows) is None  # no start


@pytest.mark.parametrize("line", ["", "3", "[]", "null", '{"event": "started"', '{"event": "started", "step": 1}', "[" * 10**5,
                                  '{"event": "started", "time": NaN, "step": 1}', '{"event": "x", "time": 1e99, "step": 1}',
                                  '{"event": "x", "time": 1, "step": 1e999}', '{"event": "x", "time": -1, "step": 1}'])
def test_what_is_no_event_is_passed_over(line):
    assert [event["step"] for event in runs.events_of(f'{json.dumps(EVENTS[0])}\n{line}\n{json.dumps(EVENTS[5])}')] == [0, 51]


def test_the_length_of_a_run_in_epochs_is_what_its_events_say(tmp_path):
    training = {"train_num_steps": 7, "train_num_epochs": None}
    assert runs.total_steps(training, EVENTS) == 7
    training["train_num_epochs"] = 3
    assert runs.total_steps(training, EVENTS) == 200
    assert runs.total_steps(training, [*EVENTS, {**EVENTS[2], "total_steps": 91}]) == 91
    assert runs.total_steps(training, [{**EVENTS[0], "total_steps": "many"}]) is None
    run, config = make_run(tmp_path / "run"), to_dict(Config())
    config["training"]["train_num_epochs"] = 3
    assert "100 of 200 steps</title>" in report.report_html(run, config, config)


def test_of_a_run_that_was_made_before_there_were_events_the_page_says_what_is_not_known(tmp_path):
    run, config = make_run(tmp_path / "run"), to_dict(Config())
    (run / "events.jsonl").unlink()
    config["training"]["train_num_epochs"] = 3
    page = report.report_html(run, config, config)
    assert "<title>run: 100 steps</title>" in page and "of 3 epochs" in page and "progressbar" not in page
    assert cards(page)["Wall time"] == "not known" and "Not known: there is no events.jsonl" in page
    assert "step 110/200" in page  # the log is shown, and not read


@pytest.mark.parametrize("header", [b"", b"\xff" * 8, (2**40).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"[]",
                                    (10**8).to_bytes(8, "little") + b'{"moment1.a": {"dtype": "F32", "shape": [9]}}'])
def test_a_header_of_weights_that_claims_what_the_file_cannot_have_is_no_header(tmp_path, header):
    folder = tmp_path / "checkpoints" / "step_00000001"
    folder.mkdir(parents=True)
    (folder / "optimizer.safetensors").write_bytes(header)
    tracemalloc.start()
    assert runs.num_parameters(tmp_path) is None
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    claimed = json.dumps({"moment1.a": {"dtype": "F32", "shape": [2**61], "data_offsets": [0, 4]}}).encode()
    (folder / "optimizer.safetensors").write_bytes(len(claimed).to_bytes(8, "little") + claimed + bytes(4))
    assert runs.num_parameters(tmp_path) is None


def test_runs_of_one_name_are_told_apart(tmp_path):
    assert runs.short_names([tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "b" / "y"]) == ["a/x", "b/x", "b/y"]
    assert runs.short_names([tmp_path / "a" / "x"]) == ["x"]
    with pytest.raises(InputError, match="given twice"):
        runs.short_names([tmp_path / "a", tmp_path / "b" / ".." / "a"])


def test_smoothing_leaves_a_straight_line_and_halves_the_noise():
    line = np.arange(400.0)
    np.testing.assert_allclose(plots.smooth(line, 0.1), line)
    noise = np.random.default_rng(0).standard_normal(4000)
    assert plots.smooth(noise, 0.01).std() == pytest.approx(1 / np.sqrt(41), rel=0.2)
    assert len(plots.smooth(np.array([]))) == 0 and plots.smooth(np.array([3.0])) == 3


@pytest.mark.parametrize(("values", "scale"), [([1, 0.05], "log"), ([1, 0.5], "linear"), ([1, 0.05, 0], "linear"),
                                               ([], "linear")])
def test_an_axis_is_logarithmic_where_the_values_span_decades(values, scale):
    axes = Figure().add_subplot()
    plots._curves(axes, {"a": (np.arange(len(values)), np.array(values, float))})
    assert axes.get_yscale() == scale


def test_the_legend_has_the_names_of_the_runs_whatever_they_are(tmp_path):
    before, names = dict(matplotlib.rcParams), ["_private", "$x_$ {", "<b>"]
    rows = [{"step": step, "loss": 1 / step} for step in range(1, 200)]
    axes = Figure().add_subplot()
    plots._curves(axes, {name: plots.curve(rows, "loss") for name in names})
    assert [text.get_text() for text in axes.get_legend().get_texts()] == names
    assert len(axes.lines) == 6  # smoothed, and raw behind
    visual.save_losses({name: rows for name in names}, tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").size == (960, 540)
    svg = plots.curves_svg({name: plots.curve(rows, "loss") for name in names})
    assert "&lt;b&gt;" in svg and "currentColor" in svg and "<metadata" not in svg
    assert dict(matplotlib.rcParams) == before


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed")
def test_a_browser_shows_the_page_without_complaint(page, tmp_path):
    # A probe looks at the page from inside; for it alone the page's own ban on scripts is lifted, for the run's markup too.
    probe = """<script>addEventListener("load", () => { const wide = document.documentElement;
      document.title = JSON.stringify({images: [...document.images].map(i => i.naturalWidth * i.complete),
      overflow: wide.scrollWidth - wide.clientWidth, owned: document.body.dataset.owned || null,
      curves: [...document.querySelectorAll("svg")].map(s => s.getBoundingClientRect().height),
      fetched: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")) }) })</script>"""
    probed = page.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    probed = probed.replace("</body>", f"{probe}</body>")
    for name, text in (("page", page), ("probed", probed)):
        (tmp_path / f"{name}.html").write_text(text)

    def browse(name, *arguments):
        return subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
             "--virtual-time-budget=2000", *arguments, (tmp_path / f"{name}.html").as_uri()],
            capture_output=True, text=True, timeout=60)

    for width in (1200, 500):
        done = browse("probed", f"--window-size={width},900", "--dump-dom")
        seen = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout, re.S).group(1)))
        assert len(seen["images"]) == 3 and all(seen["images"]), seen
        assert len(seen["curves"]) == 4 and min(seen["curves"]) > 100, seen
        assert seen["overflow"] == 0 and seen["owned"] is None and seen["fetched"] == [], seen
    done = browse("page", "--window-size=1000,1400", f"--screenshot={tmp_path / 'x.png'}")
    assert "CONSOLE" not in done.stderr, done.stderr
    with Image.open(io.BytesIO((tmp_path / "x.png").read_bytes())) as shot:
        pixels = np.asarray(shot.convert("L"))
    assert pixels.shape == (1400, 1000) and pixels.std() > 10
    assert all(band.std() > 1 for band in np.array_split(pixels, 6))  # no part of it is blank
