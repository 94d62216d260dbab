#include "core/text.h"

#include <string>

#include "check.h"
#include "core/error.h"
#include "dca.h"

namespace {

std::string message_of(const std::string& part) {
    try {
        dca::fail(DCA_ERROR_FORMAT, "before ", part, " after");
    } catch (const dca::Error& error) {
        return error.what();
    }
}

}  // namespace

TEST(plain_text_of_any_language_stays_as_it_is) {
    const std::string text = "models/naïve – 模型 🙂.gguf";
    CHECK(dca::printable(text, 300) == text);
}

TEST(what_a_terminal_acts_on_is_escaped) {
    CHECK(dca::printable("a\x1b[31mb\nc\x7f", 300) == "a\\x1b[31mb\\x0ac\\x7f");
    CHECK(dca::printable("\xc2\x9b"
                         "31m",
                         300) == "\\xc2\\x9b31m");  // CSI in one character
    CHECK(dca::printable("gg\xe2\x80\xae"
                         "fdp",
                         300) ==
          "gg\\xe2\\x80\\xae"
          "fdp");  // turns the writing direction
    CHECK(dca::printable(std::string("a\0b", 3), 300) == "a\\x00b");
}

TEST(bytes_that_are_not_utf8_are_escaped) {
    CHECK(dca::printable("\xff", 300) == "\\xff");
    CHECK(dca::printable("\xc3", 300) == "\\xc3");                             // cut short
    CHECK(dca::printable("\xc0\xaf", 300) == "\\xc0\\xaf");                    // longer than need be
    CHECK(dca::printable("\xed\xa0\x80", 300) == "\\xed\\xa0\\x80");           // half of a surrogate pair
    CHECK(dca::printable("\xf4\x90\x80\x80", 300) == "\\xf4\\x90\\x80\\x80");  // past the last character
}

TEST(long_text_loses_its_middle_between_characters) {
    const std::string text = "start" + std::string(70000, 'x') + "end";
    const std::string shown = dca::printable(text, 300);
    CHECK(shown.size() < 350 && shown.starts_with("start") && shown.ends_with("end"));
    std::string umlauts = "a";
    for (int i = 0; i < 1000; ++i) umlauts += "ä";
    CHECK(dca::printable(umlauts, 300).find("\\x") == std::string::npos);
}

TEST(what_a_file_says_is_made_printable_in_messages) {
    CHECK(message_of("k\x1b") == "before k\\x1b after");
    CHECK(message_of(std::string(70000, 'k')).size() < 400);
}
