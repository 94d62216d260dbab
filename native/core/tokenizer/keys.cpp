#include "core/tokenizer/keys.h"

#include <cstring>
#include <limits>

#include "core/error.h"

namespace dca::keys {

namespace {

template <class T>
T load(const std::byte* data) noexcept {
    T value;
    std::memcpy(&value, data, sizeof value);
    return value;
}

/// A number in the file, and how many bytes it takes; 0 where it is none.
template <class T>
size_t read(ValueType type, const std::byte* data, bool floats, T& value) noexcept {
    const auto as = [&]<class Stored>(Stored stored) {
        value = static_cast<T>(stored);
        return sizeof stored;
    };
    switch (type) {
        case ValueType::U8: return as(load<uint8_t>(data));
        case ValueType::I8: return as(load<int8_t>(data));
        case ValueType::U16: return as(load<uint16_t>(data));
        case ValueType::I16: return as(load<int16_t>(data));
        case ValueType::U32: return as(load<uint32_t>(data));
        case ValueType::I32: return as(load<int32_t>(data));
        case ValueType::I64: return as(load<int64_t>(data));
        case ValueType::U64: {
            const auto stored = load<uint64_t>(data);  // what no id reaches may as well be the largest
            constexpr uint64_t most = std::numeric_limits<int64_t>::max();
            as(floats || stored < most ? stored : most);
            return sizeof stored;
        }
        case ValueType::F32: return floats ? as(load<float>(data)) : 0;
        case ValueType::F64: return floats ? as(load<double>(data)) : 0;
        default: return 0;
    }
}

[[noreturn]] void wrong_type(const GgufFile& file, std::string_view key, const char* expected) {
    fail(DCA_ERROR_FORMAT, file.path(), ": ", key, " must be ", expected);
}

template <class T>
std::optional<std::vector<T>> list(const GgufFile& file, std::string_view key, bool floats, const char* expected) {
    const GgufValue* value = file.find(key);
    if (value == nullptr) return std::nullopt;
    if (value->type != ValueType::Array) wrong_type(file, key, expected);
    std::vector<T> all(value->count);
    const std::byte* data = value->data.data();
    for (T& each : all) {
        const size_t bytes = read(value->element_type, data, floats, each);
        if (bytes == 0) wrong_type(file, key, expected);
        data += bytes;
    }
    return all;
}

}  // namespace

std::optional<std::vector<std::string_view>> strings(const GgufFile& file, std::string_view key) {
    const GgufValue* value = file.find(key);
    if (value == nullptr) return std::nullopt;
    if (value->type != ValueType::Array || value->element_type != ValueType::String) wrong_type(file, key, "an array of strings");
    std::vector<std::string_view> all(value->count);
    const auto* data = reinterpret_cast<const char*>(value->data.data());
    for (std::string_view& each : all) {
        uint64_t bytes = 0;
        std::memcpy(&bytes, data, sizeof bytes);
        each = {data + sizeof bytes, bytes};
        data += sizeof bytes + bytes;
    }
    return all;
}

std::optional<std::vector<int64_t>> integers(const GgufFile& file, std::string_view key) {
    return list<int64_t>(file, key, false, "an array of integers");
}

std::optional<std::vector<double>> numbers(const GgufFile& file, std::string_view key) {
    return list<double>(file, key, true, "an array of numbers");
}

std::optional<int64_t> integer(const GgufFile& file, std::string_view key) {
    const GgufValue* value = file.find(key);
    if (value == nullptr) return std::nullopt;
    int64_t number = 0;
    if (value->type == ValueType::Array || read(value->type, value->data.data(), false, number) == 0) wrong_type(file, key, "an integer");
    return number;
}

}  // namespace dca::keys
