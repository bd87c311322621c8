"""The launcher, with a stand-in for msrun and shell commands for ranks: everything but MindSpore."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ddpm_ms.cli.launch import log_directory
from ddpm_ms.errors import InputError
from ddpm_ms.launch import Job, Stop, check_job, rehearse, run_ranks
from ddpm_ms.launch.job import environment_of, find_msrun, msrun_command
from ddpm_ms.launch.logs import LiveLog, last_lines
from ddpm_ms.runtime.signals import SAME_REQUEST_SECONDS

ROOT = Path(__file__).parents[3]
# As msrun does: a scheduler and ranks with its variables, logs and sessions; the first failure kills the other ranks.
MSRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys, time
options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word)
command = sys.argv[sys.argv.index("python3"):]
count, first = int(options["local_worker_num"]), int(options["local_worker_num"]) * int(options["node_rank"])
def start(name, **variables):
    with open(os.path.join(options["log_dir"], name + ".log"), "w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env={{**os.environ, **variables}}, preexec_fn=os.setsid)
print("msrun was here", flush=True)
time.sleep(1000 if os.environ.get("MSRUN_SLEEPS") else 0)
if os.environ.get("MSRUN_FAILS"):
    sys.exit("no cluster today")
scheduler = start("scheduler", MS_ROLE="MS_SCHED", RANK_ID="0") if first == 0 else None
ranks = [start(f"worker_{{first + n}}", MS_ROLE="MS_WORKER", RANK_ID=str(first + n)) for n in range(count)]
while any(rank.poll() is None for rank in ranks):
    if any(rank.poll() for rank in ranks):
        break
    time.sleep(0.05)
if all(rank.poll() == 0 for rank in ranks):
    scheduler and scheduler.kill()
    sys.exit(0)
for rank in ranks:
    rank.poll() is None and os.killpg(rank.pid, signal.SIGKILL)
scheduler and scheduler.wait()
sys.exit(1)
"""
# Every process leaves its number; the scheduler then waits, as MindSpore's does until the ranks have gone.
BEGIN = ('echo $$ > "pid $MS_ROLE $RANK_ID"; '
         'if [ "$MS_ROLE" = MS_SCHED ]; then trap "touch signalled" TERM; sleep 1000 & wait; exit; fi; ')
SAVES = BEGIN + 'trap "echo saved; exit 0" TERM; touch "ready $RANK_ID"; while :; do sleep 0.05; done'
DEAF = BEGIN + 'trap "" TERM; touch "ready $RANK_ID"; while :; do sleep 0.05; done'


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a space in its name, and a msrun that needs no MindSpore first on PATH."""
    tools, place = tmp_path / "tools", tmp_path / "a place"
    tools.mkdir()
    place.mkdir()
    (tools / "msrun").write_text(MSRUN)
    (tools / "msrun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(place)
    return place


def job(script, place, **changes):
    return Job(**{**dict(command=["bash", "-c", script], logs=place / "logs", device="CPU", ranks=2), **changes})


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except OSError:
        return False


def nothing_is_left(place):
    pids = [int(path.read_text()) for path in place.glob("pid *")]
    assert pids
    wait_for(lambda: not any(map(alive, pids)))
    return True


def run(script, place, at_ready=None, seconds=60.0, **changes):
    """The status of the job; ``at_ready`` is called from another thread once every rank is ready."""
    with Stop(seconds) as stop:
        if at_ready:
            def later():
                wait_for(lambda: len(list(place.glob("ready *"))) == 2)
                at_ready()

            threading.Thread(target=later, daemon=True).start()
        return run_ranks(job(script, place, **changes), stop)


def test_msrun_is_told_of_all_ranks_and_of_those_of_this_node(place):
    third = job("true", place, ranks=4, nodes=3, node_rank=2, master="ten:8118", rank_table="table.json")
    options = msrun_command(third, "/tmp/s")
    assert {"--worker_num=12", "--local_worker_num=4", "--node_rank=2", "--master_addr=ten", "--master_port=8118",
            "--rank_table_file=table.json", f"--log_dir={place / 'logs'}", "--join=True"} < set(options)
    assert options[-4:] == ["/tmp/s", "bash", "-c", "true"]


def test_on_one_node_the_port_is_a_free_one(place):
    options = msrun_command(job("true", place), "/tmp/s")
    assert "--master_addr=127.0.0.1" in options and "--node_rank=0" in options
    port, = (int(word.split("=")[1]) for word in options if word.startswith("--master_port"))
    assert 1024 <= port < 65536 and not any(word.startswith("--rank_table") for word in options)


def test_msrun_is_found_on_the_path_and_without_an_active_environment(place, monkeypatch):
    assert find_msrun() == str(place.parent / "tools" / "msrun")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(place.parent / "tools" / "python"))
    assert find_msrun() == str(place.parent / "tools" / "msrun")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(InputError, match="msrun is neither on PATH nor beside this Python"):
        check_job(job("true", place))


def test_ranks_on_cpus_share_the_cores_unless_the_user_has_shared_them_out(place):
    cores = len(os.sched_getaffinity(0))
    assert environment_of(job("", place), {})["OMP_NUM_THREADS"] == str(max(1, cores // 2))
    assert environment_of(job("", place, ranks=1000), {})["OMP_NUM_THREADS"] == "1"
    assert environment_of(job("", place), {"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"
    assert "OMP_NUM_THREADS" not in environment_of(job("", place, device="GPU"), {})
    assert environment_of(job("", place), {"PATH": "/x"})["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}/x"


@pytest.mark.parametrize(("changes", "message"), [
    (dict(ranks=0), "--ranks is 0, allowed: at least 1"),
    (dict(nodes=0), "--nodes is 0, allowed: at least 1"),
    (dict(nodes=2, node_rank=2, master="a:1"), "--node-rank is 2, allowed: 0 to 1"),
    (dict(node_rank=-1), "--node-rank is -1, allowed: 0 to 0"),
    (dict(nodes=2), "--master is '', allowed with several nodes: HOST:PORT"),
    (dict(master="host"), "--master is 'host', allowed: HOST:PORT"),
    (dict(master="host:70000"), "the port of --master is 70000, allowed: 1 to 65535"),
    (dict(rank_table="none.json"), "--rank-table is 'none.json', allowed: a file"),
    (dict(device="Ascend", ranks=4), "--ranks is 4, allowed with the visible devices 0,1: at most 2"),
    (dict(device="GPU", ranks=2), "--ranks is 2, allowed with the visible devices 5: at most 1"),
])
def test_a_job_that_cannot_be_started_is_refused(place, changes, message):
    with pytest.raises(InputError) as error:
        check_job(job("true", place, **changes), {"ASCEND_RT_VISIBLE_DEVICES": "0,1", "CUDA_VISIBLE_DEVICES": "5"})
    assert str(error.value) == message


def test_a_master_whose_name_nobody_knows_is_refused_before_anything_is_started(place, monkeypatch):
    def unknown(host, port):
        raise socket.gaierror(-2, f"Name {host} not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(InputError) as error:
        check_job(job("true", place, nodes=2, master="node7:8118"))
    assert str(error.value) == ("--master is 'node7:8118', allowed: HOST:PORT of a host whose name this machine can resolve "
                                "(Name node7 not known)")


def test_a_job_that_can_be_started_is_not_refused(place):
    check_job(job("true", place, device="Ascend", ranks=2, nodes=2, node_rank=1, master="[::1]:8118"),
              {"ASCEND_RT_VISIBLE_DEVICES": "0,1"})
    check_job(job("true", place, ranks=64), {"ASCEND_RT_VISIBLE_DEVICES": "0,1"})


def test_when_all_ranks_return_0_so_does_the_job_and_the_first_ranks_log_is_shown(place, capfd):
    (place / "logs").mkdir()
    (place / "logs" / "worker_7.log").touch()  # of an earlier job
    assert run(BEGIN + 'echo "[INFO] of MindSpore"; echo "I am $RANK_ID"; printf "no end $RANK_ID"', place) == 0
    assert capfd.readouterr() == ("I am 0\nno end 0\n", "")
    logs = {path.name: path.read_text() for path in (place / "logs").iterdir()}
    assert logs.keys() == {"msrun.log", "scheduler.log", "worker_0.log", "worker_1.log"}
    assert "I am 1" in logs["worker_1.log"] and "msrun was here" in logs["msrun.log"]
    assert nothing_is_left(place)


def test_a_second_node_has_the_next_ranks_and_keeps_the_logs_of_the_first(place, capfd):
    (place / "logs").mkdir()
    for name in ("worker_0.log", "scheduler.log", "msrun.log"):
        (place / "logs" / name).write_text("of node 0")
    assert run(BEGIN + 'echo "I am $RANK_ID"', place, nodes=2, node_rank=1, master="host:1") == 0
    assert capfd.readouterr().out == "I am 2\n"
    assert {path.name: path.read_text() for path in (place / "logs").iterdir()} == {
        "worker_0.log": "of node 0", "scheduler.log": "of node 0", "msrun.log": "of node 0", "msrun_1.log": "msrun was here\n",
        "worker_2.log": "I am 2\n", "worker_3.log": "I am 3\n"}


@pytest.mark.parametrize(("end", "status"), [("exit 3", 3), ("kill -SEGV $$", 139), ("kill -KILL $$", 137)])
def test_a_rank_that_fails_ends_the_job_with_its_status_and_is_named(place, capfd, end, status):
    script = f'if [ $RANK_ID = 1 ]; then echo "[WARNING] noise"; echo "out of luck"; {end}; fi; sleep 1000'
    assert run(BEGIN + script, place) == status
    log = place / "logs" / "worker_1.log"
    assert capfd.readouterr().err == f"rank 1 failed with status {status}; its log: {log}\nout of luck\n"
    assert nothing_is_left(place)


def test_what_all_ranks_say_is_said_once(place, capfd):
    # Neither goes before both have said it, or the other may be killed with its mouth shut.
    both_said_it = 'touch "said $RANK_ID"; until [ -e "said 0" ] && [ -e "said 1" ]; do sleep 0.02; done; '
    assert run(BEGIN + 'echo "ddpm-ms: bad news"; ' + both_said_it + "exit 2", place) == 2
    out, err = capfd.readouterr()
    assert out == "ddpm-ms: bad news\n" and re.fullmatch(r"rank [01] failed with status 2; its log: .*\n", err)


def test_what_a_rank_waits_for_is_said_again_and_again(place, capfd, monkeypatch):
    monkeypatch.setattr("ddpm_ms.launch.logs.WAIT_SECONDS", 0.2)
    script = 'echo "a line"; sleep 0.5; echo "waiting for node 2"; sleep 0.9; echo "there it is"; sleep 0.5'
    assert run(BEGIN + script, place) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[:2] == ["a line", "waiting for node 2"] and lines[-1] == "there it is"
    assert 2 <= len(lines[2:-1]) <= 5 and set(lines[2:-1]) == {"waiting for node 2 (0 s)"}


def test_a_signal_before_msrun_has_started_any_rank_ends_the_job_at_once(place, capfd, monkeypatch):
    monkeypatch.setenv("MSRUN_SLEEPS", "1")
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    began = time.monotonic()
    assert run("true", place) == 143
    assert time.monotonic() - began < 10 and capfd.readouterr().err == "stopped before any rank had started\n"


def test_a_scheduler_that_fails_ends_the_job_of_one_node(place, capfd):
    assert run('[ $MS_ROLE = MS_SCHED ] || sleep 1000; echo "port taken"; exit 4', place) == 4
    assert capfd.readouterr().err.startswith(f"scheduler failed with status 4; its log: {place / 'logs' / 'scheduler.log'}\nport")


def test_a_scheduler_that_fails_is_nothing_to_a_job_of_several_nodes(place):
    script = '[ $MS_ROLE = MS_SCHED ] && exit 4; sleep 0.5'
    assert run(script, place, nodes=2, master="host:1") == 0


def test_an_msrun_that_fails_is_quoted(place, capfd, monkeypatch):
    monkeypatch.setenv("MSRUN_FAILS", "1")
    assert run("true", place) == 1
    assert capfd.readouterr().err == f"msrun failed; its log: {place / 'logs' / 'msrun.log'}\nmsrun was here\nno cluster today\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_every_rank_save_and_leaves_the_scheduler_alone(place, capfd, number):
    assert run(SAVES, place, at_ready=lambda: os.kill(os.getpid(), number)) == 0
    assert capfd.readouterr() == ("saved\n", "")
    assert "saved" in (place / "logs" / "worker_1.log").read_text() and not (place / "signalled").exists()
    assert nothing_is_left(place)


def test_a_rank_with_nothing_to_save_ends_by_the_signal_which_is_no_failure_to_report(place, capfd):
    script = BEGIN + 'touch "ready $RANK_ID"; exec sleep 1000'
    assert run(script, place, at_ready=lambda: os.kill(os.getpid(), signal.SIGTERM)) == 143
    said = capfd.readouterr().err
    assert re.fullmatch(r"rank [01] stopped as asked; it had nothing to save\n", said) and nothing_is_left(place)


def test_a_second_signal_kills(place, capfd):
    def twice():
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            time.sleep(SAME_REQUEST_SECONDS + 0.1)

    assert run(DEAF, place, at_ready=twice) == 137
    assert capfd.readouterr().err == "all ranks were killed: SIGINT, the second signal\n" and nothing_is_left(place)


def test_two_signals_at_once_are_one_request(place, capfd):
    assert run(SAVES, place, at_ready=lambda: [os.kill(os.getpid(), n) for n in (signal.SIGTERM, signal.SIGINT)]) == 0
    assert "killed" not in capfd.readouterr().err and nothing_is_left(place)


def test_a_log_directory_that_cannot_be_written_is_one_line(place):
    (place / "file").touch()
    with pytest.raises(InputError, match=r"^log directory .*file/logs cannot be written: Not a directory$"):
        run("true", place, logs=place / "file" / "logs")


def test_what_does_not_end_in_time_is_killed(place, capfd):
    assert run(DEAF, place, at_ready=lambda: os.kill(os.getpid(), signal.SIGTERM), seconds=0.5) == 137
    assert capfd.readouterr().err == "all ranks were killed: not ended 0.5 seconds after SIGTERM\n" and nothing_is_left(place)


def test_the_children_of_a_rank_end_with_it(place):
    assert run(BEGIN + '[ $RANK_ID = 0 ] && { sleep 1000 & echo $! > "pid child"; exit 0; }; sleep 0.3', place) == 0
    assert (place / "pid child").is_file() and nothing_is_left(place)


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[1])


def test_if_the_process_beside_a_rank_is_killed_so_is_the_rank(place, capfd):
    def kill():
        os.kill(parent(int((place / "pid MS_WORKER 1").read_text())), signal.SIGKILL)

    assert run(SAVES, place, at_ready=kill) == 137
    assert capfd.readouterr().err.startswith("rank 1 failed with status 137") and nothing_is_left(place)


def test_if_everything_is_told_to_end_the_ranks_still_save(place, capfd):
    def end_all():  # as a service manager does
        ranks = [int((place / f"pid MS_WORKER {rank}").read_text()) for rank in range(2)]
        beside = [parent(rank) for rank in ranks]
        for pid in (parent(beside[0]), *beside, *ranks, os.getpid()):
            os.kill(pid, signal.SIGTERM)

    assert run(SAVES, place, at_ready=end_all) == 0
    assert "saved" in (place / "logs" / "worker_1.log").read_text() and nothing_is_left(place)


def test_nothing_outlives_a_launcher_that_is_killed(place):
    code = ("import sys; from pathlib import Path; from ddpm_ms.launch import Job, Stop, run_ranks\n"
            "with Stop(9) as stop: run_ranks(Job(['bash', '-c', sys.argv[1]], Path('logs'), 'CPU', 2), stop)")
    launcher = subprocess.Popen([sys.executable, "-c", code, SAVES])
    wait_for(lambda: len(list(place.glob("ready *"))) == 2)
    launcher.kill()
    launcher.wait()
    assert nothing_is_left(place)


def test_a_reader_that_has_gone_does_not_end_the_job(place, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    live = LiveLog(place / "log", writing)
    (place / "log").write_text("a line\n")
    live.copy()
    live.copy(last=True)
    assert live.closed


def test_the_end_of_a_log_is_what_the_program_said_last(place):
    (place / "log").write_bytes(b"x" * 200_000 + b"\none\n[WARNING] w\ntwo\n[INFO] i\n\xff three\n")
    assert last_lines(place / "log", 3) == "one\ntwo\n\ufffd three"
    assert last_lines(place / "none") == ""


def test_a_rehearsal_has_its_status_and_ends_with_a_signal(place, capfd):
    with Stop(60) as stop:
        assert rehearse(["bash", "-c", "echo out; echo err >&2; exit 2"], stop) == 2
        assert capfd.readouterr() == ("", "err\n")
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        assert rehearse(["sleep", "1000"], stop) == 143


@pytest.mark.parametrize(("command", "given", "logs"), [
    ("train", dict(run_dir="a/b", config="c.yaml"), "a/b/logs"),
    ("train", dict(run_dir=None, config="x/c.d.yaml"), "runs/c.d/logs"),
    ("distill", dict(run_dir="students"), "students/logs"),
    ("sample", dict(checkpoint="."), "sample_logs"),
    ("evaluate", dict(checkpoint="."), "evaluate_logs"),
])
def test_logs_are_beside_what_the_command_writes(place, command, given, logs):
    (place / "state.json").touch()  # a checkpoint, as far as can be seen without reading it
    assert log_directory(command, SimpleNamespace(**given)) == Path(logs)


@pytest.mark.parametrize(("words", "message"), [
    (["trian"], "COMMAND is 'trian', allowed: train, distill, sample, evaluate, did you mean 'train'?"),
    ([], "COMMAND is '', allowed: train, distill, sample, evaluate"),
    (["sample", "--checkpoint", "x"], "checkpoint x does not exist, allowed: a run directory or one of its checkpoints"),
    (["distill", "--teacher", "t", "--steps=4"], "distill without --run-dir, allowed with launch: with it (logs go there, too)"),
    (["--ranks", "0", "train", "--config", "c"], "--ranks is 0, allowed: at least 1"),
    (["--nodes", "2", "train", "--config", "c"], "--master is '', allowed with several nodes: HOST:PORT"),
    (["--stop-timeout", "-1", "train", "--config", "c"], "--stop-timeout is -1.0, allowed: at least 0"),
])
def test_a_mistake_is_refused_at_once_without_mindspore(place, words, message):
    code = "import sys; from ddpm_ms.cli import main; status = main(sys.argv[1:]); sys.exit('mindspore' in sys.modules or status)"
    done = subprocess.run([sys.executable, "-c", code, "launch", *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"ddpm-ms: {message}\n")


def test_help_needs_no_mindspore():
    words = [sys.executable, "-X", "importtime", "-m", "ddpm_ms", "launch", "--help"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0 and "--stop-timeout" in done.stdout and "mindspore" not in done.stderr
