"""What stands in for main.py in the tests of the drills, and a case of a drill."""

from drills.moments import draw

# Stands before the lines of a test.
PRELUDE = """
import fcntl, json, pathlib, signal, sys, time

flags = dict(flag.removeprefix("--").split("=") for flag in sys.argv[1:])
workdir = pathlib.Path(flags["workdir"])
index = int(flags.get("process_id", 0))
last_step = 8

def say(text):
    print(text, flush=True)

def fail(text, status=1):
    say(text)
    sys.exit(status)

def save(step):
    (workdir / "checkpoints" / str(step)).mkdir(parents=True)

def train(step, *, then="ready"):
    workdir.mkdir(exist_ok=True)
    say(f"DFGAN in {workdir}")
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "train", "step": step}) + "\\n")
    say(then)

# In short calls: a signal just before a call that waits would be heeded only after it.
def sleep():
    for _ in range(6000):
        time.sleep(0.01)

def on_sigterm(action):
    signal.signal(signal.SIGTERM, lambda number, frame: action())

def alive(process):
    return (workdir.parent / f"alive.{process}").open("a")

def other_is_alive():
    try:
        with alive(1 - index) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False

def wait_for_the_others_end():
    while not other_is_alive():
        pass
    say("ready")
    while other_is_alive():
        time.sleep(0.01)

own = alive(index)
fcntl.flock(own, fcntl.LOCK_EX)
"""


def case_of(bench, drill):
    case = draw(drill, 0, seed=0, life_s=1.0, folder=bench.folder)
    case.folder.mkdir()
    return case
