typedef struct dca_model dca_model;
typedef struct dca_session dca_session;

typedef enum dca_status {
    DCA_OK = 0,
    DCA_ERROR_ARGUMENT = 1,
    DCA_ERROR_IO = 2,
    DCA_ERROR_FORMAT = 3,
    DCA_ERROR_UNSUPPORTED = 4,
    DCA_ERROR_MEMORY = 5,
    DCA_ERROR_DEVICE = 6,
    DCA_ERROR_CONTEXT = 7,
    DCA_ERROR_CANCELLED = 8,
    DCA_ERROR_INTERNAL = 9
} dca_status;

typedef int32_t (*dca_progress)(uint64_t done, uint64_t total, void* user);

const char* dca_last_error(void);

const char* dca_version(void);

typedef struct dca_model_options {
    size_t size;
    const char* device;
    int32_t threads;
    dca_progress progress;
    void* user;
    int32_t repack;
} dca_model_options;

void dca_model_options_default(dca_model_options* options);

dca_status dca_model_load(const char* path, const dca_model_options* options, dca_model** model);

void dca_model_free(dca_model* model);

typedef struct dca_scheme {
    uint32_t chunk_size;
    uint32_t local_window;
    uint32_t pretraining_length;
    float logit_scale;
    uint32_t logit_scale_length;
} dca_scheme;

typedef struct dca_border {
    uint32_t window;
    uint32_t beyond;
} dca_border;

typedef struct dca_model_info {
    size_t size;
    char architecture[64];
    char device[128];
    uint32_t n_vocab;
    uint32_t n_layers;
    uint32_t n_embd;
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t head_dim;
    uint32_t n_ff;
    uint32_t n_experts;
    uint32_t n_experts_used;
    uint32_t context_length;
    uint64_t n_params;
    uint64_t n_params_used;
    uint64_t weight_bytes;
    uint64_t weight_bytes_used;
    dca_scheme scheme;
    uint64_t repacked_bytes;
    dca_border border;
} dca_model_info;

dca_status dca_model_get_info(const dca_model* model, dca_model_info* info);

typedef struct dca_metadata {
    const char* key;
    uint64_t key_bytes;
    uint32_t type;
    uint32_t element_type;
    uint64_t count;
    const void* data;
    uint64_t data_bytes;
} dca_metadata;

uint64_t dca_model_metadata_count(const dca_model* model);
dca_status dca_model_metadata_at(const dca_model* model, uint64_t index, dca_metadata* value);

typedef enum dca_attention {
    DCA_ATTENTION_AUTO = 0,
    DCA_ATTENTION_PLAIN = 1,
    DCA_ATTENTION_DUAL_CHUNK = 2,
    DCA_ATTENTION_INTRA = 3,
    DCA_ATTENTION_INTRA_INTER = 4,
    DCA_ATTENTION_STRING = 5,
    DCA_ATTENTION_STREAMING = 6,
    DCA_ATTENTION_LM_INFINITE = 7
} dca_attention;

typedef enum dca_cache_type {
    DCA_CACHE_F16 = 0,
    DCA_CACHE_F32 = 1,
    DCA_CACHE_BF16 = 2,
    DCA_CACHE_Q8 = 3,
    DCA_CACHE_Q4 = 4
} dca_cache_type;

typedef enum dca_rope {
    DCA_ROPE_MODEL = 0,
    DCA_ROPE_LINEAR = 1,
    DCA_ROPE_NTK = 2,
    DCA_ROPE_YARN = 3,
    DCA_ROPE_DYNAMIC = 4
} dca_rope;

typedef enum dca_prefill {
    DCA_PREFILL_DENSE = 0,
    DCA_PREFILL_SPARSE = 1,
    DCA_PREFILL_STATED = 2
} dca_prefill;

typedef struct dca_session_options {
    size_t size;
    uint32_t context;
    int32_t attention;
    dca_scheme scheme;
    int32_t cache_type;
    uint32_t prefill_block;
    dca_progress progress;
    void* user;
    int32_t rope;
    float rope_factor;
    int32_t prefill;
    float alpha;
    uint32_t sparse_from;
    int32_t record_selection;
    dca_border border;
} dca_session_options;

void dca_session_options_default(dca_session_options* options);

dca_status dca_session_create(dca_model* model, const dca_session_options* options, dca_session** session);

void dca_session_free(dca_session* session);

typedef struct dca_session_info {
    size_t size;
    uint32_t length;
    uint32_t context;
    uint64_t cache_bytes;
    uint64_t scratch_bytes;
    dca_scheme scheme;
    int32_t attention;
    dca_border border;
} dca_session_info;

dca_status dca_session_get_info(const dca_session* session, dca_session_info* info);

dca_status dca_session_density(const dca_session* session, float* density, size_t capacity);

dca_status dca_session_selection(dca_session* session, const uint32_t** words, size_t* n);

typedef enum dca_logits {
    DCA_LOGITS_NONE = 0,
    DCA_LOGITS_LAST = 1,
    DCA_LOGITS_ALL = 2
} dca_logits;

dca_status dca_session_eval(dca_session* session, const int32_t* tokens, size_t n, int32_t which, float* logits, size_t capacity);

dca_status dca_session_score(dca_session* session, const int32_t* tokens, size_t n, float* nll, size_t capacity);

dca_status dca_session_truncate(dca_session* session, uint32_t length);

dca_status dca_session_exact_prefix(const dca_session* a, const dca_session* b, uint32_t* length);

dca_status dca_session_copy_prefix(dca_session* to, const dca_session* from, uint32_t length);

typedef struct dca_engine dca_engine;
typedef struct dca_sequence dca_sequence;

typedef struct dca_engine_options {
    size_t size;
    uint32_t tokens;
    int32_t attention;
    dca_scheme scheme;
    int32_t cache_type;
    uint32_t max_rows;
    dca_progress progress;
    void* user;
    int32_t rope;
    float rope_factor;
    int32_t prefill;
    float alpha;
    uint32_t sparse_from;
    dca_border border;
} dca_engine_options;

void dca_engine_options_default(dca_engine_options* options);

dca_status dca_engine_create(dca_model* model, const dca_engine_options* options, dca_engine** engine);

void dca_engine_free(dca_engine* engine);

typedef struct dca_engine_info {
    size_t size;
    uint32_t tokens;
    uint32_t tokens_used;
    uint32_t page_tokens;
    uint32_t max_rows;
    uint64_t cache_bytes;
    uint64_t scratch_bytes;
    dca_scheme scheme;
    int32_t attention;
    dca_border border;
    uint32_t tokens_leaving;
} dca_engine_info;

dca_status dca_engine_get_info(const dca_engine* engine, dca_engine_info* info);

dca_status dca_engine_density(const dca_engine* engine, float* density, size_t capacity);

dca_status dca_sequence_create(dca_engine* engine, dca_sequence** sequence);

dca_status dca_sequence_fork(const dca_sequence* sequence, dca_sequence** fork);

void dca_sequence_free(dca_sequence* sequence);

uint32_t dca_sequence_length(const dca_sequence* sequence);

dca_status dca_sequence_truncate(dca_sequence* sequence, uint32_t length);

dca_status dca_sequence_sleep(dca_sequence* sequence);

dca_status dca_sequence_wake(dca_sequence* sequence);

int dca_sequence_asleep(const dca_sequence* sequence);

dca_status dca_engine_add_slots(dca_engine* engine, uint32_t count, uint32_t* slots);

dca_status dca_sequence_park_pages(const dca_sequence* sequence, uint32_t first, const uint32_t* slots, size_t n);

dca_status dca_sequence_unpark_pages(dca_sequence* sequence, const int32_t* tokens, size_t n_tokens, const uint32_t* slots,
                                             size_t n);

int dca_sequence_in_place(const dca_sequence* sequence);

uint64_t dca_available_memory(void);

typedef struct dca_feed {
    dca_sequence* sequence;
    const int32_t* tokens;
    size_t n;
    int32_t which;
    float* out;
    size_t capacity;
} dca_feed;

dca_status dca_engine_eval(dca_engine* engine, const dca_feed* feeds, size_t n);

dca_status dca_engine_score(dca_engine* engine, const dca_feed* feeds, size_t n);

typedef struct dca_token_value {
    int32_t token;
    float value;
} dca_token_value;

typedef struct dca_sampling {
    size_t size;
    float temperature;
    uint32_t top_k;
    float top_p;
    float min_p;
    float repeat_penalty;
    float presence_penalty;
    float frequency_penalty;
    uint32_t penalty_window;
    uint64_t seed;
    const dca_token_value* biases;
    size_t n_biases;
    const uint32_t* allowed;
    int32_t logprob;
    uint32_t top_logprobs;
    dca_token_value* top;
} dca_sampling;

void dca_sampling_default(dca_sampling* sampling);

typedef struct dca_choice {
    int32_t token;
    float logprob;
} dca_choice;

dca_status dca_engine_sample(dca_engine* engine, const dca_feed* feeds, const dca_sampling* const* samplings, size_t n,
                                     dca_choice* choices);

dca_status dca_session_sample(dca_session* session, const int32_t* tokens, size_t n, int32_t which, const dca_sampling* sampling,
                                      dca_choice* choices);

dca_status dca_sample(const float* logits, size_t n_vocab, const int32_t* history, size_t n_history, const dca_sampling* sampling,
                              dca_choice* choice);

dca_status dca_sequence_save(const dca_sequence* sequence, const char* path);

dca_status dca_sequence_load(dca_engine* engine, const char* path, dca_sequence** sequence);

const int32_t* dca_sequence_tokens(const dca_sequence* sequence);

dca_status dca_session_save(const dca_session* session, const char* path);
dca_status dca_session_load(dca_session* session, const char* path);
const int32_t* dca_session_tokens(const dca_session* session);

enum { DCA_SETUP_BYTES = 4096 };
dca_status dca_engine_setup(const dca_engine* engine, char* text, size_t capacity, uint64_t* page_bytes);

dca_status dca_sequence_read_pages(const dca_sequence* sequence, uint32_t first, uint32_t count, void* pages, size_t bytes);

dca_status dca_sequence_append_pages(dca_sequence* sequence, const int32_t* tokens, size_t n, const void* pages, size_t bytes);

dca_status dca_session_setup(const dca_session* session, char* text, size_t capacity, uint64_t* page_bytes);
dca_status dca_session_read_pages(const dca_session* session, uint32_t first, uint32_t count, void* pages, size_t bytes);
dca_status dca_session_append_pages(dca_session* session, const int32_t* tokens, size_t n, const void* pages, size_t bytes);

uint64_t dca_checksum(const void* data, size_t bytes, uint64_t seed);

typedef struct dca_squares {
    const char* tensor;
    size_t tensor_bytes;
    uint32_t matrix;
    uint32_t matrices;
    uint32_t columns;
    uint64_t rows;
    const double* sums;
} dca_squares;

typedef void (*dca_squares_visitor)(const dca_squares* squares, void* user);

dca_status dca_session_collect_squares(dca_session* session);

dca_status dca_session_each_squares(const dca_session* session, dca_squares_visitor visit, void* user);

typedef struct dca_block_format {
    const char* name;
    uint32_t block_size;
    uint32_t block_bytes;
    int32_t can_encode;
} dca_block_format;

dca_status dca_block_format_get(uint32_t type, dca_block_format* format);

dca_status dca_encode(uint32_t type, const float* values, size_t n, size_t row_length, int32_t threads, void* blocks,
                              size_t blocks_bytes);

dca_status dca_encode_weighted(uint32_t type, const float* values, size_t n, size_t row_length, const float* weights,
                                       int32_t threads, void* blocks, size_t blocks_bytes);

dca_status dca_decode(uint32_t type, const void* blocks, size_t blocks_bytes, size_t n, int32_t threads, float* values);

typedef struct dca_tokenizer dca_tokenizer;

dca_status dca_tokenizer_create(const dca_model* model, dca_tokenizer** tokenizer);

dca_status dca_tokenizer_load(const char* path, dca_tokenizer** tokenizer);

void dca_tokenizer_free(dca_tokenizer* tokenizer);

typedef struct dca_tokenizer_info {
    size_t size;
    char kind[16];
    uint32_t n_tokens;
    int32_t bos;
    int32_t eos;
    int32_t adds_bos;
    int32_t adds_eos;
} dca_tokenizer_info;

dca_status dca_tokenizer_get_info(const dca_tokenizer* tokenizer, dca_tokenizer_info* info);

dca_status dca_tokenizer_end_tokens(const dca_tokenizer* tokenizer, const int32_t** tokens, size_t* n);

dca_status dca_tokenizer_spelling(const dca_tokenizer* tokenizer, int32_t token, const char** text, size_t* bytes);

dca_status dca_tokenizer_find(const dca_tokenizer* tokenizer, const char* text, size_t bytes, int32_t* token);

enum {
    DCA_TEXT_BEGIN = 1,
    DCA_TEXT_END = 2,
    DCA_TEXT_SPECIAL = 4,
    DCA_TEXT_PROMPT = 8
};

dca_status dca_tokenize(const dca_tokenizer* tokenizer, const char* text, size_t bytes, int32_t flags, int32_t* tokens,
                                size_t capacity, size_t* n);

dca_status dca_detokenize(const dca_tokenizer* tokenizer, const int32_t* tokens, size_t n, int32_t skip_special, char* text,
                                  size_t capacity, size_t* bytes);

typedef struct dca_text_stream dca_text_stream;

dca_status dca_text_stream_create(const dca_tokenizer* tokenizer, const int32_t* after, size_t n, int32_t skip_special,
                                          dca_text_stream** stream);
void dca_text_stream_free(dca_text_stream* stream);

dca_status dca_text_stream_push(dca_text_stream* stream, int32_t token, const char** text, size_t* bytes);

dca_status dca_text_stream_flush(dca_text_stream* stream, const char** text, size_t* bytes);

typedef int32_t (*dca_token_callback)(int32_t token, void* user);

typedef enum dca_finish {
    DCA_FINISH_STOP = 0,
    DCA_FINISH_LENGTH = 1,
    DCA_FINISH_CANCELLED = 2
} dca_finish;

typedef struct dca_generation {
    size_t size;
    dca_sequence* sequence;
    const int32_t* prompt;
    size_t n_prompt;
    size_t max_tokens;
    const int32_t* stop;
    size_t n_stop;
    const dca_sampling* sampling;
    dca_token_callback on_token;
    void* user;
    int32_t* tokens;
    size_t n_tokens;
    int32_t finish;
} dca_generation;

void dca_generation_default(dca_generation* generation);

dca_status dca_session_generate(dca_session* session, dca_generation* generation);

dca_status dca_engine_generate(dca_engine* engine, dca_generation* const* generations, size_t n);
