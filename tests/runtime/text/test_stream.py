"""Text from ids that come one by one: the pieces joined are what all ids decode to."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from dca_runtime.text.byte_stream import ByteStream
from dca_runtime.text.decoding import Decoder
from dca_runtime.text.stream import TextStream


def byte_fallback_decoder() -> Decoder:
    """Llama's way: ▁ for a space, a token for each byte that has no other; ids 0 to 255 are the bytes."""
    words = ["▁", "▁the", "in", "今", ""]
    vocabulary = [*(f"<0x{byte:02X}>" for byte in range(256)), *words]
    backend = Backend(models.BPE({text: id_ for id_, text in enumerate(vocabulary)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<s>"])
    return Decoder(backend)


def byte_level_decoder() -> Decoder:
    """GPT-2's way, with tokens of up to three bytes that begin and end anywhere in a character."""
    characters = Backend(models.BPE()).decoder  # none yet
    assert characters is None
    from tiny import byte_characters

    letters = byte_characters()
    data = "今天天气é很😀好".encode()
    cuts = {data[start : start + size] for start in range(len(data)) for size in (1, 2, 3)}
    vocabulary = letters + sorted({"".join(letters[byte] for byte in cut) for cut in cuts} - set(letters))
    backend = Backend(models.BPE({text: id_ for id_, text in enumerate(vocabulary)}, []))
    backend.decoder = decoders.ByteLevel()
    return Decoder(backend)


DECODERS = {"byte fallback": byte_fallback_decoder(), "byte level": byte_level_decoder()}
STREAMS = {
    "byte fallback": (TextStream, DECODERS["byte fallback"]),
    "byte level": (TextStream, DECODERS["byte level"]),
    "bytes": (ByteStream, DECODERS["byte level"]),
}


def streamed(name: str, ids: list[int], after: list[int] = ()) -> str:
    kind, decoder = STREAMS[name]
    stream = kind(decoder, list(after), skip_special=False)
    return "".join([stream.push(id_) for id_ in ids]) + stream.flush()


def whole(decoder: Decoder, ids: list[int]) -> str:
    return decoder.text(decoder.spellings(ids, skip_special=False))


@pytest.mark.parametrize("name", STREAMS)
@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 265), max_size=60))
def test_pieces_joined_are_the_text(name, ids):
    assert streamed(name, ids) == whole(STREAMS[name][1], ids)


@pytest.mark.parametrize("name", STREAMS)
@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=20), cut=st.integers(0, 60))
def test_what_follows_a_text_that_ends_anywhere_completes_it(name, text, cut):
    # Ids 0 to 255 are the bytes of one, and the characters that stand for them in the other.
    ids, decoder = list(text.encode()), STREAMS[name][1]
    before = ids[:cut].copy()
    shown = bytes(before).decode("utf-8", "ignore")  # what of it is whole
    prefix = whole(decoder, list(shown.encode()))
    following = streamed(name, ids[cut:], after=before)
    if len(before) > 16 or ids[cut:]:
        assert prefix + following == whole(decoder, ids)


@pytest.mark.parametrize("name", STREAMS)
@settings(max_examples=100, deadline=None)
@given(text=st.text(min_size=1, max_size=30))
def test_whole_text_never_shows_a_replacement(name, text):
    kind, decoder = STREAMS[name]
    stream = kind(decoder, [], skip_special=False)
    pieces = [stream.push(byte) for byte in text.encode()]
    assert "\ufffd" in text or "\ufffd" not in "".join(pieces) + stream.flush()


def test_one_wrong_byte_spoils_only_itself():
    decoder = DECODERS["byte fallback"]
    assert whole(decoder, [*"今天".encode(), 0xE5, *"é".encode()]) == "今天\ufffdé"


def test_a_prompt_that_ends_in_wrong_bytes_is_not_shown_again():
    assert streamed("byte fallback", [258], after=[0xE4]) == "in"
    assert streamed("bytes", [0x41], after=[0xE4]) == streamed("byte level", [0x41], after=[0xE4]) == "A"


def test_no_step_decodes_many_tokens(monkeypatch):
    decoder, most = DECODERS["byte level"], []
    text = decoder.text
    monkeypatch.setattr(decoder, "text", lambda spellings: most.append(len(spellings)) or text(spellings))
    stream = TextStream(decoder, [], skip_special=False)
    data = ("天气" * 500).encode()
    straddling = [data[:1], *(data[start : start + 3] for start in range(1, len(data), 3))]
    for cut in straddling:
        for byte in cut:
            stream.push(byte)
    assert max(most) < 20


def test_skipped_tokens_are_not_kept():
    decoder = DECODERS["byte fallback"]
    special = decoder._backend.token_to_id("<s>")
    stream = TextStream(decoder, [], skip_special=True)
    assert [stream.push(special) for _ in range(1000)] == [""] * 1000
    assert stream._kept == []
    assert stream.push(258) == "in"


@pytest.mark.parametrize("id_", [-1, -100, 10**6, 2**32, 2**40])
def test_ids_without_a_token_give_nothing(id_):
    decoder = DECODERS["byte level"]
    assert whole(decoder, [65, id_, 66]) == whole(decoder, [65, 66])


def test_tokens_that_are_bytes_are_told_from_those_that_are_not():
    assert DECODERS["byte level"].byte_level and not DECODERS["byte fallback"].byte_level
    without = Decoder(Backend(models.BPE({"a": 0}, [])))
    assert not without.byte_level


def test_added_tokens_are_spelled_as_they_are_and_special_ones_left_out_if_asked():
    backend = Backend(models.BPE({"a": 0, "Ġ": 1}, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(["今 x"])
    backend.add_special_tokens(["<s>"])
    decoder = Decoder(backend)
    added, special = backend.token_to_id("今 x"), backend.token_to_id("<s>")
    ids = [0, 1, added, special, 0]
    for skip in (False, True):
        stream = ByteStream(decoder, [], skip)
        text = "".join(stream.push(id_) for id_ in ids) + stream.flush()
        assert text == decoder.text(decoder.spellings(ids, skip)) == ("a 今 xa" if skip else "a 今 x<s>a")


def test_few_tokens_bytes_are_kept_of_a_large_vocabulary():
    """Dozens of bytes each: 20,000 tokens' would be two megabytes."""
    spellings = [f"t{number}" for number in range(20_000)]
    backend = Backend(models.BPE({text: id_ for id_, text in enumerate(spellings)}, []))
    backend.decoder = decoders.ByteLevel()
    decoder = Decoder(backend)
    tracemalloc.start()
    try:
        assert all(decoder.bytes_of(id_, True) == text.encode() for id_, text in enumerate(spellings))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1.5e6
