"""tokenizer.model: read as the sentencepiece package reads it, refused where it is damaged."""

import pytest
from sentencepiece_bytes import BPE, field, piece

from dca_export.errors import InputError
from dca_export.tokenizer.sentencepiece_model import read_sentencepiece

PIECES = piece(b"<unk>", 0.0, 2) + piece(b"<0x0A>", 0.0, 6) + piece("▁a".encode(), -1.5)


@pytest.fixture
def model(tmp_path):
    def read(data: bytes):
        (tmp_path / "tokenizer.model").write_bytes(data)
        return read_sentencepiece(tmp_path / "tokenizer.model")

    return read


def test_pieces(model):
    read = model(PIECES + BPE)
    assert read.texts == [b"<unk>", b"<0x0A>", "▁a".encode()]
    assert read.scores == [0.0, 0.0, -1.5]
    assert read.types == [2, 6, 1]
    assert read.is_bpe
    assert read.adds_space


def test_unigram_is_the_default(model):
    assert not model(PIECES).is_bpe


def test_a_model_that_adds_no_space(model):
    assert not model(PIECES + field(3, bytes([3 << 3, 0]))).adds_space


@pytest.mark.parametrize(
    "data",
    [b"", BPE, PIECES[:-3], b"\xff" * 40, b"\x0b", b"{}", field(1, bytes([1 << 3, 5]))],
    ids=["empty", "no pieces", "cut", "endless number", "group", "text", "number for text"],
)
def test_damaged(model, data):
    with pytest.raises(InputError, match="tokenizer.model: not a SentencePiece model"):
        model(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PIECES + field(2, bytes([3 << 3, 3])), "model_type is 3, expected 1"),
        (PIECES + field(2, bytes([3 << 3, 4])), "model_type is 4, expected 1"),
        (PIECES + BPE + field(3, bytes([5 << 3, 0])), "spaces as they are"),
        (PIECES + BPE + field(5, field(2, b"map")), "replaces characters of what it decodes"),
        (PIECES + piece(b"x", float("nan")) + BPE, "piece 3 has score nan"),
        (PIECES + piece(b"x", float("inf")) + BPE, "piece 3 has score inf"),
        (PIECES + piece(b"x", -1.0, 7) + BPE, "and type 7, expected"),
        (PIECES + piece(b"x", -1.0, 0) + BPE, "and type 0, expected"),
    ],
)
def test_what_would_be_tokenised_otherwise_is_refused(model, data, message):
    with pytest.raises(InputError, match=f"tokenizer.model: .*{message}"):
        model(data)


def test_pieces_without_end_are_refused_in_time(model):
    with pytest.raises(InputError, match="more than 1,000,000 pieces"):
        model(field(1, b"") * 1_000_001)


def test_agrees_with_the_sentencepiece_package(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    text = tmp_path / "text"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(tmp_path / "m"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        user_defined_symbols=["<tool>"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    ours = read_sentencepiece(tmp_path / "m.model")
    ids = range(theirs.vocab_size())
    assert ours.texts == [theirs.id_to_piece(i).encode() for i in ids]
    assert ours.scores == pytest.approx([theirs.get_score(i) for i in ids])
    assert [kind == 6 for kind in ours.types] == [theirs.is_byte(i) for i in ids]
    assert [kind == 3 for kind in ours.types] == [theirs.is_control(i) for i in ids]
    assert [kind == 2 for kind in ours.types] == [theirs.is_unknown(i) for i in ids]
    assert ours.types[ours.texts.index(b"<tool>")] == 4
