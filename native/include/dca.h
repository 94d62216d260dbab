/* dca.h - the C API of libdca: run a GGUF model with Dual Chunk Attention. dca_text.h has its tokenizer and generation;
 * docs/c-api.md is a tour of both.
 *
 * Rules that hold everywhere:
 *  - Handles are opaque. Every call that can fail returns a dca_status; DCA_OK is 0.
 *    After a failure dca_last_error() gives the calling thread's message, one line: control characters
 *    and bytes that are not UTF-8 as \xNN, long texts out of files and paths without their middle.
 *  - Option structs start with their own size: set it to sizeof, let their _default call fill
 *    the rest, then change what you want. So a program compiled against an older header keeps
 *    working with a newer library. A size that no version has (it is not a whole number of words, or
 *    above 4096) is DCA_ERROR_ARGUMENT; a _default call then leaves the struct as it is. Where options
 *    are NULL, the defaults hold.
 *  - No exception, abort or exit crosses this boundary, whatever a file contains.
 *  - A model may be shared by threads. A session belongs to one thread at a time.
 *  - Pointers handed out live as long as the handle they came from.
 *  - Free what was made from a handle before the handle. What is left can still be freed, but every
 *    call that computes with it gives DCA_ERROR_ARGUMENT, and the memory stays until then.
 *  - A model's file may be replaced or removed while it is loaded, but not written to. Calls that read
 *    weights compare its size and time with what they were and give DCA_ERROR_IO. That leaves a window: a
 *    file cut during such a call, or while loading, ends the process (SIGBUS), and one that is written to
 *    then, within a step of the file system's clock, or with its time put back, is not noticed.
 *
 * This header is also read by the Python binding, so it keeps to plain declarations. */
#ifndef DCA_H
#define DCA_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define DCA_API __declspec(dllexport)
#else
#define DCA_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ffi: begin (everything from here to the end mark is plain C without directives) */

typedef struct dca_model dca_model;
typedef struct dca_session dca_session;

typedef enum dca_status {
    DCA_OK = 0,
    DCA_ERROR_ARGUMENT = 1,    /* a call or an option makes no sense */
    DCA_ERROR_IO = 2,          /* a file cannot be opened or read */
    DCA_ERROR_FORMAT = 3,      /* a file is damaged or contradicts itself */
    DCA_ERROR_UNSUPPORTED = 4, /* well formed, but not something this build runs */
    DCA_ERROR_MEMORY = 5,      /* host or device memory is not enough */
    DCA_ERROR_DEVICE = 6,      /* no such device, no driver, or the device failed */
    DCA_ERROR_CONTEXT = 7,     /* more tokens than the session's context holds */
    DCA_ERROR_CANCELLED = 8,   /* the progress callback asked to stop */
    DCA_ERROR_INTERNAL = 9     /* a bug in libdca */
} dca_status;

/* Called now and then during a long call with work done and work in all (bytes while
 * loading, tokens while evaluating). Return 0 to go on, anything else to cancel. */
typedef int32_t (*dca_progress)(uint64_t done, uint64_t total, void* user);

/* The calling thread's last error message, "" if there was none. Never NULL. */
DCA_API const char* dca_last_error(void);

/* The library's version, "MAJOR.MINOR.PATCH". */
DCA_API const char* dca_version(void);

/* ---- Model ------------------------------------------------------------------- */

typedef struct dca_model_options {
    size_t size;           /* sizeof(dca_model_options), set by the caller */
    const char* device;    /* "cpu", "cuda", "cuda:N", "auto" (cuda if it can be had), or several cards of one host
                              that share the model: "cuda:0,1"; NULL: "cpu" */
    int32_t threads;       /* CPU threads; 0: the physical cores this process may use */
    dca_progress progress; /* may be NULL; called while weights are copied, repacked or sent to a device, so not at all on
                              the CPU where they stay in the file: then loading is short */
    void* user;            /* handed to progress */
    int32_t repack;        /* not 0 (the default): the CPU copies the matrices into large pages while loading, and repacks the
                              quantised ones where it has AVX-512 VNNI (elsewhere those stay in the file, and matrices of
                              Q2_K, Q3_K and IQ4_NL do everywhere): as much memory
                              as they take in the file, and faster; not done where that is more than three quarters of
                              the memory available; without effect on other devices */
} dca_model_options;

/* Fills the struct up to options->size, which the caller has set. */
DCA_API void dca_model_options_default(dca_model_options* options);

/* Maps the GGUF file at `path`, validates its metadata and its table of tensors (that all are there, of the right shape,
 * inside the file and used), and makes it ready on the device. Tensors' values are not looked at: with NaN in the weights
 * logits are NaN. `*model` is NULL unless it works. */
DCA_API dca_status dca_model_load(const char* path, const dca_model_options* options, dca_model** model);

/* Frees the model. Its sessions and engines must be freed before. NULL is allowed. */
DCA_API void dca_model_free(dca_model* model);

typedef struct dca_scheme {
    uint32_t chunk_size;         /* s, tokens; 0: plain attention */
    uint32_t local_window;       /* w, tokens */
    uint32_t pretraining_length; /* c, tokens */
    float logit_scale;           /* a of m = max(1, a ln(n / n0) + 1), logits times m squared; 0: off */
    uint32_t logit_scale_length; /* n0, tokens */
} dca_scheme;

/* A border that moves with the query, of the attentions that have one: keys at distances below `window` are near and keep
 * them. DCA_ATTENTION_STRING gives a key at distance m beyond it m - window + beyond (beyond <= window);
 * DCA_ATTENTION_STREAMING and DCA_ATTENTION_LM_INFINITE show beyond it the first `beyond` keys of the text alone. */
typedef struct dca_border {
    uint32_t window; /* tokens; 0: none */
    uint32_t beyond; /* tokens */
} dca_border;

typedef struct dca_model_info {
    size_t size;           /* set to sizeof(dca_model_info) by the caller */
    char architecture[64]; /* general.architecture */
    char device[128];      /* where it runs: "cpu (AVX-512, 2 threads)", "cuda:0 (NVIDIA ...)" */
    uint32_t n_vocab;
    uint32_t n_layers;
    uint32_t n_embd; /* model width */
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t head_dim;
    uint32_t n_ff;      /* feed-forward width (of one expert in a mixture) */
    uint32_t n_experts; /* 0: dense */
    uint32_t n_experts_used;
    uint32_t context_length; /* tokens the model was trained on */
    uint64_t n_params;
    uint64_t n_params_used;     /* parameters that one token touches (experts count once each used) */
    uint64_t weight_bytes;      /* bytes of all tensors as stored in the file */
    uint64_t weight_bytes_used; /* bytes of weights that one decoded token reads */
    dca_scheme scheme;          /* the file's; chunk_size 0 where the file has none */
    uint64_t repacked_bytes;    /* memory that copied and repacked weights take on the CPU; 0: all are read from the file */
    dca_border border;          /* the file's, of DCA_ATTENTION_STRING; window 0 where the file has none */
} dca_model_info;

DCA_API dca_status dca_model_get_info(const dca_model* model, dca_model_info* info);

/* One metadata value of the file, in GGUF's own encoding, already validated. */
typedef struct dca_metadata {
    const char* key; /* not NUL-terminated: key_bytes long */
    uint64_t key_bytes;
    uint32_t type; /* GGUF value type: 0 u8, 1 i8, 2 u16, 3 i16, 4 u32, 5 i32, 6 f32, 7 bool, 8 string, 9 array, 10 u64, 11 i64, 12 f64 */
    uint32_t element_type; /* of an array; otherwise equal to type */
    uint64_t count;        /* elements of an array; otherwise 1 */
    const void* data;      /* scalar: little-endian value; string: its bytes; array: elements back to back, strings as u64 length + bytes */
    uint64_t data_bytes;
} dca_metadata;

DCA_API uint64_t dca_model_metadata_count(const dca_model* model);
DCA_API dca_status dca_model_metadata_at(const dca_model* model, uint64_t index, dca_metadata* value);

/* ---- Session ----------------------------------------------------------------- */

typedef enum dca_attention {
    DCA_ATTENTION_AUTO = 0,        /* the scheme given in the options, else the file's scheme or border, else plain */
    DCA_ATTENTION_PLAIN = 1,       /* ordinary causal attention, whatever the file says */
    DCA_ATTENTION_DUAL_CHUNK = 2,  /* all three of intra, successive and inter; needs a scheme */
    DCA_ATTENTION_INTRA = 3,       /* only the query's own chunk (ablation) */
    DCA_ATTENTION_INTRA_INTER = 4, /* every earlier chunk at P_inter (ablation) */
    DCA_ATTENTION_STRING = 5,      /* STRING: far keys at smaller distances; needs a border, as the next two do */
    DCA_ATTENTION_STREAMING = 6,   /* StreamingLLM: the first keys and the last, as if they were all */
    DCA_ATTENTION_LM_INFINITE = 7  /* LM-Infinite: the same keys, the first ones at distance `window` */
} dca_attention;

typedef enum dca_cache_type {
    DCA_CACHE_F16 = 0,
    DCA_CACHE_F32 = 1,
    DCA_CACHE_BF16 = 2,
    DCA_CACHE_Q8 = 3, /* 8 bits a value with scales; see docs/architecture.md for the layout per device */
    DCA_CACHE_Q4 = 4  /* 4 bits a value with scales (docs/caches.md), for head sizes that are multiples of 32 */
} dca_cache_type;

typedef enum dca_rope {
    DCA_ROPE_MODEL = 0,  /* as the file says */
    DCA_ROPE_LINEAR = 1, /* position interpolation: every frequency divided by the factor */
    DCA_ROPE_NTK = 2,    /* NTK-aware: the base times factor^(d / (d - 2)), d the rotary dimension */
    DCA_ROPE_YARN = 3,   /* YaRN from the trained context, with its attention factor */
    DCA_ROPE_DYNAMIC = 4 /* dynamic NTK: the same as NTK with the factor F n / L - (F - 1) (at least 1), F the factor, L the trained
                            context and n how many positions the session's context uses. Keys are rotated once, so n is what a
                            session is made for, not how full it is; an engine of many sequences has no n and is refused */
} dca_rope;

/* How the tokens of a prompt attend; those that are generated one by one always read everything. */
typedef enum dca_prefill {
    DCA_PREFILL_DENSE = 0,  /* all keys */
    DCA_PREFILL_SPARSE = 1, /* each block of queries the pages that matter to it; docs/sparse.md says which */
    DCA_PREFILL_STATED = 2  /* as many columns and diagonals as the file states for each head (docs/sparse.md) */
} dca_prefill;

typedef struct dca_session_options {
    size_t size;              /* sizeof(dca_session_options), set by the caller */
    uint32_t context;         /* capacity of the KV cache, tokens; default 4096 */
    int32_t attention;        /* dca_attention; default AUTO */
    dca_scheme scheme;        /* chunk_size 0 (the default): the file's */
    int32_t cache_type;       /* dca_cache_type; default F16 */
    uint32_t prefill_block;   /* tokens evaluated together in prefill; 0: the backend's choice */
    dca_progress progress;    /* may be NULL */
    void* user;               /* handed to progress */
    int32_t rope;             /* dca_rope; default MODEL. Others replace the file's own scaling */
    float rope_factor;        /* at least 1; used unless rope is MODEL */
    int32_t prefill;          /* dca_prefill; default DENSE */
    float alpha;              /* of SPARSE, 0 (all pages are read) to 1: a page is read whose weight is this share of the heaviest's */
    uint32_t sparse_from;     /* of SPARSE: tokens at indices below attend densely; default 4096 */
    int32_t record_selection; /* of SPARSE and STATED: not 0: keep what was chosen for dca_session_selection; grows with the tokens */
    dca_border border;        /* of the attentions with a border; window 0 (the default): the file's */
} dca_session_options;

/* Fills the struct up to options->size, which the caller has set. */
DCA_API void dca_session_options_default(dca_session_options* options);

DCA_API dca_status dca_session_create(dca_model* model, const dca_session_options* options, dca_session** session);

/* Frees the session. NULL is allowed. */
DCA_API void dca_session_free(dca_session* session);

typedef struct dca_session_info {
    size_t size;      /* set to sizeof(dca_session_info) by the caller */
    uint32_t length;  /* tokens in the cache */
    uint32_t context; /* capacity, tokens */
    uint64_t cache_bytes;
    uint64_t scratch_bytes; /* activations and work space */
    dca_scheme scheme;      /* in force, local_window 0 in the ablations; chunk_size 0: none */
    int32_t attention;      /* dca_attention in force: DUAL_CHUNK (the ablations too) with a scheme, one with a border, or PLAIN */
    dca_border border;      /* in force; window 0: none */
} dca_session_info;

DCA_API dca_status dca_session_get_info(const dca_session* session, dca_session_info* info);

/* What sparse prefill has read so far: the share of all pairs of a query and a key before it, over every token that was not
 * evaluated alone, for each layer and query head (n_layers * n_heads floats, row-major); NaN where there was none. */
DCA_API dca_status dca_session_density(const dca_session* session, float* density, size_t capacity);

/* What sparse prefill has chosen so far, of a session that records it. For each layer, query head and block of queries, in
 * this order: the five words layer, head, first query, one past the last, number of pages that follow; then the pages read,
 * ascending, each as page * 4 + range (0: intra, 1: successive, 2: inter). Blocks that read everything are not listed. With
 * stated budgets, for each unit of queries that reads what the last of them chose: layer, head, first query, one past the last,
 * number of words that follow; then the columns, ascending, each as key * 2, and the diagonals, each as distance * 2 + 1. The
 * words are valid until the next such call or the session is freed. */
DCA_API dca_status dca_session_selection(dca_session* session, const uint32_t** words, size_t* n);

typedef enum dca_logits {
    DCA_LOGITS_NONE = 0, /* none: fill the cache only */
    DCA_LOGITS_LAST = 1, /* after the last token: n_vocab floats */
    DCA_LOGITS_ALL = 2   /* after every token: n * n_vocab floats, row-major */
} dca_logits;

/* Appends n >= 1 tokens and writes the logits that `which`, a dca_logits, asks for (f32). `capacity` is the room at
 * `logits` in floats. If it fails or is cancelled the session is as long as before. */
DCA_API dca_status dca_session_eval(dca_session* session, const int32_t* tokens, size_t n, int32_t which, float* logits, size_t capacity);

/* Appends n >= 2 tokens and writes n - 1 values: nll[i] = -log p(tokens[i + 1] | all up to and
 * including tokens[i]), natural logarithm, without ever holding all logits. */
DCA_API dca_status dca_session_score(dca_session* session, const int32_t* tokens, size_t n, float* nll, size_t capacity);

/* Forgets every token from index `length` on. Keys do not depend on later tokens, so the
 * rest of the cache stays valid: prompts with a common start can share it. */
DCA_API dca_status dca_session_truncate(dca_session* session, uint32_t length);

/* How many tokens from the start of a sequence two sessions give the very same keys and values: the
 * smaller chunk size or window where only the attention differs (inside the first chunk or window every attention is
 * the ordinary one; where logit scales differ, no further than the smallest logit_scale_length of those in
 * force), 2^31 where nothing differs, 0 where the model, cache type or RoPE does. */
DCA_API dca_status dca_session_exact_prefix(const dca_session* a, const dca_session* b, uint32_t* length);

/* Makes the first `length` tokens of `from` all that `to` holds, without evaluating them. `length` is
 * at most dca_session_exact_prefix, the tokens in `from` and the context of `to`, and `from` is another session; else it fails and
 * `to` is as before (where the device fails meanwhile, empty). Both sessions must belong to the calling thread. */
DCA_API dca_status dca_session_copy_prefix(dca_session* to, const dca_session* from, uint32_t length);

/* ---- Engine: many sequences in one step ---------------------------------------- */

/* An engine is one pool of keys and values, in pages of 128 tokens, and the work space of its steps.
 * Sequences of one engine share pages where they share a start. An engine and its sequences belong to
 * one thread at a time; engines of one model may run in different threads at once. */
typedef struct dca_engine dca_engine;
typedef struct dca_sequence dca_sequence;

typedef struct dca_engine_options {
    size_t size;           /* sizeof(dca_engine_options), set by the caller */
    uint32_t tokens;       /* room of the pool, all sequences together; default 65536 */
    int32_t attention;     /* dca_attention; default AUTO */
    dca_scheme scheme;     /* chunk_size 0 (the default): the file's */
    int32_t cache_type;    /* dca_cache_type; default F16 */
    uint32_t max_rows;     /* tokens of a step at most; 0: the backend's choice */
    dca_progress progress; /* may be NULL: called after every step of a call with tokens done and in all */
    void* user;            /* handed to progress */
    int32_t rope;          /* dca_rope; default MODEL. Others replace the file's own scaling */
    float rope_factor;     /* at least 1; used unless rope is MODEL */
    int32_t prefill;       /* dca_prefill; default DENSE */
    float alpha;           /* of SPARSE, as in dca_session_options */
    uint32_t sparse_from;  /* likewise */
    dca_border border;     /* as in dca_session_options */
} dca_engine_options;

/* Fills the struct up to options->size, which the caller has set. */
DCA_API void dca_engine_options_default(dca_engine_options* options);

/* options NULL: the defaults. The model must outlive the engine. */
DCA_API dca_status dca_engine_create(dca_model* model, const dca_engine_options* options, dca_engine** engine);

/* Frees the engine. Its sequences must be freed before. NULL is allowed. */
DCA_API void dca_engine_free(dca_engine* engine);

typedef struct dca_engine_info {
    size_t size;          /* set to sizeof(dca_engine_info) by the caller */
    uint32_t tokens;      /* room of the pool */
    uint32_t tokens_used; /* in whole pages; shared ones count once */
    uint32_t page_tokens; /* tokens of a page */
    uint32_t max_rows;    /* tokens of a step at most */
    uint64_t cache_bytes;
    uint64_t scratch_bytes;  /* activations and work space */
    dca_scheme scheme;       /* in force; chunk_size 0: none */
    int32_t attention;       /* as in dca_session_info */
    dca_border border;       /* likewise */
    uint32_t tokens_leaving; /* of tokens_used, in pages that will be free once they have left for host memory */
} dca_engine_info;

DCA_API dca_status dca_engine_get_info(const dca_engine* engine, dca_engine_info* info);

/* As dca_session_density, over all sequences. */
DCA_API dca_status dca_engine_density(const dca_engine* engine, float* density, size_t capacity);

/* A new, empty sequence. The engine must outlive it. */
DCA_API dca_status dca_sequence_create(dca_engine* engine, dca_sequence** sequence);

/* Another sequence that holds what this one holds, without copying it: both go their own way from here. */
DCA_API dca_status dca_sequence_fork(const dca_sequence* sequence, dca_sequence** fork);

/* Frees the sequence and the pages that nobody else holds. NULL is allowed. */
DCA_API void dca_sequence_free(dca_sequence* sequence);

/* Tokens in the sequence; 0 for NULL. */
DCA_API uint32_t dca_sequence_length(const dca_sequence* sequence);

/* Forgets every token from index `length` on. */
DCA_API dca_status dca_sequence_truncate(dca_sequence* sequence, uint32_t length);

/* Lets a sequence sleep: its keys and values leave for host memory, and its pages are free for others when they have left, which
 * goes on while steps of others run. What it shares with others is copied. Everything that needs its keys and values
 * wakes it, and fails with DCA_ERROR_CONTEXT where pages are short; its tokens can be read. */
DCA_API dca_status dca_sequence_sleep(dca_sequence* sequence);

/* Starts the way back, which takes pages and goes on while steps of others run. Nothing if it is awake. */
DCA_API dca_status dca_sequence_wake(dca_sequence* sequence);

/* 1 if the sequence sleeps, else 0. */
DCA_API int dca_sequence_asleep(const dca_sequence* sequence);

/* A second floor for pages, for who keeps many prefixes: slots of a page each in host memory, numbered from 0 on as they are
 * added, and what is in which is the caller's to know. Copies to and from them go on while steps run, in the order in which
 * they were asked for, so that a slot may be given to another page at once. */

/* Adds `count` slots; `slots`, if not NULL, gets how many there are. The one call that may be made in another thread while the
 * engine is used: memory that is quick to copy to takes long to make. */
DCA_API dca_status dca_engine_add_slots(dca_engine* engine, uint32_t count, uint32_t* slots);

/* Copies `n` whole pages of a sequence, from page `first` on, to slots. The sequence keeps them; those that it is shortened by
 * afterwards are free for others when they have left (dca_engine_info.tokens_leaving). */
DCA_API dca_status dca_sequence_park_pages(const dca_sequence* sequence, uint32_t first, const uint32_t* slots, size_t n);

/* Appends n_tokens = n times page_tokens tokens to a sequence that ends at a page's end, with the keys and values in `n` slots:
 * pages that were parked after the same tokens. Fails with DCA_ERROR_CONTEXT where pages are short. */
DCA_API dca_status dca_sequence_unpark_pages(dca_sequence* sequence, const int32_t* tokens, size_t n_tokens, const uint32_t* slots,
                                             size_t n);

/* 1 if all keys and values of a sequence are in its pages; 0 if it sleeps, or they are on their way, which whatever needs them
 * waits for. */
DCA_API int dca_sequence_in_place(const dca_sequence* sequence);

/* Bytes of host memory that this process could take without pushing anything out; UINT64_MAX where that is not known. */
DCA_API uint64_t dca_available_memory(void);

/* Tokens to append to a sequence, and where what follows from them goes. */
typedef struct dca_feed {
    dca_sequence* sequence;
    const int32_t* tokens;
    size_t n;        /* at least 1 */
    int32_t which;   /* dca_logits; not used by dca_engine_score and dca_engine_sample */
    float* out;      /* logits as `which` says; dca_engine_score: n - 1 values */
    size_t capacity; /* room at `out`, floats */
} dca_feed;

/* Appends every feed's tokens, those of one step together, and writes the wanted logits. A sequence can be in
 * `feeds` once. If it fails or is cancelled every sequence is as before. The pool has no room: DCA_ERROR_CONTEXT. */
DCA_API dca_status dca_engine_eval(dca_engine* engine, const dca_feed* feeds, size_t n);

/* The same for likelihoods (dca_session_score): each feed has at least 2 tokens. */
DCA_API dca_status dca_engine_score(dca_engine* engine, const dca_feed* feeds, size_t n);

/* A token and a number that belongs to it. */
typedef struct dca_token_value {
    int32_t token;
    float value;
} dca_token_value;

/* How the token after a feed is chosen. The filters look at the model's own distribution, after penalties, biases and
 * mask; the temperature comes last. A choice depends on the logits, these fields and the token's index alone. */
typedef struct dca_sampling {
    size_t size;             /* sizeof(dca_sampling), set by the caller */
    float temperature;       /* 0 (the default): the likeliest token, the lowest id among equals */
    uint32_t top_k;          /* keep this many of the likeliest, and those as likely as the last; 0: all */
    float top_p;             /* keep the likeliest that together reach this probability; default 1 */
    float min_p;             /* drop what is less likely than this share of the likeliest; default 0 */
    float repeat_penalty;    /* logits of tokens that occur are divided by it, multiplied if negative; default 1 */
    float presence_penalty;  /* subtracted from the logits of tokens that occur; default 0 */
    float frequency_penalty; /* the same, times how often they do; default 0 */
    uint32_t penalty_window; /* the last tokens of the sequence that penalties look at; default 64, 0: none */
    uint64_t seed;
    const dca_token_value* biases; /* added to logits */
    size_t n_biases;
    const uint32_t* allowed; /* NULL: all tokens. Else (n_vocab + 31) / 32 words: bit t % 32 of word t / 32 allows token t */
    int32_t logprob;         /* not 0: report the chosen token's log-probability */
    uint32_t top_logprobs;   /* how many of the likeliest tokens to report, at most 1,024 */
    dca_token_value* top;    /* room for top_logprobs of them: log-probabilities, the likeliest first */
} dca_sampling;

/* Fills the struct up to sampling->size, which the caller has set. */
DCA_API void dca_sampling_default(dca_sampling* sampling);

typedef struct dca_choice {
    int32_t token; /* -1: no token is allowed, or no logit is a number */
    float logprob; /* natural logarithm, of the model's own distribution; if asked for */
} dca_choice;

/* Appends every feed's tokens and chooses the one that follows each, which is not appended. samplings[i] belongs to
 * feeds[i], whose `out` is not used. */
DCA_API dca_status dca_engine_sample(dca_engine* engine, const dca_feed* feeds, const dca_sampling* const* samplings, size_t n,
                                     dca_choice* choices);

/* The same for a session: what follows the last token (`which` DCA_LOGITS_LAST: one choice), or each of them
 * (DCA_LOGITS_ALL: n choices, and room for n * top_logprobs at sampling->top). With guesses at what follows the first token
 * the choices are those of steps of one token, up to the first guess that is not the choice before it. */
DCA_API dca_status dca_session_sample(dca_session* session, const int32_t* tokens, size_t n, int32_t which, const dca_sampling* sampling,
                                      dca_choice* choices);

/* The same choice from logits (n_vocab) that the caller has, perhaps changed; `history` are the tokens before it, which
 * penalties look at and whose number is the token's index. */
DCA_API dca_status dca_sample(const float* logits, size_t n_vocab, const int32_t* history, size_t n_history, const dca_sampling* sampling,
                              dca_choice* choice);

/* ---- Sequences in files -------------------------------------------------------- */

/* Writes the tokens, keys and values of a sequence to `path`, beside it first and renamed when whole. Every byte is
 * covered by a checksum; nothing of other sequences is in the file. */
DCA_API dca_status dca_sequence_save(const dca_sequence* sequence, const char* path);

/* A new sequence from a file that dca_sequence_save wrote under the same model, scheme, RoPE and cache type on the same
 * kind of device. Anything else, and a file with any byte changed, is DCA_ERROR_FORMAT; nothing of it is used then. */
DCA_API dca_status dca_sequence_load(dca_engine* engine, const char* path, dca_sequence** sequence);

/* The token ids that a sequence holds, valid until it changes. */
DCA_API const int32_t* dca_sequence_tokens(const dca_sequence* sequence);

/* The same for a session; loading replaces what the session holds. */
DCA_API dca_status dca_session_save(const dca_session* session, const char* path);
DCA_API dca_status dca_session_load(dca_session* session, const char* path);
DCA_API const int32_t* dca_session_tokens(const dca_session* session);

/* ---- Pages of sequences, for programs that keep prefixes themselves ----------------- */

/* What keys and values depend on beside the tokens, as lines of text: model, attention, RoPE, prefill, device and cache
 * type, page. Pages go from one sequence to another where these are equal. At most DCA_SETUP_BYTES with the final NUL;
 * *page_bytes is the size of one page of 128 tokens. */
enum { DCA_SETUP_BYTES = 4096 };
DCA_API dca_status dca_engine_setup(const dca_engine* engine, char* text, size_t capacity, uint64_t* page_bytes);

/* Copies `count` whole pages of a sequence, from page `first` on, to host memory; `bytes` is count times the page's. */
DCA_API dca_status dca_sequence_read_pages(const dca_sequence* sequence, uint32_t first, uint32_t count, void* pages, size_t bytes);

/* Appends n tokens, whole pages of them, with the keys and values that dca_sequence_read_pages gave for the same tokens up
 * to there under the same setup. The sequence must end at a page's end. The bytes are not checked: that is the
 * caller's, with dca_checksum. If it fails the sequence is as before. */
DCA_API dca_status dca_sequence_append_pages(dca_sequence* sequence, const int32_t* tokens, size_t n, const void* pages, size_t bytes);

/* The same for a session. */
DCA_API dca_status dca_session_setup(const dca_session* session, char* text, size_t capacity, uint64_t* page_bytes);
DCA_API dca_status dca_session_read_pages(const dca_session* session, uint32_t first, uint32_t count, void* pages, size_t bytes);
DCA_API dca_status dca_session_append_pages(dca_session* session, const int32_t* tokens, size_t n, const void* pages, size_t bytes);

/* The 64-bit checksum of saved sequences, at the speed of memory: for damage, not against forgers. 0 bytes may be NULL. */
DCA_API uint64_t dca_checksum(const void* data, size_t bytes, uint64_t seed);

/* ---- What flows into a model's matrices ---------------------------------------- */

/* For each column of one matrix, the sum of the squares of its inputs over all tokens evaluated so far. */
typedef struct dca_squares {
    const char* tensor; /* name of the GGUF tensor, not terminated */
    size_t tensor_bytes;
    uint32_t matrix;   /* which of those stacked in it (experts); 0 otherwise */
    uint32_t matrices; /* how many are stacked in it */
    uint32_t columns;
    uint64_t rows;      /* inputs summed over */
    const double* sums; /* (columns) */
} dca_squares;

typedef void (*dca_squares_visitor)(const dca_squares* squares, void* user);

/* Counts from here on, which costs a pass over every matrix's input. On the CPU only: elsewhere DCA_ERROR_UNSUPPORTED. */
DCA_API dca_status dca_session_collect_squares(dca_session* session);

/* Calls `visit` for every matrix that had an input; what it is given is valid during the call. */
DCA_API dca_status dca_session_each_squares(const dca_session* session, dca_squares_visitor visit, void* user);

/* ---- Block formats ----------------------------------------------------------- */

typedef struct dca_block_format {
    const char* name;     /* "Q8_0" */
    uint32_t block_size;  /* values in a block */
    uint32_t block_bytes; /* bytes of a block */
    int32_t can_encode;   /* 0: only decoding is implemented */
} dca_block_format;

/* `type` is a ggml_type number as GGUF stores it. */
DCA_API dca_status dca_block_format_get(uint32_t type, dca_block_format* format);

/* f32 values to blocks and back. n is a multiple of row_length, which is a multiple of the block size (decoding knows no
 * rows: n is a multiple of the block size). blocks_bytes is exactly n / block_size * block_bytes. values are aligned to 4
 * bytes, blocks to 4 for F32 and to 2 for all others. Encoding fails on a value that is not finite, or larger than a format
 * can hold: in magnitude 65504, but 8, 16 and 127 times that in Q4_0, Q5_0 and Q8_0, and all that is finite in F32 and, but
 * for what rounds to infinity, in BF16. Where it fails some of the blocks may have been written. threads 0: all the cores. */
DCA_API dca_status dca_encode(uint32_t type, const float* values, size_t n, size_t row_length, int32_t threads, void* blocks,
                              size_t blocks_bytes);

/* As dca_encode, with the squared error in column c of every row counting weights[c] (row_length of them, finite, 0 or more).
 * Formats that are rounded value by value (F32, F16, BF16, Q8_0) are encoded as without. */
DCA_API dca_status dca_encode_weighted(uint32_t type, const float* values, size_t n, size_t row_length, const float* weights,
                                       int32_t threads, void* blocks, size_t blocks_bytes);

DCA_API dca_status dca_decode(uint32_t type, const void* blocks, size_t blocks_bytes, size_t n, int32_t threads, float* values);

/* ffi: end */

#ifdef __cplusplus
}
#endif

#endif
