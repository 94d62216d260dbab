// Names of devices, and the library of another backend: not there, not a library, not ours, and one that works.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "core/backend/device_name.h"
#include "faults/small_model.h"

namespace {

std::filesystem::path folder() { return std::filesystem::read_symlink("/proc/self/exe").parent_path(); }

/// What stands where the library is looked for.
struct Library {
    ~Library() { std::filesystem::remove(path); }
    const std::filesystem::path path = folder() / "libdca_cuda.so";
};

dca_status load_on(const char* device, const std::string& file, dca_model** model) {
    dca_model_options options{};
    options.size = sizeof options;
    dca_model_options_default(&options);
    options.device = device;
    return dca_model_load(file.c_str(), &options, model);
}

bool said(const char* words) { return std::strstr(dca_last_error(), words) != nullptr; }

/// What `holds` says in a child: a process opens a library of one name once.
template <class Holds>
bool in_child(Holds holds) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(holds() ? 0 : 1);
    int status = 0;
    return ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

TEST(devices_that_are_none_are_refused_by_name) {
    const test::TemporaryFile file(test::small_model(test::llama, test::f32));
    dca_model* model = nullptr;
    for (const char* device : {"gpu",
                               "cuda:",
                               "cuda:x",
                               "cuda:-1",
                               "cuda:99999999999",
                               "cuda:0x",
                               "",
                               "cuda:0,",
                               "cuda:,1",
                               "cuda:0,x",
                               "cuda:0 ,1",
                               "cpu,1",
                               "cpu:1",
                               "auto/2",
                               "cuda:0,1/2",
                               "cpu/",
                               "cpu/x",
                               "cpu/-1",
                               "cuda:0,1/",
                               "cuda:0,1/layers/",
                               "cuda:0,1/layers/2",
                               "cuda:0,1/rows",
                               "cpu/2/",
                               "cpu/2/2",
                               "cpu//layers"}) {
        CHECK(load_on(device, file.path(), &model) == DCA_ERROR_ARGUMENT);
        CHECK(said("must be cpu, cuda, cuda:N or auto"));
    }
}

TEST(devices_need_a_library_that_is_ours) {
    const test::TemporaryFile file(test::small_model(test::llama, test::f32));
    dca_model* model = nullptr;
    const Library library;
    CHECK(!std::filesystem::exists(library.path));
    CHECK(load_on("cuda", file.path(), &model) == DCA_ERROR_DEVICE);
    CHECK(said("this build has no CUDA backend"));
    CHECK(load_on("auto", file.path(), &model) == DCA_OK);
    dca_model_info info{};
    info.size = sizeof info;
    CHECK(dca_model_get_info(model, &info) == DCA_OK);
    CHECK(std::string(info.device).starts_with("cpu"));
    CHECK(std::string(info.architecture) == "llama");
    CHECK(info.weight_bytes_used <= info.weight_bytes);
    CHECK(info.n_params == info.n_params_used);
    dca_model_free(model);

    std::ofstream(library.path) << "no library";
    CHECK(load_on("cuda:0", file.path(), &model) == DCA_ERROR_DEVICE);
    CHECK(said("the CUDA backend cannot be opened"));
    std::filesystem::remove(library.path);
    std::filesystem::create_symlink(folder() / "fake" / "libnot_ours.so", library.path);
    CHECK(in_child([&] { return load_on("cuda", file.path(), &model) == DCA_ERROR_DEVICE && said("is not this library's CUDA backend"); }));
    std::filesystem::remove(library.path);
    std::filesystem::create_symlink(folder() / "fake" / "libfake_cuda.so", library.path);
    for (const char* device : {"cuda", "cuda:0", "auto"}) {
        CHECK(load_on(device, file.path(), &model) == DCA_OK);
        CHECK(test::logits_of(model, test::some_tokens(5)).size() == fuzz::n_vocab);
        dca_model_free(model);
    }
    CHECK(load_on("cuda:3", file.path(), &model) == DCA_ERROR_DEVICE);
    CHECK(said("there is no card 3"));
}

TEST(devices_are_one_or_several_cards_or_ranks_on_one) {
    using dca::parse_device;
    using Kind = dca::DeviceName::Kind;
    CHECK(parse_device("cpu").kind == Kind::Cpu);
    CHECK(parse_device("cpu").ranks() == 1u);
    CHECK(parse_device("auto").kind == Kind::Auto);
    CHECK((parse_device("cuda").cards == std::vector<int>{0}));
    CHECK((parse_device("cuda:3").cards == std::vector<int>{3}));
    CHECK(parse_device("cuda:3").ranks() == 1u);
    CHECK((parse_device("cuda:1,0,12").cards == std::vector<int>{1, 0, 12}));
    CHECK(parse_device("cuda:1,0,12").ranks() == 3u);
    CHECK(!parse_device("cuda:1,0").one_card_twice());
    CHECK(parse_device("cpu/2").ranks() == 2u);
    CHECK((parse_device("cuda:1/2").cards == std::vector<int>{1, 1}));
    CHECK(parse_device("cuda:1/2").one_card_twice());
    CHECK(!parse_device("cuda:0,1").by_layers);
    CHECK(parse_device("cuda:0,1/layers").by_layers);
    CHECK(parse_device("cpu/3/layers").by_layers);
    CHECK(parse_device("cpu/3/layers").ranks() == 3u);
    CHECK((parse_device("cuda:0=3,1").shares == std::vector<float>{3.0f, 1.0f}));
    CHECK((parse_device("cuda:0=0.5,1=2/layers").shares == std::vector<float>{0.5f, 2.0f}));
    CHECK((parse_device("cpu/2=3,1/layers").shares == std::vector<float>{3.0f, 1.0f}));
    CHECK(parse_device("cpu/2=3,1/layers").by_layers);
    CHECK((parse_device("cuda:1/3=1,2,4").cards == std::vector<int>{1, 1, 1}));
    CHECK((parse_device("cuda:1/3=1,2,4").shares == std::vector<float>{1.0f, 2.0f, 4.0f}));
}

TEST(a_card_named_twice_and_too_many_ranks_are_refused) {
    const test::TemporaryFile file(test::small_model(test::llama, test::f32));
    dca_model* model = nullptr;
    CHECK(load_on("cuda:0,1,0", file.path(), &model) == DCA_ERROR_ARGUMENT);
    CHECK(said("names card 0 twice; name each card once"));
    for (const char* device : {"cuda:0=,1", "cuda:0=x,1", "cuda:0=0,1", "cuda:0=-1,1", "cuda:0=1e9,1", "cuda:0=+1,1", "cuda:0=1x,1",
                               "cuda:0=1 ,1", "cuda:0=inf,1", "cuda:0=nan,1", "cpu/2=", "cpu/2=1,0", "cpu/2=1,,1"}) {
        CHECK(load_on(device, file.path(), &model) == DCA_ERROR_ARGUMENT);
        CHECK(said("a card's share must be a number above 0"));
    }
    for (const char* device : {"cuda:0/layers", "cpu/layers", "cpu/1/layers"}) {
        CHECK(load_on(device, file.path(), &model) == DCA_ERROR_ARGUMENT);
        CHECK(said("one device has all layers"));
    }
    CHECK(load_on("cpu/3=1,2", file.path(), &model) == DCA_ERROR_ARGUMENT);
    CHECK(said("has 2 shares for 3 ranks"));
    for (const char* device : {"cpu/0", "cpu/17", "cuda:0/99"}) {
        CHECK(load_on(device, file.path(), &model) == DCA_ERROR_ARGUMENT);
        CHECK(said("ranks, must be 1 to 16"));
    }
}
