/* Goes on with a text, a token at a time:  generate MODEL.gguf "Once upon a time" [TOKENS]
 *
 *     cc -std=c99 generate.c $(pkg-config --cflags --libs dca) -o generate */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dca_text.h>

static void check(dca_status status) {
    if (status == DCA_OK) return;
    fprintf(stderr, "%s\n", dca_last_error());
    exit(2);
}

static int32_t show(int32_t token, void* stream) {
    const char* text;
    size_t bytes;
    check(dca_text_stream_push(stream, token, &text, &bytes));
    return fwrite(text, 1, bytes, stdout) < bytes || fflush(stdout) != 0; /* nobody reads it any more: end */
}

int main(int argc, char** argv) {
    if (argc < 3 || argc > 4) return fprintf(stderr, "usage: %s MODEL.gguf PROMPT [TOKENS]\n", argv[0]), 2;
    dca_model* model;
    dca_tokenizer* tokenizer;
    check(dca_model_load(argv[1], NULL, &model));
    check(dca_tokenizer_create(model, &tokenizer));

    size_t n;
    const int32_t flags = DCA_TEXT_PROMPT | DCA_TEXT_SPECIAL;
    check(dca_tokenize(tokenizer, argv[2], strlen(argv[2]), flags, NULL, 0, &n));
    int32_t* prompt = malloc((n + 1) * sizeof *prompt);
    if (prompt == NULL) return fputs("out of memory\n", stderr), 2;
    check(dca_tokenize(tokenizer, argv[2], strlen(argv[2]), flags, prompt, n, &n));

    dca_session* session;
    dca_text_stream* stream;
    check(dca_session_create(model, NULL, &session)); /* 4096 tokens, attention as the file says */
    check(dca_text_stream_create(tokenizer, prompt, n, 1, &stream));

    dca_generation generation = {.size = sizeof generation};
    dca_generation_default(&generation);
    generation.prompt = prompt;
    generation.n_prompt = n;
    if (argc == 4) generation.max_tokens = strtoul(argv[3], NULL, 10);
    check(dca_tokenizer_end_tokens(tokenizer, &generation.stop, &generation.n_stop));
    generation.on_token = show;
    generation.user = stream;
    check(dca_session_generate(session, &generation));

    const char* rest;
    check(dca_text_stream_flush(stream, &rest, NULL));
    printf("%s\n", rest);

    dca_text_stream_free(stream);
    dca_session_free(session);
    dca_tokenizer_free(tokenizer);
    dca_model_free(model);
    free(prompt);
    return 0;
}
