// A GGUF file (versions 2 and 3), fully validated before anything is handed out: every count, length, type, alignment,
// offset and size, duplicate names and overlaps. The header is a copy, which nobody can change any more; the tensors'
// data is mapped.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/blocks/formats.h"
#include "core/gguf/mapped_file.h"

namespace dca {

enum class ValueType : uint32_t {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12
};

/// One metadata value in the file's own encoding (format section "GGUF metadata key-value").
struct GgufValue {
    std::string_view key;
    ValueType type;
    ValueType element_type;           // of an array; otherwise equal to type
    uint64_t count;                   // elements of an array; otherwise 1
    std::span<const std::byte> data;  // string: its bytes; array of strings: u64 length + bytes, repeated
};

/// A tensor in the mapped file, or rows or columns of one. cols is GGUF's first dimension: the length of a row.
struct Tensor {
    std::string_view name;
    BlockType type = BlockType::F32;
    int64_t cols = 0;
    int64_t rows = 0;
    int64_t depth = 1;                // experts stacked in one tensor
    const std::byte* data = nullptr;  // depth × rows × row_bytes(), of a whole tensor one row after another
    int64_t row_stride = 0;           // bytes from a row to the next; 0: row_bytes()
    int64_t matrix_stride = 0;        // bytes from an expert to the next; 0: all of its rows

    explicit operator bool() const noexcept { return data != nullptr; }
    int64_t row_bytes() const noexcept { return bytes_of(cols); }
    int64_t bytes() const noexcept { return depth * rows * row_bytes(); }
    int64_t elements() const noexcept { return depth * rows * cols; }

    int64_t row_step() const noexcept { return row_stride != 0 ? row_stride : row_bytes(); }
    int64_t matrix_step() const noexcept { return matrix_stride != 0 ? matrix_stride : rows * row_step(); }
    /// Whether all of its rows follow each other without a gap.
    bool contiguous() const noexcept { return row_step() == row_bytes() && (depth == 1 || matrix_step() == rows * row_bytes()); }

    /// Rows [first, first + count), of every expert.
    Tensor row_slice(int64_t first, int64_t count) const noexcept {
        Tensor part = *this;
        part.rows = count;
        part.data = data + first * row_step();
        part.matrix_stride = depth == 1 ? 0 : matrix_step();
        return part;
    }

    /// Columns [first, first + count) of every row, both multiples of the format's block.
    Tensor column_slice(int64_t first, int64_t count) const noexcept {
        Tensor part = *this;
        part.cols = count;
        part.data = data + bytes_of(first);
        part.row_stride = row_step();
        part.matrix_stride = depth == 1 ? 0 : matrix_step();
        return part;
    }

    /// The matrix of expert `index` as a tensor of its own.
    Tensor expert(int64_t index) const noexcept {
        Tensor part = *this;
        part.depth = 1;
        part.matrix_stride = 0;
        part.data = data + index * matrix_step();
        return part;
    }

    /// Experts [first, first + count).
    Tensor expert_slice(int64_t first, int64_t count) const noexcept {
        Tensor part = *this;
        part.depth = count;
        part.data = data + first * matrix_step();
        part.matrix_stride = matrix_step();
        return part;
    }

private:
    int64_t bytes_of(int64_t columns) const noexcept {
        const BlockInfo& info = block_info(type);
        return columns / info.block_size * info.block_bytes;
    }
};

class GgufFile {
public:
    explicit GgufFile(const std::string& path);

    const std::string& path() const noexcept { return file_.path(); }
    const std::vector<GgufValue>& values() const noexcept { return values_; }
    const std::vector<Tensor>& tensors() const noexcept { return tensors_; }

    /// Everything before the first tensor's data: metadata and the table of tensors.
    std::span<const std::byte> header() const noexcept { return std::span(header_).first(header_bytes_); }

    /// Throws an IO error if somebody wrote to the file or cut it since it was opened.
    void check_unchanged() const { file_.check_unchanged(); }

    const GgufValue* find(std::string_view key) const noexcept;
    const Tensor* find_tensor(std::string_view name) const noexcept;

    /// Typed reads. Absent keys give nothing; a value of another kind, or one that does not
    /// fit, throws a format error naming the key. Any integer type serves as an integer.
    std::optional<uint32_t> get_u32(std::string_view key) const;
    std::optional<float> get_f32(std::string_view key) const;
    std::optional<bool> get_bool(std::string_view key) const;
    std::optional<std::string_view> get_string(std::string_view key) const;
    /// An integer, or an array of integers or bools with one entry a layer (some files say it so).
    std::optional<std::vector<uint32_t>> get_u32_list(std::string_view key) const;

private:
    void read_header();
    void read_values(class ByteReader& reader, uint64_t count);
    void read_tensors(class ByteReader& reader, uint64_t count);

    MappedFile file_;
    std::vector<std::byte> header_;  // as much of the file's start as holds the header
    std::vector<GgufValue> values_;
    std::vector<Tensor> tensors_;
    size_t header_bytes_ = 0;
    // Ordered: whatever names a file has, finding one takes a few comparisons. (Names can be chosen to share a hash.)
    std::map<std::string_view, size_t> value_index_;
    std::map<std::string_view, size_t> tensor_index_;
};

}  // namespace dca
