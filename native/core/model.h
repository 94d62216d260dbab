// A loaded model: the mapped file, what it says, and the backend that runs it.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "core/backend.h"
#include "core/gguf.h"
#include "core/hparams.h"
#include "core/weights.h"
#include "dca.h"

namespace dca {

class Model {
public:
    Model(const std::string& path, const dca_model_options& options);

    const GgufFile& file() const noexcept { return file_; }
    const Hparams& hparams() const noexcept { return hparams_; }
    const Weights& weights() const noexcept { return weights_; }
    Backend& backend() noexcept { return *backend_; }
    void fill_info(dca_model_info& info) const;

    /// Hexadecimal; of the header, the table of tensors and a sample of every tensor, so that it costs no reading of the
    /// whole file. Equal for equal files.
    const std::string& fingerprint() const;

private:
    GgufFile file_;
    Hparams hparams_;
    Weights weights_;
    std::unique_ptr<Backend> backend_;
    mutable std::once_flag fingerprinted_;
    mutable std::string fingerprint_;
};

}  // namespace dca
