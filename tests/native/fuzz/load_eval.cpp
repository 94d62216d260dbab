// Fuzz target: any bytes as a model, loaded, asked for all it says, and evaluated in sessions and an engine through the
// C API. Whatever happens must be a status: never a crash, an undefined operation or a leak.
//
// An input is options, then a recipe (recipe.h), or a whole file: "GGUF" and what follows. DCA_FUZZ_DEVICE names another
// device than the CPU: an input that makes a kernel go wrong there fails that call and every later one.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "dca.h"
#include "fuzz/promises.h"
#include "fuzz/recipe.h"
#include "fuzz/target.h"

using fuzz::broken;

namespace {

const char* device() {
    static const char* const name = std::getenv("DCA_FUZZ_DEVICE");
    return name;
}

bool worked(dca_status status) {
    fuzz::promise(device() == nullptr || status != DCA_ERROR_DEVICE, "a device that works");
    return fuzz::worked(status);
}

volatile unsigned seen;  // so that what is read is read

void read_metadata(const dca_model* model) {
    unsigned sum = 0;
    for (uint64_t i = 0; i < dca_model_metadata_count(model); ++i) {
        dca_metadata value{};
        if (!worked(dca_model_metadata_at(model, i, &value))) continue;
        for (uint64_t b = 0; b < value.key_bytes; ++b) sum += static_cast<unsigned char>(value.key[b]);
        for (uint64_t b = 0; b < value.data_bytes; ++b) sum += static_cast<const unsigned char*>(value.data)[b];
    }
    seen = sum;
}

void run_session(dca_model* model, uint32_t vocabulary, const dca_session_options& options) {
    dca_session* session = nullptr;
    if (!worked(dca_session_create(model, &options, &session))) return;
    const std::vector<int32_t> tokens{1, 2, 3, 1, 0, 2, 2, 1, 3, 0, 1, 2, 3, 3, 2, 1, 0, 1, 2, 0};
    std::vector<float> out(size_t{vocabulary} * tokens.size());
    dca_session_info info{};
    info.size = sizeof info;
    if (worked(dca_session_eval(session, tokens.data(), 19, DCA_LOGITS_LAST, out.data(), out.size()))) {
        worked(dca_session_eval(session, tokens.data(), 1, DCA_LOGITS_LAST, out.data(), out.size()));
        worked(dca_session_truncate(session, 5));
        worked(dca_session_score(session, tokens.data(), tokens.size(), out.data(), out.size()));
    } else {
        worked(dca_session_get_info(session, &info));
        if (info.length != 0) broken("a call that failed appends nothing");
    }
    dca_session_free(session);
}

void run_engine(dca_model* model, uint32_t vocabulary) {
    dca_engine_options options{};
    options.size = sizeof options;
    dca_engine_options_default(&options);
    options.tokens = 512;
    options.max_rows = 8;
    dca_engine* engine = nullptr;
    if (!worked(dca_engine_create(model, &options, &engine))) return;
    dca_sequence *a = nullptr, *b = nullptr;
    const int32_t tokens[] = {1, 2, 3, 0, 1};
    std::vector<float> out(vocabulary);
    if (worked(dca_sequence_create(engine, &a))) {
        const dca_feed fill{a, tokens, 5, DCA_LOGITS_NONE, nullptr, 0};
        worked(dca_engine_eval(engine, &fill, 1));
        if (worked(dca_sequence_fork(a, &b))) {
            const dca_feed feeds[] = {{a, tokens, 1, DCA_LOGITS_LAST, out.data(), out.size()}, {b, tokens, 3, DCA_LOGITS_NONE, nullptr, 0}};
            worked(dca_engine_eval(engine, feeds, 2));
            dca_sampling sampling{};
            sampling.size = sizeof sampling;
            dca_sampling_default(&sampling);
            sampling.temperature = 0.7f;
            sampling.top_k = 5;
            sampling.top_p = 0.9f;
            const dca_sampling* samplings[] = {&sampling, &sampling};
            dca_choice choices[2] = {};
            if (worked(dca_engine_sample(engine, feeds, samplings, 2, choices))) {
                for (const dca_choice& choice : choices) {
                    if (choice.token < -1 || choice.token >= static_cast<int32_t>(vocabulary)) broken("a choice is a token or -1");
                }
            }
        }
    }
    dca_sequence_free(b);
    dca_sequence_free(a);
    dca_engine_free(engine);
}

}  // namespace

const char* const fuzz::target_name = "load and eval";

/// Every family in every format, whole.
std::vector<fuzz::Input> fuzz::seeds() {
    std::vector<Input> all;
    for (size_t family = 0; family < families(); ++family) {
        for (size_t format = 0; format < formats(); ++format)
            all.push_back({static_cast<uint8_t>(64 | (all.size() & 63)), static_cast<uint8_t>(family), static_cast<uint8_t>(format)});
    }
    return all;
}

fuzz::Input fuzz::random_input(Random& random) { return random_bytes(random, 3, 42); }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    fuzz::Bytes recipe({data, size});
    std::string file;
    uint8_t choice = 0;
    if (size >= 4 && std::memcmp(data, "GGUF", 4) == 0) {
        file.assign(reinterpret_cast<const char*>(data), size);
    } else {
        choice = recipe.next();
        file = fuzz::cook(recipe);
    }
    if (file.empty()) return 0;
    static fuzz::MemoryFile in_memory;
    in_memory.hold(file);
    dca_model_options load{};
    load.size = sizeof load;
    dca_model_options_default(&load);
    load.threads = 1;
    if (device() != nullptr) load.device = device();
    load.repack = choice & 1;
    dca_model* model = nullptr;
    if (!worked(dca_model_load(in_memory.path().c_str(), &load, &model))) {
        if (model != nullptr) broken("no model where loading fails");
        return 0;
    }
    read_metadata(model);
    dca_model_info info{};
    info.size = sizeof info;
    worked(dca_model_get_info(model, &info));
    if (info.n_vocab > 4 && info.n_vocab <= 4096) {
        dca_session_options options{};
        options.size = sizeof options;
        dca_session_options_default(&options);
        options.context = 64;
        options.prefill_block = 8;
        options.cache_type = choice >> 1 & 3;
        options.attention = choice >> 3 & 7;
        options.border = {6, 3};
        run_session(model, info.n_vocab, options);
        if (choice & 64) run_engine(model, info.n_vocab);
    }
    dca_model_free(model);
    return 0;
}
