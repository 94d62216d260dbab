"""Stated budgets on a card: choice and attention against float64, the CPU and the reference."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from stated_check import check_stated, stated_cases  # noqa: E402
from tiny import Tiny, write_tiny_gguf  # noqa: E402

from dca_export.parity.sparse import check_sparse  # noqa: E402
from dca_export.parity.torch_reference import TorchReference  # noqa: E402
from dca_runtime import DcaError, Model  # noqa: E402
from dca_runtime.errors import Status  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

CASES = list(stated_cases(seed=7, count=30))

SCHEME = (300, 100, 512)  # borders lie inside pages
LAYERS, HEADS, TOKENS, FROM, ALL = 2, 4, 1500, 512, 1 << 20
IDS = np.random.default_rng(7).integers(0, 320, TOKENS).astype(np.int32)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case[0].seed))
def test_choice_and_attention_match_float64(library, case):
    assert set(check_stated(library, *case)) & {"sm80", "sm90"}


def write(path, budgets, **fields):
    """A model with a budget of columns and diagonals for each head of each layer."""
    columns, diagonals = zip(*budgets, strict=True)
    keys = {"columns": columns, "diagonals": diagonals, "threshold": FROM, "last_queries": 64}
    tiny = Tiny(
        **{"scheme": SCHEME, "head_dim": 64, "context_length": 512, "dtype": "f16", "heads": HEADS, **fields}
    )
    extra = {
        f"llama.attention.budget.{key}": value if isinstance(value, int) else list(value)
        for key, value in keys.items()
    }
    write_tiny_gguf(path, tiny, extra=extra)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Every head has a budget of its own."""
    random = np.random.default_rng(1)
    budgets = [(int(random.integers(0, 90)), int(random.integers(80, 220))) for _ in range(LAYERS * HEADS)]
    return write(tmp_path_factory.mktemp("stated") / "m.gguf", budgets)


def run(path, device, **options):
    """Logits after the last token, what was chosen, and the density by layer and head."""
    options = {"context": TOKENS, "prefill": "stated", "record_selection": True, **options}
    with Model(path, device=device) as model, model.session(**options) as session:
        session.append(IDS[:700])
        session.append(IDS[700:1400])
        logits = session.eval(IDS[1400:])
        chosen = {(each.layer, each.head, each.start, each.stop): each for each in session.line_selection()}
        return logits, chosen, np.array(session.info.density)


def differing(expected, chosen):
    """The share of the first layer's lines that only one side chose."""
    assert expected.keys() == chosen.keys()
    lines, both = 0, 0
    for unit in expected:
        for kind in ("columns", "diagonals") if unit[0] == 0 else ():
            a, b = (set(getattr(each[unit], kind)) for each in (expected, chosen))
            assert len(a) == len(b)
            lines, both = lines + len(a), both + len(a & b)
    assert lines > 0
    return 1 - both / lines


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("cache_type", ["f16", "bf16", "q4"])
def test_all_diagonals_are_dense_to_the_bit(tmp_path, head_dim, cache_type):
    """Not in q8, which another kernel reads where a chunk has few queries (dequantizing_pays)."""
    path = write(tmp_path / "m.gguf", [(8, ALL)] * LAYERS * HEADS, head_dim=head_dim)
    options = {"context": TOKENS, "cache_type": cache_type}
    with (
        Model(path, device="cuda") as model,
        model.session(**options) as dense,
        model.session(**options, prefill="stated") as stated,
    ):
        assert np.array_equal(dense.score(IDS), stated.score(IDS))
        assert set(np.ravel(stated.info.density)) == {1.0}


@pytest.mark.parametrize("cache_type", ["f16", "q8", "q4"])
def test_the_cpu_chooses_alike(path, cache_type):
    """The first layer's input is the same on both but for rounding: nearly all lines are."""
    found = [run(path, device, cache_type=cache_type, prefill_block=512)[1] for device in ("cpu", "cuda")]
    assert differing(*found) <= 0.02


def test_the_density_is_that_of_what_was_chosen(path):
    _, chosen, density = run(path, "cuda")
    for head in range(HEADS):
        unread = 0
        for (layer, of_head, start, stop), each in chosen.items():
            if (layer, of_head) != (0, head):
                continue
            for begin in range(start // 32 * 32, stop, 32):
                first, end = max(begin, start), min(begin + 32, stop)
                read = {
                    key for query in range(first, end) for key in (query - np.array(each.diagonals)).tolist()
                }
                read |= set(each.columns)
                unread += (end - first) * len(set(range(first)) - read)
        assert density[0][head] == pytest.approx(1 - unread / (TOKENS * (TOKENS + 1) / 2), abs=1e-6)


def test_the_logits_are_near_those_of_the_cpu(path):
    expected, logits = (run(path, device, prefill_block=256)[0] for device in ("cpu", "cuda"))
    assert np.abs(expected - logits).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("cache_type", ["f16", "q8", "q4"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_parity_given_what_was_chosen(tmp_path, head_dim, cache_type):
    path = write(tmp_path / "m.gguf", [(60, 150), (0, 100), (200, 1), (31, 130)] * LAYERS, head_dim=head_dim)
    with Model(path, device="cuda") as model:
        reference = TorchReference(path, "cuda", "f32")
        report = check_sparse(model, reference, TOKENS, "stated", weights="f16", cache_type=cache_type)
    assert report.passed, [part.failures for part in report.parts]
    assert all(part.chosen.pages > 0 and part.chosen.density < 1 for part in report.parts)


def test_chunks_shorter_than_a_page(tmp_path):
    path = write(tmp_path / "m.gguf", [(60, 150)] * LAYERS * HEADS, scheme=(100, 20, 256))
    with Model(path, device="cuda") as model:
        reference = TorchReference(path, "cuda", "f32")
        assert check_sparse(model, reference, TOKENS, "stated", weights="f16").passed


def test_sequences_of_one_step_choose_for_themselves(path):
    with Model(path, device="cuda") as model:
        with model.engine(tokens=4096, prefill="stated") as engine:
            a, b = engine.sequence(), engine.sequence()
            engine.eval([(a, IDS[:1000]), (b, IDS[::-1][:900])], logits=False)
            together = engine.eval([(a, IDS[1000:1400]), (b, IDS[::-1][900:1400])])
        for ids, first, logits in ((IDS, 1000, together[0]), (IDS[::-1], 900, together[1])):
            with model.session(context=TOKENS, prefill="stated") as session:
                session.append(ids[:first])
                alone = session.eval(ids[first:1400])
            assert np.abs(alone - logits).max() < 0.05 * np.abs(alone).max()


@pytest.mark.parametrize("device", ["cuda:0,1", "cuda:0,1/layers"])
def test_ranks_choose_as_one_card_does(path, device):
    expected = run(path, "cuda")
    try:
        logits, chosen, density = run(path, device)
    except DcaError as error:
        if error.status != Status.DEVICE:
            raise
        pytest.skip(f"needs two cards: {error}")
    assert differing(expected[1], chosen) <= 0.02
    np.testing.assert_allclose(density, expected[2], atol=0.01)
    assert np.abs(logits - expected[0]).max() < 0.05 * np.abs(expected[0]).max()


def test_head_sizes_without_kernels_are_refused(tmp_path):
    path = write(tmp_path / "m.gguf", [(60, 150)] * LAYERS * HEADS, head_dim=48)
    with Model(path, device="cuda") as model, pytest.raises(DcaError, match=r"stated budgets .* is 48"):
        model.session(context=1000, prefill="stated")
