#include <cstring>
#include <exception>

#include "check.h"

int main(int argc, char** argv) {
    int run = 0;
    int failed = 0;
    for (const auto& [name, body] : test::cases()) {
        if (argc > 1 && std::strstr(name, argv[1]) == nullptr) continue;
        const int before = test::failures();
        try {
            body();
        } catch (const std::exception& error) {
            test::check(false, error.what(), name, 0);
        }
        ++run;
        if (test::failures() != before) {
            ++failed;
            std::fprintf(stderr, "FAILED %s\n", name);
        }
    }
    std::printf("%d passed, %d failed\n", run - failed, failed);
    return failed == 0 && run > 0 ? 0 : 1;
}
