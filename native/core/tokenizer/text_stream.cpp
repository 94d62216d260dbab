#include "core/tokenizer/text_stream.h"

#include "core/tokenizer/byte_characters.h"
#include "core/tokenizer/byte_tokens.h"

namespace dca {

namespace {

constexpr std::string_view kReplacement = "\ufffd";

/// How many bytes a character has that begins with this one; 0 where none does (RFC 3629).
size_t character_length(unsigned char first) noexcept {
    if (first < 0x80) return 1;
    if (first < 0xc2) return 0;
    return first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
}

/// Whether a byte can stand at `index`, from 1 on, of a character that begins with `first`.
bool continues(unsigned char first, size_t index, unsigned char byte) noexcept {
    unsigned least = 0x80, most = 0xbf;
    if (index == 1) {
        if (first == 0xe0) least = 0xa0;  // longer forms of a character are none
        if (first == 0xed) most = 0x9f;   // surrogates
        if (first == 0xf0) least = 0x90;
        if (first == 0xf4) most = 0x8f;  // beyond U+10FFFF
    }
    return byte >= least && byte <= most;
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, std::span<const int32_t> after, bool skip_specials)
    : tokenizer_(&tokenizer),
      skip_specials_(skip_specials),
      pieces_(tokenizer.kind() != TokenizerKind::ByteLevel),
      strips_(tokenizer.strips_first_space()) {
    for (const int32_t id : after) take(id);
    before_ = false;
    unfinished_before_ = unfinished_.size();
}

const std::string& TextStream::push(int32_t id) {
    piece_.clear();
    take(id);
    return piece_;
}

const std::string& TextStream::flush() {
    piece_.clear();
    give_up();
    return piece_;
}

void TextStream::take(int32_t id) {
    const Vocabulary& vocabulary = tokenizer_->vocabulary();
    const std::string_view text = vocabulary.text(id);
    if (text.empty() || (skip_specials_ && vocabulary.special(static_cast<size_t>(id)))) return;
    if (!pieces_) {
        spelling_.clear();
        append_bytes_of(text, spelling_);
        for (const char byte : spelling_) take_byte(static_cast<unsigned char>(byte));
    } else if (const auto byte = byte_of_token(text)) {
        take_byte(*byte);
    } else {
        give_up();
        for (size_t at = 0; at < text.size();) {
            const size_t space = text.find(kVisibleSpace, at);
            if (space != at) give(text.substr(at, space - at));
            if (space == std::string_view::npos) break;
            give(" ");
            at = space + kVisibleSpace.size();
        }
    }
}

void TextStream::take_byte(unsigned char byte) {
    if (!unfinished_.empty() && !continues(static_cast<unsigned char>(unfinished_[0]), unfinished_.size(), byte)) give_up();
    const size_t length = character_length(static_cast<unsigned char>(unfinished_.empty() ? byte : unfinished_[0]));
    unfinished_.push_back(static_cast<char>(byte));
    if (length == 0) {
        give_up();
    } else if (unfinished_.size() == length) {
        unfinished_before_ = 0;
        give(unfinished_);
        unfinished_.clear();
    }
}

void TextStream::give_up() {
    if (unfinished_.empty()) return;
    // What came before was shown there.
    const size_t marks = pieces_ ? unfinished_.size() - unfinished_before_ : unfinished_before_ == 0 ? 1 : 0;
    unfinished_.clear();
    unfinished_before_ = 0;
    given_ = true;
    for (size_t i = 0; i < marks; ++i) give(kReplacement);
}

void TextStream::give(std::string_view text) {
    if (strips_ && !given_ && text.starts_with(' ')) text.remove_prefix(1);
    given_ = true;
    if (!before_) piece_ += text;
}

}  // namespace dca
