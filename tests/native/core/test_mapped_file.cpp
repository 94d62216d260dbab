#include "core/gguf/mapped_file.h"

#include <array>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "core/error.h"
#include "temporary_file.h"

using test::TemporaryFile;

TEST(a_file_nobody_touched_is_unchanged) {
    const TemporaryFile file("some bytes");
    const dca::MappedFile mapped(file.path());
    mapped.check_unchanged();
    CHECK(mapped.bytes().size() == 10u);
}

TEST(a_file_that_was_cut_is_noticed) {
    const TemporaryFile file("some bytes");
    const dca::MappedFile mapped(file.path());
    CHECK(::truncate(file.path().c_str(), 4) == 0);
    CHECK_ERROR(mapped.check_unchanged(), DCA_ERROR_IO);
    std::array<std::byte, 10> bytes{};
    CHECK_ERROR(mapped.read(0, bytes), DCA_ERROR_IO);
}

TEST(a_file_written_over_in_place_is_noticed) {
    const TemporaryFile file("some bytes");
    const dca::MappedFile mapped(file.path());
    const timespec times[2] = {{0, UTIME_OMIT}, {1000, 0}};  // whatever the clock's steps are
    CHECK(::utimensat(AT_FDCWD, file.path().c_str(), times, 0) == 0);
    CHECK_ERROR(mapped.check_unchanged(), DCA_ERROR_IO);
}

TEST(a_file_that_another_took_the_place_of_is_unchanged) {
    const TemporaryFile file("some bytes"), other("other bytes");
    const dca::MappedFile mapped(file.path());
    CHECK(::rename(other.path().c_str(), file.path().c_str()) == 0);
    mapped.check_unchanged();
    CHECK(static_cast<char>(mapped.bytes()[0]) == 's');
}

TEST(a_pipe_is_refused_without_waiting_for_a_writer) {
    const std::string path = "/tmp/dca_test_pipe_" + std::to_string(::getpid());
    CHECK(::mkfifo(path.c_str(), 0600) == 0);
    CHECK_ERROR(dca::MappedFile{path}, DCA_ERROR_IO);
    ::unlink(path.c_str());
}
