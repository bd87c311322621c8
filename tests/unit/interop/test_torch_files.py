"""PyTorch's files are read as PyTorch reads them, and a stranger's file does nothing but hold numbers."""

import io
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from ddpm_ms.errors import InputError
from ddpm_ms.interop import pickles, zip_entries
from ddpm_ms.interop.torch_files import read_torch_file

FILES = Path(__file__).parents[2] / "golden" / "torch_files"
both_formats = pytest.mark.parametrize("kind", ["zip", "legacy"])


def same(found, expected):
    """Equal, of the same types, at every depth."""
    if isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected, strict=True)
        return
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        same(list(found.values()), list(expected.values()))
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        [same(a, b) for a, b in zip(found, expected)]
    else:
        assert found == expected


def floats(*values):
    return np.array(values, np.float32)


# Files that PyTorch wrote.

@both_formats
def test_numbers_of_every_type_keep_it_but_16_bit_floats_become_32(kind):
    types = {"float64": "f8", "float32": "f4", "float16": "f4", "bfloat16": "f4", "int64": "i8", "int32": "i4", "int16": "i2",
             "int8": "i1", "uint8": "u1", "bool": "?"}
    same(read_torch_file(FILES / f"numbers_{kind}.pt"),
         {name: np.arange(6).reshape(2, 3).astype(dtype) for name, dtype in types.items()})


@both_formats
def test_views_of_a_storage_are_views(kind):
    found = read_torch_file(FILES / f"views_{kind}.pt")
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    same(found, {"whole": whole, "turned": whole.T, "part": whole[1:3, 1::2], "column": whole[:, 5], "one": np.array(whole[2, 3]),
                 "none": whole[:0], "flat": whole.reshape(-1)[7:], "half": whole, "half_turned": whole.T})
    assert all(np.shares_memory(found["whole"], found[name]) for name in ("turned", "part", "column", "one", "flat"))
    assert np.shares_memory(found["half"], found["half_turned"]) and not any(array.flags.writeable for array in found.values()
                                                                             if array.size)


@pytest.mark.parametrize("name", ["trainer_zip", "trainer_legacy", "protocol4_zip", "protocol4_legacy"])
def test_what_trainers_keep_comes_back(name):
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    model = {"first.weight": weight, "first.bias": floats(1, 2, 3), "norm.weight": floats(2, 3, 4), "norm.bias": floats(3, 4, 5),
             "norm.running_mean": floats(0, 0, 0), "norm.running_var": floats(1, 1, 1), "norm.num_batches_tracked": np.array(0)}
    found = read_torch_file(FILES / f"{name}.pt")
    optimizer = found.pop("opt")
    same(found, {"step": 7, "model": model, "ema": [weight, (None, True, False)], "version": "2.3.4", "text": "größer 😀",
                 "numbers": [-1, 255, 65536, -2**31, 2**40, -2**63, 0.1, float("inf")], "parameter": floats(1, 1),
                 "grad": floats(0, 0), "size": (3, 4), "again": weight, "nothing": [[], {}, ()]})
    assert found["again"] is found["model"]["first.weight"]
    assert list(optimizer["state"]) == [0, 1, 2, 3] and optimizer["param_groups"][0]["betas"] == (0.9, 0.999)
    np.testing.assert_allclose(optimizer["state"][0]["exp_avg"], np.full((3, 2), 0.1), rtol=1e-6)


@pytest.mark.parametrize(("name", "message"), [
    ("refused_module", r"refused_module\.pt asks for 'torch\.nn\.modules\.linear\.Linear', which is not made"),
    ("refused_script", "is a TorchScript archive"),
    ("refused_expanded", r"shape \(1000,\), strides \(0,\) and offset 0 in storage '0' of 1 numbers"),
])
def test_of_what_pytorch_writes_programs_and_whole_modules_are_refused(name, message):
    refused(FILES / f"{name}.pt", message)


def refused(path, message="."):
    with pytest.raises(InputError, match=message) as error:
        read_torch_file(path)
    assert str(error.value).startswith(f"PyTorch file {path} ") and str(error.value).isprintable()
    assert len(str(error.value)) < 2100


@pytest.mark.parametrize("path", sorted(FILES.glob("*_*.pt")), ids=lambda path: path.stem)
def test_a_file_that_is_cut_short_is_one_line_wherever_it_was_cut(tmp_path, path):
    data = path.read_bytes()
    for length in range(0, len(data), 61):
        (tmp_path / "x.pt").write_bytes(data[:length])
        refused(tmp_path / "x.pt")


# Files that are something else.

def npz():
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty"), (b"\n<!DOCTYPE html><html>404</html>", "is a page of HTML"), (b"<HTML>", "is a page of HTML"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of Git LFS"),
    (save({"a": np.zeros(3, np.float32)}), "is a safetensors file"), (b"\x80\x04K\x01.", "is a pickle of something else"),
    (npz(), r"is a zip archive with 0 entries NAME/data\.pkl"), (b"\0" * 100, "is of another format"),
    (b"PK\3\4" + b"\0" * 100, "is a zip archive that is cut short or damaged"), (b"\x1f\x8b\x08" * 9, "is of another format"),
])
def test_a_file_of_another_kind_is_named(tmp_path, content, message):
    (tmp_path / "x.bin").write_bytes(content)
    refused(tmp_path / "x.bin", message)


def test_what_is_no_file_is_named(tmp_path):
    refused(tmp_path, "is not a file")
    refused(tmp_path / "none.pt", "does not exist")
    refused(tmp_path / ("x" * 300), "cannot be read: File name too long|does not exist")


# Pickles by hand.

def name(path):
    module, _, last = path.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def text(value):
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def whole(value):
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def numbers(*values):
    return b"(" + b"".join(map(whole, values)) + b"t"


KEY, FOUR = text("0"), whole(4)


def storage(key=KEY, kind="torch.FloatStorage", count=FOUR):
    return b"(" + text("storage") + name(kind) + key + text("cpu") + count + b"tQ"


WHOLE = {"offset": whole(0), "shape": numbers(4), "strides": numbers(1), "of": storage(), "rest": b"\x89N"}


def tensor(**changes):
    offset, shape, strides, of, rest = {**WHOLE, **changes}.values()
    return name("torch._utils._rebuild_tensor_v2") + b"(" + of + offset + shape + strides + rest + b"tR"


def archive(pickle, content=None, **options):
    """A file as torch.save writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as made:
        made.writestr("archive/data.pkl", b"\x80\x02" + pickle + b".")
        for entry, data in ({"data/0": floats(1, 2, 3, 4).tobytes()} if content is None else content).items():
            made.writestr(f"archive/{entry}", data)
    return file.getvalue()


MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03." + b"\x80\x02}."
OLD = tensor(of=storage()[:-2] + b"NtQ")


CONTENT = (4).to_bytes(8, "little") + floats(1, 2, 3, 4).tobytes()


def legacy(pickle=OLD, keys=KEY, content=CONTENT):
    return MAGIC + b"\x80\x02" + pickle + b"." + b"\x80\x02](" + keys + b"e." + content


@pytest.fixture
def written(tmp_path):
    def write(data):
        (tmp_path / "x.pt").write_bytes(data)
        return tmp_path / "x.pt"

    return write


def test_the_pickles_by_hand_are_such_as_pytorch_writes(written):
    same(read_torch_file(written(archive(b"}" + text("w") + tensor() + b"s"))), {"w": floats(1, 2, 3, 4)})
    same(read_torch_file(written(archive(name("torch._utils._rebuild_parameter") + b"(" + tensor() + b"\x88NtR"))),
         floats(1, 2, 3, 4))
    same(read_torch_file(written(archive(tensor(offset=whole(1), shape=numbers(2, 2), strides=numbers(1, 1))))),
         floats(2, 3, 3, 4).reshape(2, 2))
    same(read_torch_file(written(archive(tensor(offset=whole(4), shape=numbers(3, 0), strides=numbers(0, 1))))),
         np.zeros((3, 0), np.float32))
    same(read_torch_file(written(archive(tensor(offset=whole(3), shape=numbers(1, 1), strides=numbers(2**61, 2**61))))),
         floats(4).reshape(1, 1))


@pytest.mark.parametrize(("kind", "stored", "expected"), [
    ("torch.FloatStorage", ">f4", floats(1, -2, 3, 4)), ("torch.HalfStorage", ">f2", floats(1, -2, 3, 4)),
    ("torch.LongStorage", ">i8", np.array([1, -2, 3, 4])),
    ("torch.BFloat16Storage", ">u2", np.array([1, 0xFFFE, 3, 4], np.uint32) << 16),
])
def test_a_file_of_a_big_endian_machine_is_read(written, kind, stored, expected):
    content = {"byteorder": b"big", "data/0": np.array([1, -2, 3, 4]).astype(stored).tobytes()}
    found = read_torch_file(written(archive(tensor(of=storage(kind=kind)), content)))
    same(found, expected if kind != "torch.BFloat16Storage" else expected.view(np.float32))


BAD = b"cos\nsystem\n"
SIZE, DICT, PARAMETER, TENSOR = map(name, ("torch.Size", "collections.OrderedDict", "torch._utils._rebuild_parameter",
                                           "torch._utils._rebuild_tensor_v2"))
CHAIN = range(200)
HARM = {
    # Names
    r"asks for 'os\.system', which is not made": [
        BAD, BAD + text("true") + b"\x85R", b"}" + text("a") + b"](" + text("b") + BAD + text("true") + b"\x85Rees",
        text("os") + b"q\x05" + text("system") + b"q\x06]h\x05h\x06\x93a", b"(" + text("true") + b"ios\nsystem\n",
        b"\x8c\x02os\x8c\x06system\x93", DICT + b")R}" + text("_metadata") + BAD + b"sb", tensor(rest=b"\x89" + BAD),
        b"(" + text("storage") + BAD + KEY + text("cpu") + FOUR + b"tQ"],
    r"asks for 'posix\.system'": [text("posix") + text("system") + b"\x93" + text("true") + b"\x85R"],
    r"asks for 'builtins\.eval'": [name("builtins.eval")], r"asks for 'torch\.load'": [name("torch.load")],
    r"asks for 'torch\.storage\._load_from_bytes'": [name("torch.storage._load_from_bytes")],
    r"asks for 'collections\.OrderedDict\.": [name("collections.OrderedDict.update"), b"ccollections\nOrderedDict.fromkeys\n"],
    r"asks for '\.\\x1b\[2J'": [b"c\n\x1b[2J\n"], r"asks for 'os\.xxx": [b"cos\n" + b"x" * 10**6 + b"\n"],
    "a name made of a list and a list": [b"]]\x93"],
    # Calls, objects, states
    "calls a str, which is no function": [text("os.system") + text("true") + b"\x85R"],
    r"calls 'torch\.FloatStorage', which is no function": [name("torch.FloatStorage") + b")R"],
    "calls a Tensor, which is no function": [tensor() + b")R"], r"calls torch\.Size with a list": [SIZE + b"]R"],
    r"opcode OBJ of 'collections\.OrderedDict', which is not carried out": [b"(" + DICT + b"o"],
    r"opcode INST of 'collections\.OrderedDict'": [b"(icollections\nOrderedDict\n"],
    r"opcode NEWOBJ of 'torch\.Size'": [SIZE + b")\x81"], "opcode NEWOBJ_EX": [SIZE + b")}\x92"],
    "opcode EXT": [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\0\0\0"], "opcode PERSID": [b"P0\n"],
    "opcode 0x": [b"I1\n", b"\x8f", b"N0", b"\xff"],
    "sets the state of a list": [b"]}b", b"}])b"], "sets the state of a dict": [b"}]b"],
    "sets the state of 'torch.Size'": [SIZE + b"}b"],
    "sets the state of a Tensor": [tensor() + b"}" + text("__setstate__") + b"Nsb"],
    "OrderedDict with 1 arguments": [DICT + b"]\x85R"],
    "a torch.Size that is not made of at most 32 whole numbers": [
        SIZE + text("a") + b"\x85R", SIZE + b")R", SIZE + numbers(*[1] * 33) + b"\x85R", SIZE + numbers(-1) + b"\x85R"],
    # Memo, stack, depth, size
    "makes no sense": [b"h\x07", b"q\x01", b"", b"R", b"t", b"K\x01\x87", b"}(Nu", b"]K\x01s", b"X\x01\0\0\0\xff",
                       b"cos\nsys\xff\n", b"(", b"a", b"Q", b"b", b"\x94", b"\x93", b"j\xff\xff\xff\xff", b"(]u"],
    "a dict in the place of a list": [b"}K\x01a"], "a list in the place of a dict": [b"]K\x01K\x01s"],
    "a list that is within itself": [b"]q\0h\0a", b"]q\0h\0\x85a"],
    "a dict that is within itself": [b"}q\0" + text("a") + b"h\0s"],
    "has more than 1000000 values": [b"]q\0" + b"h\0h\0\x86q\0" * 60, b"]q\0" + (b"(" + b"h\0" * 99 + b"tq\0") * 9],
    "nested more than 64 deep": [
        b"]" * 100_000 + b"a" * 99_999, b")" + b"\x85" * 100_000, b"]q\0" + b"h\0\x85q\0" * 100,
        b"()" + b"".join(b"\x85q" + bytes([k]) for k in CHAIN) + b"t", (b"}" + text("a")) * 999 + b"N" + b"s" * 999,
        b"](" + b")\x94" + b"".join(b"h" + bytes([k]) + b"\x85\x94" for k in CHAIN) + b"e"],
    "a tuple as a key": [b"})" + b"\x85" * 100_000 + b"Ns"], "a list as a key": [b"}]Ns"], "a NoneType as a key": [b"}NNs"],
    "a int as a key": [b"}" + whole(2**64) + b"Ns"],
    "a str as a key, allowed: texts of at most 1000": [b"}" + text("x" * 1001) + b"Ns"],
    "more than 1000000 opcodes": [b"N" * 10**6],
    "a whole number of 17 bytes, allowed: at most 16": [b"\x8a\x11" + b"\1" * 17],
    "a whole number of 2147483647 bytes": [b"\x8b\xff\xff\xff\x7f"],
    "ends within its pickle": [b"X\xff\xff\xff\xff", b"\x8d" + b"\xff" * 8, b"J\1", b"cos", b"cos\nsystem"],
    # Storages
    "a persistent id that is not a storage": [
        b"NQ", b")Q", KEY + b"Q", b"(" + text("module") + b"NNNNtQ", b"(]NNNNtQ", storage()[:-2] + b"NtQ",
        b"(" + text("storage") + b"tQ"],
    "a storage without a type, a name or a number": [
        storage(kind="torch.Size"), storage(key=b"]"), storage(key=whole(0)), storage(key=text("x" * 101)),
        storage(count=whole(-1)), storage(count=b"\x88"), storage(count=whole(2**62)), storage(count=b"G" + b"\0" * 8)],
    "a storage '0' of two types or lengths": [
        b"]" + storage() + b"a" + storage(count=whole(5)) + b"a",
        b"]" + storage() + b"a" + storage(kind="torch.IntStorage") + b"a"],
    "holds a storage or a name by itself": [storage(), b"]" + SIZE + b"a"],
    "has no entry 'archive/data/1'": [tensor(of=storage(key=text("1")))],
    r"has no entry 'archive/data/\.\./\.\./x'": [tensor(of=storage(key=text("../../x")))],
    "'archive/data/0' has 16 bytes, its tensors have": [tensor(of=storage(count=whole(n))) for n in (5, 2**61)],
    # Tensors
    "whose offset, shape and strides are not whole numbers from 0": [
        tensor(offset=whole(-1)), tensor(offset=b"\x88"), tensor(offset=b"N"), tensor(shape=numbers(-4)), tensor(shape=b"]"),
        tensor(strides=numbers(-1)), tensor(strides=numbers(1, 1)), tensor(shape=b"(\x88t"),
        tensor(shape=numbers(*[1] * 33), strides=numbers(*[1] * 33))],
    r"shape \(4,\), strides \(1,\) and offset 1 in storage '0' of 4 numbers": [tensor(offset=whole(1))],
    "in storage '0' of 4 numbers": [
        tensor(offset=whole(2**61), shape=numbers(1)), tensor(shape=numbers(5)), tensor(shape=numbers(2**61)),
        tensor(shape=numbers(2, 2), strides=numbers(2**61, 1)), tensor(shape=numbers(2**61), strides=numbers(0)),
        tensor(shape=numbers(0, 2**61), strides=numbers(1, 1)), tensor(offset=whole(5), shape=numbers(0)),
        tensor(shape=numbers(*[2**61] * 32), strides=numbers(*[2**61] * 32))],
    "a tensor that is not made of a storage": [
        tensor(of=b"N"), tensor(rest=b"\x89"), tensor(rest=b"\x89N}" + text("neg") + b"\x88s"), tensor(rest=b"\x89NNN"),
        TENSOR + b")R"],
    "a parameter without a tensor": [PARAMETER + b"NNN\x87R", PARAMETER + b")R"],
}


# The older format goes on behind its pickle, and its storages lie elsewhere: of these it says something else.
OLD_HARM = {"has no entry 'archive/data/1'": "lists storages that no tensor has",
            r"has no entry 'archive/data/\.\./\.\./x'": "lists storages that no tensor has",
            "'archive/data/0' has 16 bytes, its tensors have": "storage '0' has another length than its tensors",
            "ends within its pickle": "."}


@pytest.mark.parametrize(("message", "pickle"), [(message, pickle) for message, made in HARM.items() for pickle in made])
def test_a_pickle_made_to_do_harm_is_one_line_in_both_formats(written, message, pickle):
    refused(written(archive(pickle)), message)
    of_storages = (KEY, CONTENT) if text("storage") in pickle else (b"", b"")
    refused(written(legacy(pickle.replace(b"tQ", b"NtQ"), *of_storages)), OLD_HARM.get(message, message))


def test_nothing_is_imported_or_run_because_a_file_says_so(written, tmp_path):
    for called, argument in {"os.system": f"touch {tmp_path}/harm", "builtins.exec": f"open('{tmp_path}/harm', 'w')",
                             "this.s": "x", "builtins.__import__": "antigravity"}.items():
        refused(written(archive(name(called) + text(argument) + b"\x85R")), f"asks for '{called}'")
    assert not (tmp_path / "harm").exists() and not {"this", "antigravity"} & set(sys.modules)


def test_the_attributes_of_a_state_dict_do_not_reach_it(written):
    attributes = b"}(" + text("_metadata") + b"}" + text("__class__") + b"Nub"
    same(read_torch_file(written(archive(name("collections.OrderedDict") + b")R" + text("a") + b"Ns" + attributes))), {"a": None})


# Archives by hand.

def changed(data, where, value):
    return data[:where] + value + data[where + len(value):]


SOUND = archive(tensor())


@pytest.mark.parametrize(("data", "message"), [
    (archive(tensor(), compression=zipfile.ZIP_DEFLATED), r"entry 'archive/data\.pkl' that is compressed"),
    (archive(b"N" * 10**7, compression=zipfile.ZIP_DEFLATED), "that is compressed or encrypted"),
    (changed(SOUND, SOUND.index(b"PK\1\2") + 8, b"\1"), "that is compressed or encrypted"),
    (changed(SOUND, SOUND.index(b"PK\1\2") + 24, b"\xff\xff\xff\x7f"), "that is compressed or encrypted"),
    (changed(SOUND, SOUND.index(b"PK\1\2") + 20, b"\xff\xff\xff\x7f" * 2), "'archive/data.pkl' is not where it should be"),
    (changed(SOUND, SOUND.index(b"PK\1\2") + 42, b"\x02\0\0\0"), "'archive/data.pkl' is not where it should be"),
    (changed(SOUND, SOUND.index(floats(1, 2, 3, 4).tobytes()), b"\1"), "is damaged: the checksum of 'archive/data/0' is wrong"),
    (changed(SOUND, SOUND.index(b"\x80\2") + 3, b"x"), "is damaged: the checksum of 'archive/data.pkl' is wrong"),
    (changed(SOUND, SOUND.index(b"PK\5\6") + 12, b"\xff\xff\xff\x7f"), "cut short or damaged"),
    (archive(tensor(), {}), "has no entry"), (archive(tensor(), {"data/0": b""}), "has 0 bytes, its tensors have 16"),
    (archive(tensor(), {"byteorder": b"middle"}), "has the byte order b'middle', allowed: little, big"),
    (archive(tensor(), {"byteorder": b"x" * 10**6}), "has the byte order"),
    (archive(tensor(), {"code/a.py": b""}), "is a TorchScript archive"),
    (archive(tensor(), {"constants.pkl": b""}), "is a TorchScript archive"),
    (archive(tensor(), {"../other/data.pkl": b""}).replace(b"archive/../other", b"0123456789/other"), "."),
    (archive(tensor()).replace(b"archive/data.pkl", b"archive/data/1.p"), "with 0 entries"),
    (archive(tensor(), {"data/00": b"1"}).replace(b"archive/data/00", b"other2/data.pkl"), "with 2 entries"),
    (archive(tensor(), {"a": b"", "b": b""}).replace(b"archive/b", b"archive/a"), "two entries of one name"),
])
def test_an_archive_made_to_do_harm_is_one_line(written, data, message):
    refused(written(data), message)


def test_storages_that_lie_on_top_of_each_other_are_refused(written):
    """A thousand of them could each be converted."""
    half = [tensor(of=storage(text(str(k)), "torch.HalfStorage", whole(2000)), shape=numbers(2000)) for k in range(2)]
    data = archive(b"](" + b"".join(half) + b"e", {"data/0": b"\0" * 4000, "data/1": b""})
    last = data.rindex(b"PK\1\2")
    first = data.rindex(b"PK\1\2", 0, last)
    data = changed(data, last + 16, data[first + 16:first + 28])  # checksum and lengths
    refused(written(changed(data, last + 42, data[first + 42:first + 46])), "its storages overlap")


def test_a_list_of_entries_beyond_reason_is_not_read(written, monkeypatch):
    monkeypatch.setattr(zip_entries, "LARGEST_DIRECTORY", 50)
    refused(written(SOUND), "whose list of entries has 122 bytes, allowed: at most 50")


# The older format.

@pytest.mark.parametrize(("data", "message"), [
    (legacy(BAD), r"asks for 'os\.system'"), (legacy(tensor()), "a persistent id that is not a storage"),
    (MAGIC[:-2] + BAD + b".", r"asks for 'os\.system'"), (MAGIC[:-2] + storage() + b".", "asks for 'torch.FloatStorage'"),
    (MAGIC[:-2] + b"NQ.", "a storage where none can be"),
    (legacy(keys=BAD), r"asks for 'os\.system'"), (legacy(keys=b""), "does not list all storages"),
    (legacy(keys=text("1")), "lists storages that no tensor has"), (legacy(keys=b"]"), "lists storages that no tensor has"),
    (legacy(keys=text("0") * 2), "storage '0' has another length"), (legacy(keys=whole(0)), "lists storages that no tensor has"),
    (legacy(content=b"\5" + b"\0" * 27), "storage '0' has another length"), (legacy()[:-1], "ends within storage '0'"),
    (legacy(content=b"\4"), "storage '0' has another length"), (legacy(content=b""), "storage '0' has another length"),
    (legacy(content=b"\xff" * 24), "storage '0' has another length"),
    (MAGIC[:14] + b"\x80\x02K\1.", "a pickle of something else"),
])
def test_a_file_of_the_older_format_made_to_do_harm_is_one_line(written, data, message):
    same(read_torch_file(written(legacy())), floats(1, 2, 3, 4))
    refused(written(data), message)


# Memory.

def test_what_is_not_used_is_not_read_and_what_is_as_it_should_be_is_not_copied(written):
    """One GiB of zeros that lies on no disk; its storage begins at a multiple of four."""
    count = 2**28
    used, other = (tensor(of=storage(text(key), count=whole(count))[:-2] + b"NtQ", shape=numbers(count)) for key in "01")
    unused = name("collections.OrderedDict") + b")R}" + text("_metadata") + other + b"sb" + text("w") + used + b"s" + text("pad")
    for pad in range(4):
        data = legacy(unused + text("x" * pad) + b"s", text("0") + text("1"), b"")
        if len(data) % 4 == 0:
            break
    path = written(data + count.to_bytes(8, "little"))
    with path.open("r+b") as file:
        file.seek(len(data) + 8 + 4 * count)
        file.write(count.to_bytes(8, "little"))
        file.truncate(len(data) + 16 + 8 * count)
    tracemalloc.start()
    try:
        found = read_torch_file(path)["w"]
        assert found.shape == (count,) and found[-1] == 0
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_what_does_not_fit_into_memory_is_one_line(monkeypatch):
    monkeypatch.setattr(np, "frombuffer", lambda *_: np.empty(2**55))
    refused(FILES / "numbers_legacy.pt", "takes more memory than there is")


@pytest.mark.parametrize("pickle", [b"]\x94" * 24_999, b"](" + b"}" * 49_900 + b"e", b"](" + b"}K\1Ns" * 9_900 + b"e"])
def test_the_memory_of_a_pickle_is_bounded_by_its_opcodes(written, monkeypatch, pickle):
    monkeypatch.setattr(pickles, "MOST_OPCODES", pickles.MOST_OPCODES // 20)
    path = written(archive(pickle))
    tracemalloc.start()
    try:
        read_torch_file(path)
        assert tracemalloc.get_traced_memory()[1] < 5e8 / 20
    finally:
        tracemalloc.stop()


def test_the_reader_needs_neither_pytorch_nor_mindspore():
    code = "import sys, ddpm_ms.interop.torch_files; sys.exit(bool({'torch', 'mindspore'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_opcodes_are_carried_out_but_these_which_make_values_and_call_the_table():
    assert set(map(ord, "NJKMGX()]}taesuqrhjcRbQ")) | {0x80, 0x95, 0x88, 0x89, 0x8a, 0x8b, 0x8c, 0x8d, 0x85, 0x86, 0x87, 0x94,
                                                      0x93} == set(pickles._OPCODES)
