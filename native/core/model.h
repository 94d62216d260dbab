// A loaded model: the mapped file, what it says, and the backend that runs it.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "core/backend/backend.h"
#include "core/gguf/gguf.h"
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

    /// Throws unless the model can still be used: its owner has not freed it, and its file is as it was loaded. Calls that
    /// read weights ask first; it takes a microsecond.
    void check_usable() const;
    /// The owner has freed the model. What it consists of stays until the last session and engine are gone.
    void retire() noexcept { retired_ = true; }

    /// Hexadecimal; of the header, the table of tensors and a sample of every tensor, so that it costs no reading of the
    /// whole file. Equal for equal files.
    const std::string& fingerprint() const;

private:
    GgufFile file_;
    Hparams hparams_;
    Weights weights_;
    std::unique_ptr<Backend> backend_;
    std::atomic<bool> retired_ = false;
    mutable std::once_flag fingerprinted_;
    mutable std::string fingerprint_;
};

}  // namespace dca
