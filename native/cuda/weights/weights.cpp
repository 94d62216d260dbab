#include "cuda/weights/weights.h"

#include <algorithm>
#include <initializer_list>
#include <span>

#include "core/error.h"
#include "core/blocks/half.h"
#include "core/text.h"
#include "cuda/weights/kernels.h"
#include "cuda/weights/uploader.h"

namespace dca::cuda {

namespace {

bool quantised(WeightFormat format) { return format != WeightFormat::F16 && format != WeightFormat::BF16; }

/// The activations' type: that of the file's 16-bit weights. f16 has three more bits than bf16 and
/// its range is enough after a norm, so everything that is not bf16 itself runs in f16.
Dtype activation_type(const Weights& weights) {
    const auto is_bf16 = [](const Tensor& tensor) { return tensor.type == BlockType::BF16; };
    const bool any =
        is_bf16(weights.token_embedding) || is_bf16(weights.output) || std::ranges::any_of(weights.layers, [&](const LayerWeights& layer) {
            return is_bf16(layer.q) || is_bf16(layer.output) || is_bf16(layer.gate) || is_bf16(layer.down) || is_bf16(layer.expert_gate) ||
                   is_bf16(layer.expert_down);
        });
    return any ? Dtype::BF16 : Dtype::F16;
}

/// A router's matrix as it is on the device, in f32: a choice among experts should not hang on rounded weights.
std::vector<float> router_matrix(const LayerWeights& layer, const Hparams& h) {
    std::vector<float> rows(size_t{router_rows(h.n_experts)} * h.n_embd, 0.0f);
    decode_blocks(layer.router.type, layer.router.data, layer.router.elements(), rows.data());
    std::ranges::copy(layer.shared_router, rows.begin() + static_cast<ptrdiff_t>(layer.router.elements()));
    for (size_t i = 0; i < rows.size(); ++i) rows[i] *= layer.ffn_norm[i % h.n_embd];
    return rows;
}

}  // namespace

/// Decides where in one allocation every tensor goes, and remembers what to upload there.
class WeightPlacement {
public:
    WeightPlacement(const BackendSource& source, DeviceWeights& out, std::byte* base) : out_(out), arena_(base) {
        const Hparams& h = source.hparams;
        const Weights& w = source.weights;
        out.token_embedding_ = matrix(w.token_embedding.type, static_cast<uint32_t>(w.token_embedding.rows), h.n_embd);
        transfers.push_back({w.token_embedding, out.token_embedding_, 0});
        out.output_norm_ = norm(w.output_norm, w.output_norm_bias);
        if (w.output.data == w.token_embedding.data && w.output.rows == w.token_embedding.rows) {
            out.output_ = {{out.token_embedding_}, h.n_vocab, nullptr, nullptr};
        } else {
            out.output_ = fuse({{&w.output, nullptr}});
        }
        out.layers_.clear();
        for (const LayerWeights& layer : w.layers) {
            const bool mixture = h.n_experts > 0;
            const Tensor& gate = mixture ? layer.expert_gate : layer.gate;
            const Tensor& up = mixture ? layer.expert_up : layer.up;
            const Tensor& down = mixture ? layer.expert_down : layer.down;
            const std::vector<float>& gate_bias = mixture ? layer.expert_gate_bias : layer.gate_bias;
            const std::vector<float>& up_bias = mixture ? layer.expert_up_bias : layer.up_bias;
            const std::vector<float>& down_bias = mixture ? layer.expert_down_bias : layer.down_bias;
            const DeviceNorm attention_norm = norm(layer.attention_norm, layer.attention_norm_bias);
            out.layers_.push_back({
                .attention_norm = attention_norm,
                .qkv = fuse({{&layer.q, &layer.q_bias}, {&layer.k, &layer.k_bias}, {&layer.v, &layer.v_bias}}),
                .q_norm = vector(layer.q_norm),
                .k_norm = vector(layer.k_norm),
                .head_norm_step = layer.q_norm.size() > h.head_dim ? h.head_dim : 0,
                .sinks = vector(layer.sinks),
                .output = fuse({{&layer.output, &layer.output_bias}}),
                .attention_post_norm = vector(layer.attention_post_norm),
                .ffn_norm = h.norms == Norms::Parallel ? attention_norm : norm(layer.ffn_norm, layer.ffn_norm_bias),
                .gate_up = fuse({{&gate, &gate_bias}, {&up, &up_bias}}),
                .down = fuse({{&down, &down_bias}}),
                .ffn_post_norm = vector(layer.ffn_post_norm),
                .router = mixture ? copied(router_matrix(layer, h)) : nullptr,
                .router_bias = vector(layer.router_bias),
                .own_experts = mixture ? OwnExperts{layer.first_expert, static_cast<uint32_t>(layer.expert_down.depth)} : OwnExperts{},
                .shared_gated = !layer.shared_router.empty(),
                .shared_gate_up = layer.shared_gate ? fuse({{&layer.shared_gate, nullptr}, {&layer.shared_up, nullptr}}) : FusedMatrices{},
                .shared_down = layer.shared_down ? fuse({{&layer.shared_down, nullptr}}) : FusedMatrices{},
            });
        }
    }

    uint64_t device_bytes() const noexcept { return arena_.bytes(); }

    uint64_t file_bytes() const noexcept {
        uint64_t bytes = 0;
        for (const Transfer& transfer : transfers) bytes += static_cast<uint64_t>(transfer.from.bytes());
        return bytes;
    }

    struct Transfer {
        Tensor from;
        Matrix to;
        uint64_t first_row;
    };
    struct Copy {
        std::vector<std::byte> from;
        void* to;
    };
    std::vector<Transfer> transfers;
    std::vector<Copy> copies;

private:
    struct Source {
        const Tensor* tensor;
        const std::vector<float>* bias;  // null or empty: none
    };

    /// The first of `depth` matrices that lie one behind the other.
    Matrix matrix(BlockType type, uint32_t rows, uint32_t cols, uint64_t depth = 1) {
        Matrix m{device_format(type, out_.dtype_), rows, cols, nullptr, nullptr, nullptr};
        const PlaneBytes bytes = plane_bytes(m.format, depth * rows, cols);
        m.low = arena_.take<std::byte>(bytes.low);
        m.high = arena_.take<std::byte>(bytes.high);
        m.scales = arena_.take<std::byte>(bytes.scales);
        return m;
    }

    template <class T>
    T* copied(const std::vector<T>& values) {
        T* to = arena_.take<T>(values.size());
        const auto bytes = std::as_bytes(std::span(values));
        copies.push_back({{bytes.begin(), bytes.end()}, to});
        return to;
    }

    DeviceNorm norm(const std::vector<float>& weight, const std::vector<float>& bias) { return {vector(weight), vector(bias)}; }

    float* vector(const std::vector<float>& values) { return values.empty() ? nullptr : copied(values); }

    FusedMatrices fuse(std::initializer_list<Source> sources) {
        FusedMatrices fused;
        bool biased = false;
        for (const Source* at = sources.begin(); at != sources.end();) {
            // A run of tensors that have one format on the device becomes one matrix.
            const WeightFormat format = device_format(at->tensor->type, out_.dtype_);
            uint32_t rows = 0;
            const Source* end = at;
            for (; end != sources.end() && device_format(end->tensor->type, out_.dtype_) == format; ++end) {
                rows += static_cast<uint32_t>(end->tensor->rows);
            }
            fused.parts.push_back(
                matrix(at->tensor->type, rows, static_cast<uint32_t>(at->tensor->cols), static_cast<uint64_t>(at->tensor->depth)));
            fused.rows += rows;
            out_.quantised_ |= quantised(format);
            transfer(std::span(at, end), fused.parts.back());
            for (; at != end; ++at) biased |= at->bias != nullptr && !at->bias->empty();
        }
        if (biased) add_bias(fused, sources);
        return fused;
    }

    /// Tensors that become one matrix; where each holds several, all first ones become the first matrix, and so on.
    void transfer(std::span<const Source> sources, const Matrix& to) {
        if (sources.size() == 1) {
            transfers.push_back({*sources.front().tensor, to, 0});
            return;
        }
        uint64_t row = 0;
        for (int64_t index = 0; index < sources.front().tensor->depth; ++index) {
            for (const Source& source : sources) {
                transfers.push_back({source.tensor->expert(index), to, row});
                row += static_cast<uint64_t>(source.tensor->rows);
            }
        }
    }

    void add_bias(FusedMatrices& fused, std::initializer_list<Source> sources) {
        std::vector<float> bias;
        std::vector<uint16_t> bias_16;
        for (int64_t index = 0; index < sources.begin()->tensor->depth; ++index) {
            for (const Source& source : sources) {
                const int64_t rows = source.tensor->rows;
                const size_t before = bias.size();
                if (source.bias != nullptr && !source.bias->empty())
                    bias.insert(bias.end(), source.bias->begin() + index * rows, source.bias->begin() + (index + 1) * rows);
                bias.resize(before + static_cast<size_t>(rows), 0.0f);
            }
        }
        for (const float value : bias) bias_16.push_back(out_.dtype_ == Dtype::F16 ? float_to_half(value) : float_to_bf16(value));
        fused.bias = copied(bias);
        fused.bias_16 = copied(bias_16);
    }

    DeviceWeights& out_;
    Arena arena_;
};

DeviceWeights::DeviceWeights(const BackendSource& source) : dtype_(activation_type(source.weights)) {
    bytes_ = WeightPlacement(source, *this, nullptr).device_bytes();
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free memory");
    if (bytes_ + Uploader::kDeviceBytes > free) {
        fail(DCA_ERROR_MEMORY, "the weights take ", gigabytes(bytes_ + Uploader::kDeviceBytes), " on the card, ", gigabytes(free),
             " of its ", gigabytes(total), " are free; take a smaller quantisation, another card or device cpu");
    }
    memory_ = allocate_device(bytes_, "allocating the weights");
    const Stream stream = make_stream();
    check(cudaMemsetAsync(memory_.get(), 0, bytes_, stream.get()), "allocating the weights");  // rows of scales end in zeros
    check(cudaStreamSynchronize(stream.get()), "allocating the weights");                      // the uploader's stream does not wait for it
    const WeightPlacement placement(source, *this, memory_.get());
    Uploader uploader(source, placement.file_bytes());
    for (const auto& [from, to, first_row] : placement.transfers) uploader.matrix(from, to, first_row);
    for (const auto& [from, to] : placement.copies) {
        check(cudaMemcpyAsync(to, from.data(), from.size(), cudaMemcpyHostToDevice, stream.get()), "loading weights");
    }
    uploader.finish();
    check(cudaStreamSynchronize(stream.get()), "loading weights");
}

}  // namespace dca::cuda
