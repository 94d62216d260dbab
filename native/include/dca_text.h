/* dca_text.h - text with libdca: the tokenizer that a GGUF file carries, and generation of tokens.
 *
 * The rules of dca.h hold. Text is UTF-8 with its length in bytes, so it may hold zeros. */
#ifndef DCA_TEXT_H
#define DCA_TEXT_H

#include "dca.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ffi: begin (everything from here to the end mark is plain C without directives) */

/* ---- Tokenizer ----------------------------------------------------------------- */

/* Byte-level BPE with the pretokenizers that Python knows, SentencePiece's BPE and unigram model, as the tokenizer.ggml.*
 * keys say; tokenizer.huggingface.json, which Python prefers where a file has it, is not read. A tokenizer keeps nothing of
 * its model, does not change, and may be used by any number of threads at once. */
typedef struct dca_tokenizer dca_tokenizer;

/* DCA_ERROR_FORMAT: keys are missing or do not fit together; DCA_ERROR_UNSUPPORTED: another kind of tokenizer, or none. */
DCA_API dca_status dca_tokenizer_create(const dca_model* model, dca_tokenizer** tokenizer);

/* The same from a file of which nothing else is wanted: only its metadata and table of tensors are read. */
DCA_API dca_status dca_tokenizer_load(const char* path, dca_tokenizer** tokenizer);

/* Frees the tokenizer. Its streams must be freed before. NULL is allowed. */
DCA_API void dca_tokenizer_free(dca_tokenizer* tokenizer);

typedef struct dca_tokenizer_info {
    size_t size;       /* set to sizeof(dca_tokenizer_info) by the caller */
    char kind[16];     /* tokenizer.ggml.model: "gpt2", "llama" or "t5" */
    uint32_t n_tokens; /* ids are below */
    int32_t bos;       /* the token that begins a text; -1: none */
    int32_t eos;       /* the one that ends one; -1: none */
    int32_t adds_bos;  /* not 0: DCA_TEXT_BEGIN puts bos in front */
    int32_t adds_eos;  /* not 0: DCA_TEXT_END puts eos behind */
} dca_tokenizer_info;

DCA_API dca_status dca_tokenizer_get_info(const dca_tokenizer* tokenizer, dca_tokenizer_info* info);

/* The tokens after which a text or a turn is over, ascending: those that the file names, and control tokens that are
 * spelled as such. They live as long as the tokenizer. */
DCA_API dca_status dca_tokenizer_end_tokens(const dca_tokenizer* tokenizer, const int32_t** tokens, size_t* n);

/* A token's spelling in the vocabulary, not terminated, as long as the tokenizer lives; NULL where the id has none. */
DCA_API dca_status dca_tokenizer_spelling(const dca_tokenizer* tokenizer, int32_t token, const char** text, size_t* bytes);

/* The token that is spelled so, such as "<|im_end|>"; -1: there is none. */
DCA_API dca_status dca_tokenizer_find(const dca_tokenizer* tokenizer, const char* text, size_t bytes, int32_t* token);

/* What dca_tokenize does beside, put together with |. */
enum {
    DCA_TEXT_BEGIN = 1,   /* what begins a text in front, where the model was trained with it */
    DCA_TEXT_END = 2,     /* what ends a text behind, likewise */
    DCA_TEXT_SPECIAL = 4, /* text that spells a control token becomes that token. Without, it stays ordinary text, as is right
                             for text that is not trusted */
    DCA_TEXT_PROMPT = 8   /* as DCA_TEXT_BEGIN, unless the text spells out its beginning itself: for a text to go on from */
};

/* Text to tokens. *n is how many there are. They are written if `capacity` is enough, else it is DCA_ERROR_ARGUMENT; with
 * tokens NULL they are only counted. Text that is not UTF-8 is DCA_ERROR_ARGUMENT. It takes time in proportion to the text
 * (times the logarithm of its longest piece). */
DCA_API dca_status dca_tokenize(const dca_tokenizer* tokenizer, const char* text, size_t bytes, int32_t flags, int32_t* tokens,
                                size_t capacity, size_t* n);

/* Tokens to text. *bytes is how long it is; with a NUL behind it, it is written if `capacity` is more than that, else it is
 * DCA_ERROR_ARGUMENT; with text NULL it is only measured. Bytes that are not UTF-8 become U+FFFD, ids without a token give
 * nothing. skip_special not 0: control tokens give nothing either. */
DCA_API dca_status dca_detokenize(const dca_tokenizer* tokenizer, const int32_t* tokens, size_t n, int32_t skip_special, char* text,
                                  size_t capacity, size_t* bytes);

/* Text from tokens that come one by one, in whole characters: the pieces joined are what dca_detokenize gives. A stream
 * belongs to one thread at a time. */
typedef struct dca_text_stream dca_text_stream;

/* after: the n tokens before, whose text is not given again, so that a word goes on as it should. */
DCA_API dca_status dca_text_stream_create(const dca_tokenizer* tokenizer, const int32_t* after, size_t n, int32_t skip_special,
                                          dca_text_stream** stream);
DCA_API void dca_text_stream_free(dca_text_stream* stream);

/* Takes one more token. *text is what is certain by it, NUL-terminated, perhaps nothing; valid until the next call. */
DCA_API dca_status dca_text_stream_push(dca_text_stream* stream, int32_t token, const char** text, size_t* bytes);

/* What is left at the end: U+FFFD for a character that was not completed. */
DCA_API dca_status dca_text_stream_flush(dca_text_stream* stream, const char** text, size_t* bytes);

/* ---- Generation ---------------------------------------------------------------- */

/* Called with every token that was chosen, but for a stop token. Return 0 to go on, anything else to end here. */
typedef int32_t (*dca_token_callback)(int32_t token, void* user);

typedef enum dca_finish {
    DCA_FINISH_STOP = 0,     /* a stop token came; it is the last of the tokens */
    DCA_FINISH_LENGTH = 1,   /* max_tokens, or no room for one more */
    DCA_FINISH_CANCELLED = 2 /* the callback said so */
} dca_finish;

typedef struct dca_generation {
    size_t size;            /* sizeof(dca_generation), set by the caller */
    dca_sequence* sequence; /* of dca_engine_generate; NULL for a session */
    const int32_t* prompt;  /* appended first, at least one token */
    size_t n_prompt;
    size_t max_tokens;   /* chosen at most; default 256 */
    const int32_t* stop; /* tokens after which it ends (dca_tokenizer_end_tokens) */
    size_t n_stop;
    const dca_sampling* sampling; /* NULL (the default): the likeliest token each time */
    dca_token_callback on_token;  /* may be NULL */
    void* user;                   /* handed to on_token */
    int32_t* tokens;              /* room for max_tokens of them; may be NULL */
    size_t n_tokens;              /* the answer: how many were chosen */
    int32_t finish;               /* the answer: dca_finish */
} dca_generation;

/* Fills the struct up to generation->size, which the caller has set. */
DCA_API void dca_generation_default(dca_generation* generation);

/* Appends the prompt, then chooses a token and appends it, until a stop token, max_tokens, the callback or the context
 * ends it. The last token chosen is not appended. With an error n_tokens says how many were chosen before, and the session
 * holds what was appended until then: where the prompt does not fit, or its progress callback cancels it, as before. */
DCA_API dca_status dca_session_generate(dca_session* session, dca_generation* generation);

/* The same for n sequences of an engine at once, those that go on in one step together. One that the pool has no room for
 * any more ends with DCA_FINISH_LENGTH; the others go on. */
DCA_API dca_status dca_engine_generate(dca_engine* engine, dca_generation* const* generations, size_t n);

/* ffi: end */

#ifdef __cplusplus
}
#endif

#endif
