// Text from tokens that come one by one: only whole characters, which no further token can change.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/tokenizer/tokenizer.h"

namespace dca {

/// The pieces joined are the text of all tokens. A token may end inside a character, and SentencePiece drops the space that a
/// text begins with. What of a character came before another byte than it needs becomes U+FFFD: one for each of the bytes
/// where tokens are pieces, one for all of them where all tokens are bytes.
class TextStream {
public:
    /// after: tokens of the text before, which is not given again; where it ends inside a character, that character, once
    /// whole, is the first one given. The tokenizer outlives the stream.
    TextStream(const Tokenizer& tokenizer, std::span<const int32_t> after, bool skip_specials);

    /// The text that is certain by one more token; valid until the next call.
    const std::string& push(int32_t id);
    /// What is left at the end: an unfinished character, as U+FFFD.
    const std::string& flush();

private:
    void take(int32_t id);
    void take_byte(unsigned char byte);
    void give_up();  // on the unfinished character
    void give(std::string_view text);

    const Tokenizer* tokenizer_;
    bool skip_specials_;
    bool pieces_;                   // tokens are pieces of text, some of them bytes
    bool strips_;                   // the first character is dropped if it is a space
    bool given_ = false;            // whether any character was
    bool before_ = true;            // `after` is being read
    std::string unfinished_;        // bytes of a character, at most three
    size_t unfinished_before_ = 0;  // how many of them came before
    std::string spelling_;
    std::string piece_;
};

}  // namespace dca
