#include "core/gguf/gguf.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "core/error.h"

namespace dca {

namespace {

constexpr uint32_t kDefaultAlignment = 32;  // GGUF: general.alignment when absent
constexpr uint64_t kMaxNameBytes = 65535;   // GGUF: keys are at most 2^16 - 1 bytes
constexpr uint64_t kFirstHeaderBytes = 1 << 20;
constexpr uint64_t kMostHeaderBytes = 1 << 30;  // the largest vocabularies take some tens of MB

size_t scalar_bytes(ValueType type) noexcept {
    switch (type) {
        case ValueType::U8:
        case ValueType::I8:
        case ValueType::Bool: return 1;
        case ValueType::U16:
        case ValueType::I16: return 2;
        case ValueType::U32:
        case ValueType::I32:
        case ValueType::F32: return 4;
        case ValueType::U64:
        case ValueType::I64:
        case ValueType::F64: return 8;
        case ValueType::String:
        case ValueType::Array: return 0;
    }
    return 0;
}

bool known(uint32_t type) noexcept { return type <= static_cast<uint32_t>(ValueType::F64); }

template <class T>
T load(const std::byte* data) noexcept {
    T value;
    std::memcpy(&value, data, sizeof value);
    return value;
}

}  // namespace

/// More of the file's start is wanted than was read so far.
struct HeaderGoesOn {
    uint64_t bytes;  // at least
};

/// Walks the start of a file; every step is checked against the file's end.
class ByteReader {
public:
    ByteReader(std::span<const std::byte> start, uint64_t file_bytes, const std::string& path)
        : start_(start), file_bytes_(file_bytes), path_(path) {}

    uint64_t position() const noexcept { return position_; }
    uint64_t left() const noexcept { return file_bytes_ - position_; }

    std::span<const std::byte> take(uint64_t count, const char* what) {
        if (count > left()) {
            fail(DCA_ERROR_FORMAT, path_, ": truncated: ", what, " at byte ", position_, " needs ", count, " bytes, the file has ", left(),
                 " left");
        }
        if (count > start_.size() - position_) throw HeaderGoesOn{position_ + count};
        const auto part = start_.subspan(position_, count);
        position_ += count;
        return part;
    }

    template <class T>
    T read(const char* what) {
        return load<T>(take(sizeof(T), what).data());
    }

    std::string_view string(uint64_t limit, const char* what) {
        const uint64_t length = read<uint64_t>(what);
        if (length > limit && length <= left()) {  // one that the file has no room for is for take to refuse
            fail(DCA_ERROR_FORMAT, path_, ": ", what, " at byte ", position_ - 8, " is ", length, " bytes long, must be at most ", limit);
        }
        const auto text = take(length, what);
        return {reinterpret_cast<const char*>(text.data()), text.size()};
    }

private:
    std::span<const std::byte> start_;
    uint64_t file_bytes_;
    const std::string& path_;
    uint64_t position_ = 0;
};

GgufFile::GgufFile(const std::string& path) : file_(path) {
    // How long the header is, only reading it tells: with more of the file each time, twice as much at least.
    const uint64_t most = std::min<uint64_t>(file_.bytes().size(), kMostHeaderBytes);
    for (uint64_t bytes = std::min<uint64_t>(most, kFirstHeaderBytes);;) {
        const size_t known = header_.size();
        header_.resize(bytes);
        file_.read(known, std::span(header_).subspan(known));
        try {
            read_header();
            return;
        } catch (const HeaderGoesOn& wanted) {
            if (wanted.bytes > most) {
                fail(DCA_ERROR_FORMAT, path, ": metadata and the table of tensors take more than ", most >> 20, " MiB");
            }
            bytes = std::min(most, std::max(2 * bytes, wanted.bytes));
        }
    }
}

void GgufFile::read_header() {
    values_.clear();
    tensors_.clear();
    value_index_.clear();
    tensor_index_.clear();
    ByteReader reader(header_, file_.bytes().size(), path());
    const auto magic = reader.take(4, "the magic");
    if (std::memcmp(magic.data(), "GGUF", 4) != 0) {
        fail(DCA_ERROR_FORMAT, path(), ": not a GGUF file: it does not start with the letters GGUF");
    }
    const auto version = reader.read<uint32_t>("the version");
    if (version != 2 && version != 3) {
        fail(DCA_ERROR_UNSUPPORTED, path(), ": GGUF version is ", version, ", must be 2 or 3 (little-endian)");
    }
    const auto tensor_count = reader.read<uint64_t>("the tensor count");
    const auto value_count = reader.read<uint64_t>("the metadata count");
    read_values(reader, value_count);
    if (get_u32("split.count").value_or(1) > 1) {
        fail(DCA_ERROR_UNSUPPORTED, path(), ": one part of a split file (split.count is ", *get_u32("split.count"),
             "); join the parts into one file first: dca-export FIRST_PART OUT.gguf");
    }
    read_tensors(reader, tensor_count);
}

void GgufFile::read_values(ByteReader& reader, uint64_t count) {
    constexpr uint64_t least_bytes = 8 + 4 + 1;  // empty key, type, one byte of value
    if (count > reader.left() / least_bytes) {
        fail(DCA_ERROR_FORMAT, path(), ": truncated or damaged: states ", count, " metadata values, more than the file has room for");
    }
    for (uint64_t i = 0; i < count; ++i) {
        GgufValue value;
        value.key = reader.string(kMaxNameBytes, "a metadata key");
        const auto type = reader.read<uint32_t>("a value type");
        if (!known(type)) fail(DCA_ERROR_FORMAT, path(), ": ", value.key, " has unknown value type ", type);
        value.type = value.element_type = static_cast<ValueType>(type);
        value.count = 1;
        if (value.type == ValueType::String) {
            const auto text = reader.string(reader.left(), "a string value");
            value.data = std::as_bytes(std::span(text));
        } else if (value.type == ValueType::Array) {
            const auto element = reader.read<uint32_t>("an element type");
            if (!known(element) || element == static_cast<uint32_t>(ValueType::Array)) {
                fail(DCA_ERROR_FORMAT, path(), ": ", value.key, " is an array of unknown element type ", element);
            }
            value.element_type = static_cast<ValueType>(element);
            value.count = reader.read<uint64_t>("an array length");
            const size_t size = scalar_bytes(value.element_type);
            if (value.count > reader.left() / (size != 0 ? size : sizeof(uint64_t))) {
                fail(DCA_ERROR_FORMAT, path(), ": truncated: ", value.key, " states ", value.count,
                     " elements, more than the file has room for");
            }
            if (size != 0) {
                value.data = reader.take(value.count * size, "an array");
            } else {
                const uint64_t begin = reader.position();
                for (uint64_t j = 0; j < value.count; ++j) reader.string(reader.left(), "a string of an array");
                value.data = std::span(std::as_const(header_)).subspan(begin, reader.position() - begin);
            }
        } else {
            value.data = reader.take(scalar_bytes(value.type), "a value");
        }
        if (!value_index_.emplace(value.key, values_.size()).second) {
            fail(DCA_ERROR_FORMAT, path(), ": metadata key ", value.key, " appears twice");
        }
        values_.push_back(value);
    }
}

void GgufFile::read_tensors(ByteReader& reader, uint64_t count) {
    constexpr uint64_t least_bytes = 8 + 4 + 8 + 4 + 8;  // empty name, one dimension, type, offset
    if (count > reader.left() / least_bytes) {
        fail(DCA_ERROR_FORMAT, path(), ": truncated or damaged: states ", count, " tensors, more than the file has room for");
    }
    const uint32_t alignment = get_u32("general.alignment").value_or(kDefaultAlignment);
    if (alignment < 8 || (alignment & (alignment - 1)) != 0) {
        fail(DCA_ERROR_FORMAT, path(), ": general.alignment is ", alignment, ", must be a power of two of at least 8");
    }
    std::vector<uint64_t> offsets;
    for (uint64_t i = 0; i < count; ++i) {
        Tensor tensor;
        tensor.name = reader.string(kMaxNameBytes, "a tensor name");
        const auto n_dims = reader.read<uint32_t>("a dimension count");
        if (n_dims < 1 || n_dims > 4) {
            fail(DCA_ERROR_FORMAT, path(), ": tensor ", tensor.name, " has ", n_dims, " dimensions, must be 1 to 4");
        }
        std::array<uint64_t, 4> dims{1, 1, 1, 1};
        uint64_t elements = 1;
        for (uint32_t d = 0; d < n_dims; ++d) {
            dims[d] = reader.read<uint64_t>("a dimension");
            if (dims[d] == 0 || dims[d] > (uint64_t{1} << 40) / elements) {
                fail(DCA_ERROR_FORMAT, path(), ": tensor ", tensor.name, " has dimension ", d, " of ", dims[d],
                     ", which is zero or too large");
            }
            elements *= dims[d];
        }
        const auto type = reader.read<uint32_t>("a tensor type");
        const BlockInfo* info = block_info(type);
        if (info == nullptr) {
            fail(DCA_ERROR_UNSUPPORTED, path(), ": tensor ", tensor.name, " has type ", type, ", which this version cannot decode");
        }
        if (dims[0] % info->block_size != 0) {
            fail(DCA_ERROR_FORMAT, path(), ": tensor ", tensor.name, " has rows of ", dims[0], " values, not a multiple of ", info->name,
                 "'s block of ", info->block_size);
        }
        tensor.type = info->type;
        tensor.cols = static_cast<int64_t>(dims[0]);
        tensor.rows = static_cast<int64_t>(dims[1]);
        tensor.depth = static_cast<int64_t>(dims[2] * dims[3]);
        offsets.push_back(reader.read<uint64_t>("a tensor offset"));
        if (!tensor_index_.emplace(tensor.name, tensors_.size()).second) {
            fail(DCA_ERROR_FORMAT, path(), ": tensor ", tensor.name, " appears twice");
        }
        tensors_.push_back(tensor);
    }

    const uint64_t file_bytes = file_.bytes().size();
    const uint64_t data_begin = std::min(file_bytes, (reader.position() + alignment - 1) / alignment * alignment);
    header_bytes_ = std::min<size_t>(data_begin, header_.size());
    const uint64_t data_bytes = file_bytes - data_begin;
    for (size_t i = 0; i < tensors_.size(); ++i) {
        Tensor& tensor = tensors_[i];
        const auto bytes = static_cast<uint64_t>(tensor.bytes());
        if (offsets[i] % alignment != 0) {
            fail(DCA_ERROR_FORMAT, path(), ": tensor ", tensor.name, " starts at offset ", offsets[i], ", not a multiple of the alignment ",
                 alignment);
        }
        if (offsets[i] > data_bytes || bytes > data_bytes - offsets[i]) {
            fail(DCA_ERROR_FORMAT, path(), ": truncated: tensor ", tensor.name, " needs bytes ", offsets[i], " to ", offsets[i] + bytes,
                 " of the data, which has ", data_bytes);
        }
        tensor.data = file_.bytes().data() + data_begin + offsets[i];
    }
    std::vector<size_t> order(tensors_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return offsets[a] < offsets[b]; });
    for (size_t i = 1; i < order.size(); ++i) {
        const Tensor& before = tensors_[order[i - 1]];
        const Tensor& after = tensors_[order[i]];
        if (before.data + before.bytes() > after.data) {
            fail(DCA_ERROR_FORMAT, path(), ": tensors ", before.name, " and ", after.name, " overlap");
        }
    }
}

const GgufValue* GgufFile::find(std::string_view key) const noexcept {
    const auto found = value_index_.find(key);
    return found == value_index_.end() ? nullptr : &values_[found->second];
}

const Tensor* GgufFile::find_tensor(std::string_view name) const noexcept {
    const auto found = tensor_index_.find(name);
    return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

namespace {

/// The integer at `data`; nothing when the type is no integer or the value does not fit a u32.
std::optional<uint32_t> as_u32(ValueType type, const std::byte* data) noexcept {
    int64_t value = -1;
    switch (type) {
        case ValueType::U8: value = load<uint8_t>(data); break;
        case ValueType::I8: value = load<int8_t>(data); break;
        case ValueType::U16: value = load<uint16_t>(data); break;
        case ValueType::I16: value = load<int16_t>(data); break;
        case ValueType::U32: value = load<uint32_t>(data); break;
        case ValueType::I32: value = load<int32_t>(data); break;
        case ValueType::U64:
        case ValueType::I64: value = load<int64_t>(data); break;
        default: break;
    }
    if (value < 0 || value > std::numeric_limits<uint32_t>::max()) return std::nullopt;
    return static_cast<uint32_t>(value);
}

[[noreturn]] void wrong_type(const GgufFile& file, std::string_view key, const char* expected) {
    fail(DCA_ERROR_FORMAT, file.path(), ": ", key, " must be ", expected, ", it is not");
}

}  // namespace

std::optional<uint32_t> GgufFile::get_u32(std::string_view key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return std::nullopt;
    const auto number = as_u32(value->type, value->data.data());
    if (!number) wrong_type(*this, key, "an integer from 0 to 4294967295");
    return number;
}

std::optional<float> GgufFile::get_f32(std::string_view key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->type == ValueType::F32) return load<float>(value->data.data());
    if (value->type == ValueType::F64) return static_cast<float>(load<double>(value->data.data()));
    if (const auto number = as_u32(value->type, value->data.data())) return static_cast<float>(*number);
    wrong_type(*this, key, "a number");
}

std::optional<bool> GgufFile::get_bool(std::string_view key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->type != ValueType::Bool) wrong_type(*this, key, "a bool");
    return load<uint8_t>(value->data.data()) != 0;
}

std::optional<std::string_view> GgufFile::get_string(std::string_view key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->type != ValueType::String) wrong_type(*this, key, "a string");
    return std::string_view(reinterpret_cast<const char*>(value->data.data()), value->data.size());
}

std::optional<std::vector<uint32_t>> GgufFile::get_u32_list(std::string_view key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->type != ValueType::Array) return std::vector<uint32_t>{*get_u32(key)};
    const size_t size = scalar_bytes(value->element_type);
    std::vector<uint32_t> list;
    for (uint64_t i = 0; size != 0 && i < value->count; ++i) {
        const ValueType type = value->element_type == ValueType::Bool ? ValueType::U8 : value->element_type;
        const auto number = as_u32(type, value->data.data() + i * size);
        if (!number) break;
        list.push_back(*number);
    }
    if (list.size() != value->count) wrong_type(*this, key, "a list of integers from 0 to 4294967295");
    return list;
}

}  // namespace dca
