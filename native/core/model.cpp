#include "core/model.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "core/gguf/checksum.h"
#include "core/backend/cuda_library.h"
#include "core/error.h"

namespace dca {

namespace {

/// N of "cuda:N", 0 for "cuda".
int cuda_ordinal(std::string_view device) {
    const std::string_view digits = device == "cuda" ? "0" : device.substr(std::string_view("cuda:").size());
    int ordinal = -1;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), ordinal);
    if (error != std::errc() || end != digits.data() + digits.size() || ordinal < 0) {
        fail(DCA_ERROR_ARGUMENT, "device is ", device, ", must be cpu, cuda, cuda:N or auto");
    }
    return ordinal;
}

std::unique_ptr<Backend> make_backend(std::string_view device, const BackendSource& source) {
    if (device == "cpu") return make_cpu_backend(source);
    if (device == "cuda" || device.starts_with("cuda:")) return make_cuda_backend(source, cuda_ordinal(device));
    if (device != "auto") fail(DCA_ERROR_ARGUMENT, "device is ", device, ", must be cpu, cuda, cuda:N or auto");
    try {
        return make_cuda_backend(source, 0);
    } catch (const Error& error) {
        // No card, or not one for this model. A caller who wants to know why asks for cuda.
        if (error.status() == DCA_ERROR_CANCELLED) throw;
        return make_cpu_backend(source);
    }
}

void copy_text(char* out, size_t capacity, std::string_view text) {
    const size_t length = std::min(capacity - 1, text.size());
    std::memcpy(out, text.data(), length);
    out[length] = '\0';
}

}  // namespace

Model::Model(const std::string& path, const dca_model_options& options)
    : file_(path), hparams_(read_hparams(file_)), weights_(read_weights(file_, hparams_)) {
    const char* device = options.device != nullptr ? options.device : "cpu";
    backend_ = make_backend(device, {hparams_, weights_, options.threads, options.repack != 0, options.progress, options.user});
    file_.check_unchanged();
}

void Model::check_usable() const {
    if (retired_) fail(DCA_ERROR_ARGUMENT, "the model was freed; free its sessions, engines and sequences before it");
    file_.check_unchanged();
}

void Model::fill_info(dca_model_info& info) const {
    const Hparams& h = hparams_;
    copy_text(info.architecture, sizeof info.architecture, h.architecture);
    copy_text(info.device, sizeof info.device, backend_->description());
    info.n_vocab = h.n_vocab;
    info.n_layers = h.n_layers;
    info.n_embd = h.n_embd;
    info.n_heads = h.n_heads;
    info.n_kv_heads = h.n_kv_heads;
    info.head_dim = h.head_dim;
    info.n_ff = h.n_experts == 0 ? h.n_ff : h.n_ff_expert;
    info.n_experts = h.n_experts;
    info.n_experts_used = h.n_experts_used;
    info.context_length = h.context_length;
    info.scheme = h.scheme;
    info.border = h.border;
    info.repacked_bytes = backend_->repacked_bytes();
    info.n_params = info.n_params_used = info.weight_bytes = info.weight_bytes_used = 0;
    for (const Tensor& tensor : file_.tensors()) {
        info.n_params += static_cast<uint64_t>(tensor.elements());
        info.weight_bytes += static_cast<uint64_t>(tensor.bytes());
        const auto share = [&](int64_t whole) {
            return static_cast<uint64_t>(tensor.depth > 1 && h.n_experts > 0 ? whole / h.n_experts * h.n_experts_used : whole);
        };
        info.n_params_used += share(tensor.elements());
        // One row of the embedding is read a token, unless it is the output matrix as well.
        const bool lookup_only = tensor.name == "token_embd.weight" && weights_.output.data != tensor.data;
        info.weight_bytes_used += lookup_only ? static_cast<uint64_t>(tensor.row_bytes()) : share(tensor.bytes());
    }
}

const std::string& Model::fingerprint() const {
    check_usable();
    std::call_once(fingerprinted_, [&] {
        constexpr size_t sample = 4096;  // bytes at the start, in the middle and at the end of a tensor
        Checksum low(1), high(2);
        const auto add = [&](std::span<const std::byte> bytes) {
            low.add(bytes);
            high.add(bytes);
        };
        add(file_.header());
        for (const Tensor& tensor : file_.tensors()) {
            const std::span<const std::byte> bytes(tensor.data, static_cast<size_t>(tensor.bytes()));
            const size_t count = std::min(sample, bytes.size());
            add(bytes.first(count));
            add(bytes.subspan((bytes.size() - count) / 2, count));
            add(bytes.last(count));
        }
        char text[33];
        std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(low.value()),
                      static_cast<unsigned long long>(high.value()));
        fingerprint_ = text;
    });
    return fingerprint_;
}

}  // namespace dca
