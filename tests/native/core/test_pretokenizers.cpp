// Where pretokenizers cut, against cuts written down by hand from their regular expressions.
#include <string>
#include <vector>

#include "check.h"
#include "core/tokenizer/pretokenizer/pretokenizer.h"
#include "core/tokenizer/unicode/clusters.h"
#include "core/tokenizer/unicode/unicode.h"

namespace {

using Pieces = std::vector<std::string>;

Pieces pieces(const char* name, std::string_view text) {
    Pieces all;
    const dca::Pretokenizer* pretokenizer = dca::find_pretokenizer(name);
    CHECK(pretokenizer != nullptr);
    if (pretokenizer != nullptr) dca::cut(*pretokenizer, text, [&](std::string_view piece) { all.emplace_back(piece); });
    return all;
}

}  // namespace

TEST(pretokenizers_have_names) {
    CHECK(dca::find_pretokenizer("llama-bpe")->ignore_merges);
    CHECK(dca::find_pretokenizer("llama-bpe")->add_bos);
    CHECK(!dca::find_pretokenizer("glm4")->add_bos);
    CHECK(dca::find_pretokenizer("gpt-2") == dca::find_pretokenizer("granite-docling"));
    for (const char* name : {"", " ", "gpt", "gpt-2 phi-2", "-2", "default "}) CHECK(dca::find_pretokenizer(name) == nullptr);
}

TEST(pretokenizer_of_gpt2) {
    CHECK((pieces("gpt-2", "I'm it's WE'LL") == Pieces{"I", "'m", " it", "'s", " WE", "'", "LL"}));
    CHECK((pieces("gpt-2", "a  b\n\n c ") == Pieces{"a", " ", " b", "\n\n", " c", " "}));
    CHECK((pieces("gpt-2", "x=12+ y_3") == Pieces{"x", "=", "12", "+", " y", "_", "3"}));
    CHECK((pieces("gpt-2", "\u4e2d\u6587\u3002 e\u0301") == Pieces{"\u4e2d\u6587", "\u3002", " e", "\u0301"}));
}

TEST(pretokenizer_of_smollm_cuts_digits_apart) { CHECK((pieces("smollm", "12 a") == Pieces{"1", "2", " a"})); }

TEST(pretokenizer_of_llama3) {
    CHECK((pieces("llama-bpe", "12345 it'S") == Pieces{"123", "45", " it", "'S"}));
    CHECK((pieces("llama-bpe", "it'\u017f 're") == Pieces{"it", "'\u017f", " '", "re"}));
    CHECK((pieces("llama-bpe", "a  \n \n  b") == Pieces{"a", "  \n \n", " ", " b"}));
    CHECK((pieces("llama-bpe", "(x).y!?\n\nz") == Pieces{"(x", ").", "y", "!?\n\n", "z"}));
    CHECK((pieces("llama-bpe", "\tif  ") == Pieces{"\tif", "  "}));
}

TEST(pretokenizer_of_qwen) {
    CHECK((pieces("qwen2", "12 e\u0301a") == Pieces{"1", "2", " e", "\u0301a"}));
    CHECK((pieces("qwen35", "12 e\u0301a") == Pieces{"1", "2", " e\u0301a"}));
}

TEST(pretokenizers_that_see_case) {
    CHECK((pieces("gpt-4o", "camelCaseHTTPServer's iPhoneS") == Pieces{"camel", "Case", "HTTPServer's", " i", "Phone", "S"}));
    CHECK((pieces("tekken", "HTTPServer's 12") == Pieces{"HTTPServer", "'s", " ", "1", "2"}));
    CHECK((pieces("gpt-4o", "\u4e2dA\u4e2dBC d/e/\n/") == Pieces{"\u4e2dA\u4e2d", "BC", " d", "/e", "/\n/"}));
    CHECK((pieces("gpt-4o", "1234 a.b'LL") == Pieces{"123", "4", " a", ".b'LL"}));
}

TEST(pretokenizers_of_deepseek) {
    CHECK((pieces("deepseek-v3", "1234\u4e2d\u6587x .com a.b \u20ac\n") ==
           Pieces{"123", "4", "\u4e2d\u6587", "x", " .", "com", " a", ".b", " \u20ac\n"}));
    CHECK((pieces("deepseek-v3", std::string_view("\0\1a", 3)) == Pieces{std::string("\0", 1), "\1a"}));
    CHECK((pieces("deepseek-llm", "ab 12\u4e2d  \n a.  ") == Pieces{"ab", " ", "12", "\u4e2d", "  ", "\n", " a", ".", "  "}));
    CHECK((pieces("deepseek-llm", "x \u3000y") == Pieces{"x", " ", "\u3000", "y"}));
    CHECK((pieces("deepseek-coder", "ab 12 !\u4e2d\r") == Pieces{"ab", " ", "1", "2", " !", "\u4e2d", "\r"}));
}

TEST(pretokenizers_of_falcon_and_default) {
    CHECK((pieces("falcon", "a`b 12345,x") == Pieces{"a", "`", "b", " ", "123", "45", ",", "x"}));
    CHECK((pieces("falcon", "a`b12345") == Pieces{"a", "`", "b", "123", "45"}));
    CHECK((pieces("default", "a+b 123456 c") == Pieces{"a", "+", "b", " ", "123", "456", " c"}));
    CHECK((pieces("default", "a+b12345") == Pieces{"a", "+", "b", "123", "45"}));
}

TEST(pretokenizers_of_bloom) {
    CHECK((pieces("bloom", "one two, 12\u3002 (x)") == Pieces{"one", " two", ",", " 12", "\u3002 (", "x", ")"}));
    CHECK((pieces("bloom", "one two 12") == Pieces{"one", " two", " 12"}));
    CHECK((pieces("viking", "one 12") == Pieces{"one", " ", "1", "2"}));
}

TEST(classes_of_characters) {
    using dca::CharacterClass;
    CHECK(dca::class_of('a') == CharacterClass::Lower);
    CHECK(dca::class_of('\t') == CharacterClass::Space);
    CHECK(dca::class_of(0x85) == CharacterClass::Space);
    CHECK(dca::class_of(0x1c5) == CharacterClass::Title);
    CHECK(dca::class_of(0x2b0) == CharacterClass::Modifier);
    CHECK(dca::class_of(0x4e00) == CharacterClass::Letter);
    CHECK(dca::class_of(0x301) == CharacterClass::Mark);
    CHECK(dca::class_of(0x2167) == CharacterClass::Number);
    CHECK(dca::class_of(0x20ac) == CharacterClass::Symbol);
    CHECK(dca::class_of(0x378) == CharacterClass::Other);
    CHECK(dca::class_of(0x110000) == CharacterClass::Other);
}

namespace {

Pieces clusters(std::string_view text) {
    Pieces all;
    for (size_t at = 0; at < text.size();) {
        const size_t end = dca::cluster_end(text, at);
        all.emplace_back(text.substr(at, end - at));
        at = end;
    }
    return all;
}

}  // namespace

TEST(clusters_of_characters) {
    CHECK((clusters("ab\r\n\n") == Pieces{"a", "b", "\r\n", "\n"}));
    CHECK((clusters("e\u0301\u0302x\n\u0301") == Pieces{"e\u0301\u0302", "x", "\n", "\u0301"}));
    CHECK((clusters("a\u0600b\u200d\u00e9") == Pieces{"a", "\u0600b\u200d", "\u00e9"}));
    CHECK((clusters("\u1100\u1161\u11a8\u1161") == Pieces{"\u1100\u1161\u11a8", "\u1161"}));  // L V T, and V begins anew
    CHECK((clusters("\uac00\u11a8\uac01\u1161\ua960\uac01") == Pieces{"\uac00\u11a8", "\uac01", "\u1161", "\ua960\uac01"}));
    CHECK((clusters("\ud7b0\ud7cb\u4e2d") == Pieces{"\ud7b0\ud7cb", "\u4e2d"}));
}
