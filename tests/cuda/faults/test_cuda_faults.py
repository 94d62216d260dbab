"""A card that is lost or full: the step says so in a line, and the process goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dca_runtime import DcaError, Model
from dca_runtime.errors import Status

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

two_cards = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two cards")
LONGEST_STEP = 5.0  # seconds in which a step that waits for a lost card gives up


@pytest.mark.parametrize("when", ["now", "soon"])
@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("cuda:0", 0),
        pytest.param("cuda:0,1", 1, marks=two_cards),
        pytest.param("cuda:0,1", 0, marks=two_cards),
        pytest.param("cuda:0,1/layers", 1, marks=two_cards),
    ],
)
def test_a_card_that_is_lost_is_said_and_the_process_goes_on(variant_gguf, device, card, when):
    program = Path(__file__).with_name("lost_card.py")
    done = subprocess.run(
        [sys.executable, str(program), str(variant_gguf()), device, str(card), when],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["failed"]) == 3
    for seconds, message in found["failed"]:
        assert seconds < LONGEST_STEP
        assert message.startswith("DEVICE: ") and "\n" not in message
        assert "another rank failed" not in message
    assert found["new session"]
    assert found["on the CPU"] == 515
    for said in found["answers"]:  # CUDA decides whether it lets the process use other cards
        assert said == 515 or (said.startswith("DEVICE: ") and said.endswith("start it again")), said
    assert all(lost < 64 << 20 for lost in found["lost memory"])


@two_cards
@pytest.mark.alone
def test_a_card_that_is_full_is_named_and_used_once_it_is_not(variant_gguf):
    tokens = 4_000_000  # half a kilobyte each on either card
    with Model(variant_gguf(scheme=(48, 16, 64)), device="cuda:0,1") as model:
        free, _ = torch.cuda.mem_get_info(1)
        filled = torch.empty(free - (1200 << 20), dtype=torch.uint8, device="cuda:1")
        try:
            left = torch.cuda.mem_get_info(0)[0]
            with pytest.raises(DcaError, match=r"cuda:1 .* room for \d+ tokens") as refused:
                model.session(context=tokens)
            assert refused.value.status == Status.MEMORY
            assert left - torch.cuda.mem_get_info(0)[0] < 64 << 20
        finally:  # a failure keeps this frame, and with it a card
            del filled
            torch.cuda.empty_cache()
        with model.session(context=tokens) as session:
            assert session.eval([1, 2, 3]).shape == (515,)
