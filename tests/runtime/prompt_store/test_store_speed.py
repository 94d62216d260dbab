"""How fast reading is, and that slow disks are not waited for."""

import time

import pytest
from pretended import PAGE, PAGE_BYTES, Pretended, keep, prompt

from dca_runtime.prompt_store import loading, speed
from dca_runtime.prompt_store.directory import SPEED_FILE
from dca_runtime.prompt_store.speed import Sample, Speed


def samples(per_token: float, per_pair: float, stops: list[int]) -> list[Sample]:
    """Oracle: token t costs per_token + per_pair * t, summed one by one."""
    starts = [0, *stops[:-1]]
    return [
        Sample(start, stop, sum(per_token + per_pair * (token + 0.5) for token in range(start, stop)))
        for start, stop in zip(starts, stops, strict=True)
    ]


def test_a_speed_is_that_of_the_reading():
    found = speed.measured(samples(1e-3, 1e-7, [512, 1536, 4096, 9000]))
    assert found.per_token == pytest.approx(1e-3, rel=1e-3)
    assert found.per_pair == pytest.approx(1e-7, rel=1e-3)
    assert found.seconds(1000, 1001) == pytest.approx(1e-3 + 1e-7 * 1000.5, rel=1e-3)


@pytest.mark.parametrize("pieces", [[], [Sample(0, 500, 1.0)]])
def test_a_short_reading_tells_nothing(pieces):
    assert speed.measured(pieces) is None


def test_noise_gives_no_negative_time():
    found = speed.measured([Sample(0, 1000, 5.0), Sample(1000, 2000, 1.0)])
    assert found == Speed(pytest.approx(3e-3), 0.0)


def test_a_speed_is_found_by_the_next_process(store):
    sequence = Pretended()
    with store.prompts(sequence) as prompts:
        assert prompts.speed is None
        prompts.read_in(Sample(0, 2048, 2.0))
        prompts.finish_reading()
    with store.prompts(sequence) as prompts:
        assert prompts.speed == Speed(2.0 / 2048, 0.0)


def test_a_speed_is_that_of_the_last_readings_however_many_there_were(store):
    with store.prompts(Pretended()) as prompts:
        for seconds in (1.0, 1e-3):
            for _ in range(5000):
                prompts.read_in(Sample(0, 1, seconds))
        prompts.finish_reading()
        assert prompts.speed.seconds(0, 1) == pytest.approx(1e-3)


def test_a_reading_may_be_told_of_while_a_speed_is_found(store, monkeypatch):
    with store.prompts(Pretended()) as prompts:
        told_to = prompts._samples  # by a thread that began before the last readings were taken
        monkeypatch.setattr(
            "dca_runtime.prompt_store.speed.measured",
            lambda samples: [told_to.append(one) for one in samples] and None,
        )
        prompts.read_in(Sample(0, 1, 1.0))
        prompts.finish_reading()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"per_token": 0, "per_pair": 0}', '{"per_token": "x", "per_pair": 0}']
)
def test_a_damaged_speed_is_none(tmp_path, text):
    (tmp_path / SPEED_FILE).write_text(text)
    assert speed.load(tmp_path) is None


def test_the_slowest_disk_is_where_both_take_as_long():
    one = Speed(1e-3, 1e-7)
    rate = one.slowest_disk(PAGE_BYTES, 0, 10 * PAGE)
    assert 10 * PAGE_BYTES / rate == pytest.approx(one.seconds(0, 10 * PAGE))


def loaded_from(store, monkeypatch, seconds_a_chunk: float, per_token: float) -> tuple[int, bool]:
    """Pages loaded, and whether the disk was found too slow, where each chunk takes so long."""
    keep(store, prompt(1, 40))
    real = loading._read

    def slow(*arguments):
        time.sleep(seconds_a_chunk)
        return real(*arguments)

    monkeypatch.setattr(loading, "_read", slow)
    monkeypatch.setattr(loading, "_CHUNK_BYTES", PAGE_BYTES)
    sequence = Pretended()
    with store.prompts(sequence) as prompts:
        prompts.speed = Speed(per_token, 0.0)
        with prompts.loading(sequence, prompt(1, 40)) as load:
            while load.step(sequence):
                pass
            return load.loaded, load.too_slow


def test_a_disk_slower_than_reading_is_left(store, monkeypatch):
    pages, too_slow = loaded_from(store, monkeypatch, seconds_a_chunk=0.2, per_token=1e-5)
    assert too_slow and 0 < pages < 20


def test_a_disk_faster_than_reading_is_used(store, monkeypatch):
    assert loaded_from(store, monkeypatch, seconds_a_chunk=0.03, per_token=1.0) == (39, False)
