// The same for sequences in files: what was there stays, or the new one is there, and nothing else is in the folder.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <sys/file.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <unistd.h>
#include <vector>

#include "faults/nth_failure.h"
#include "faults/small_model.h"

using fault::every_failure_of_any_kind;
using test::SmallModel;

namespace {

/// A folder that goes with its contents.
struct Folder {
    Folder() {
        char name[] = "/tmp/dca_test_XXXXXX";
        path = ::mkdtemp(name);
    }
    ~Folder() { std::filesystem::remove_all(path); }

    std::string file(const char* name) const { return path + "/" + name; }
    size_t entries() const {
        return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path), std::filesystem::directory_iterator()));
    }

    std::string path;
};

std::string bytes_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

/// A session that holds 150 tokens: two pages.
struct Filled {
    Filled() : small(test::llama_with_scheme, test::f16) {
        const dca_session_options options = test::session_options(300);
        CHECK(dca_session_create(small.model, &options, &session) == DCA_OK);
        CHECK(dca_session_eval(session, tokens.data(), tokens.size(), DCA_LOGITS_NONE, nullptr, 0) == DCA_OK);
    }
    ~Filled() { dca_session_free(session); }

    std::vector<int32_t> tokens = test::some_tokens(150);
    SmallModel small;
    dca_session* session = nullptr;
    Folder folder;
};

}  // namespace

TEST(nth_failure_of_saving) {
    const Filled filled;
    const std::string path = filled.folder.file("a.kv"), other = filled.folder.file("b.kv");
    CHECK(dca_session_save(filled.session, other.c_str()) == DCA_OK);
    const std::string whole = bytes_of(other);
    for (const bool there : {false, true}) {
        every_failure_of_any_kind(
            false, [&] { return dca_session_save(filled.session, path.c_str()); },
            [&](dca_status status) {
                CHECK(bytes_of(path) == (status == DCA_OK ? whole : there ? "before" : ""));
                CHECK(filled.folder.entries() == (status == DCA_OK || there ? 2u : 1u));
                std::filesystem::remove(path);
                if (there) std::ofstream(path) << "before";
            });
        std::ofstream(path) << "before";
    }
}

TEST(nth_failure_of_loading_a_sequence) {
    const Filled filled;
    const std::string path = filled.folder.file("a.kv");
    CHECK(dca_session_save(filled.session, path.c_str()) == DCA_OK);
    const dca_engine_options options = test::engine_options(300);
    dca_engine* engine = nullptr;
    CHECK(dca_engine_create(filled.small.model, &options, &engine) == DCA_OK);
    dca_sequence* sequence = nullptr;
    every_failure_of_any_kind(
        false, [&] { return dca_sequence_load(engine, path.c_str(), &sequence); },
        [&](dca_status status) {
            CHECK((sequence == nullptr) == (status != DCA_OK));
            if (status != DCA_OK) CHECK(dca_sequence_load(engine, path.c_str(), &sequence) == DCA_OK);
            CHECK(dca_sequence_length(sequence) == filled.tokens.size());
            dca_sequence_free(std::exchange(sequence, nullptr));
            dca_engine_info info{};
            info.size = sizeof info;
            CHECK(dca_engine_get_info(engine, &info) == DCA_OK);
            CHECK(info.tokens_used == 0u);
        });
    dca_engine_free(engine);
}

TEST(nth_failure_of_loading_into_a_session) {
    const Filled filled;
    const std::string path = filled.folder.file("a.kv");
    CHECK(dca_session_save(filled.session, path.c_str()) == DCA_OK);
    every_failure_of_any_kind(
        true, [&] { return dca_session_load(filled.session, path.c_str()); },
        [&](dca_status status) {
            dca_session_info info{};
            info.size = sizeof info;
            CHECK(dca_session_get_info(filled.session, &info) == DCA_OK);
            CHECK(info.length == 150u || (status != DCA_OK && info.length == 0));
        });
    CHECK(dca_session_load(filled.session, path.c_str()) == DCA_OK);
}

TEST(reads_and_writes_that_come_in_pieces_are_whole_in_the_end) {
    const Filled filled;
    const std::string path = filled.folder.file("a.kv"), other = filled.folder.file("b.kv");
    CHECK(dca_session_save(filled.session, other.c_str()) == DCA_OK);
    const fault::Choppy choppy;
    CHECK(dca_session_save(filled.session, path.c_str()) == DCA_OK);
    CHECK(bytes_of(path) == bytes_of(other));
    CHECK(dca_session_load(filled.session, path.c_str()) == DCA_OK);
    dca_model* model = nullptr;
    CHECK(test::load(filled.small.file.path(), 1, true, &model) == DCA_OK);
    CHECK(test::logits_of(model, filled.tokens, 300) == test::logits_of(filled.small.model, filled.tokens, 300));
    dca_model_free(model);
}

TEST(what_a_killed_process_left_of_a_saved_sequence_is_removed_by_the_next) {
    const Filled filled;
    const std::string path = filled.folder.file("a.kv");
    std::ofstream(path + ".part-1-0") << "half";
    CHECK(dca_session_save(filled.session, path.c_str()) == DCA_OK);
    CHECK(filled.folder.entries() == 1u);
}

TEST(what_another_process_writes_just_now_and_what_is_no_part_stays) {
    const Filled filled;
    const std::string path = filled.folder.file("a.kv"), part = path + ".part-1-0";
    std::ofstream(part) << "half";
    const int held = ::open(part.c_str(), O_RDWR);
    CHECK(::flock(held, LOCK_EX) == 0);
    for (const char* name : {"a.kv.part-x", "a.kv.part-1", "b.kv.part-1-0", "a.kv2"}) std::ofstream(filled.folder.file(name)) << "mine";
    CHECK(dca_session_save(filled.session, path.c_str()) == DCA_OK);
    CHECK(filled.folder.entries() == 6u);
    ::close(held);
}

TEST(a_saved_sequence_replaces_no_device_pipe_or_folder) {
    const Filled filled;
    const std::string pipe = filled.folder.file("pipe"), folder = filled.folder.file("folder");
    CHECK(::mkfifo(pipe.c_str(), 0600) == 0);
    CHECK(::mkdir(folder.c_str(), 0700) == 0);
    CHECK(::symlink(pipe.c_str(), filled.folder.file("link").c_str()) == 0);
    CHECK(::symlink("nowhere", filled.folder.file("dangling").c_str()) == 0);
    for (const std::string& path : {pipe, folder, filled.folder.file("link"), filled.folder.file("dangling")})
        CHECK(dca_session_save(filled.session, path.c_str()) == DCA_ERROR_IO);
    CHECK(std::filesystem::is_fifo(pipe));
    CHECK(filled.folder.entries() == 4u);
}

TEST(a_link_stays_and_the_file_it_leads_to_is_saved) {
    const Filled filled;
    const std::string real = filled.folder.file("real.kv"), link = filled.folder.file("link.kv");
    std::ofstream(real) << "before";
    CHECK(::symlink("real.kv", link.c_str()) == 0);
    CHECK(dca_session_save(filled.session, link.c_str()) == DCA_OK);
    CHECK(std::filesystem::is_symlink(link));
    CHECK(dca_session_load(filled.session, real.c_str()) == DCA_OK);
    CHECK(filled.folder.entries() == 2u);
}

TEST(a_folder_that_is_not_there_is_an_io_error) {
    const Filled filled;
    CHECK(dca_session_save(filled.session, filled.folder.file("absent/a.kv").c_str()) == DCA_ERROR_IO);
    CHECK(std::string(dca_last_error()).find("absent/a.kv") != std::string::npos);
}
