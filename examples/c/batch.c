/* The loop of a batch server: every line of the input is a prompt, and several are answered at once. A step appends to each
 * sequence what it goes on from, the whole prompt or the token chosen before, and chooses the next token of all. A prompt
 * joins as soon as another one is answered.
 *
 *     batch MODEL.gguf TOKENS < prompts.txt        prints "LINE<tab>TEXT", in the order in which they end
 *
 *     cc -std=c99 batch.c $(pkg-config --cflags --libs dca) -o batch */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dca_text.h>

enum { SEQUENCES = 4, LINE_BYTES = 4096 };

/* One prompt that is being answered; sequence NULL: room for another one. */
typedef struct slot {
    dca_sequence* sequence;
    dca_text_stream* stream;
    unsigned line;
    int32_t* next; /* what is appended in the next step */
    size_t n;
    size_t left; /* tokens that may still be chosen */
    char* text;
    size_t bytes;
} slot;

static void* check_memory(void* memory) {
    if (memory == NULL) {
        fputs("out of memory\n", stderr);
        exit(2);
    }
    return memory;
}

static void check(dca_status status) {
    if (status == DCA_OK) return;
    fprintf(stderr, "%s\n", dca_last_error());
    exit(2);
}

static void append(slot* s, const char* text, size_t bytes) {
    s->text = check_memory(realloc(s->text, s->bytes + bytes + 1));
    memcpy(s->text + s->bytes, text, bytes + 1);
    s->bytes += bytes;
}

/* Takes the next line of the input that is not empty; 0 at its end. */
static int start(slot* s, dca_engine* engine, const dca_tokenizer* tokenizer, size_t tokens, unsigned* lines) {
    char line[LINE_BYTES];
    size_t bytes;
    do {
        if (fgets(line, sizeof line, stdin) == NULL) return 0;
        bytes = strcspn(line, "\n");
        ++*lines;
    } while (bytes == 0);
    memset(s, 0, sizeof *s);
    const int32_t flags = DCA_TEXT_PROMPT; /* strangers' lines: no control tokens */
    check(dca_tokenize(tokenizer, line, bytes, flags, NULL, 0, &s->n));
    s->next = check_memory(malloc((s->n + 1) * sizeof *s->next));
    check(dca_tokenize(tokenizer, line, bytes, flags, s->next, s->n, &s->n));
    s->line = *lines;
    s->left = tokens;
    check(dca_sequence_create(engine, &s->sequence));
    check(dca_text_stream_create(tokenizer, s->next, s->n, 1, &s->stream));
    append(s, "", 0);
    return 1;
}

static void finish(slot* s) {
    const char* rest;
    size_t bytes;
    check(dca_text_stream_flush(s->stream, &rest, &bytes));
    append(s, rest, bytes);
    printf("%u\t%s\n", s->line, s->text);
    fflush(stdout);
    dca_text_stream_free(s->stream);
    dca_sequence_free(s->sequence);
    free(s->text);
    free(s->next);
    s->sequence = NULL;
}

static int ends_text(const dca_tokenizer* tokenizer, int32_t token) {
    const int32_t* ends;
    size_t n;
    check(dca_tokenizer_end_tokens(tokenizer, &ends, &n));
    for (size_t i = 0; i < n; ++i) {
        if (ends[i] == token) return 1;
    }
    return 0;
}

/* What was chosen for a sequence: its text grows, or it is over. */
static void take(slot* s, const dca_tokenizer* tokenizer, int32_t token) {
    const char* piece;
    size_t bytes;
    if (ends_text(tokenizer, token)) {
        finish(s);
        return;
    }
    check(dca_text_stream_push(s->stream, token, &piece, &bytes));
    append(s, piece, bytes);
    if (--s->left == 0) {
        finish(s);
        return;
    }
    s->next[0] = token;
    s->n = 1;
}

int main(int argc, char** argv) {
    if (argc != 3 || atoi(argv[2]) < 1) {
        fprintf(stderr, "usage: %s MODEL.gguf TOKENS < PROMPTS\n", argv[0]);
        return 2;
    }
    dca_model* model;
    dca_tokenizer* tokenizer;
    dca_engine* engine;
    dca_engine_options options = {.size = sizeof options};
    dca_engine_options_default(&options);
    options.tokens = SEQUENCES * 2048;
    check(dca_model_load(argv[1], NULL, &model));
    check(dca_tokenizer_create(model, &tokenizer));
    check(dca_engine_create(model, &options, &engine));

    dca_sampling sampling = {.size = sizeof sampling};
    dca_sampling_default(&sampling); /* the likeliest token */
    slot slots[SEQUENCES] = {{0}};
    unsigned lines = 0;
    for (int more = 1;;) {
        slot* going[SEQUENCES];
        dca_feed feeds[SEQUENCES];
        const dca_sampling* samplings[SEQUENCES];
        dca_choice choices[SEQUENCES];
        size_t n = 0;
        for (size_t i = 0; i < SEQUENCES; ++i) {
            slot* s = &slots[i];
            if (s->sequence == NULL) more = more && start(s, engine, tokenizer, (size_t)atoi(argv[2]), &lines);
            if (s->sequence == NULL) continue;
            going[n] = s;
            feeds[n] = (dca_feed){.sequence = s->sequence, .tokens = s->next, .n = s->n};
            samplings[n++] = &sampling;
        }
        if (n == 0) break;
        check(dca_engine_sample(engine, feeds, samplings, n, choices));
        for (size_t i = 0; i < n; ++i) take(going[i], tokenizer, choices[i].token);
    }

    dca_engine_free(engine);
    dca_tokenizer_free(tokenizer);
    dca_model_free(model);
    return 0;
}
