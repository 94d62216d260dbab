// Puts GGUF files together byte by byte, well formed or not.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace test {

class GgufBytes {
public:
    uint32_t version = 3;
    uint64_t claimed_tensors = UINT64_MAX;  // UINT64_MAX: as many as there are
    uint64_t claimed_values = UINT64_MAX;

    GgufBytes& u32(const std::string& key, uint32_t value) { return scalar(key, 4, value); }
    GgufBytes& f32(const std::string& key, float value) { return scalar(key, 6, value); }
    GgufBytes& text(const std::string& key, const std::string& value) { return value_of(key, 8, packed<uint64_t>(value.size()) + value); }
    GgufBytes& value_of(const std::string& key, uint32_t type, const std::string& encoded) {
        values_ += packed<uint64_t>(key.size()) + key + packed(type) + encoded;
        ++n_values_;
        return *this;
    }
    GgufBytes& tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
        tensors_ += packed<uint64_t>(name.size()) + name + packed<uint32_t>(static_cast<uint32_t>(dims.size()));
        for (const uint64_t dim : dims) tensors_ += packed(dim);
        tensors_ += packed(type) + packed(offset);
        ++n_tensors_;
        return *this;
    }

    /// The file, with `data_bytes` of tensor data behind the padding.
    std::string file(size_t data_bytes) const {
        std::string out = "GGUF" + packed(version);
        out += packed(claimed_tensors == UINT64_MAX ? n_tensors_ : claimed_tensors);
        out += packed(claimed_values == UINT64_MAX ? n_values_ : claimed_values);
        out += values_ + tensors_;
        out.resize((out.size() + 31) / 32 * 32 + data_bytes, '\0');
        return out;
    }

    template <class T>
    static std::string packed(T value) {
        std::string bytes(sizeof value, '\0');
        std::memcpy(bytes.data(), &value, sizeof value);
        return bytes;
    }

private:
    template <class T>
    GgufBytes& scalar(const std::string& key, uint32_t type, T value) {
        return value_of(key, type, packed(value));
    }

    std::string values_, tensors_;
    uint64_t n_values_ = 0, n_tensors_ = 0;
};

}  // namespace test
