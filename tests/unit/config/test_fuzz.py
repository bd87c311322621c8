"""Files that were damaged by accident or made to do harm: every reader ends well, or with one clean line.

500 cases per reader in the normal run, the same every time; 10,000 new ones with ``-m slow``. A failing case prints what
it was made from.
"""

import contextlib
import io
import json
import pickletools
import secrets
import shutil
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save
from torch_writer import torch_file

from ddpm_ms.checkpoints import checkpoint
from ddpm_ms.config import Config, config_from_dict, load_config, load_over, to_dict, to_yaml
from ddpm_ms.data.arrays import load_array_file
from ddpm_ms.data.images import read_image
from ddpm_ms.digest import sha256_of
from ddpm_ms.errors import InputError
from ddpm_ms.evaluation.sides import side_of
from ddpm_ms.interop.sources import open_source
from ddpm_ms.interop.torch_files import read_torch_file
from ddpm_ms.visual import report, runs

ROOT = Path(__file__).parents[3]
QUICK, NIGHTLY = 500, 10_000
both_sets = pytest.mark.parametrize("cases", [QUICK, pytest.param(NIGHTLY, marks=pytest.mark.slow)])


def ends_cleanly(function, *arguments):
    """Whether ``function`` took its arguments; every error but a clean one goes on."""
    try:
        function(*arguments)
        return True
    except InputError as error:
        text = str(error)
        assert text.isprintable() and 0 < len(text) < 2100
        return False


def each(cases, strategy, check):
    """``check`` of ``cases`` examples."""
    @settings(max_examples=cases, derandomize=cases <= QUICK, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))
    @given(strategy)
    def run(value):
        check(value)

    run()


def harmed(data, random):
    """``data`` with one to four wounds: bits and bytes changed, parts cut out, repeated or moved, the end cut off."""
    data = bytearray(data)
    for _ in range(random.integers(1, 5)):
        at, length = int(random.integers(0, len(data) + 1)), int(random.integers(1, 33))
        kind = random.integers(0, 7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << int(random.integers(0, 8))
        elif kind == 1:
            data[at:at + 1] = random.choice([b"\x00", b"\xff", b"\x7f", b"\x80", b"\n", b"0", b"9"])
        elif kind == 2:
            del data[at:at + length]
        elif kind == 3:
            data[at:at] = data[at:at + length]
        elif kind == 4:
            data[at:at + length] = random.bytes(length)
        elif kind == 5:
            other = int(random.integers(0, len(data) + 1))
            data[at:at + length] = data[other:other + length]
        elif random.integers(0, 4) == 0:
            del data[at:]
    return bytes(data)


def each_harmed(cases, corpus, path, check):
    """``check`` after writing each of ``cases`` harmed files of ``corpus`` to ``path``; returns how many were taken."""
    taken, first = 0, 0 if cases <= QUICK else secrets.randbits(40)
    for case in range(cases):
        data = corpus[case % len(corpus)]
        path.write_bytes(harmed(data, np.random.default_rng(first + case)))
        try:
            taken += ends_cleanly(check)
        except BaseException as error:
            raise AssertionError(f"file {case % len(corpus)} of the corpus, seed {first + case}: {error!r}") from error
    return taken


# Recipes.

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(),
    st.builds(pow, st.just(16), st.just(5000)),  # more digits than Python prints
    st.sampled_from([2**63, -2**63 - 1, 10**30, float("inf"), float("nan"), "1e400", "nan", "a\nb", "\x1b[2J", "\0", ""]))
TREES = st.recursive(ODD, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ODD.filter(lambda k: k == k), inner,
                                                                                    max_size=4), max_leaves=6)
DEFAULTS = to_dict(Config())
KEYS = [f"{section}.{key}" for section, keys in DEFAULTS.items() for key in keys]


@st.composite
def recipes(draw):
    """A recipe of real keys, of which some values, keys and sections are anything."""
    tree = {}
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=6)):
        section, name = key.split(".")
        tree.setdefault(section, {})[name] = draw(st.one_of(st.just(DEFAULTS[section][name]), TREES))
    if draw(st.integers(0, 3)) == 0:
        key = draw(st.one_of(st.sampled_from([*DEFAULTS, "base", "init"]), ODD.filter(lambda k: k == k)))
        tree[key] = draw(TREES)
    return tree


@both_sets
def test_recipes_of_odd_values(cases):
    def check(tree):
        # What was accepted can be printed and read back: a run records it.
        if ends_cleanly(config_from_dict, tree):
            config = config_from_dict(tree)
            assert config_from_dict(yaml.safe_load(to_yaml(config))) == config
            assert json.loads(json.dumps(to_dict(config), allow_nan=False)) == to_dict(config)

    each(cases * 2 // 5, recipes(), check)


@both_sets
def test_overrides_of_odd_texts(tmp_path, cases):
    (tmp_path / "c.yaml").write_text("")
    text = st.one_of(st.text(max_size=20), st.sampled_from(["0x" + "f" * 5000, "9" * 5000, "2001-99-99", "!!int ''", "!!bool x",
                                                            "!!timestamp x", "!!float x", "[" * 5000, "*a", "0b", "1:99", "="]))
    override = st.builds("{}={}".format, st.one_of(st.sampled_from(KEYS), st.text(max_size=12)), text) | st.text(max_size=12)
    each(cases // 5, st.lists(override, max_size=3), lambda texts: ends_cleanly(load_config, tmp_path / "c.yaml", texts))


@both_sets
def test_recipes_of_harmed_text(tmp_path, cases):
    corpus = [path.read_bytes() for path in sorted((ROOT / "configs").rglob("*.yaml"))] + [to_yaml(Config()).encode()]
    path = tmp_path / "c.yaml"
    taken = each_harmed(cases * 2 // 5, corpus, path, lambda: load_config(path))
    assert 0 < taken < cases * 2 // 5  # wounds, but not only deadly ones


@pytest.mark.parametrize(("text", "message"), [
    ("a: &a [1, 1]\nb: &b [*a, *a]\nmodel: [*b, *b]", r"\*a is an alias"),
    ("x: &x {dim: 8}\nmodel: *x", r"\*x is an alias"), ("model: &m {dim: *m}", r"\*m is an alias"),
    ("[" * 20_000, "nested more than 20"), ("{a: " * 20_000, "nested more than 20"), ("- " * 20_000, "nested more than 20"),
    ("? " * 20_000, "nested more than 20"), ("model: " + "[x, " * 19 + "]" * 19, "model is \\[.x., "),
    ("model: {dim: 32, dim: 64}", "key 'dim' is given twice"), ("model: {}\nmodel: {}", "key 'model' is given twice"),
    ("model: {dim: 0x" + "f" * 9000 + "}", "model.dim is a huge int, allowed: whole numbers of at most 63 bits"),
    ("model: {dim: " + "9" * 9000 + "}", "not valid YAML"), ("training: {train_lr: .inf}", "train_lr is inf, allowed: a finite"),
    ("training: {train_lr: 1e999}", "train_lr is '1e999', allowed: a finite"), ("training: {train_lr: .nan}", "train_lr is nan"),
    ("training: {seed: 9223372036854775808}", "seed is 9223372036854775808, allowed: whole"),
    ("training: {log_every: 9223372036854775808}", "log_every is 9223372036854775808, allowed: whole"),
    ("data: {root: " + "x" * 2**20 + "}", "too large"), ('base: "a\\0b"', "null"), ('base: "a\\nb"', r"a\\nb: No such file"),
    ("base: /dev/zero", "too large"), ("base: .", "Is a directory"), ("? [1]\n: 2", "not valid YAML"),
    ('"\\e[2Jmodel": {}', r"unknown key '\\x1b\[2Jmodel'"),
])
def test_recipes_made_to_do_harm(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_config(tmp_path / "c.yaml")
    assert str(error.value).isprintable() and len(str(error.value)) < 2100


# Checkpoints.

ARRAYS = {"conv.weight": np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4), "conv.bias": np.zeros(2, np.float32),
          "beta1_power": np.array(0.9, np.float32)}
STATE = {"config": to_dict(Config()), "ema_updates": 1, "loss_scale": {"value": 1.0}, "skipped_steps": 0, "seed": 0}


@pytest.fixture
def saved(tmp_path):
    """A small checkpoint, and a function that reads it as far as there is no network."""
    path = checkpoint.save(tmp_path / "checkpoints", 7, {n: ARRAYS for n in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER)}, STATE)
    parameters = {name: ms.Parameter(ms.Tensor(array), name=name) for name, array in ARRAYS.items()}

    def read():
        found = checkpoint.read(path)
        _ = found.step, found.config
        for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER):
            checkpoint.set_parameters(parameters, found.arrays(name), name)

    return path, read


def sealed(state):
    """``state`` with a checksum that agrees."""
    rest = {key: value for key, value in state.items() if key != "checksum"}
    return {**rest, "checksum": checkpoint._checksum(rest)}


def consistent(path, content=None, **changes):
    """Give a checkpoint another content, with checksums that agree."""
    if content is not None:
        (path / checkpoint.WEIGHTS).write_bytes(content)
    state = json.loads((path / checkpoint.STATE).read_text())
    state["sha256"][checkpoint.WEIGHTS] = sha256_of(path / checkpoint.WEIGHTS)
    (path / checkpoint.STATE).write_text(json.dumps(sealed({**state, **changes})))


@both_sets
@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.STATE])
def test_checkpoints_of_harmed_files(saved, name, cases):
    path, read = saved
    read()
    each_harmed(cases // 5, [(path / name).read_bytes()], path / name, read)


@both_sets
def test_checkpoints_of_harmed_arrays_with_right_checksums(saved, cases):
    path, read = saved
    good = (path / checkpoint.WEIGHTS).read_bytes()
    length = int.from_bytes(good[:8], "little")

    def in_header(data):
        # Mostly a header that is JSON of the length that it says: behind the first checks.
        return len(data).to_bytes(8, "little") + data + good[8 + length:]

    def check():
        content = harmed_file.read_bytes()
        consistent(path, content if content[:1] != b"{" else in_header(content))
        read()

    harmed_file = path.parent / "harmed"
    taken = each_harmed(cases * 2 // 5, [good, good[8:8 + length], good[8:8 + length]], harmed_file, check)
    assert taken < cases * 2 // 5


@both_sets
def test_checkpoints_of_odd_states(saved, cases):
    path, read = saved
    good = json.loads((path / checkpoint.STATE).read_text())
    json_odd = st.recursive(ODD.filter(lambda v: not hasattr(v, "year")), lambda inner: st.lists(inner, max_size=3)
                            | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=5)
    names = st.sampled_from([*good["sha256"], "../../x", "/etc/passwd", "a/b.safetensors", "x" * 300, "", "state.json"])
    hashes = st.dictionaries(names, st.one_of(json_odd, st.sampled_from(list(good["sha256"].values()))), max_size=3)
    changes = st.dictionaries(st.sampled_from(list(good)), json_odd, min_size=1, max_size=2)

    def check(changed):
        state = changed if not isinstance(changed, dict) else {**good, **changed}
        try:
            text = json.dumps(sealed(state) if isinstance(state, dict) else state)
        except ValueError:  # Python does not print an integer of thousands of digits
            return
        (path / checkpoint.STATE).write_text(text)
        ends_cleanly(read)

    each(cases // 5, st.one_of(changes, hashes.map(lambda h: {"sha256": h}), json_odd), check)


@pytest.mark.parametrize("name", ["../../victim.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "state.json",
                                  "x\n.safetensors", "x" * 200 + ".safetensors"])
def test_a_checkpoint_names_nothing_outside_of_itself(saved, name, monkeypatch):
    path, read = saved
    consistent(path, sha256={name: "0" * 64})
    monkeypatch.setattr(checkpoint, "sha256_of", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(checkpoint.DamagedCheckpoint, match="a file is called") as error:
        read()
    assert str(error.value).isprintable()


def header(arrays, data=b"\0" * 104):
    text = json.dumps(arrays).encode()
    return len(text).to_bytes(8, "little") + text + data


SMALL = {"model": {"dim": 8, "dim_mults": [1], "attn_heads": 1, "attn_dim_head": 4}}
FLOATS = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(("content", "message"), [
    (save({**ARRAYS, "more": np.ones(1)}), r"does not fit the network: more is missing here and \(1,\) there"),
    (save({"conv.bias": ARRAYS["conv.bias"]}), r"does not fit the network: conv\.weight is \(.*\) here and missing there"),
    (save({**ARRAYS, "conv.bias": np.zeros((2, 1), np.float32)}),
     r"conv\.bias is \(2,\) here and \(2, 1\) there, allowed: a run"),
    (save({**ARRAYS, "conv.bias": np.array([np.nan, 0], np.float32)}), "conv.bias is not made of finite numbers"),
    (save({**ARRAYS, "conv.bias": np.array([True, False])}), "conv.bias is not made of finite numbers"),
    (b"", "cannot be read"), (b"\xff" * 8, "cannot be read"), (b"\xff" * 7 + b"\x7f{}", "cannot be read"),
    (header({"a": {**FLOATS, "shape": [2**62, 4]}}), "cannot be read"),
    (header({"a": {**FLOATS, "shape": [3]}}), "cannot be read"),
    (header({"a": {**FLOATS, "shape": [0, 2**60], "data_offsets": [0, 0]}}, b""), "cannot be read|does not fit"),
    (header({"a": {**FLOATS, "data_offsets": [0, 2**60]}}), "cannot be read"),
    (header({"a": FLOATS, "b": FLOATS}), "cannot be read"),
    (header({"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}, b"\0" * 8), "cannot be read|does not fit"),
    (header({"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, b"\0" * 8), "cannot be read|does not fit"),
    (header({"\n\x1b[2J": FLOATS}, b"\0" * 8), "does not fit the network"), (b"[" * 10_000, "cannot be read"),
    (header({}).replace(b"{}", b"[" * 2), "cannot be read"),
])
def test_arrays_that_are_not_what_the_network_needs(saved, content, message):
    path, read = saved
    consistent(path, content)
    with pytest.raises(InputError, match=message) as error:
        read()
    assert str(error.value).isprintable()


@pytest.mark.parametrize(("changes", "message"), [
    ({"config": {"model": {"dim": 8, "colour": 1}}}, r"step_00000007: unknown key 'model\.colour'"),
    ({"config": {"training": {"train_lr": float("nan")}}}, "train_lr is nan"), ({"config": []}, "state.json is damaged"),
    ({"config": {"model": {"dim": 2**40}}}, "its network cannot be built"),
    ({"config": {**SMALL, "diffusion": {"betas": [0.1, 0.2]}}}, "there are 2 betas"),
    ({"config": {"model": {"name": "custom"}}}, "'custom'"),
    ({"config": SMALL}, "does not fit the network"),
    ({"step": -1}, "its step is -1"), ({"step": 10**9}, "its step is 1000000000"), ({"step": True}, "state.json is damaged"),
    ({"format": 1}, "has format 1, allowed: 2"), ({"format": "1"}, "state.json is damaged"),
    ({"sha256": {}}, "has no ema.safetensors"),
    ({"sha256": {"model.safetensors": 3}}, "checksum is wrong"),
    ({"sha256": [["model.safetensors", "x"]]}, "state.json is damaged"),
])
def test_a_strangers_checkpoint_with_right_checksums_is_one_line(tmp_path, changes, message):
    path = checkpoint.save(tmp_path / "checkpoints", 7, {n: ARRAYS for n in (checkpoint.WEIGHTS, checkpoint.EMA_WEIGHTS)},
                           {"config": SMALL})
    consistent(path, **changes)
    with pytest.raises(InputError, match=message) as error:
        checkpoint.load_diffusion(tmp_path)
    assert str(error.value).isprintable()


def test_of_many_checkpoints_the_newest_good_one_is_found_whatever_the_others_are(tmp_path):
    folder = tmp_path / "checkpoints"
    for step in range(1, 6):
        checkpoint.save(folder, step, {checkpoint.WEIGHTS: ARRAYS}, STATE)
    (folder / "step_00000009").write_text("a file")
    shutil.rmtree(folder / "step_00000005")
    (folder / "step_00000005").mkdir()
    (folder / "step_00000004" / checkpoint.WEIGHTS).unlink()
    (folder / "step_00000003" / checkpoint.STATE).write_text("[" * 100_000)
    (folder / "step_00000008").symlink_to("step_00000008")
    *damaged, found = checkpoint.latest(tmp_path)
    assert found.step == 2 and len(damaged) == 3


# What a run leaves beside its checkpoints: read by the report, of runs that may still be writing.

@both_sets
def test_harmed_events_and_weights_of_a_run_that_is_reported(tmp_path, cases):
    folder = tmp_path / "checkpoints" / "step_00000001"
    folder.mkdir(parents=True)
    lines = [{"event": event, "time": 1.75e9 + k, "step": k, "world": 1, "total_steps": 9}
             for k, event in enumerate(("started", "skipped", "resumed", "finished"))]
    events = "".join(json.dumps(line) + "\n" for line in lines).encode()
    rows = [{"step": 1, "time": 1.75e9 + 1.5}]

    def read_events():
        found = runs.read_events(tmp_path)
        seconds = runs.seconds_at_work(found, rows)
        assert seconds is None or 0 <= seconds < 1e11
        runs.total_steps({"train_num_epochs": 1}, found)
        [report._shown_event(event) for event in found]

    assert each_harmed(cases, [events], tmp_path / "events.jsonl", read_events) == cases
    compared = {"time": 1.75e9, "scores": {"fid": {"value": 3.0, "deviation": None}}, "judged": {"what": "a", "images": 2},
                "against": None, "features": {"identity": "b"}, "notes": ["c"]}
    assert each_harmed(cases, [(json.dumps(compared) + "\n").encode() * 2], tmp_path / "evaluations.jsonl",
                       lambda: runs.read_evaluations(tmp_path)) == cases
    weights = save({"moment1.a": np.zeros((3, 5), np.float32), "moment2.a": np.zeros((3, 5), np.float32)})
    assert each_harmed(cases, [weights], folder / "optimizer.safetensors", lambda: runs.num_parameters(tmp_path)) == cases


# PyTorch's files: whatever they hold, they become values or one line, in little memory.

TORCH = [path.read_bytes() for path in sorted((ROOT / "tests" / "golden" / "torch_files").glob("*_*.pt"))]
OPCODES = [bytes([code]) for code in b"NJKMGX()]}taesuqrhjcRbQio.P0" + bytes(range(0x80, 0x99))] + [
    b"K\1", b"J\4\0\0\0", b"q\0", b"q\1", b"h\0", b"h\1", b"X\1\0\0\0" + b"0", b"X\7\0\0\0storage", b"ctorch\nFloatStorage\n",
    b"ctorch\nSize\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n", b"(K\1t",
    b"ctorch._utils\n_rebuild_parameter\n", b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0NK\4tQ",
    b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0NK\4NtQ"]


def torch_archive(pickle, others):
    """A sound file as torch.save writes it, of any pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, data in {"x/data.pkl": pickle, **others}.items():
            made.writestr(name, data)
    return file.getvalue()


@contextlib.contextmanager
def in_little_memory(limit):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def every_number(value):
    """That can be read, as an array or within it, counted."""
    if isinstance(value, (dict, list, tuple)):
        return sum(every_number(part) for part in (value.values() if isinstance(value, dict) else value))
    return np.array(value).size if isinstance(value, np.ndarray) else 1


def reads_torch(path):
    with in_little_memory(2**22):
        every_number(read_torch_file(path))


@both_sets
def test_harmed_pytorch_files(tmp_path, cases):
    taken = each_harmed(cases, TORCH, tmp_path / "x.pt", lambda: reads_torch(tmp_path / "x.pt"))
    assert cases // 50 < taken < cases


def old_parts(data):
    """What stands before the pickle of the value, the pickle, and what stands behind it."""
    places = [0]
    for _ in range(4):
        *_, (_, _, last) = pickletools.genops(data[places[-1]:])
        places.append(places[-1] + last + 1)
    return data[:places[3]], data[places[3]:places[4]], data[places[4]:]


@both_sets
def test_sound_pytorch_files_of_harmed_pickles(tmp_path, cases):
    with zipfile.ZipFile(ROOT / "tests" / "golden" / "torch_files" / "trainer_zip.pt") as archive:
        found = {name.replace("trainer_zip", "x"): archive.read(name) for name in archive.namelist()}
    pickle = found.pop("x/data.pkl")
    before, old_pickle, behind = old_parts((ROOT / "tests" / "golden" / "torch_files" / "trainer_legacy.pt").read_bytes())

    def check_zip():
        (tmp_path / "x.pt").write_bytes(torch_archive((tmp_path / "pickle").read_bytes(), found))
        reads_torch(tmp_path / "x.pt")

    def check_old():
        (tmp_path / "x.pt").write_bytes(before + (tmp_path / "pickle").read_bytes() + behind)
        reads_torch(tmp_path / "x.pt")

    assert cases // 50 < each_harmed(cases, [pickle], tmp_path / "pickle", check_zip) < cases
    assert cases // 50 < each_harmed(cases, [old_pickle], tmp_path / "pickle", check_old) < cases


@both_sets
def test_pytorch_files_of_odd_opcodes(tmp_path, cases):
    path = tmp_path / "x.pt"
    before, _, behind = old_parts(torch_file(np.zeros(4, np.float32), legacy=True))

    def check(program):
        pickle = b"\x80\2" + b"".join(program) + b"."
        path.write_bytes(torch_archive(pickle, {"x/data/0": b"\0" * 16}))
        ends_cleanly(reads_torch, path)
        path.write_bytes(before + pickle + behind)
        ends_cleanly(reads_torch, path)

    each(cases, st.lists(st.sampled_from(OPCODES), min_size=1, max_size=40), check)


# Weights of other projects: what their files say is a recipe, or one line.

GOLDENS = ROOT / "tests" / "golden"
SETTLED = ["diffusion.timesteps=1000", "diffusion.objective=pred_noise", "diffusion.beta_schedule=linear",
           "diffusion.variance=fixed_small", "sampling.clip_x_start=true", "data.image_size=8"]


def small_state(project, part="network", by=16):
    """Names and shapes of a real network, as narrow as it can be."""
    golden = np.load(GOLDENS / f"{project}_images.npz")
    shapes = ([max(n // by, 1) if n > 7 else n for n in map(int, shape.split())] for shape in golden[f"{part}.shapes"].tolist())
    state = {name: np.zeros(shape, np.float32) for name, shape in zip(golden[f"{part}.names"].tolist(), shapes)}
    return {name: np.linspace(0.01, 0.3, len(array), dtype="f4") if name == "betas" else array for name, array in state.items()}


def of_mindspore(folder):
    saved = []
    for name, array in small_state("lucidrains", by=4).items():
        if ".block" in name and name.endswith(".norm.g"):  # the group norm of that project
            saved += [{"name": f"{name[:-1]}{leaf}", "data": ms.Tensor(array.ravel())} for leaf in ("gamma", "beta")]
        else:
            saved.append({"name": name.replace(".to_qkv.", ".fn.fn.to_qkv."), "data": ms.Tensor(array)})
    ms.save_checkpoint(saved, str(folder / "saved.ckpt"))
    return (folder / "saved.ckpt").read_bytes()


def opens(path):
    """As a conversion begins."""
    load_over(open_source(path).recipe, None, SETTLED)


@both_sets
def test_harmed_files_of_other_projects(tmp_path, cases):
    ddim, guided, trainer = small_state("ddim"), small_state("guided"), small_state("lucidrains", "model", 4)
    corpus = [torch_file(ddim), torch_file([ddim, {}, 3, 4, ddim], legacy=True), torch_file(guided),
              torch_file({"step": 1, "model": trainer, "ema": {f"ema_model.{name}": array for name, array in trainer.items()}}),
              save(ddim), of_mindspore(tmp_path)]
    path = tmp_path / "x.bin"
    for data in corpus:
        path.write_bytes(data)
        opens(path)
    assert cases // 50 < each_harmed(cases, corpus, path, lambda: opens(path)) < cases


WORDS = ["model", "ema", "step", "state", "betas", "module.conv_in.weight", "conv_in.weight", "temb.dense.0.weight",
         "time_embed.0.weight", "init_conv.weight", "final_conv.weight", "ema_model.model.init_conv.weight",
         "input_blocks.0.0.weight", "down.0.block.0.conv1.weight", "mid.block_1.temb_proj.weight", "downs.0.3.weight",
         "downs.0.2.fn.fn.to_qkv.weight", "mid_attn.mem_kv", "label_emb.weight", "conv_out.weight", "out.2.weight",
         "time_mlp.1.weight", "", "x" * 999, "\x1b[2J"]
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 8, 64]), max_size=4).filter(lambda shape: np.prod(shape) < 5000)
TENSORS = st.builds(np.zeros, SHAPES, st.sampled_from(["f4", "f4", "f2", "i8", "?"]))
NAMES = st.one_of(st.sampled_from(WORDS), st.integers(-1, 2**63), st.text(max_size=3))
VALUES = st.recursive(
    st.one_of(TENSORS, TENSORS, st.none(), st.booleans(), st.integers(-2**63, 2**63), st.floats(), st.sampled_from(WORDS)),
    lambda inner: st.one_of(st.dictionaries(NAMES, inner, max_size=6), st.dictionaries(NAMES, TENSORS, max_size=12),
                            st.lists(inner, max_size=5), st.lists(inner, max_size=3).map(tuple)), max_leaves=15)


@both_sets
def test_files_of_odd_states(tmp_path, cases):
    path = tmp_path / "x.pt"

    def check(value):
        value, legacy = value
        path.write_bytes(torch_file(value, legacy))
        ends_cleanly(opens, path)

    each(cases, st.tuples(VALUES, st.booleans()), check)


CONFIG = {"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 3, "out_channels": 3, "layers_per_block": 1,
          "block_out_channels": [16, 32], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "norm_num_groups": 4,
          "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "attention_head_dim": None, "norm_eps": 1e-6, "dropout": 0.0,
          "num_class_embeds": None, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "act_fn": "silu",
          "time_embedding_dim": None, "downsample_type": "conv", "resnet_time_scale_shift": "default",
          "mid_block_scale_factor": 1}
SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02,
             "beta_schedule": "linear", "trained_betas": None, "variance_type": "fixed_small", "clip_sample": True,
             "clip_sample_range": 1.0, "prediction_type": "epsilon", "thresholding": False, "timestep_spacing": "leading",
             "steps_offset": 0, "rescale_betas_zero_snr": False, "sample_max_value": 1.0}


@both_sets
def test_folders_of_diffusers_with_odd_values(tmp_path, cases):
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(save(small_state("diffusers", "ddpm", by=1)))

    def written(config, scheduler):
        for name, keys in (("config", config), ("scheduler_config", scheduler)):
            with contextlib.suppress(ValueError):  # more digits than Python prints
                (tmp_path / f"{name}.json").write_text(json.dumps(keys, default=str, skipkeys=True))

    def check(changes):
        written({**CONFIG, **changes[0]}, {**SCHEDULER, **changes[1]})
        ends_cleanly(opens, tmp_path)

    written(CONFIG, SCHEDULER)
    opens(tmp_path)
    usual = st.sampled_from([0, 1, -1, 10**9, 0.5, True, None, "conv", "resnet", [1], [16, 32], ["DownBlock2D"], {}])
    each(cases, st.tuples(*(st.dictionaries(st.sampled_from(list(keys)), st.one_of(usual, TREES), max_size=3)
                            for keys in (CONFIG, SCHEDULER))), check)


# Images and arrays.

def encoded(mode, size, kind, **options):
    shape = {"1": size, "L": size, "P": size, "I;16": size}.get(mode, (*size, {"LA": 2, "RGB": 3}.get(mode, 4)))
    pixels = np.random.default_rng(0).integers(0, 256, shape)
    if mode == "I;16":
        image = Image.fromarray((pixels * 257).astype(np.uint16))
    elif mode in ("1", "P"):
        image = Image.fromarray(pixels.astype(np.uint8)).convert(mode)
    else:
        image = Image.frombytes(mode, size[::-1], pixels.astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture_corpus():
    sizes, exif = [(9, 13), (1, 1), (16, 8)], Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    wanted = [("PNG", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")), ("JPEG", ("L", "RGB", "CMYK")),
              ("BMP", ("1", "L", "P", "RGB")), ("GIF", ("L", "P")),
              ("TIFF", ("1", "L", "RGB", "RGBA", "CMYK", "I;16")), ("WEBP", ("RGB", "RGBA"))]
    corpus = [encoded(mode, sizes[n % 3], kind) for kind, modes in wanted for n, mode in enumerate(modes)]
    corpus += [encoded("RGB", (9, 13), "JPEG", exif=exif), encoded("RGB", (9, 13), "TIFF", compression="tiff_lzw"),
               encoded("L", (9, 13), "TIFF", compression="tiff_adobe_deflate"),
                encoded("RGB", (40, 40), "JPEG", progressive=True)]
    return corpus


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it reads nonetheless
def test_pictures_of_every_kind_are_read(tmp_path):
    for number, data in enumerate(picture_corpus()):
        (tmp_path / "x").write_bytes(data)
        for channels in (1, 3, 4):
            image = read_image(tmp_path / "x", (6, 4), channels)
            assert image.shape == (channels, 6, 4) and image.dtype == np.float32, number
            assert 0 <= image.min() <= image.max() <= 1


@both_sets
@pytest.mark.filterwarnings("ignore")
def test_harmed_pictures(tmp_path, cases):
    path = tmp_path / "x"
    taken = each_harmed(cases, picture_corpus(), path, lambda: read_image(path, (6, 4), 3))
    assert cases // 50 < taken < cases


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@both_sets
@pytest.mark.filterwarnings("ignore")
def test_harmed_array_files(tmp_path, cases):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4), dtype=np.uint8)
    plain = io.BytesIO()
    np.savez(plain, images=images, labels=np.arange(5))
    corpus = [npy(images), npy(images / 255), npz(images=images, labels=np.arange(5)), plain.getvalue(),
              npy(np.array([{}], object), allow_pickle=True), npy(np.zeros(3, [("a", "f4")])), npy(np.array("text"))]
    path = tmp_path / "x.npz"
    taken = each_harmed(cases, corpus, path, lambda: load_array_file(path, 1).load([0]))
    assert cases // 50 < taken < cases


@both_sets
@pytest.mark.filterwarnings("ignore")
def test_harmed_sides_of_a_comparison(tmp_path, cases):
    known = {"mu": np.zeros(3), "sigma": np.eye(3), "count": np.array(9), "features": np.array("a"), "images": np.array("b")}
    corpus = [npz(**known), npz(**known, mu_s=np.zeros(2), sigma_s=np.eye(2)), npz(arr_0=np.zeros((2, 4, 4, 3), np.uint8)),
              npz(mu=np.zeros(3), sigma=np.eye(4)), npz(mu=np.array("text"), sigma=np.eye(1))]
    path = tmp_path / "x.npz"
    taken = each_harmed(cases, corpus, path, lambda: side_of([str(path)], "--against"))
    assert cases // 50 < taken < cases


def promising(shape, kind="|u1", data=b"\0" * 100):
    """A .npy whose header promises ``shape``, whatever follows."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


IMAGES = npy(np.zeros((2, 4, 4), np.uint8))


@pytest.mark.parametrize(("content", "message"), [
    (promising((10**6, 1000, 1000)), "cannot be read"), (promising((2**62, 4, 4)), "cannot be read"),
    (promising((2**70, 4, 4)), "cannot be read"), (promising((-1, 4, 4)), "cannot be read"),
    (zipped(images=promising((10**6, 1000, 1000))), "cannot be read"),
    (zipped(images=promising((2**62, 4, 4))), "cannot be read"),
    (zipped(images=b"\0" * 2**27), "expands from .* allowed: 200 times"), (zipped(images=b""), "cannot be read"),
    (npy(np.array([{}], object), allow_pickle=True), "cannot be read"), (b"\x80\x04K\x01.", "cannot be read"),
    (zipped(images=npy(np.array([{}], object), allow_pickle=True)), "cannot be read"),
    (npy(np.zeros((0, 4, 4))), "at least one image"),
    (zipped(images=IMAGES, labels=npy(np.array(["a", "b"]))), "labels of shape"),
    (zipped(images=IMAGES, labels=npy(np.array(3))), "labels"),
    (zipped(images=IMAGES, labels=npy(np.array([0.5, 1]))), "labels of shape"),
    (zipped(images=IMAGES, labels=npy(np.arange(3))), "3 labels"),
    (zipped(a=IMAGES, b=IMAGES), "holds a, b, allowed"), (zipped(), "cannot be read|nothing"),
])
def test_array_files_made_to_do_harm(tmp_path, content, message):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_array_file(tmp_path / "x.npz", 1)
    assert str(error.value).isprintable()


def bomb(width, height):
    """A PNG that says how large it is, and little else."""
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib_crc(kind + data).to_bytes(4, "big")

    from zlib import compress
    from zlib import crc32 as zlib_crc
    lines = compress(b"\0" * min((width // 8 + 2) * height, 2**20))
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x01\0\0\0\0") + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("content", "message"), [
    (bomb(100_000, 100_000), "cannot be read"), (bomb(10_000, 10_000), "10000 x 10000 pixels, allowed"),
    (bomb(1, 100_000), "128 x 12800000 pixels, allowed: at most"), (b"", "cannot be read"), (b"\0" * 100, "cannot be read"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "cannot be read: cannot identify"),
])
def test_pictures_made_to_do_harm(tmp_path, content, message):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_image(tmp_path / "x.png", (128, 128), 3)


def test_the_harm_is_real():
    """The wounds are of every kind, and the corpus is harmed nearly always."""
    data = bytes(range(256))
    results = {harmed(data, np.random.default_rng(seed)) for seed in range(200)}
    assert len(results) > 180 and len({len(result) for result in results}) > 50
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert Image.open(io.BytesIO(bomb(16, 16))).convert("L").size == (16, 16)
