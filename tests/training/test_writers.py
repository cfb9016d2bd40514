import json
import re

import pytest
from tensorboardX.proto import event_pb2

from dfgan_jax.support.errors import InputError
from dfgan_jax.training.writers import MetricsWriter, read_history


def test_rows_after_the_step_that_training_goes_on_from_are_dropped(tmp_path):
    with MetricsWriter(tmp_path, step=0) as writer:
        for step in (10, 20, 30):
            writer.write("train", step=step, epoch=1, metrics={"generator_loss": step / 10})
    with MetricsWriter(tmp_path, step=20) as writer:
        writer.write("valid", step=25, epoch=2, metrics={"psnr": 40.0})
    assert read_history(tmp_path) == [
        {"kind": "train", "step": 10, "epoch": 1, "generator_loss": 1.0},
        {"kind": "train", "step": 20, "epoch": 1, "generator_loss": 2.0},
        {"kind": "valid", "step": 25, "epoch": 2, "psnr": 40.0}]


def test_the_validation_that_is_to_come_again_is_dropped(tmp_path):
    with MetricsWriter(tmp_path, step=0) as writer:
        for step, kind in ((1, "train"), (1, "valid"), (2, "train"), (2, "valid")):
            writer.write(kind, step=step, epoch=step, metrics={})
    with MetricsWriter(tmp_path, step=2, validated=False):
        pass
    assert [(row["step"], row["kind"]) for row in read_history(tmp_path)] == [
        (1, "train"), (1, "valid"), (2, "train")]


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    row = {"kind": "train", "step": 1, "epoch": 1}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n" + '{"kind": "tra')
    assert read_history(tmp_path) == [row]
    with MetricsWriter(tmp_path, step=1) as writer:
        writer.write("train", step=2, epoch=1, metrics={})
    assert [row["step"] for row in read_history(tmp_path)] == [1, 2]


def test_a_line_that_is_no_json_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": \n')
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 2 is not JSON"):
        read_history(tmp_path)


@pytest.mark.parametrize("broken", [b'{"step": \n', b"\0" * 40 + b"\n", b"7\n", b"\xff\n"])
def test_training_sets_a_broken_history_aside_and_keeps_its_whole_rows(tmp_path, capsys, broken):
    """A power cut leaves such lines, and would leave the run unable to go on."""
    rows = [{"kind": "train", "step": step, "epoch": 1} for step in (1, 2, 3)]
    first, second, third = (json.dumps(row).encode() + b"\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_bytes(first + broken + second + third)
    with MetricsWriter(tmp_path, step=2):
        pass
    assert read_history(tmp_path) == rows[:2]
    aside = tmp_path / "damaged" / "metrics.jsonl"
    assert aside.read_bytes() == first + broken + second + third
    assert re.search(rf"warning: .*metrics\.jsonl: line 2 is .*; set aside as {aside}; "
                     "3 whole rows are kept", capsys.readouterr().err)


def test_tensorboard_holds_the_same_numbers(tmp_path):
    with MetricsWriter(tmp_path, step=0) as writer:
        writer.write("valid", step=7, epoch=1, metrics={"psnr": 41.5})
    (file,) = (tmp_path / "tensorboard").iterdir()
    found = []
    content = file.read_bytes()
    while content:  # length (8 bytes), its checksum (4), event, its checksum (4)
        length = int.from_bytes(content[:8], "little")
        event = event_pb2.Event.FromString(content[12:12 + length])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        content = content[16 + length:]
    assert found == [(7, "valid/psnr", 41.5)]


def test_no_file_is_an_empty_history(tmp_path):
    assert read_history(tmp_path) == []
