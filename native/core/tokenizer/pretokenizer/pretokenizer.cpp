#include "core/tokenizer/pretokenizer/pretokenizer.h"

#include <algorithm>

#include "core/tokenizer/unicode/unicode.h"

namespace dca {

namespace {

using namespace patterns;

constexpr Pattern kDefault[] = {signs, gpt2, digits, three_ascii_digits};
constexpr Pattern kGpt2[] = {gpt2};
constexpr Pattern kDigitsGpt2[] = {digit, gpt2};
constexpr Pattern kThreeDigits[] = {words_three_digits};
constexpr Pattern kOneDigit[] = {words_one_digit};
constexpr Pattern kWithMarks[] = {words_with_marks};
constexpr Pattern kTekken[] = {cased_words_one_digit};
constexpr Pattern kCased[] = {cased_words};
constexpr Pattern kDeepseek3[] = {three_digits, chinese_japanese, deepseek_words};
constexpr Pattern kDeepseekLlm[] = {line_end, deepseek_llm_letters, deepseek_llm_signs, trailing_space, chinese_korean, digits};
constexpr Pattern kDeepseekCoder[] = {line_end, spaced_letters, spaced_punctuation, chinese_korean, digit};
constexpr Pattern kFalcon[] = {falcon_signs, gpt2, three_ascii_digits};
constexpr Pattern kBloom[] = {bloom};
constexpr Pattern kViking[] = {bloom, digit};

struct Family {
    std::string_view names;  // with a blank around each
    Pretokenizer pretokenizer;
};

constexpr Family kFamilies[] = {
    {" default ", {kDefault}},
    {" gpt-2 phi-2 mpt olmo jais gigachat a.x-4.0 mellum exaone4 trillion granite-docling ", {kGpt2}},
    {" smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 ", {kDigitsGpt2}},
    {" llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 ",
     {.patterns = kThreeDigits, .ignore_merges = true, .add_bos = true}},
    {" dbrx smaug-bpe chatglm-bpe ", {kThreeDigits}},
    {" glm4 glm5 ", {.patterns = kThreeDigits, .ignore_merges = true}},
    {" qwen2 deepseek-r1-qwen kormo stablelm2 hunyuan solar-open megrez grok-2 ", {kOneDigit}},
    {" qwen35 ", {kWithMarks}},
    {" tekken ", {.patterns = kTekken, .ignore_merges = true, .add_bos = true}},
    {" gpt-4o llama4 kanana2 minimax-m2 ", {kCased}},
    {" deepseek-v3 hunyuan-dense joyai-llm ", {kDeepseek3}},
    {" deepseek-llm ", {kDeepseekLlm}},
    {" deepseek-coder ", {kDeepseekCoder}},
    {" falcon ", {kFalcon}},
    {" bloom poro-chat gpt3-finnish ", {kBloom}},
    {" viking ", {kViking}},
};

/// Whether `name` stands in a list between blanks.
bool lists(std::string_view names, std::string_view name) noexcept {
    for (size_t at = names.find(name); at != std::string_view::npos; at = names.find(name, at + 1)) {
        if (at != 0 && names[at - 1] == ' ' && names[at + name.size()] == ' ') return true;
    }
    return false;
}

}  // namespace

const Pretokenizer* find_pretokenizer(std::string_view name) noexcept {
    if (name.empty() || name.find(' ') != std::string_view::npos) return nullptr;
    const auto found = std::ranges::find_if(kFamilies, [&](const Family& family) { return lists(family.names, name); });
    return found == std::end(kFamilies) ? nullptr : &found->pretokenizer;
}

namespace {

void cut_further(std::span<const Pattern> patterns, std::string_view text, const std::function<void(std::string_view)>& each) {
    if (text.empty()) return;
    if (patterns.empty()) return each(text);
    size_t begin = 0;  // of what no match took yet
    for (size_t at = 0; at < text.size();) {
        const size_t end = patterns.front()(text, at);
        if (end == at) {
            at += character_at(text, at).bytes;
            continue;
        }
        cut_further(patterns.subspan(1), text.substr(begin, at - begin), each);
        cut_further(patterns.subspan(1), text.substr(at, end - at), each);
        begin = at = end;
    }
    cut_further(patterns.subspan(1), text.substr(begin), each);
}

}  // namespace

void cut(const Pretokenizer& pretokenizer, std::string_view text, const std::function<void(std::string_view)>& each) {
    cut_further(pretokenizer.patterns, text, each);
}

}  // namespace dca
