#include "core/gguf/gguf.h"

#include <cstddef>
#include <cstring>

#include "check.h"
#include "core/error.h"
#include "core/hparams.h"
#include "core/weights.h"
#include "dca.h"
#include "gguf_bytes.h"
#include "temporary_file.h"

namespace {

using test::GgufBytes;
using test::TemporaryFile;

GgufBytes small() {
    GgufBytes bytes;
    bytes.text("general.architecture", "llama").u32("llama.block_count", 1).f32("llama.rope.freq_base", 5.0f);
    bytes.tensor("a", {64, 2}, 0, 0).tensor("b", {32}, 8, 512);
    return bytes;
}

constexpr size_t kSmallData = 512 + 34;

void refused(const GgufBytes& bytes, size_t data_bytes, dca_status status) {
    const TemporaryFile file(bytes.file(data_bytes));
    CHECK_ERROR(dca::GgufFile(file.path()), status);
}

}  // namespace

TEST(gguf_reads_what_was_written) {
    const TemporaryFile file(small().file(kSmallData));
    const dca::GgufFile gguf(file.path());
    CHECK(gguf.values().size() == 3);
    CHECK(gguf.get_string("general.architecture") == "llama");
    CHECK(gguf.get_u32("llama.block_count") == 1u);
    CHECK(gguf.get_f32("llama.rope.freq_base") == 5.0f);
    CHECK(!gguf.get_u32("absent"));
    const dca::Tensor* b = gguf.find_tensor("b");
    CHECK(b != nullptr && b->cols == 32 && b->rows == 1 && b->bytes() == 34);
    CHECK(gguf.find_tensor("a")->rows == 2);
    CHECK(gguf.find_tensor("c") == nullptr);
}

TEST(gguf_refuses_every_truncation) {
    const std::string whole = small().file(kSmallData);
    for (size_t length = 0; length < whole.size(); ++length) {
        const TemporaryFile file(whole.substr(0, length));
        CHECK_ERROR(dca::GgufFile(file.path()), DCA_ERROR_FORMAT);
    }
}

TEST(gguf_survives_any_byte_changed) {
    const std::string whole = small().file(kSmallData);
    for (size_t at = 0; at < whole.size() - kSmallData; ++at) {
        for (const int value : {0, 1, 0x7f, 0xff}) {
            std::string changed = whole;
            changed[at] = static_cast<char>(value);
            const TemporaryFile file(changed);
            // Either outcome is right; reading out of bounds or ending the process is not.
            try {
                const dca::GgufFile gguf(file.path());
                dca::read_hparams(gguf);
            } catch (const dca::Error&) {}
        }
    }
    CHECK(true);
}

TEST(gguf_refuses_impossible_headers) {
    GgufBytes bytes = small();
    bytes.version = 4;
    refused(bytes, kSmallData, DCA_ERROR_UNSUPPORTED);
    bytes = small();
    bytes.claimed_values = uint64_t{1} << 60;
    refused(bytes, kSmallData, DCA_ERROR_FORMAT);
    bytes = small();
    bytes.claimed_tensors = uint64_t{1} << 60;
    refused(bytes, kSmallData, DCA_ERROR_FORMAT);
    refused(small().u32("llama.block_count", 2), kSmallData, DCA_ERROR_FORMAT);
    refused(small().value_of("x", 13, ""), kSmallData, DCA_ERROR_FORMAT);
    refused(small().u32("split.count", 2), kSmallData, DCA_ERROR_UNSUPPORTED);
    refused(small().u32("general.alignment", 24), kSmallData, DCA_ERROR_FORMAT);
}

TEST(gguf_refuses_impossible_arrays) {
    const auto array = [](uint32_t element, uint64_t count) { return GgufBytes::packed(element) + GgufBytes::packed(count); };
    refused(small().value_of("x", 9, array(9, 1)), kSmallData, DCA_ERROR_FORMAT);
    refused(small().value_of("x", 9, array(0, uint64_t{1} << 40)), kSmallData, DCA_ERROR_FORMAT);
    refused(small().value_of("x", 9, array(8, uint64_t{1} << 62)), kSmallData, DCA_ERROR_FORMAT);
}

TEST(gguf_refuses_impossible_tensors) {
    refused(small().tensor("a", {32}, 0, 1024), 2048, DCA_ERROR_FORMAT);             // twice
    refused(small().tensor("c", {32}, 0, 1024), kSmallData, DCA_ERROR_FORMAT);       // past the end
    refused(small().tensor("c", {32}, 0, UINT64_MAX - 31), 2048, DCA_ERROR_FORMAT);  // offset overflows
    refused(small().tensor("c", {32}, 0, 1000), 2048, DCA_ERROR_FORMAT);             // not aligned
    refused(small().tensor("c", {32}, 0, 480), 2048, DCA_ERROR_FORMAT);              // overlaps a
    refused(small().tensor("c", {33}, 8, 1024), 2048, DCA_ERROR_FORMAT);             // half a block
    refused(small().tensor("c", {0}, 0, 1024), 2048, DCA_ERROR_FORMAT);
    refused(small().tensor("c", {uint64_t{1} << 33, uint64_t{1} << 33}, 0, 1024), 2048, DCA_ERROR_FORMAT);
    refused(small().tensor("c", {32, 1, 1, 1, 1}, 0, 1024), 2048, DCA_ERROR_FORMAT);
    refused(small().tensor("c", {32}, 99, 1024), 2048, DCA_ERROR_UNSUPPORTED);
}

TEST(gguf_file_must_exist) {
    CHECK_ERROR(dca::GgufFile("/nonexistent/model.gguf"), DCA_ERROR_IO);
    CHECK_ERROR(dca::GgufFile("/tmp"), DCA_ERROR_IO);
}

TEST(the_c_api_reports_and_does_not_throw) {
    dca_model* model = nullptr;
    CHECK(dca_model_load(nullptr, nullptr, &model) == DCA_ERROR_ARGUMENT);
    CHECK(dca_model_load("/nonexistent/model.gguf", nullptr, &model) == DCA_ERROR_IO);
    CHECK(std::string(dca_last_error()).find("/nonexistent/model.gguf") != std::string::npos);
    CHECK(model == nullptr);
    const TemporaryFile file(small().file(kSmallData));
    CHECK(dca_model_load(file.path().c_str(), nullptr, &model) == DCA_ERROR_FORMAT);
    dca_model_free(nullptr);
    dca_model_options_default(nullptr);
    dca_session_free(nullptr);
    CHECK(dca_session_eval(nullptr, nullptr, 0, DCA_LOGITS_NONE, nullptr, 0) == DCA_ERROR_ARGUMENT);
}

TEST(option_structs_of_an_older_header_stay_within_their_size) {
    // A program whose dca_session_options ended before `rope`.
    constexpr size_t older = offsetof(dca_session_options, rope);
    alignas(dca_session_options) unsigned char memory[sizeof(dca_session_options)];
    std::memset(memory, 0x5a, sizeof memory);
    auto* options = reinterpret_cast<dca_session_options*>(memory);
    options->size = older;
    dca_session_options_default(options);
    CHECK(options->size == older && options->context == 4096);
    for (size_t i = older; i < sizeof memory; ++i) CHECK(memory[i] == 0x5a);
}
